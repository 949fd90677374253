"""Pretraining of the packaged tiny base model, from random weights to plain descriptions of motion."""

import copy
import math
import multiprocessing
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from formcoach.command import progress
from formcoach.config import Recipe
from formcoach.data.collate import NO_LOSS
from formcoach.data.convert import QUESTION
from formcoach.data.demo_descriptions import (
    ATTRIBUTES,
    QUESTIONS,
    DescribedTake,
    attributes,
    describe,
    described_take,
    sample_style,
)
from formcoach.data.demo_motion import EXERCISES, JOINTS
from formcoach.data.demo_picture import Take, draw, project
from formcoach.files import replacing_folder, write_json
from formcoach.models.internvideo.configuration import InternVideoConfig
from formcoach.models.internvideo.modeling import InternVideoForConditionalGeneration
from formcoach.models.internvideo.processor import CONTROL_TOKENS, InternVideoProcessor, settings_from

FRAMES = 12
PICTURE = (320, 240)  # drawn at half the demo's size: the model sees 140 x 140
SIDE = 140
VOCABULARY = 640
SYSTEM_MESSAGE = "You watch a person move."
HELD_OUT = 10_000_000  # samples from here on are for checking
POSE_BATCH = 96  # frames
ATTRIBUTE_BATCH = 32  # clips
BATCH = 16  # clips

# What the demo's training starts from; see `formcoach.config.Recipe`.
RECIPE = Recipe(
    epochs=8,
    micro_batch_size=8,
    global_batch_size=8,
    lr=2e-3,
    connector_lr=5e-4,
    max_length=1024,
    min_frames=FRAMES,
    max_frames=FRAMES,
    selective_recompute=0.0,
    cpu_dtype="auto",
)


@dataclass(frozen=True)
class Pretraining:
    """How long and from which random stream.

    Args:
        seed: of weights and samples.
        clips: clips that are drawn.
        pose_steps: steps of the first stage, `POSE_BATCH` frames each.
        attribute_steps: steps of the second stage, `ATTRIBUTE_BATCH` clips each.
        steps: steps of the third stage, `BATCH` clips each.
        checked: held-out clips on which each stage is checked.
        lr: peak learning rate of all stages.
    """

    seed: int
    clips: int
    pose_steps: int
    attribute_steps: int
    steps: int
    checked: int
    lr: float = 1.2e-3


@dataclass(frozen=True)
class Drawn:
    """Drawn clips, the way the model sees them.

    Attributes:
        samples: numbers of the clips in their stream.
        frames: (clips, FRAMES, side, side, 3) uint8.
        joints: (clips, FRAMES, 17, 2) as shares of the picture.
        poses: (clips, FRAMES, 17, 3) metres in the person's own frame.
    """

    samples: range
    frames: Tensor
    joints: Tensor
    poses: Tensor


