"""The sizes of a Mobile-VideoGPT from its configuration alone are those of the model that is built of it."""

import json

import msgspec
import pytest
import torch
from mobilevideogpt_fixture import FOLDER
from resized import resized_05b

from formcoach.models import sizes_for
from formcoach.models.mobilevideogpt.checkpoint import config_from_original
from formcoach.models.mobilevideogpt.configuration import MobileVideoGPTConfig
from formcoach.models.mobilevideogpt.modeling import UNUSED_TENSORS, MobileVideoGPTForConditionalGeneration
from formcoach.models.mobilevideogpt.original import PUBLISHED_05B, PUBLISHED_15B
from formcoach.models.mobilevideogpt.sizes import read_sizes, sizes_of

IMAGE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
LANGUAGE = IMAGE | {"num_key_value_heads": 2, "vocab_size": 400}
VIDEO = {"depth": 2, "embed_dim": 48}
SMALL = resized_05b(VIDEO, IMAGE | {"image_size": 64}, LANGUAGE)


def build(config):
    """Build a model on torch's meta device."""
    with torch.device("meta"):
        return MobileVideoGPTForConditionalGeneration(config)


def parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (PUBLISHED_05B, 792_443_264),
        (PUBLISHED_15B, 1_943_352_320),
        (msgspec.structs.replace(PUBLISHED_05B, tie_word_embeddings=True), 656_308_608),
        (SMALL, 191_600),
        (resized_05b(VIDEO, IMAGE | {"image_size": 64, "patch_size": 32}, LANGUAGE), 264_944),
    ],
    ids=["0.5B", "1.5B", "tied head", "small", "larger patches"],
)
def test_every_parameter_of_an_original_is_counted(config, count, tmp_path):
    model = build(config_from_original(tmp_path, config, image_token_id=0))
    sizes = sizes_of(config)
    assert sizes.parameters == parameters(model) == count
    assert sizes.connector == parameters(model.model.multi_modal_projector)


def test_the_published_models_are_known_without_a_download():
    assert sizes_for("Amshaker/Mobile-VideoGPT-0.5B") == sizes_of(PUBLISHED_05B)
    assert sizes_for("Amshaker/Mobile-VideoGPT-1.5B") == sizes_of(PUBLISHED_15B)


def test_every_parameter_of_the_recorded_model_is_counted(tmp_path):
    recorded = json.loads((FOLDER / "fixture.json").read_text())
    towers = {"vision_tower_config": recorded["videomamba"], "image_vision_tower_config": recorded["clip"]}
    (tmp_path / "config.json").write_text(json.dumps(recorded["config"] | towers))
    used = {name: shape for name, shape in recorded["parameters"].items() if not UNUSED_TENSORS.match(name)}
    count = sum(torch.Size(shape).numel() for shape in used.values())
    assert read_sizes(tmp_path / "config.json").parameters == count


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"frames": 8, "chunk": 4, "selected": 1, "pooled": 2, "video_side": 1, "image_side": 3},
        {"frames": 32, "image_side": 2, "tie_word_embeddings": True},
    ],
)
def test_what_is_made_of_a_clip_follows_a_configuration_of_ours(shape, tmp_path):
    config = config_from_original(tmp_path, SMALL, image_token_id=0).to_dict() | shape
    config = MobileVideoGPTConfig.from_dict(config)
    model = MobileVideoGPTForConditionalGeneration(config)
    config.save_pretrained(tmp_path)
    sizes = read_sizes(tmp_path / "config.json")
    assert sizes.parameters == parameters(model)

    frames = config.frames
    pixels = torch.empty(sizes.views * frames, 3, sizes.image_size, sizes.image_size)
    with torch.no_grad():
        features = model.frozen_features(pixels)
        tokens = model.model.multi_modal_projector(**features)
    assert sizes.features == sum(part.numel() for part in features.values())
    assert (sizes.frame_group, sizes.group_tokens) == (frames, tokens.shape[1])
    assert sizes.clip_tokens(2 * frames) == config.visual_tokens(2 * frames) == 2 * tokens.shape[1]
    assert sizes.frames(sizes.group_tokens) == frames
