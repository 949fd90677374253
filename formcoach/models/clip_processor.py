"""What processors have in common: text and answer around the frames, and their files."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor
from transformers import BatchFeature, PreTrainedTokenizerFast

from formcoach.data.collate import NO_LOSS
from formcoach.errors import UserError
from formcoach.files import read_json, write_json
from formcoach.models.text_lengths import check_begin

SETTINGS_FILE = "processor_config.json"
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Settings = TypeVar("Settings", bound=msgspec.Struct)


class ClipProcessor(ABC, Generic[Settings]):
    """Turns frames, a question and optionally the answer into model inputs, and the model's output into text.

    Args:
        tokenizer: a fast tokenizer that knows the `control_tokens`.
        settings: what else the processor needs to know.

    Attributes:
        model: what the model is called, with its article, for messages.
        image_token: the placeholder of a visual token.
        control_tokens: what no question or answer may contain.
        settings_type: of `settings`, stored as `processor_config.json`; it has `min_frames`, `max_frames`, `question`.
        of_model: names of those settings that the model dictates.
        min_frames: fewest frames taken of a clip; may be set.
        max_frames: most frames taken of a clip; may be set.
        question: what is asked about a clip where nobody asks anything else.

    Raises:
        UserError: if the tokenizer lacks one of the control tokens.
    """

    model: ClassVar[str]
    image_token: ClassVar[str]
    control_tokens: ClassVar[tuple[str, ...]]
    settings_type: ClassVar[type[msgspec.Struct]]
    of_model: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: Settings) -> None:
        known = tokenizer.get_added_vocab()
        missing = [token for token in self.control_tokens if token not in known]
        if missing:
            raise UserError(
                f"{tokenizer.name_or_path}: the tokenizer has no special token {missing[0]}; "
                f"it does not belong to {self.model} model"
            )
        tokenizer.chat_template = CHAT_TEMPLATE
        self.tokenizer = tokenizer
        self.settings = settings
        self.min_frames: int = settings.min_frames
        self.max_frames: int = settings.max_frames
        self.question: str = settings.question

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Read what `save_pretrained` wrote.

        Raises:
            UserError: if a file is missing or its content is not that of a processor.
        """
        path = Path(folder) / SETTINGS_FILE
        raw = read_json(path, "It is part of every checkpoint of this project: copy the folder again.")
        try:
            settings = msgspec.convert(raw, cls.settings_type)
        except msgspec.ValidationError as error:
            raise UserError(f"{path}: {error}. Copy the folder again.") from None
        cls.check_settings(path, settings)
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
        write_json(Path(folder) / SETTINGS_FILE, msgspec.to_builtins(self.stored_settings()))

    @classmethod
    def check_settings(cls, path: Path, settings: Any) -> None:
        """Refuse settings that do not go together.

        Args:
            path: where they were read, for messages.
            settings: of `settings_type`.

        Raises:
            UserError: naming what does not.
        """

    def check_fits(
        self, folder: Path, settings: Settings, placeholder_id: int, model: str = "the model of config.json"
    ) -> None:
        """Refuse a processor that belongs to another model.

        Args:
            folder: where it was read, for messages.
            settings: that fit the model.
            placeholder_id: the token that the model replaces.
            model: what it is called, for messages.

        Raises:
            UserError: naming the first setting that does not fit.
        """
        pairs = [(name, getattr(self.settings, name), getattr(settings, name)) for name in self.of_model]
        for name, found, wanted in [*pairs, (f"the id of {self.image_token}", self.placeholder_id, placeholder_id)]:
            if found != wanted:
                raise UserError(
                    f"{folder / SETTINGS_FILE}: {name} is {found}, but {model} has {wanted}; "
                    "copy all files from the same checkpoint"
                )

    def of_adapter(self, folder: Path) -> Self:
        """Return the processor that was kept with an adapter of this one's model.

        Raises:
            UserError: see `from_pretrained`, or it belongs to another model.
        """
        found = self.from_pretrained(folder)
        found.check_fits(folder, self.settings, self.placeholder_id, "its base")
        return found

    def stored_settings(self) -> Settings:
        """Return the settings as they are now."""
        return self.settings

    @property
    def end_token_ids(self) -> list[int]:
        """Ids that end an answer: the end of the text, and of a turn."""
        return [self.tokenizer.eos_token_id, self.tokenizer.convert_tokens_to_ids(TURN_END)]

    @property
    def placeholder_id(self) -> int:
        """Id of the token that a visual token takes the place of."""
        return self.tokenizer.convert_tokens_to_ids(self.image_token)

    @abstractmethod
    def select_frames(self, frame_count: int, fps: float) -> list[int]:
        """Return the indices of the frames to take of a clip with `frame_count` frames at `fps` frames a second."""

    @abstractmethod
    def resize(self, frames: np.ndarray) -> np.ndarray:
        """Resize frames, the costly half of `pixel_values`; frames that were resized are returned as they are."""

    def shown(self, aspect: float) -> list[tuple[float, float]]:
        """Return which shares of a clip's width and height are in sight, around its middle.

        Args:
            aspect: the clip's width by its height.

        Returns:
            A pair for each view of the frames that `resize` makes, in its order.
        """
        return [(1.0, 1.0)]

    @abstractmethod
    def pixel_values(self, frames: np.ndarray) -> Tensor:
        """Resize and normalise frames: (T, height, width, 3) uint8 to float32, as the model takes them."""

    @abstractmethod
    def prompt(self, question: str, frames: int, duration: float | None = None) -> str:
        """Return the prompt for a clip of `frames` frames, up to where the answer begins."""

    @abstractmethod
    def sample_lengths(self, question: str, frames: int, duration: float | None, answer: str) -> tuple[int, int, int]:
        """Return how many tokens a training sample has: of its prompt's text, visual ones, and those with a label.

        Together they are as many as `text_inputs` returns for the same arguments, at a fraction of its time.

        Raises:
            UserError: as `text_inputs`.
        """

    def __call__(
        self, frames: np.ndarray, question: str, duration: float | None = None, answer: str | None = None
    ) -> BatchFeature:
        """Build the inputs for one clip.

        Args:
            frames: (T, height, width, 3) uint8 RGB, as many as `select_frames` chooses, or what `resize` made of them.
            question: what is asked about the clip.
            duration: seconds of the whole clip; None leaves it out where the prompt tells it.
            answer: what the model shall answer; None in inference.

        Returns:
            ``input_ids (1, L)``, ``attention_mask (1, L)``, ``pixel_values`` and, with an answer, ``labels (1, L)``:
            -100 but for the answer and the token that closes it.

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

    def with_answer(self, prompt: str, prompt_ids: list[int], answer: str) -> tuple[list[int], Tensor]:
        """Return the ids of prompt, answer and closing token, and their labels (1, L).

        Args:
            prompt: from `prompt`.
            prompt_ids: its ids.
            answer: what the model shall answer.

        Raises:
            UserError: if the answer contains one of the model's control tokens, or see `check_begin`.
        """
        ids = self.tokenizer(prompt + self.plain(answer, "answer") + TURN_END).input_ids
        check_begin(prompt_ids, ids, answer)
        labels = torch.tensor([ids])
        labels[:, : len(prompt_ids)] = NO_LOSS
        return ids, labels

    def plain(self, text: str, what: str) -> str:
        """Return `text`; refuse one that would be read as control tokens.

        Raises:
            UserError: naming the token; `what` the text is.
        """
        for token in self.control_tokens:
            if token in text:
                raise UserError(f"the {what} {text[:60]!r} contains the control token {token}; remove it")
        return text

    def decode(self, ids: Sequence[int] | Tensor) -> str:
        """Return the text of token ids without special tokens and surrounding white space."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def bicubic(frames: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize frames as Pillow does it: bicubic with antialiasing, on 8-bit values.

    Args:
        frames: (T, height, width, 3) uint8.
        height: of the result.
        width: of the result.

    Raises:
        ValueError: `frames` is something else.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise ValueError(f"frames must be uint8 (T, height, width, 3), not {frames.dtype} {frames.shape}")
    if frames.shape[1:3] == (height, width):
        return frames
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)  # channels last in memory
    pixels = torch.nn.functional.interpolate(pixels, size=(height, width), mode="bicubic", antialias=True)
    return pixels.permute(0, 2, 3, 1).numpy()


class Normalisation:
    """Takes 8-bit pixels to a mean of 0 and a deviation of 1."""

    def __init__(self, mean: Sequence[float], deviation: Sequence[float]) -> None:
        """Prepare it for pixels in 0..1 of such a mean and deviation, by channel."""
        middle, spread = torch.tensor(mean), torch.tensor(deviation)
        self._scale = (1 / (255 * spread)).view(3, 1, 1)
        self._shift = (-middle / spread).view(3, 1, 1)

    def __call__(self, frames: np.ndarray) -> Tensor:
        """(T, height, width, 3) uint8 -> (T, 3, height, width) float32."""
        pixels = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        return torch.addcmul(self._shift, pixels.to(torch.float32), self._scale).contiguous()
