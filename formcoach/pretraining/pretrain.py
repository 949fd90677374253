"""Pretraining from beginning to end, and the check on people never seen."""

from pathlib import Path

import torch

from formcoach.data.demo_descriptions import described_take
from formcoach.pretraining.clips import HELD_OUT, Drawn, draw_clips
from formcoach.pretraining.language import learn_to_describe, read_attributes, repeat_words
from formcoach.pretraining.stages import Pretraining
from formcoach.pretraining.system import TinySystem
from formcoach.pretraining.tiny import make_tokenizer, save
from formcoach.pretraining.tiny_internvideo import TinyInternVideo
from formcoach.pretraining.tiny_mobilevideogpt import TinyMobileVideoGPT
from formcoach.pretraining.vision import read_poses, see

SYSTEMS: dict[str, type[TinySystem]] = {"internvideo": TinyInternVideo, "mobilevideogpt": TinyMobileVideoGPT}


def pretrain(family: str, plan: Pretraining, output: Path) -> tuple[float, float]:
    """Pretrain and save to `output`; return the shares of right motions and of right motions at the right pace.

    Args:
        family: one of `SYSTEMS`.
        plan: how long.
        output: folder of the model.
    """
    torch.manual_seed(plan.seed)
    tokenizer = make_tokenizer(SYSTEMS[family].tokens())
    system = SYSTEMS[family](tokenizer)
    model, processor = system.model, system.processor
    model.generation_config.eos_token_id = processor.end_token_ids
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters, {len(tokenizer)} tokens")
    model.set_attn_implementation("eager")  # its backward pass is the quickest on CPUs at these sizes
    drawn = draw_clips(plan.seed, range(plan.clips), system)
    held_out = draw_clips(plan.seed, range(HELD_OUT, HELD_OUT + plan.checked), system)
    read_poses(system, drawn, held_out, plan)
    system.learn_motion(drawn, held_out, plan)
    seen, seen_held_out = (see(system, clips, plan.seed) for clips in (drawn, held_out))
    read_attributes(system, seen, seen_held_out, plan)
    repeat_words(system, plan)
    learn_to_describe(system, seen, plan)
    model.set_attn_implementation("sdpa")
    save(model, processor, system.recipe, output)
    return _check(system, held_out, plan.seed)


@torch.inference_mode()
def _check(system: TinySystem, held_out: Drawn, seed: int) -> tuple[float, float]:
    """Describe clips of people never seen; count right motions, and right motions at the right pace."""
    model, processor = system.model.eval(), system.processor
    motion = pace = whole = 0
    for row, number in enumerate(held_out.samples):
        sample = described_take(seed, number)
        inputs = processor(held_out.frames[row].numpy(), sample.question, sample.take.duration)
        ids = model.generate(**inputs, max_new_tokens=60, do_sample=False)
        answer = processor.decode(ids[0, inputs["input_ids"].shape[1] :])
        right = answer.split(" ")[:4] == sample.description.split(" ")[:4]
        motion += right
        pace += right and _pace(answer) == _pace(sample.description)
        whole += answer == sample.description
        if row < 12:
            print(f"  {sample.description}\n  {answer}\n")
    total = len(held_out.samples)
    print(f"held-out people: {whole / total:.0%} of the descriptions right to the word")
    return motion / total, pace / total


def _pace(text: str) -> set[str]:
    return {"slowly", "steadily", "quickly"} & set(text.replace(",", "").split())
