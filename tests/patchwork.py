"""A made-up third family: what someone has to write to add one, as small as it can be.

Its vision tower maps the pixels of each patch through one linear layer and averages over a frame, so that a frame is
one token; a linear connector leads to a Llama of two layers. Its configuration, tensor names, prompt, visual arguments,
numbers of frames and names of checkpoints are none of the other families'.
"""

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from models.mobilevideogpt_fixture import write_tokenizer
from torch import Tensor, nn
from transformers import GenerationMixin, LlamaConfig, LlamaModel, PreTrainedConfig, PreTrainedModel, Qwen2Tokenizer
from transformers.modeling_outputs import CausalLMOutputWithPast

from formcoach.config import Recipe
from formcoach.data.sampling import frame_count, frame_indices
from formcoach.files import read_json
from formcoach.models.clip_processor import TURN_END, TURN_START, ClipProcessor, bicubic
from formcoach.models.family import Family, RunLayout
from formcoach.models.opening import Checkpoints, Outline, empty_model
from formcoach.models.sizes import Held, ModelSizes, Tower
from formcoach.models.weights import REMEDY

LOOK = "<look>"
GROUP = 3  # a clip has 3 or 6 frames
SIDE, PATCH, WIDTH = 24, 8, 16


class PatchworkConfig(PreTrainedConfig):
    """`config.json`."""

    model_type = "patchwork"
    sub_configs_defaults = {"speaker": LlamaConfig}  # noqa: RUF012 (transformers' own way)

    speaker: dict | PreTrainedConfig | None = None
    image_token_id: int = 0

    def visual_tokens(self, frames: int) -> int:
        """Return how many tokens the model makes of so many frames."""
        return frames

    def get_text_config(self, decoder: bool | None = None, encoder: bool | None = None) -> PreTrainedConfig:
        """Return what `generate` keeps its cache for."""
        return self.speaker


class Eyes(nn.Module):
    """The vision tower."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Linear(3 * PATCH * PATCH, WIDTH)

    def forward(self, views: Tensor) -> Tensor:
        """(frames, 3, side, side) -> (frames, width)."""
        cut = nn.functional.unfold(views.to(self.patches.weight.dtype), PATCH, stride=PATCH).mT  # (frames, patches, .)
        return self.patches(cut).mean(dim=1)


class PatchworkForCoaching(PreTrainedModel, GenerationMixin):
    """Answers a question about clips."""

    config_class = PatchworkConfig
    config: PatchworkConfig
    supports_gradient_checkpointing = True
    gathered_whole = ()
    _supports_sdpa = True

    def __init__(self, config: PatchworkConfig) -> None:
        super().__init__(config)
        self.eyes = Eyes()
        self.bridge = nn.Linear(WIDTH, config.speaker.hidden_size)
        self.speaker = LlamaModel(config.speaker)
        self.lm_head = nn.Linear(config.speaker.hidden_size, config.speaker.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.speaker.embed_tokens

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def frozen_features(self, views: Tensor) -> dict[str, Tensor]:
        """Return what `forward` takes in place of a clip's views, computed by the vision tower alone."""
        return {"glances": self.eyes(views)}

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        views: Tensor | None = None,
        glances: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return logits; each `<look>` is replaced by a frame of `views`, or by what the eyes made of it before."""
        embedded = self.speaker.embed_tokens(input_ids)
        if views is not None:
            glances = self.eyes(views)
        if glances is not None:
            seen = self.bridge(glances.to(self.bridge.weight.dtype)).to(embedded.dtype)
            embedded = embedded.masked_scatter((input_ids == self.config.image_token_id)[..., None], seen)
        out = self.speaker(inputs_embeds=embedded, attention_mask=attention_mask, **kwargs)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(
            logits=self.lm_head(out.last_hidden_state[:, kept]), past_key_values=out.past_key_values
        )

    def prepare_inputs_for_generation(
        self, *args: Any, is_first_iteration: bool = False, views: Tensor | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        inputs = super().prepare_inputs_for_generation(*args, is_first_iteration=is_first_iteration, **kwargs)
        return inputs | ({"views": views} if is_first_iteration else {})


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`processor_config.json`."""

    min_frames: int = GROUP
    max_frames: int = 2 * GROUP
    question: str = "What do you see?"


