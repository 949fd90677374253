"""The original checkpoint's tensor names and ours; registered with transformers, which applies them while it loads."""

from transformers.conversion_mapping import register_checkpoint_conversion_mapping

from formcoach.models.conversion import renaming

VIDEO_TOWER = "model.vision_tower.vision_encoder."
IMAGE_TOWER = "model.image_vision_tower.vision_tower.vision_model."

# Original names -> ours.
CONVERSIONS = [
    renaming(VIDEO_TOWER, "model.vision_tower.video."),
    renaming(IMAGE_TOWER, "model.vision_tower.image."),
    renaming("model.mm_projector.mlp.mlp.", "model.multi_modal_projector.video.mlp."),
    renaming("model.mm_projector.peg.peg.0.", "model.multi_modal_projector.video.peg."),
    renaming("model.image_mm_projector.mlp.mlp.", "model.multi_modal_projector.image.mlp."),
    renaming("model.image_mm_projector.peg.peg.0.", "model.multi_modal_projector.image.peg."),
    renaming("model.embed_tokens.", "model.language_model.embed_tokens."),
    renaming("model.layers.", "model.language_model.layers."),
    renaming("model.norm.", "model.language_model.norm."),
]

register_checkpoint_conversion_mapping("MobileVideoGPTForConditionalGeneration", CONVERSIONS)
