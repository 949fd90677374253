"""Ordinary words about bodies, motion, time and talk: the vocabulary of the tiny base model.

A large language model knows the words that a coach uses before it is ever fine-tuned. The tiny one learns them by
repeating random rows of these, in which no sentence and no correction is ever spelled out. All words of the demo's
answers are among them.
"""

_LINES = """
a about above across again against ahead all almost alone along already also always am an and another any apart
are arm arms around as ask at away back backward balance bar be because become before begin behind bell belly
below bend bending bent beside better between big body bone both bottom box brace bracing breath breathe
breathing bring bringing but by calf can careful caving centre chair chest chin circle clean climb close closed
closer cloth cold collapse come control controlled core corner could count cross curl curve daily dance day deep
deeper degree do does done door down downward drive driving drop dropped dropping each ear early easy elbow
elbows end enough equal even ever every exercise extend extended extending eye face fall fallen far farther fast
faster feel feet few find finger finish first flat floor foot for form forward frame from front full fully
further game gentle get give glance go going good great grip ground habit half hand hands hang hanging hard have
head heavy heel heels height hello help here high higher hip hips hold holding hop house how if in inch inside
into inward is it its jack jacks join jump jumping just keep keeping kick kind knee kneel knees know lag lagging
large last late later lead lean leaning leave left leg legs less let level lie lift lifted lifting light like
limb line little long look loose lot low lower lowered lowering lunge lunges make many mark mat maybe me measure
middle mirror mistake moment more morning most motion mouth move moved movement moving much muscle music must my
narrow near neck need neutral never new next nice night no noise nose not now number of off often on once one
only open or other our out outside outward over overhead own pace palm part past pause person pick place plank
play please point pose posture press presses pressing pull pulling push pushes pushing put quick quicker quickly
quiet raise raised raising range rather reach reached reaches ready real regular release remain repeat
repetition rest return rhythm rib right rise rising roll room rotate round row run running safe sag sagging same
say second see seem set several shake shallow shift shin short should shoulder shoulders show side sides
sideways sink sinking sit size slide slow slower slowly small smooth so soft some soon space speed spine spread
squat squats squeeze stable stand standing start started stay steady step stepping steps still stomach stop
stopping straight straighten stretch strong swing swinging tall tempo than that the their them then there these
they thigh thighs thing think this those through thumb tight tighten tilt time tip to today toe toes together
too top torso touch toward towards train trunk try turn turned twist two under until up upper upright ups upward
use very video view walk wall want warm was watch water way we weak weight weights well were what when where
while who whole why wide wider will window with without work world wrist year yes you young your
"""
WORDS = tuple(_LINES.split())
