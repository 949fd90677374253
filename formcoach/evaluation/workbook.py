"""A test set's answers as a spreadsheet: every clip with its scores in colours, and a summary with charts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from formcoach.evaluation.coaching import exercise_matches, expected
from formcoach.evaluation.exercises import by_exercise
from formcoach.evaluation.metrics import MEASURES, ClipScore, Measure
from formcoach.evaluation.scores import BASE, TUNED, Evaluation
from formcoach.files import replacing
from formcoach.inference.predictions import OK, Prediction

if TYPE_CHECKING:
    from openpyxl import Workbook
    from openpyxl.cell import Cell
    from openpyxl.worksheet.worksheet import Worksheet

GREEN, YELLOW, RED, HEAD = "C6EFCE", "FFEB9C", "FFC7CE", "DDE3EA"
SIMILARITY = (0.7, 0.4)  # green from, yellow from; the thresholds that the field's earlier reports use
WORDING = (0.5, 0.2)
JUDGE = (0.8, 0.4)  # grades 4 and 2 of 5
LONGEST = 32_767  # characters of a cell, Excel's limit
CUT = "… (cut)"

# Of one model: heading, value of a clip, and where green and yellow begin.
_SCORES = (
    ("BERT Similarity", "similarity", SIMILARITY),
    ("METEOR Score", "meteor", WORDING),
    ("ROUGE-L Score", "rouge_l", WORDING),
    ("Judge Score", "judge", JUDGE),
)
_WIDTHS = {"ID": 26, "Video Path": 30, "Ground Truth": 48, "Model Prediction": 48, "Base Prediction": 48, "Error": 30}


def write_workbook(path: Path, answers: Mapping[str, Sequence[Prediction]], evaluation: Evaluation) -> None:
    """Write the spreadsheet, atomically.

    Args:
        path: of the `.xlsx`.
        answers: of one model or two, the same clips in the same order.
        evaluation: their scores.
    """
    from openpyxl import Workbook

    book = Workbook()
    _write_clips(book.active, answers, evaluation)
    _write_summary(book, answers, evaluation)
    with replacing(path) as temporary:
        book.save(temporary)


def _write_clips(sheet: "Worksheet", answers: Mapping[str, Sequence[Prediction]], evaluation: Evaluation) -> None:
    """Write a row for each clip: the model's columns, then the base's and the differences if there are two."""
    from openpyxl.utils import get_column_letter

    sheet.title = "Test Results"
    main = TUNED if TUNED in answers else BASE
    two = len(answers) == 2
    scores = [one for one in _SCORES if any(getattr(clip, one[1]) is not None for clip in evaluation.clips[main])]
    headings = ["ID", "Video Path", "Ground Truth", "Model Prediction", *(title for title, *_ in scores)]
    headings += ["Exercise Identified", "Status", "Error"]
    if two:
        headings += ["Base Prediction", *(f"Base {title}" for title, *_ in scores), "Base Exercise Identified"]
        headings += ["Base Status", *(f"{title} Difference" for title, *_ in scores)]
    _write_head(sheet, headings)
    for place, prediction in enumerate(answers[main]):
        clip = evaluation.clips[main][place]
        cells = [(prediction.id, ""), (prediction.video, ""), (prediction.truth, ""), (prediction.prediction, "")]
        cells += _score_cells(clip, scores)
        cells += [_exercise_cell(prediction), _status_cell(prediction), (prediction.error or "", "")]
        if two:
            base, before = answers[BASE][place], evaluation.clips[BASE][place]
            cells += [(base.prediction, ""), *_score_cells(before, scores), _exercise_cell(base), _status_cell(base)]
            cells += [_difference_cell(before, clip, field) for _, field, _ in scores]
        for column, (value, colour) in enumerate(cells, start=1):
            _write(sheet.cell(place + 2, column), value, colour)
    for column, heading in enumerate(headings, start=1):
        sheet.column_dimensions[get_column_letter(column)].width = _WIDTHS.get(heading, max(len(heading) + 2, 12))
    sheet.freeze_panes = "C2"
    sheet.auto_filter.ref = sheet.dimensions


def _write_summary(book: "Workbook", answers: Mapping[str, Sequence[Prediction]], evaluation: Evaluation) -> None:
    """Write scores with intervals, notes and exercises, and a chart of each of both tables."""
    sheet = book.create_sheet("Summary")
    models = list(evaluation.models)
    headings = ["Score", *(title for name in models for title in (name, f"{name} from", f"{name} to"))]
    if evaluation.differences:
        headings += ["difference", "difference from", "difference to", "detectable from"]
    _write_head(sheet, headings)
    measures = [one for one in MEASURES if any(m.values[one.name] is not None for m in evaluation.models.values())]
    for row, measure in enumerate(measures, start=2):
        for column, value in enumerate([measure.title, *_summary_row(measure, evaluation)], start=1):
            _write(sheet.cell(row, column), value, shown=_format(measure))
    row = len(measures) + 2
    for title in ("clips", "failed"):
        _write(sheet.cell(row, 1), title)
        for place, one in enumerate(evaluation.models.values()):
            _write(sheet.cell(row, 2 + 3 * place), getattr(one, title), shown="0")
        row += 1
    for note in evaluation.notes:
        _write(sheet.cell(row, 1), note, wraps=False)
        row += 1
    shares = [place for place, measure in enumerate(measures) if measure.is_share]
    if shares:
        columns = [2 + 3 * place for place in range(len(models))]
        _add_chart(sheet, f"A{row + 1}", "Scores", columns, 1, max(shares) + 2)
    _write_exercises(book, answers)
    sheet.column_dimensions["A"].width = 24
    sheet.freeze_panes = "B2"


def _write_exercises(book: "Workbook", answers: Mapping[str, Sequence[Prediction]]) -> None:
    tables = {name: by_exercise(predictions) for name, predictions in answers.items()}
    rows = list(zip(*tables.values(), strict=True))
    if not rows:
        return
    sheet = book.create_sheet("Exercises")
    titles = [f"{title}, {name}" for title in ("exercise match", "fault match") for name in tables]
    _write_head(sheet, ["Exercise", "Clips", *titles])
    for number, models in enumerate(rows, start=2):
        shares = [*(one.exercise_match for one in models), *(one.fault_match for one in models)]
        _write(sheet.cell(number, 1), models[0].exercise)
        _write(sheet.cell(number, 2), models[0].clips, shown="0")
        for column, share in enumerate(shares, start=3):
            _write(sheet.cell(number, column), share, shown="0.0%")
    faults = [3 + len(tables) + place for place in range(len(tables))]
    _add_chart(sheet, f"A{len(rows) + 4}", "Fault match by exercise", faults, 1, len(rows) + 1)
    sheet.column_dimensions["A"].width = 32
    sheet.freeze_panes = "B2"


def _add_chart(sheet: "Worksheet", at: str, title: str, columns: Sequence[int], names: int, last: int) -> None:
    """Add bars of shares: rows 2 to `last` of some columns, named by row 1 and by the column `names`."""
    from openpyxl.chart import BarChart, Reference

    chart = BarChart()
    chart.type, chart.title, chart.height, chart.width = "bar", title, max(7.0, 1.1 * last), 20.0
    for column in columns:
        chart.add_data(Reference(sheet, min_col=column, min_row=1, max_row=last), titles_from_data=True)
    chart.set_categories(Reference(sheet, min_col=names, min_row=2, max_row=last))
    chart.x_axis.scaling.orientation = "maxMin"  # the first row on top
    chart.y_axis.scaling.min, chart.y_axis.scaling.max, chart.y_axis.number_format = 0, 1, "0%"
    chart.x_axis.delete = chart.y_axis.delete = False
    sheet.add_chart(chart, at)


def _summary_row(measure: Measure, evaluation: Evaluation) -> list[float | None]:
    values: list[float | None] = []
    for one in evaluation.models.values():
        low, high = one.intervals.get(measure.name, (None, None))
        values += [one.values[measure.name], low, high]
    if evaluation.differences:
        found = evaluation.differences.get(measure.name)
        values += [found.value, found.low, found.high, found.smallest] if found else [None] * 4
    return values


def _score_cells(clip: ClipScore, scores: Sequence[tuple[str, str, tuple[float, float]]]) -> list[tuple[Any, str]]:
    cells = []
    for _, field, (green, yellow) in scores:
        value = getattr(clip, field) if clip.answered else None  # a failed clip has no score to show
        colour = "" if value is None else GREEN if value >= green else YELLOW if value >= yellow else RED
        cells.append((value, colour))
    return cells


def _difference_cell(before: ClipScore, after: ClipScore, field: str) -> tuple[float | None, str]:
    if not (before.answered and after.answered):
        return None, ""
    value = getattr(after, field) - getattr(before, field)
    return value, GREEN if value > 0 else RED if value < 0 else ""


def _exercise_cell(prediction: Prediction) -> tuple[str, str]:
    if not expected(prediction):
        return "", ""
    return ("Yes", GREEN) if exercise_matches(prediction) else ("No", RED)


def _status_cell(prediction: Prediction) -> tuple[str, str]:
    return (prediction.status, "" if prediction.status == OK else RED)


def _write_head(sheet: "Worksheet", headings: Sequence[str]) -> None:
    from openpyxl.styles import Alignment, Font

    for column, heading in enumerate(headings, start=1):
        cell = sheet.cell(1, column)
        _write(cell, heading, HEAD)
        cell.font, cell.alignment = Font(bold=True), Alignment(wrap_text=True, vertical="center")


def _write(cell: "Cell", value: Any, colour: str = "", *, shown: str = "0.000", wraps: bool = True) -> None:
    """Write a value; a text is text, whatever it begins with, and without what a spreadsheet cannot hold."""
    from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE
    from openpyxl.styles import Alignment, PatternFill

    if isinstance(value, str):
        value = ILLEGAL_CHARACTERS_RE.sub("\ufffd", value.encode("utf-8", "replace").decode())
        cell.value = value if len(value) <= LONGEST else value[: LONGEST - len(CUT)] + CUT
        cell.data_type = "s"  # or `=1+1` would be computed
        cell.alignment = Alignment(wrap_text=wraps, vertical="top")
    else:
        cell.value = value
        cell.number_format = shown
        cell.alignment = Alignment(vertical="top")
    if colour:
        cell.fill = PatternFill("solid", start_color=colour)


def _format(measure: Measure) -> str:
    return "0.0%" if measure.is_share else "0.0"
