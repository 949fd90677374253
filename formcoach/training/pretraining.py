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
from formcoach.data.convert import QUESTION
from formcoach.data.demo_descriptions import (
    ATTRIBUTES,
    QUESTIONS,
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
        joint_steps: steps of the first stage.
        attribute_steps: steps of the second stage.
        steps: steps of the third stage.
        checked: held-out clips that are described at the end.
        batch: clips in one step.
        lr: peak learning rate of all stages.
    """

    seed: int
    clips: int
    joint_steps: int
    attribute_steps: int
    steps: int
    checked: int
    batch: int = 16
    lr: float = 1.2e-3


@dataclass(frozen=True)
class Drawn:
    """Drawn clips, the way the model sees them.

    Attributes:
        frames: (clips, FRAMES, side, side, 3) uint8.
        joints: (clips, FRAMES, 17, 2) as shares of the picture.
    """

    frames: Tensor
    joints: Tensor


def _draw_clip(sample: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Draw a clip of the stream `seed` at the model's size: frames and joints."""
    take = described_take(*sample).take
    width, height = PICTURE
    times = frame_times(take)
    frames = np.stack([draw(take, time, width, height) for time in times])
    joints = np.stack([project(take, take.joints(time), width, height)[0] for time in times])
    small = [cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA) for frame in frames]
    return np.stack(small), (joints / np.array(PICTURE)).astype(np.float32)


def frame_times(take: Take) -> np.ndarray:
    """Return the seconds at which a model sees a clip: the middle of each of FRAMES equal parts."""
    return (np.arange(FRAMES) + 0.5) / FRAMES * take.duration


