"""Models of other sizes than the recorded one against the forward pass as it is written down."""

import pytest
import torch
from literal_mobilevideogpt import LiteralMobileVideoGPT
from mobile_checkpoints import PLACEHOLDER, write_mobile

from formcoach.models import load_model

EXACT = {"atol": 1e-4, "rtol": 0}
TEXT = [5, 80, 81, 257, 30]


def clip_of(side, clips=1, seed=0):
    """Frames for both encoders, two of (clips, 16, 3, S, S), that differ in how much they differ from the first."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(clips, 1, 3, side, side, generator=generator)
    strength = torch.rand(clips, 16, 1, 1, 1, generator=generator)
    frames = base + strength * torch.randn(clips, 16, 3, side, side, generator=generator)
    return frames, 0.9 * frames + 0.1


def prompt_of(clips=1):
    ids = [row for _ in range(clips) for row in (TEXT[0], *[PLACEHOLDER] * 2402)]
    return torch.tensor(ids + TEXT[1:])


CASES = {
    "sharded": {"shards": 3},
    "two-digit layers": {"num_hidden_layers": 11, "image": {"num_hidden_layers": 11}, "video": {"depth": 11}},
    "no grouping, other heads": {"num_attention_heads": 8, "num_key_value_heads": 8},
    "one key-value head": {"num_key_value_heads": 1},
    "tied head": {"tie_word_embeddings": True},
    "other widths": {
        "hidden_size": 56,
        "intermediate_size": 36,
        "video": {"embed_dim": 40},
        "image": {"hidden_size": 40, "intermediate_size": 60, "num_attention_heads": 5, "layer_norm_eps": 1e-3},
        "rms_norm_eps": 1e-3,
    },
    "5x5 patches": {"image": {"image_size": 80}},
    "other activation": {"image": {"hidden_act": "gelu"}},
    "last layer": {"mm_vision_select_layer": -1},
    "third last layer": {"mm_vision_select_layer": -3},
    "other rotation": {"rope_theta": 10_000.0},
    "bfloat16 weights": {"dtype": torch.bfloat16},
    "float16 weights": {"dtype": torch.float16},
}


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(sizes, id=name, marks=[pytest.mark.slow] if name == "two-digit layers" else [])
        for name, sizes in CASES.items()
    ],
)
def test_other_sizes_compute_what_is_written_down(tmp_path, sizes):
    folder = write_mobile(tmp_path / "other", **sizes)
    model, processor = load_model(folder, dtype="float32", device="cpu")
    assert processor.placeholder_id == PLACEHOLDER and processor.settings.visual_tokens == 2402
    side = sizes.get("image", {}).get("image_size", 64)
    video, context = clip_of(side)
    literal = LiteralMobileVideoGPT(folder)
    ids = prompt_of()
    labels = torch.where(torch.arange(len(ids)) < len(ids) - 3, -100, ids)
    inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    pixels = torch.cat([video[0], context[0]])
    with torch.no_grad():
        tokens = model.get_visual_tokens(video, context)
        found = model(**inputs, pixel_values=pixels, labels=labels[None])
        expected = literal.logits(ids, PLACEHOLDER, video, context)
        torch.testing.assert_close(tokens[0], literal.visual_tokens(video[0], context[0]), **EXACT)
        torch.testing.assert_close(found.logits[0], expected, **EXACT)
        wanted = literal.loss(ids, labels, PLACEHOLDER, video, context)
        torch.testing.assert_close(found.loss, wanted, atol=1e-5, rtol=0)
    assert expected.std() > 0.3 and tokens.std(dim=1).mean() > 0.05


def test_two_clips_frozen_features_embeddings_and_answers_are_what_is_written_down(tmp_path):
    folder = write_mobile(tmp_path / "original")
    model, _ = load_model(folder, dtype="float32", device="cpu")
    video, context = clip_of(64, clips=2)
    literal = LiteralMobileVideoGPT(folder)
    ids = prompt_of(clips=2)
    inputs = {"input_ids": ids[None], "attention_mask": torch.ones_like(ids)[None]}
    pixels = torch.stack([video, context], dim=1).flatten(0, 2)  # of each clip both views
    with torch.no_grad():
        expected = literal.logits(ids, PLACEHOLDER, video, context)
        tokens = model.get_visual_tokens(video, context)
        assert tokens.shape == (2, 2402, 32)
        for clip in range(2):
            torch.testing.assert_close(tokens[clip], literal.visual_tokens(video[clip], context[clip]), **EXACT)
        torch.testing.assert_close(model(**inputs, pixel_values=pixels).logits[0], expected, **EXACT)
        frozen = model.frozen_features(pixels)
        torch.testing.assert_close(model(**inputs, **frozen).logits[0], expected, **EXACT)
        embedded = model.get_input_embeddings()(ids[None])
        embedded[0, ids == PLACEHOLDER] = tokens.flatten(0, 1)
        torch.testing.assert_close(model(inputs_embeds=embedded).logits[0], expected, **EXACT)


@pytest.mark.parametrize("tied", [False, True])
def test_greedy_answers_are_what_is_written_down(tmp_path, tied):
    folder = write_mobile(tmp_path / "original", tie_word_embeddings=tied)
    model, _ = load_model(folder, dtype="float32", device="cpu")
    video, context = clip_of(64, seed=1)
    ids = prompt_of()
    with torch.no_grad():
        wanted = LiteralMobileVideoGPT(folder).greedy(ids, 5, PLACEHOLDER, video, context)
        found = model.generate(
            input_ids=ids[None],
            attention_mask=torch.ones_like(ids)[None],
            pixel_values=torch.cat([video[0], context[0]]),
            max_new_tokens=5,
            min_new_tokens=5,
            eos_token_id=None,
        )
    assert found[0, len(ids) :].tolist() == wanted
    assert tied or len(set(wanted)) > 1  # a tied head repeats what it reads
