"""From a clip's frames and a question to Mobile-VideoGPT's inputs, and from its output to text."""

from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from formcoach.data.convert import MOBILE_QUESTION
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

IMAGE_TOKEN = "<image>"
TEXT_END = "<|endoftext|>"
CONTROL_TOKENS = (IMAGE_TOKEN, TURN_START, TURN_END)
SYSTEM_MESSAGE = "You are a helpful assistant."


class ProcessorSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the processor needs to know besides the tokenizer; stored as `processor_config.json`.

    Args:
        image_size: side in pixels of the square that each frame is brought to.
        visual_tokens: placeholders of a clip.
        min_frames: frames taken of a clip.
        max_frames: the same: the model takes one number of frames only.
        system_message: opens every prompt.
        question: what is asked about a clip where nobody asks anything else.
    """

    image_size: int = 224
    visual_tokens: int = 2402
    min_frames: int = 16
    max_frames: int = 16
    system_message: str = SYSTEM_MESSAGE
    question: str = MOBILE_QUESTION.format(exercise="exercise")


class MobileVideoGPTProcessor(ClipProcessor[ProcessorSettings]):
    """Mobile-VideoGPT's processor.

    Each frame is seen twice: squeezed into a square for the video encoder, and its middle cut out for the image
    encoder, as CLIP's own processor does. Both are normalised as their encoder was trained.
    """

    model = "a Mobile-VideoGPT"
    image_token = IMAGE_TOKEN
    control_tokens = CONTROL_TOKENS
    settings_type = ProcessorSettings
    of_model = ("image_size", "visual_tokens", "max_frames")

    def __init__(self, tokenizer: PreTrainedTokenizerFast, settings: ProcessorSettings) -> None:
        super().__init__(tokenizer, settings)
        self._for_video = Normalisation(IMAGENET_MEAN, IMAGENET_STD)
        self._for_images = Normalisation(OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)

    @property
    def end_token_ids(self) -> list[int]:
        """Ids that end an answer: of a turn and of the text, whichever of them the tokenizer calls its end."""
        known = self.tokenizer.get_vocab()
        ends = (self.tokenizer.eos_token, TURN_END, TEXT_END)
        return list(dict.fromkeys(known[token] for token in ends if token in known))

    @classmethod
    def check_settings(cls, path: Path, settings: ProcessorSettings) -> None:
        """Refuse different frame limits."""
        if settings.min_frames != settings.max_frames or settings.min_frames < 1:
            raise UserError(
                f"{path}: min_frames {settings.min_frames} and max_frames {settings.max_frames} are not one number of "
                "frames; correct them or copy the folder again"
            )

    def select_frames(self, frame_count: int, fps: float) -> list[int]:
        """Return the indices of the frames to take.

        That is one a second, as many as the model takes of them spread over a long clip; a clip too short for that
        gives frames at the widest even stride that yields enough. One with fewer frames than the model takes gives
        all, and its last one again and again.
        """
        most = self.settings.max_frames
        places = range(0, frame_count, max(round(fps), 1))
        if len(places) >= most:
            return [places[place] for place in np.linspace(0, len(places) - 1, most).astype(int)]
        count = min(most, frame_count)
        stride = max((frame_count - 1) // max(count - 1, 1), 1)
        return [stride * place for place in range(count)] + [frame_count - 1] * (most - count)

    def prompt(self, question: str, frames: int, duration: float | None = None) -> str:
        """Return the prompt for a clip, up to where the answer begins; it tells neither frames nor duration.

        With 0 frames it is a question about nothing.
        """
        return self._prompt(question, self.settings.visual_tokens if frames else 0)

    def resize(self, frames: np.ndarray) -> np.ndarray:
        """Return both views: (T, height, width, 3) -> (2 T, image_size, image_size, 3), squeezed ones first."""
        side = self.settings.image_size
        if len(frames) == 2 * self.settings.max_frames and frames.shape[1:3] == (side, side):
            return frames
        height, width = frames.shape[1:3]
        shortest = min(height, width)
        inner = bicubic(frames, side * height // shortest, side * width // shortest)
        top, left = (inner.shape[1] - side) // 2, (inner.shape[2] - side) // 2
        return np.concatenate([bicubic(frames, side, side), inner[:, top : top + side, left : left + side]])

    def shown(self, aspect: float) -> list[tuple[float, float]]:
        """See `ClipProcessor`."""
        return [(1.0, 1.0), (min(1 / aspect, 1.0), min(aspect, 1.0))]

    def pixel_values(self, frames: np.ndarray) -> Tensor:
        """Return both views, normalised: (T, height, width, 3) uint8 -> (2 T, 3, image_size, image_size) float32."""
        views = self.resize(frames)
        count = self.settings.max_frames
        if len(views) != 2 * count:
            raise ValueError(f"{len(views) // 2} frames are not the {count} that the model takes")
        return torch.cat([self._for_video(views[:count]), self._for_images(views[count:])])

    def sample_lengths(self, question: str, frames: int, duration: float | None, answer: str) -> tuple[int, int, int]:
        """See `ClipProcessor`."""
        prompt = self._prompt(question, 1)  # placeholders are tokens of their own, however many
        ids = self.tokenizer(prompt).input_ids
        whole, _ = self.with_answer(prompt, ids, answer)
        return len(ids) - 1, self.settings.visual_tokens, len(whole) - len(ids)

    def _prompt(self, question: str, placeholders: int) -> str:
        messages = [
            {"role": "system", "content": self.settings.system_message},
            {"role": "user", "content": f"{IMAGE_TOKEN * placeholders}\n{self.plain(question, 'question')}"},
        ]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
