"""From a clip's frames and a question to InternVideo2.5's inputs, and from its output to text."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from formcoach.data.convert import QUESTION
from formcoach.data.sampling import frame_count as frames_for
from formcoach.data.sampling import frame_indices, round_limits
from formcoach.errors import UserError
from formcoach.models.clip_processor import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    TURN_END,
    TURN_START,
    ClipProcessor,
    Normalisation,
    bicubic,
)
from formcoach.models.text_lengths import TextLengths

IMAGE_START, IMAGE_END, IMAGE_TOKEN = "<img>", "</img>", "<IMG_CONTEXT>"
CONTROL_TOKENS = (IMAGE_START, IMAGE_END, IMAGE_TOKEN, TURN_START, TURN_END)

# The system message that InternVideo2.5 was trained with (chat template `internvl2_5`).
SYSTEM_MESSAGE = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)


class ProcessorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the processor needs to know besides the tokenizer; stored as `processor_config.json`.

    Args:
        image_size: side in pixels of the square that each frame is resized to.
        tokens_per_frame: placeholders a frame.
        frames_per_group: a clip's number of frames is a multiple of this.
        min_frames: fewest frames taken of a clip.
        max_frames: most frames taken of a clip.
        system_message: opens every prompt.
        question: what is asked about a clip where nobody asks anything else.
    """

    image_size: int = 448
    tokens_per_frame: int = 16
    frames_per_group: int = 4
    min_frames: int = 8
    max_frames: int = 8
    system_message: str = SYSTEM_MESSAGE
    question: str = QUESTION


class InternVideoProcessor(ClipProcessor[ProcessorSettings]):
    """InternVideo2.5's processor. Frame limits are rounded to multiples of a group when they are used."""

    model = "an InternVideo2.5"
    image_token = IMAGE_TOKEN
    control_tokens = CONTROL_TOKENS
    settings_type = ProcessorSettings
    of_model = ("image_size", "tokens_per_frame", "frames_per_group")

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: ProcessorSettings) -> None:
        super().__init__(tokenizer, settings)
        self._lengths = TextLengths(tokenizer.backend_tokenizer, IMAGE_END, TURN_START, TURN_END)
        self._normalise = Normalisation(IMAGENET_MEAN, IMAGENET_STD)

    @classmethod
    def check_settings(cls, path: Path, settings: ProcessorSettings) -> None:
        """Refuse frame limits that are not multiples of a group in rising order."""
        low, high, group = settings.min_frames, settings.max_frames, settings.frames_per_group
        if group < 1 or low < 1 or high < low or low % group or high % group:
            raise UserError(
                f"{path}: min_frames {low} and max_frames {high} are not multiples of {group} in rising order; "
                "correct them or copy the folder again"
            )

    def stored_settings(self) -> ProcessorSettings:
        """Return the settings as they are now."""
        low, high = round_limits(self.min_frames, self.max_frames, self.settings.frames_per_group)
        return msgspec.structs.replace(self.settings, min_frames=low, max_frames=high)

    def select_frames(self, frame_count: int, fps: float) -> list[int]:
        """See `ClipProcessor`."""
        wanted = frames_for(frame_count / fps, self.min_frames, self.max_frames, self.settings.frames_per_group)
        return frame_indices(frame_count, wanted)

    def prompt(self, question: str, frames: int, duration: float | None = None) -> str:
        """See `ClipProcessor`."""
        lines = []
        if duration is not None:
            lines.append(
                f"The video lasts for {_seconds(duration)} seconds, and {frames} frames are uniformly sampled from it."
            )
        image = IMAGE_START + IMAGE_TOKEN * self.settings.tokens_per_frame + IMAGE_END
        lines += [f"Frame{number}: {image}" for number in range(1, frames + 1)]
        lines.append(self.plain(question, "question"))
        messages = [
            {"role": "system", "content": self.settings.system_message},
            {"role": "user", "content": "\n".join(lines)},
        ]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        """Resize frames, the costly half of `pixel_values`: (T, ., ., 3) -> (T, image_size, image_size, 3)."""
        return bicubic(frames, self.settings.image_size, self.settings.image_size)

    def pixel_values(self, frames: np.ndarray) -> Tensor:
        """Resize and normalise frames: (T, height, width, 3) uint8 -> (T, 3, image_size, image_size) float32."""
        resized = self.resize(frames)
        if len(frames) == 0 or len(frames) % self.settings.frames_per_group:
            raise ValueError(f"{len(frames)} frames are not a positive multiple of {self.settings.frames_per_group}")
        return self._normalise(resized)

    def sample_lengths(self, question: str, frames: int, duration: float | None, answer: str) -> tuple[int, int, int]:
        """See `ClipProcessor`."""
        said = "" if duration is None else _seconds(duration)
        visual = frames * self.settings.tokens_per_frame
        head = self._lengths.head(frames, said, lambda: self.prompt("", frames, duration))
        tail, answered = self._lengths.tail(question, self.plain(answer, "answer"), lambda: self.prompt(question, 1))
        return head - visual + tail, visual, answered


def _seconds(duration: float) -> str:
    """Return a duration as prompts say it."""
    return f"{duration:.2f}"


def settings_from(config: Any, **overrides: Any) -> ProcessorSettings:
    """Return the settings that fit a model of `config` (an `InternVideoConfig`), with `overrides` on top."""
    side, _ = config.vision_config.image_size
    fitting = {
        "image_size": side,
        "tokens_per_frame": config.tokens_per_frame,
        "frames_per_group": config.frames_per_group,
    }
    return ProcessorSettings(**(fitting | overrides))
