"""The published model's configuration with other sizes."""

import msgspec

from formcoach.models.internvideo.original import PUBLISHED_8B, OriginalConfig


def resized_8b(vision: dict[str, int], language: dict[str, int]) -> OriginalConfig:
    """Return the 8B's configuration with other values in its two parts."""
    parts = msgspec.to_builtins(PUBLISHED_8B)
    parts["vision_config"] |= vision
    parts["llm_config"] |= language
    parts["force_image_size"] = parts["vision_config"]["image_size"]
    return msgspec.convert(parts, OriginalConfig)