def draw_clips(plan: Pretraining) -> Drawn:
    """Draw all clips, on all cores."""
    frames = torch.empty(plan.clips, FRAMES, SIDE, SIDE, 3, dtype=torch.uint8)
    joints = torch.empty(plan.clips, FRAMES, len(JOINTS), 2)
    with multiprocessing.get_context("spawn").Pool(initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        drawn = pool.imap(_draw_clip, ((plan.seed, number) for number in range(plan.clips)), chunksize=16)
        for number, (pictures, points) in enumerate(progress(drawn, plan.clips, "clips drawn")):
            frames[number], joints[number] = torch.from_numpy(pictures), torch.from_numpy(points)
    return Drawn(frames, joints)


class JointFinder(nn.Module):
    """Finds the joints in the vision tower's patches: an attention map and an offset for each joint."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.where = nn.Linear(channels, len(JOINTS))
        self.offset = nn.Linear(channels, 2 * len(JOINTS))
        centres = (torch.arange(side) + 0.5) / side
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("centres", torch.stack((columns, rows), dim=-1).reshape(-1, 1, 2))  # (patches, 1, 2)

    def forward(self, patches: Tensor) -> Tensor:
        """Return joints as shares of the picture: (frames, patches, channels) -> (frames, 17, 2)."""
        weight = self.where(patches).softmax(dim=1).unsqueeze(-1)  # (frames, patches, 17, 1)
        offset = self.offset(patches).unflatten(-1, (-1, 2))  # (frames, patches, 17, 2)
        return (weight * (self.centres + offset)).sum(dim=1)


class AttributeReader(nn.Module):
    """Reads off a clip's visual tokens what its description will say."""

    def __init__(self, slots: int, channels: int) -> None:
        super().__init__()
        self.slot = nn.Parameter(torch.randn(slots, channels))
        self.mix = nn.TransformerEncoderLayer(channels, 4, 2 * channels, 0.0, "gelu", batch_first=True, norm_first=True)
        self.values = nn.Linear(channels, sum(ATTRIBUTES))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each attribute: (clips, slots, channels) -> one (clips, values) for each."""
        return self.values(self.mix(tokens + self.slot).mean(dim=1)).split(ATTRIBUTES, dim=1)


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
    drawn = draw_clips(plan)
    finder = JointFinder(model.config.vision_config.hidden_size, SIDE // 14)
    _find_joints(model.model.vision_tower, finder, drawn, processor, plan)
    features = _features(model, drawn, processor, plan)
    reader = AttributeReader(features.shape[1], model.config.text_config.hidden_size)
    _read_attributes(model.model.multi_modal_projector, reader, features, plan)
    _describe(model, features, processor, plan, output)
    model.set_attn_implementation("sdpa")
    _save(model, processor, output)
    return _check(model, processor, plan)


def _initialise(*parts: nn.Module) -> None:
    """Draw linear weights with variance 1 / inputs: the library's 0.02 suits thousands of channels, not 144."""
    for module in (module for part in parts for module in part.modules()):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> InternVideoConfig:
    """Return the sizes of the tiny model: 3 million parameters, 140 x 140 pixels, 25 tokens a frame merged to 16."""
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
            "hidden_size": 144,
            "intermediate_size": 384,
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


def _find_joints(tower: nn.Module, finder: JointFinder, drawn: Drawn, processor: InternVideoProcessor,
                 plan: Pretraining) -> None:  # fmt: skip
    """First stage: the vision tower learns where the joints are, on mirrored and recoloured frames too."""
    optimizer, schedule = _optimizer([tower, finder], plan.lr, plan.joint_steps)
    frames, joints = drawn.frames.flatten(0, 1), drawn.joints.flatten(0, 1)
    begin = time.monotonic()
    for step in range(1, plan.joint_steps + 1):
        chosen = torch.randint(len(frames), (plan.batch * FRAMES,))
        pixels, truth = processor.pixel_values(frames[chosen].numpy()), joints[chosen]
        if step % 2:
            pixels, truth = pixels.flip(-1), _mirror(truth)
        pixels = pixels * (1 + 0.2 * torch.randn(len(chosen), 3, 1, 1)) + 0.2 * torch.randn(len(chosen), 3, 1, 1)
        with torch.autocast("cpu", torch.bfloat16):
            patches = tower(pixels).last_hidden_state[:, 1:]
        loss = nn.functional.smooth_l1_loss(finder(patches.float()), truth, beta=0.02)
        _step(loss, optimizer, schedule, [tower, finder])
        _report("joints", step, plan.joint_steps, loss, begin)


def _mirror(joints: Tensor) -> Tensor:
    """Return joints (..., 17, 2) of the mirrored picture."""
    joints = joints[..., _MIRRORED_JOINTS, :].clone()
    joints[..., 0] = 1 - joints[..., 0]
    return joints


@torch.inference_mode()
def _features(model: InternVideoForConditionalGeneration, drawn: Drawn, processor: InternVideoProcessor,
              plan: Pretraining) -> Tensor:  # fmt: skip
    """Return the merged visual tokens of all clips: (clips, FRAMES * 16, channels)."""
    tokens = FRAMES * model.config.tokens_per_frame
    features = torch.empty(plan.clips, tokens, 4 * model.config.vision_config.hidden_size, dtype=torch.bfloat16)
    for first in progress(range(0, plan.clips, plan.batch), plan.clips // plan.batch, "batches encoded"):
        frames = drawn.frames[first : first + plan.batch].flatten(0, 1)
        with torch.autocast("cpu", torch.bfloat16):
            merged = model.model.merge_frames(processor.pixel_values(frames.numpy()))
        features[first : first + plan.batch] = merged.reshape(-1, tokens, merged.shape[-1])
    return features


def _read_attributes(connector: nn.Module, reader: AttributeReader, features: Tensor, plan: Pretraining) -> None:
    """Second stage: the connector learns to pass on what matters."""
    optimizer, schedule = _optimizer([connector, reader], plan.lr, plan.attribute_steps)
    takes = [described_take(plan.seed, number).take for number in range(plan.clips)]
    truth = torch.tensor([attributes(take.exercise, take.style) for take in takes])  # (clips, attributes)
    begin = time.monotonic()
    for step in range(1, plan.attribute_steps + 1):
        chosen = torch.randint(plan.clips, (2 * plan.batch,))
        logits = reader(connector(features[chosen].clone().float()))
        losses = [nn.functional.cross_entropy(values, truth[chosen, i]) for i, values in enumerate(logits)]
        _step(torch.stack(losses).sum(), optimizer, schedule, [connector, reader])
        _report("attributes", step, plan.attribute_steps, torch.stack(losses).mean(), begin)


def _describe(model: InternVideoForConditionalGeneration, features: Tensor, processor: InternVideoProcessor,
              plan: Pretraining, output: Path) -> None:  # fmt: skip
    """Third stage: connector and language model learn to describe what the vision tower sees."""
    trained = [model.model.multi_modal_projector, model.model.language_model, model.lm_head]
    optimizer, schedule = _optimizer(trained, plan.lr, plan.steps)
    texts = [_text(processor, plan, number) for number in range(plan.clips)]
    begin = time.monotonic()
    for step in range(1, plan.steps + 1):
        chosen = torch.randint(plan.clips, (plan.batch,))
        visual = features[chosen].clone()  # a normal tensor of what inference mode made
        ids, labels = (
            nn.utils.rnn.pad_sequence([texts[i][part] for i in chosen], batch_first=True, padding_value=fill)
            for part, fill in ((0, processor.tokenizer.pad_token_id), (1, -100))
        )
        with torch.autocast("cpu", torch.bfloat16):
            embedded = model.get_input_embeddings()(ids)
            here = (ids == model.config.image_token_id).unsqueeze(-1)
            embedded = embedded.masked_scatter(here, model.model.multi_modal_projector(visual).to(embedded.dtype))
            loss = model(inputs_embeds=embedded, labels=labels).loss  # padding comes last: causality hides it
        _step(loss, optimizer, schedule, trained)
        _report("words", step, plan.steps, loss, begin)
        if step % 500 == 0:
            _save(model, processor, output)


def _text(processor: InternVideoProcessor, plan: Pretraining, number: int) -> tuple[Tensor, Tensor]:
    """Return token ids and labels of a sample, placeholders included."""
    sample = described_take(plan.seed, number)
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
    model: InternVideoForConditionalGeneration, processor: InternVideoProcessor, plan: Pretraining
) -> tuple[float, float]:
    """Describe clips of people never seen; count right motions, and right motions at the right pace."""
    model.eval()
    motion = pace = 0
    for number in range(plan.checked):
        sample = described_take(plan.seed, HELD_OUT + number)
        take = sample.take
        frames = np.stack([draw(take, time) for time in frame_times(take)])
        inputs = processor(frames, sample.question, take.duration)
        ids = model.generate(**inputs, max_new_tokens=60, do_sample=False)
        answer = processor.decode(ids[0, inputs["input_ids"].shape[1] :])
        right = answer.split(" ")[:4] == sample.description.split(" ")[:4]
        motion += right
        pace += right and _pace(answer) == _pace(sample.description)
        if number < 12:
            print(f"  {sample.description}\n  {answer}\n")
    return motion / plan.checked, pace / plan.checked


def _pace(text: str) -> set[str]:
    return {"slowly", "steadily", "quickly"} & set(text.replace(",", "").split())
