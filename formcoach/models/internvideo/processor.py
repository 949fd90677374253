"""From a clip's frames and a question to InternVideo2.5's inputs, and from its output to text."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import msgspec
import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast

from formcoach.data.sampling import frame_count as frames_for
from formcoach.data.sampling import frame_indices, round_limits
from formcoach.errors import UserError
from formcoach.files import read_json, write_json
from formcoach.models.internvideo.text_lengths import TextLengths, check_begin

SETTINGS_FILE = "processor_config.json"

IMAGE_START, IMAGE_END, IMAGE_TOKEN = "<img>", "</img>", "<IMG_CONTEXT>"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
CONTROL_TOKENS = (IMAGE_START, IMAGE_END, IMAGE_TOKEN, TURN_START, TURN_END)

# The system message that InternVideo2.5 was trained with (chat template `internvl2_5`).
SYSTEM_MESSAGE = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NO_LOSS = -100  # the label that torch's cross entropy ignores


class ProcessorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the processor needs to know besides the tokenizer; stored as `processor_config.json`.

    Args:
        image_size: side in pixels of the square that each frame is resized to.
        tokens_per_frame: placeholders a frame.
        frames_per_group: a clip's number of frames is a multiple of this.
        min_frames: fewest frames taken of a clip.
        max_frames: most frames taken of a clip.
        system_message: opens every prompt.
    """

    image_size: int = 448
    tokens_per_frame: int = 16
    frames_per_group: int = 4
    min_frames: int = 8
    max_frames: int = 8
    system_message: str = SYSTEM_MESSAGE


