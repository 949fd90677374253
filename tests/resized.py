"""The published models' configurations with other sizes."""

import msgspec

from formcoach.models.internvideo import original as internvideo
from formcoach.models.mobilevideogpt import original as mobilevideogpt


def resized_8b(vision: dict[str, int], language: dict[str, int]) -> internvideo.OriginalConfig:
    """Return the 8B's configuration with other values in its two parts."""
    parts = msgspec.to_builtins(internvideo.PUBLISHED_8B)
    parts["vision_config"] |= vision
    parts["llm_config"] |= language
    parts["force_image_size"] = parts["vision_config"]["image_size"]
    return msgspec.convert(parts, internvideo.OriginalConfig)


def resized_05b(
    video: dict[str, int], image: dict[str, int], language: dict[str, int]
) -> mobilevideogpt.OriginalConfig:
    """Return the 0.5B's configuration with other values in its three parts."""
    parts = msgspec.to_builtins(mobilevideogpt.PUBLISHED_05B) | language
    parts["vision_tower_config"] |= video
    parts["image_vision_tower_config"] |= image
    return msgspec.convert(parts, mobilevideogpt.OriginalConfig)
