"""The model against what the original implementation returned on the same weights and frames."""

import pytest
import torch
from mobilevideogpt_fixture import read_recorded, write_original
from safetensors.torch import load_file, save_file

from formcoach.errors import UserError
from formcoach.models import load_model, sizes_for
from formcoach.models.mobilevideogpt.frame_selection import select_frames

VISUAL = 2402
EXACT = {"atol": 1e-4, "rtol": 0}


@pytest.fixture(scope="module")
def recorded():
    return read_recorded()


@pytest.fixture(scope="module")
def original(recorded, tmp_path_factory):
    """A checkpoint in the original layout."""
    return write_original(tmp_path_factory.mktemp("mobile") / "original", recorded)


@pytest.fixture(scope="module")
def loaded(original):
    return load_model(original, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def inputs(loaded, recorded):
    """The recorded prompt and clip as the model takes them."""
    ids, labels = recorded.ids(VISUAL, loaded[1].placeholder_id)
    pixels = torch.cat([recorded.video_frames[0], recorded.context_frames[0]])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}, labels


def test_towers_and_frame_selection_are_the_original_s(loaded, recorded):
    towers, expected = loaded[0].model.vision_tower, recorded.expected
    with torch.no_grad():
        patches = towers.see_images(recorded.context_frames)
        first = towers.video(recorded.video_frames[:, :8])
        features = towers.see_video(towers.pick(recorded.video_frames, patches))
    torch.testing.assert_close(patches[0, :, ::49], expected["clip_patches"], **EXACT)
    assert select_frames(patches[0].unflatten(0, (2, 8)), 4).tolist() == expected["selected"].tolist()
    torch.testing.assert_close(first[:, ::97], expected["videomamba_first8"], **EXACT)
    torch.testing.assert_close(features[0, :, ::7], expected["video_features"], **EXACT)


def test_visual_tokens_logits_and_loss_are_the_original_s(loaded, recorded, inputs):
    model, expected = loaded[0], recorded.expected
    arguments, labels = inputs
    with torch.no_grad():
        tokens = model.get_visual_tokens(recorded.video_frames, recorded.context_frames)
        out = model(**arguments, labels=labels)
    assert tokens.shape == (1, VISUAL, 64)
    torch.testing.assert_close(tokens, expected["visual_tokens"], **EXACT)
    torch.testing.assert_close(out.logits[:, -30:], expected["logits"], **EXACT)
    torch.testing.assert_close(out.loss[None], expected["loss"], atol=1e-5, rtol=0)


def test_greedy_answers_are_the_original_s_and_may_start_from_embeddings(loaded, recorded, inputs):
    model, arguments = loaded[0], inputs[0]
    wanted = recorded.expected["generated"][0].tolist()
    with torch.no_grad():
        written = model.generate(**arguments, max_new_tokens=len(wanted), do_sample=False)
        embedded = model.get_input_embeddings()(arguments["input_ids"])
        at = arguments["input_ids"] == model.config.image_token_id
        embedded[at] = model.get_visual_tokens(recorded.video_frames, recorded.context_frames)[0]
        from_embeddings = model.generate(inputs_embeds=embedded, max_new_tokens=len(wanted), do_sample=False)
    assert written[0, -len(wanted) :].tolist() == from_embeddings[0].tolist() == wanted


def test_frozen_features_stand_for_the_frames(loaded, inputs):
    model, (arguments, labels) = loaded[0], inputs
    with torch.no_grad():
        whole = model(**arguments, labels=labels).loss
        features = model.frozen_features(arguments["pixel_values"])
        rest = {name: value for name, value in arguments.items() if name != "pixel_values"}
        torch.testing.assert_close(model(**rest, **features, labels=labels).loss, whole, rtol=0, atol=0)


def test_two_clips_in_a_batch_are_each_seen_alone(loaded, recorded):
    model = loaded[0]
    video = torch.cat([recorded.video_frames, recorded.video_frames.flip(1)])
    context = torch.cat([recorded.context_frames, recorded.context_frames.flip(1)])
    with torch.no_grad():
        both = model.get_visual_tokens(video, context)
        for clip in range(2):
            alone = model.get_visual_tokens(video[clip : clip + 1], context[clip : clip + 1])
            torch.testing.assert_close(both[clip : clip + 1], alone, **EXACT)


def test_sizes_are_counted(original, loaded):
    assert sizes_for(original).parameters == sum(one.numel() for one in loaded[0].parameters())


def test_saved_in_this_project_s_layout_it_is_the_same(original, loaded, inputs, tmp_path):
    model, processor = loaded
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, its_processor = load_model(tmp_path, dtype="float32", device="cpu")
    assert its_processor.settings == processor.settings and its_processor.placeholder_id == processor.placeholder_id
    with torch.no_grad():
        torch.testing.assert_close(again(**inputs[0]).logits, model(**inputs[0]).logits, rtol=0, atol=0)
    assert sizes_for(tmp_path) == sizes_for(original)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("model.vision_tower.vision_encoder.layers.1.mixer.x_proj_b.weight", "x_proj_b.weight is missing"),
        ("lm_head.weight", "lm_head.weight is missing"),
    ],
)
def test_a_missing_tensor_is_named(original, tmp_path, missing, message):
    weights = load_file(original / "model.safetensors")
    del weights[missing]
    (tmp_path / "model").mkdir()
    for path in original.glob("*.json"):
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    save_file(weights, tmp_path / "model/model.safetensors")
    with pytest.raises(UserError, match=message):
        load_model(tmp_path / "model", device="cpu")