class InternVideoProcessor:
    """Turns frames, a question and optionally the answer into model inputs.

    Args:
        tokenizer: a fast tokenizer that knows the tokens of `CONTROL_TOKENS`.
        settings: see `ProcessorSettings`.

    Attributes:
        min_frames: fewest frames taken of a clip; may be set, rounded up to a multiple of a group when used.
        max_frames: most frames taken of a clip; may be set, rounded down to a multiple of a group when used.

    Raises:
        UserError: if the tokenizer lacks one of the control tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: ProcessorSettings) -> None:
        known = tokenizer.get_added_vocab()
        missing = [token for token in CONTROL_TOKENS if token not in known]
        if missing:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer has no special token {missing[0]}; "
                "it does not belong to an InternVideo2.5 model"
            )
        tokenizer.chat_template = CHAT_TEMPLATE
        self.tokenizer = tokenizer
        self.settings = settings
        self.min_frames = settings.min_frames
        self.max_frames = settings.max_frames
        self._lengths = TextLengths(tokenizer.backend_tokenizer, IMAGE_END, TURN_START, TURN_END)
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self._scale = (1 / (255 * std)).view(3, 1, 1)
        self._shift = (-mean / std).view(3, 1, 1)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            UserError: if a file is missing or its content is not that of a processor.
        """
        path = Path(folder) / SETTINGS_FILE
        raw = read_json(path, "It is part of every checkpoint of this project: copy the folder again.")
        try:
            settings = msgspec.convert(raw, ProcessorSettings)
        except msgspec.ValidationError as error:
            raise UserError(f"{path}: {error}. Copy the folder again.") from None
        low, high, group = settings.min_frames, settings.max_frames, settings.frames_per_group
        if group < 1 or low < 1 or high < low or low % group or high % group:
            raise UserError(
                f"{path}: min_frames {low} and max_frames {high} are not multiples of {group} in rising order; "
                "correct them or copy the folder again"
            )
        if not (Path(folder) / "tokenizer.json").is_file():
            raise UserError(f"{folder}: no tokenizer.json. Copy the folder again.")
        try:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        except Exception as error:  # tokenizers raises no narrower type
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: its tokenizer cannot be read ({reason}). Copy the folder again.") from None
        return cls(tokenizer, settings)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the tokenizer, its chat template and the settings to `folder`."""
        self.tokenizer.save_pretrained(folder)
        low, high = round_limits(self.min_frames, self.max_frames, self.settings.frames_per_group)
        settings = msgspec.structs.replace(self.settings, min_frames=low, max_frames=high)
        write_json(Path(folder) / SETTINGS_FILE, msgspec.to_builtins(settings))

    @property
    def end_token_ids(self) -> list[int]:
        """Ids that end an answer: ``</s>`` and ``<|im_end|>``."""
        return [self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids(TURN_END)]

    @property
    def placeholder_id(self) -> int:
        """Id of the token that a visual token takes the place of."""
        return self.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)

    def select_frames(self, frame_count: int, fps: float) -> list[int]:
        """Return the indices of the frames to take of a clip with `frame_count` frames at `fps` frames a second."""
        wanted = frames_for(frame_count / fps, self.min_frames, self.max_frames, self.settings.frames_per_group)
        return frame_indices(frame_count, wanted)

    def __call__(
        self, frames: np.ndarray, question: str, duration: float | None = None, answer: str | None = None
    ) -> BatchFeature:
        """Build the inputs for one clip.

        Args:
            frames: (T, height, width, 3) uint8 RGB, T a multiple of `settings.frames_per_group`.
            question: what is asked about the clip.
            duration: seconds of the whole clip, told to the model; None leaves the sentence out.
            answer: what the model shall answer; None in inference.

        Returns:
            ``input_ids (1, L)``, ``attention_mask (1, L)``, ``pixel_values (T, 3, image_size, image_size)`` float32
            and, with an answer, ``labels (1, L)``: -100 but for the answer and the token that closes it.

        Raises:
            UserError: if question or answer contain one of the model's control tokens.
            ValueError: if `frames` has another shape or type.
        """
        prompt = self.prompt(question, len(frames), duration)
        ids = self.tokenizer(prompt).input_ids
        features = self.visual_inputs(frames)
        if answer is not None:
            ids, features["labels"] = self.with_answer(prompt, ids, answer)
        features["input_ids"] = torch.tensor([ids])
        features["attention_mask"] = torch.ones_like(features["input_ids"])
        return BatchFeature(features)

    def text_inputs(self, question: str, frames: int, duration: float | None, answer: str) -> tuple[Tensor, Tensor]:
        """Return ``input_ids (L)`` and ``labels (L)`` of a training sample, see `__call__`."""
        prompt = self.prompt(question, frames, duration)
        ids, labels = self.with_answer(prompt, self.tokenizer(prompt).input_ids, answer)
        return torch.tensor(ids), labels[0]

    def visual_inputs(self, frames: np.ndarray) -> dict[str, Tensor]:
        """Return the model's visual arguments for a clip, see `__call__`."""
        return {"pixel_values": self.pixel_values(frames)}

    def prompt(self, question: str, frames: int, duration: float | None = None) -> str:
        """Return the prompt for a clip of `frames` frames, up to where the answer begins."""
        lines = []
        if duration is not None:
            lines.append(
                f"The video lasts for {_seconds(duration)} seconds, and {frames} frames are uniformly sampled from it."
            )
        image = IMAGE_START + IMAGE_TOKEN * self.settings.tokens_per_frame + IMAGE_END
        lines += [f"Frame{number}: {image}" for number in range(1, frames + 1)]
        lines.append(_plain(question, "question"))
        messages = [
            {"role": "system", "content": self.settings.system_message},
            {"role": "user", "content": "\n".join(lines)},
        ]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        """Resize frames, the costly half of `pixel_values`: (T, height, width, 3) -> (T, image_size, image_size, 3).

        Bicubic with antialiasing on 8-bit values, as Pillow does it for the original model. Frames that have the size
        already are returned as they are.
        """
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            raise ValueError(f"frames must be uint8 (T, height, width, 3), not {frames.dtype} {frames.shape}")
        side = self.settings.image_size
        if frames.shape[1:3] == (side, side):
            return frames
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # channels last in memory
        pixels = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True)
        return pixels.permute(0, 2, 3, 1).numpy()

    def pixel_values(self, frames: np.ndarray) -> Tensor:
        """Resize and normalise frames: (T, height, width, 3) uint8 -> (T, 3, image_size, image_size) float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(self.resize(frames))).permute(0, 3, 1, 2)  # (T, 3, side, side)
        if len(frames) == 0 or len(frames) % self.settings.frames_per_group:
            raise ValueError(f"{len(frames)} frames are not a positive multiple of {self.settings.frames_per_group}")
        return torch.addcmul(self._shift, pixels.to(torch.float32), self._scale).contiguous()

    def sample_lengths(self, question: str, frames: int, duration: float | None, answer: str) -> tuple[int, int, int]:
        """Return how many tokens a training sample has: of its prompt's text, visual ones, and those with a label.

        Together they are as many as `text_inputs` returns for the same arguments, at a fraction of its time.

        Raises:
            UserError: as `text_inputs`.
        """
        said = "" if duration is None else _seconds(duration)
        visual = frames * self.settings.tokens_per_frame
        head = self._lengths.head(frames, said, lambda: self.prompt("", frames, duration))
        tail, answered = self._lengths.tail(question, _plain(answer, "answer"), lambda: self.prompt(question, 1))
        return head - visual + tail, visual, answered

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Return the text of token ids without special tokens and surrounding white space."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def with_answer(self, prompt: str, prompt_ids: list[int], answer: str) -> tuple[list[int], Tensor]:
        """Return the ids of prompt, answer and closing token, and their labels (1, L).

        Args:
            prompt: from `prompt`.
            prompt_ids: its ids.
            answer: what the model shall answer.

        Raises:
            UserError: if the answer contains one of the model's control tokens, or see `check_begin`.
        """
        ids = self.tokenizer(prompt + _plain(answer, "answer") + TURN_END).input_ids
        check_begin(prompt_ids, ids, answer)
        labels = torch.tensor([ids])
        labels[:, : len(prompt_ids)] = NO_LOSS
        return ids, labels


def _seconds(duration: float) -> str:
    """Return a duration as prompts say it."""
    return f"{duration:.2f}"


def _plain(text: str, what: str) -> str:
    """Return `text`; refuse one that would be read as control tokens."""
    for token in CONTROL_TOKENS:
        if token in text:
            raise UserError(f"the {what} {text[:60]!r} contains the control token {token}; remove it")
    return text


def settings_from(config: Any, **overrides: Any) -> ProcessorSettings:
    """Return the settings that fit a model of `config` (an `InternVideoConfig`), with `overrides` on top."""
    side, _ = config.vision_config.image_size
    fitting = {
        "image_size": side,
        "tokens_per_frame": config.tokens_per_frame,
        "frames_per_group": config.frames_per_group,
    }
    return ProcessorSettings(**(fitting | overrides))