class PatchworkProcessor(ClipProcessor[Settings]):
    """The processor."""

    model = "a Patchwork"
    image_token = LOOK
    control_tokens = (LOOK, TURN_START, TURN_END)
    settings_type = Settings

    def select_frames(self, frame_total: int, fps: float) -> list[int]:
        return frame_indices(frame_total, frame_count(frame_total / fps, self.min_frames, self.max_frames, GROUP))

    def resize(self, frames: np.ndarray) -> np.ndarray:
        return bicubic(frames, SIDE, SIDE)

    def pixel_values(self, frames: np.ndarray) -> Tensor:
        if len(frames) % GROUP:
            raise ValueError(f"{len(frames)} frames are no multiple of {GROUP}")
        return torch.from_numpy(self.resize(frames).copy()).permute(0, 3, 1, 2).float() / 255

    def visual_inputs(self, frames: np.ndarray) -> dict[str, Tensor]:
        return {"views": self.pixel_values(frames)}

    def prompt(self, question: str, frames: int, duration: float | None = None) -> str:
        return f"{LOOK * frames}{self.plain(question, 'question')}{TURN_START}"

    def sample_lengths(self, question: str, frames: int, duration: float | None, answer: str) -> tuple[int, int, int]:
        _, labels = self.text_inputs(question, frames, duration, answer)
        answered = int((labels != -100).sum())
        return len(labels) - answered - frames, frames, answered


def outline(folder: Path) -> Outline:
    """Read all but the weights of a checkpoint."""
    path = folder / "config.json"
    config = PatchworkConfig.from_dict(read_json(path, REMEDY))
    return Outline(False, empty_model(PatchworkForCoaching, path, config), PatchworkProcessor.from_pretrained(folder))


def sizes(path: Path) -> ModelSizes:
    """Return the model's sizes from its `config.json`."""
    text = read_json(path, REMEDY)["speaker"]
    width, mlp, layers = text["hidden_size"], text["intermediate_size"], text["num_hidden_layers"]
    pixels = 3 * PATCH * PATCH
    return ModelSizes(
        vision=Tower(1, WIDTH, 1, WIDTH, pixels, gated=False),
        vision_other=0,
        patch_tokens=(SIDE // PATCH) ** 2,
        image_size=SIDE,
        views=1,
        frame_group=GROUP,
        group_tokens=GROUP,
        frame_words=0,
        features=GROUP * WIDTH,
        seeing=(Held(GROUP * 3 * SIDE**2),),
        vision_kept=Held(),
        connector=(WIDTH + 1) * width,
        connector_kept=Held(),
        language=Tower(layers, width, text["num_attention_heads"], width, mlp, gated=True),
        language_other=(2 * layers + 1) * width,
        vocabulary=text["vocab_size"],
        tied=False,
    )


def patchwork(tiny: Path) -> Family:
    """Return the family, whose small model is the checkpoint `tiny`."""
    return Family(
        key="patchwork",
        name="Patchwork",
        large="nobody/patchwork",
        tiny=str(tiny),
        gpu_gb=1,
        disk_gb=1,
        script="scripts/finetune_qved.sh",
        model_types=("patchwork",),
        checkpoints=lambda: Checkpoints("a Patchwork", outline, (), re.compile(r"$^")),
        sizes=sizes,
        published={},
        vision="eyes",
        connector="bridge",
        language="speaker",
        lora_targets=r".*speaker\.layers\.\d+\.self_attn\.[qv]_proj",
        vision_lora_targets=r".*eyes\.patches",
        recipe=Recipe(min_frames=GROUP, max_frames=2 * GROUP, cpu_dtype="float32"),
        runs=RunLayout("coached/patchwork", checkpoint="after-", last="finished"),
        frame_group=GROUP,
        free_frames=True,
    )


def write_patchwork(folder: Path) -> Path:
    """Write a checkpoint with random weights."""
    write_tokenizer(folder)
    tokenizer = Qwen2Tokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"extra_special_tokens": [LOOK]}, replace_extra_special_tokens=False)
    speaker = {"vocab_size": 288, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    speaker |= {"num_attention_heads": 2, "num_key_value_heads": 2}
    torch.manual_seed(0)
    config = PatchworkConfig(speaker=speaker, image_token_id=tokenizer.convert_tokens_to_ids(LOOK))
    PatchworkForCoaching(config).save_pretrained(folder)
    PatchworkProcessor(tokenizer, Settings()).save_pretrained(folder)
    return folder