def _draw_clip(sample: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw a clip of the stream `seed` at the model's size: frames, joints and poses."""
    take = described_take(*sample).take
    width, height = PICTURE
    times = frame_times(take)
    frames = np.stack([draw(take, time, width, height) for time in times])
    poses = np.stack([take.joints(time) for time in times])
    joints = np.stack([project(take, pose, width, height)[0] for pose in poses])
    small = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(small), (joints / np.array(PICTURE)).astype(np.float32), poses.astype(np.float32)


def frame_times(take: Take) -> np.ndarray:
    """Return the seconds at which a model sees a clip: the middle of each of FRAMES equal parts."""
    return (np.arange(FRAMES) + 0.5) / FRAMES * take.duration


def draw_clips(seed: int, samples: range) -> Drawn:
    """Draw clips of the stream `seed`, on all cores."""
    frames = torch.empty(len(samples), FRAMES, SIDE, SIDE, 3, dtype=torch.uint8)
    joints = torch.empty(len(samples), FRAMES, len(JOINTS), 2)
    poses = torch.empty(len(samples), FRAMES, len(JOINTS), 3)
    with multiprocessing.get_context("spawn").Pool(initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        drawn = pool.imap(_draw_clip, ((seed, number) for number in samples), chunksize=16)
        for row, parts in enumerate(progress(drawn, len(samples), "clips drawn")):
            frames[row], joints[row], poses[row] = (torch.from_numpy(part) for part in parts)
    return Drawn(samples, frames, joints, poses)


class PoseReader(nn.Module):
    """Reads poses off the vision tower's patches.

    The joints in the picture come from an attention map and an offset for each; the pose in space from single patches,
    so that each learns what the whole body does: after merging, any token tells it.
    """

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.where = nn.Linear(channels, len(JOINTS))
        self.offset = nn.Linear(channels, 2 * len(JOINTS))
        self.pose = nn.Linear(channels, 3 * len(JOINTS))
        centres = (torch.arange(side) + 0.5) / side
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("centres", torch.stack((columns, rows), dim=-1).reshape(-1, 1, 2))  # (patches, 1, 2)

    def forward(self, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Return joints (frames, 17, 2) as shares of the picture and poses (frames, patches / 4, 17, 3) in metres."""
        weight = self.where(patches).softmax(dim=1).unsqueeze(-1)  # (frames, patches, 17, 1)
        offset = self.offset(patches).unflatten(-1, (-1, 2))  # (frames, patches, 17, 2)
        joints = (weight * (self.centres + offset)).sum(dim=1)
        some = torch.randperm(patches.shape[1])[: patches.shape[1] // 4]
        return joints, self.pose(patches[:, some]).unflatten(-1, (-1, 3))


class AttributeReader(nn.Module):
    """Reads off a clip's visual tokens what its description will say."""

    def __init__(self, slots: int, channels: int) -> None:
        super().__init__()
        self.slot = nn.Parameter(torch.randn(slots, channels))
        layer = nn.TransformerEncoderLayer(channels, 4, 2 * channels, 0.0, "gelu", batch_first=True, norm_first=True)
        self.mix = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.values = nn.Linear(channels, sum(ATTRIBUTES.values()))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits of all values of all attributes: (clips, slots, channels) -> (clips, values)."""
        return self.values(self.mix(tokens + self.slot).mean(dim=1))


def pretrain(plan: Pretraining, output: Path) -> tuple[float, float]:
    """Pretrain and save to `output`; return the shares of right motions and of right motions at the right pace."""
    torch.manual_seed(plan.seed)
    tokenizer = make_tokenizer()
    model = InternVideoForConditionalGeneration(tiny_config(tokenizer))
    _initialise(model.model.multi_modal_projector, model.model.language_model)
    settings = settings_from(model.config, min_frames=FRAMES, max_frames=FRAMES, system_message=SYSTEM_MESSAGE)
    processor = InternVideoProcessor(tokenizer, settings)
    model.generation_config.eos_token_id = processor.end_token_ids
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} million parameters, {len(tokenizer)} tokens")
    model.set_attn_implementation("eager")  # its backward pass is the quickest on CPUs at these sizes
    drawn = draw_clips(plan.seed, range(plan.clips))
    held_out = draw_clips(plan.seed, range(HELD_OUT, HELD_OUT + plan.checked))
    _read_poses(model.model.vision_tower, drawn, held_out, processor, plan)
    seen, seen_held_out = (_see(model, clips, processor, plan.seed) for clips in (drawn, held_out))
    _read_attributes(model.model.multi_modal_projector, seen, seen_held_out, plan)
    _describe(model, seen, processor, plan)
    model.set_attn_implementation("sdpa")
    _save(model, processor, output)
    return _check(model, processor, held_out, plan.seed)


def _initialise(*parts: nn.Module) -> None:
    """Draw linear weights with variance 1 / inputs: the library's 0.02 suits thousands of channels, not 144."""
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> InternVideoConfig:
    """Return the sizes of the tiny model: 140 x 140 pixels, 25 tokens a frame merged to 16."""
    return InternVideoConfig(
        vision_config={
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "image_size": [SIDE, SIDE],
            "patch_size": [14, 14],
            "attention_bias": True,
            "use_qk_norm": False,
            "norm_type": "layer_norm",
            "layer_scale_init_value": 1.0,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 192,
            "intermediate_size": 512,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
        vision_feature_layer=-1,
    )


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on plain descriptions, prompts and ordinary words about bodies."""
    backend = Tokenizer(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", *CONTROL_TOKENS]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_corpus(), trainer)
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=list(CONTROL_TOKENS),
        clean_up_tokenization_spaces=False,
    )


def _corpus() -> Iterator[str]:
    rng = np.random.default_rng(0)
    for number in range(600):
        exercise = EXERCISES[number % len(EXERCISES)]
        yield describe(exercise, sample_style(rng, exercise))
    for number in range(60):
        yield from (*QUESTIONS, QUESTION, "system\n", "user\n", "assistant\n", SYSTEM_MESSAGE)
        yield f"The video lasts for {rng.uniform(0, 60):.2f} seconds, and 12 frames are uniformly sampled from it.\n"
        yield f"Frame{number}: "


def _optimizer(modules: list[nn.Module], lr: float, steps: int) -> tuple[torch.optim.Optimizer, object]:
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.02, betas=(0.9, 0.98), fused=True)

    def scale(step: int) -> float:
        return min(1.0, (step + 1) / 100) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, scale)


_MIRRORED_JOINTS = [
    JOINTS.index(name[:-1] + {"l": "r", "r": "l"}[name[-1]]) if name[-2] == "_" else JOINTS.index(name)
    for name in JOINTS
]


def _read_poses(tower: nn.Module, drawn: Drawn, held_out: Drawn, processor: InternVideoProcessor,
                plan: Pretraining) -> None:  # fmt: skip
    """First stage: the vision tower learns to see poses, in mirrored and recoloured frames too."""
    torch.manual_seed(plan.seed + 1)
    reader = PoseReader(tower.config.hidden_size, SIDE // 14)
    optimizer, schedule = _optimizer([tower, reader], plan.lr, plan.pose_steps)
    frames, joints, poses = drawn.frames.flatten(0, 1), drawn.joints.flatten(0, 1), drawn.poses.flatten(0, 1)
    begin = time.monotonic()
    for step in range(1, plan.pose_steps + 1):
        chosen = torch.randint(len(frames), (POSE_BATCH,))
        pixels, where, pose = processor.pixel_values(frames[chosen].numpy()), joints[chosen], poses[chosen]
        if step % 2:
            pixels, where, pose = pixels.flip(-1), _mirror(where, 1.0), _mirror(pose, 0.0)
        pixels = pixels * (1 + 0.2 * torch.randn(len(chosen), 3, 1, 1)) + 0.2 * torch.randn(len(chosen), 3, 1, 1)
        found, read = reader(_patches(tower, pixels))
        loss = nn.functional.smooth_l1_loss(found, where, beta=0.02)
        loss = loss + nn.functional.smooth_l1_loss(read, pose.unsqueeze(1).expand_as(read), beta=0.05)
        _step(loss, optimizer, schedule, [tower, reader])
        _report("poses", step, plan.pose_steps, loss, begin)
    with torch.inference_mode():
        errors = []
        for clip, truth in zip(held_out.frames, held_out.poses, strict=True):
            _, read = reader(_patches(tower, processor.pixel_values(clip.numpy())))
            errors.append((read.mean(dim=1) - truth).norm(dim=-1).mean())
        print(f"held-out people: joints {100 * torch.stack(errors).mean():.1f} cm off")


def _patches(tower: nn.Module, pixels: Tensor) -> Tensor:
    """Return the vision tower's patches, without its class token: (frames, patches, channels) float32."""
    with torch.autocast("cpu", torch.bfloat16):
        return tower(pixels).last_hidden_state[:, 1:].float()


def _mirror(points: Tensor, width: float) -> Tensor:
    """Return joints (..., 17, 2 or 3) of the mirrored picture, whose left edge is 0 and right edge `width`."""
    points = points[..., _MIRRORED_JOINTS, :].clone()
    points[..., 0] = width - points[..., 0]
    return points


@dataclass(frozen=True)
class Seen:
    """Clips after the vision tower, which the second and third stage leave as it is.

    Attributes:
        samples: the clips.
        tokens: (2, clips, FRAMES * 16, channels) what the connector gets: of each clip and of its mirror image.
        attributes: (clips, 6) what their descriptions say.
    """

    samples: list[DescribedTake]
    tokens: Tensor
    attributes: Tensor

    def pick(self, count: int) -> tuple[Tensor, Tensor]:
        """Return the numbers (count) of random clips, and the tokens of them or of their mirror images."""
        chosen, side = torch.randint(len(self.samples), (count,)), torch.randint(2, (count,))
        return chosen, self.tokens[side, chosen].clone().float()  # normal tensors of what inference mode made


@torch.inference_mode()
def _see(model: InternVideoForConditionalGeneration, drawn: Drawn, processor: InternVideoProcessor,
         seed: int) -> Seen:  # fmt: skip
    """Run the vision tower on clips and on their mirror images."""
    samples = [described_take(seed, number) for number in drawn.samples]
    truth = torch.tensor([attributes(sample.take.exercise, sample.take.style) for sample in samples])
    count = FRAMES * model.config.tokens_per_frame
    tokens = torch.empty(2, len(samples), count, 4 * model.config.vision_config.hidden_size, dtype=torch.bfloat16)
    for number, clip in enumerate(progress(drawn.frames, len(samples), "clips seen")):
        pixels = processor.pixel_values(clip.numpy())
        with torch.autocast("cpu", torch.bfloat16):
            both = model.model.merge_frames(torch.cat([pixels, pixels.flip(-1)]))
        tokens[:, number] = both.reshape(2, count, -1)
    return Seen(samples, tokens, truth)


def _read_attributes(connector: nn.Module, seen: Seen, held_out: Seen, plan: Pretraining) -> None:
    """Second stage: the connector learns to pass on what matters."""
    torch.manual_seed(plan.seed + 2)
    reader = AttributeReader(seen.tokens.shape[2], connector.linear_2.out_features)
    optimizer, schedule = _optimizer([connector, reader], plan.lr, plan.attribute_steps)
    begin = time.monotonic()
    for step in range(1, plan.attribute_steps + 1):
        chosen, tokens = seen.pick(ATTRIBUTE_BATCH)
        loss = _attribute_loss(reader(connector(tokens)), seen.attributes[chosen])
        _step(loss, optimizer, schedule, [connector, reader])
        _report("attributes", step, plan.attribute_steps, loss, begin)
    with torch.inference_mode():
        read = reader(connector(held_out.tokens[0].float())).split([*ATTRIBUTES.values()], dim=1)
        right = [(values.argmax(1) == held_out.attributes[:, i]).float().mean() for i, values in enumerate(read)]
    print("held-out people: " + ", ".join(f"{n} {r:.0%}" for n, r in zip(ATTRIBUTES, right, strict=True)) + " right")


def _attribute_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Return the mean cross entropy of all attributes: (clips, values), (clips, attributes) -> ()."""
    parts = logits.split([*ATTRIBUTES.values()], dim=1)
    return torch.stack([nn.functional.cross_entropy(part, truth[:, i]) for i, part in enumerate(parts)]).mean()


def _describe(
    model: InternVideoForConditionalGeneration, seen: Seen, processor: InternVideoProcessor, plan: Pretraining
) -> None:
    """Third stage: connector and language model learn to describe what the vision tower sees.

    At the last token of the question a linear reader, thrown away later, asks for all attributes at once; without it
    the model is slow to find out that looking helps.
    """
    torch.manual_seed(plan.seed + 3)
    reader = nn.Linear(model.config.text_config.hidden_size, sum(ATTRIBUTES.values()))
    trained = [model.model.multi_modal_projector, model.model.language_model, model.lm_head, reader]
    optimizer, schedule = _optimizer(trained, plan.lr, plan.steps)
    texts = [_text(processor, sample) for sample in seen.samples]
    begin = time.monotonic()
    for step in range(1, plan.steps + 1):
        chosen, tokens = seen.pick(BATCH)
        ids, labels = (
            nn.utils.rnn.pad_sequence([texts[i][part] for i in chosen], batch_first=True, padding_value=fill)
            for part, fill in ((0, processor.tokenizer.pad_token_id), (1, NO_LOSS))
        )
        with torch.autocast("cpu", torch.bfloat16):
            embedded = model.get_input_embeddings()(ids)
            here = (ids == model.config.image_token_id).unsqueeze(-1)
            embedded = embedded.masked_scatter(here, model.model.multi_modal_projector(tokens).to(embedded.dtype))
            hidden = model.model(inputs_embeds=embedded).last_hidden_state  # padding comes last: causality hides it
            answers = labels[:, 1:] != NO_LOSS
            logits = model.lm_head(hidden[:, :-1][answers])
            asked = hidden[torch.arange(BATCH), answers.int().argmax(dim=1)]  # the question's last token
        words = nn.functional.cross_entropy(logits.float(), labels[:, 1:][answers])
        loss = words + 0.3 * _attribute_loss(reader(asked.float()), seen.attributes[chosen])
        _step(loss, optimizer, schedule, trained)
        _report("words", step, plan.steps, words, begin)


def _text(processor: InternVideoProcessor, sample: DescribedTake) -> tuple[Tensor, Tensor]:
    """Return token ids and labels of a sample, placeholders included."""
    blank = np.zeros((FRAMES, SIDE, SIDE, 3), dtype=np.uint8)
    inputs = processor(blank, sample.question, sample.take.duration, sample.description)
    return inputs["input_ids"][0], inputs["labels"][0]


def _report(stage: str, step: int, steps: int, loss: Tensor, begin: float) -> None:
    if step % 50 == 0:
        print(f"{stage} {step}/{steps}: loss {loss:.4f}, {time.monotonic() - begin:.0f} s", flush=True)


def _step(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: object, modules: list[nn.Module]) -> None:
    loss.backward()
    nn.utils.clip_grad_norm_([p for module in modules for p in module.parameters()], 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()


def _save(model: InternVideoForConditionalGeneration, processor: InternVideoProcessor, output: Path) -> None:
    """Write the model in bfloat16 with its processor and recipe."""
    with replacing_folder(output) as folder:
        copy.deepcopy(model).to(torch.bfloat16).save_pretrained(folder)
        processor.save_pretrained(folder)
        write_json(folder / "recipe.json", {f: getattr(RECIPE, f) for f in RECIPE.__dataclass_fields__})


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
