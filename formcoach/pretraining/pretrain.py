"""Pretraining from beginning to end, and the check on people never seen."""

from pathlib import Path

import torch

from formcoach.data.demo_descriptions import described_take
from formcoach.models.internvideo.modeling import InternVideoForConditionalGeneration
from formcoach.models.internvideo.processor import InternVideoProcessor, settings_from
from formcoach.pretraining.clips import FRAMES, HELD_OUT, Drawn, draw_clips
from formcoach.pretraining.language import learn_to_describe, read_attributes, repeat_words
from formcoach.pretraining.stages import Pretraining
from formcoach.pretraining.tiny import SYSTEM_MESSAGE, make_tokenizer, save, tiny_config
from formcoach.pretraining.vision import read_poses, see


def pretrain(plan: Pretraining, output: Path) -> tuple[float, float]:
    """Pretrain and save to `output`; return the shares of right motions and of right motions at the right pace."""
    torch.manual_seed(plan.seed)
    tokenizer = make_tokenizer()
    model = InternVideoForConditionalGeneration(tiny_config(tokenizer))
    settings = settings_from(model.config, min_frames=FRAMES, max_frames=FRAMES, system_message=SYSTEM_MESSAGE)
    processor = InternVideoProcessor(tokenizer, settings)
    model.generation_config.eos_token_id = processor.end_token_ids
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters, {len(tokenizer)} tokens")
    model.set_attn_implementation("eager")  # its backward pass is the quickest on CPUs at these sizes
    drawn = draw_clips(plan.seed, range(plan.clips))
    held_out = draw_clips(plan.seed, range(HELD_OUT, HELD_OUT + plan.checked))
    read_poses(model.model.vision_tower, drawn, held_out, processor, plan)
    seen, seen_held_out = (see(model, clips, processor, plan.seed) for clips in (drawn, held_out))
    read_attributes(model.model.multi_modal_projector, seen, seen_held_out, plan)
    repeat_words(model, processor, plan)
    learn_to_describe(model, seen, processor, plan)
    model.set_attn_implementation("sdpa")
    save(model, processor, output)
    return _check(model, processor, held_out, plan.seed)


@torch.inference_mode()
def _check(
    model: InternVideoForConditionalGeneration, processor: InternVideoProcessor, held_out: Drawn, seed: int
) -> tuple[float, float]:
    """Describe clips of people never seen; count right motions, and right motions at the right pace."""
    model.eval()
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
