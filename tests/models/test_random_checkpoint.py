"""Checkpoints with random weights: of the sizes that are asked for, in shards, and computing something."""

import json

import msgspec
import pytest
import torch
from resized import resized_05b, resized_8b

from formcoach.models import load_model, sizes_for
from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint as write_internvideo
from formcoach.models.mobilevideogpt.random_checkpoint import write_random_checkpoint as write_mobilevideogpt

VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
LANGUAGE = VISION | {"num_key_value_heads": 2, "vocab_size": 400}
SMALL_8B = resized_8b(VISION | {"image_size": 140}, LANGUAGE)
SMALL_05B = resized_05b({"depth": 2, "embed_dim": 48}, VISION | {"image_size": 64}, LANGUAGE)


@pytest.mark.parametrize(
    ("write", "config"),
    [
        (write_internvideo, SMALL_8B),
        (write_mobilevideogpt, SMALL_05B),
        (write_mobilevideogpt, msgspec.structs.replace(SMALL_05B, tie_word_embeddings=True)),
    ],
    ids=["InternVideo2.5", "Mobile-VideoGPT", "tied head"],
)
def test_it_has_the_sizes_asked_for_and_computes(tmp_path, write, config):
    write(tmp_path / "checkpoint", config, shard_bytes=50_000)
    shards = set(json.loads((tmp_path / "checkpoint/model.safetensors.index.json").read_text())["weight_map"].values())
    assert len(shards) == len(list((tmp_path / "checkpoint").glob("*.safetensors"))) > 1
    model, processor = load_model(tmp_path / "checkpoint", device="cpu")
    assert model.dtype == torch.bfloat16
    assert sizes_for(tmp_path / "checkpoint").parameters == sum(one.numel() for one in model.parameters())
    frames = processor.max_frames
    side = processor.settings.image_size
    clip = torch.randint(0, 256, (frames, side, side, 3), generator=torch.Generator().manual_seed(0)).byte().numpy()
    with torch.no_grad():
        loss = model(**processor(clip, "What is seen?", duration=4.0, answer="A squat.")).loss
    assert loss.isfinite()


def test_a_seed_gives_the_same_weights_again(tmp_path):
    for folder, seed in (("a", 0), ("again", 0), ("b", 1)):
        write_mobilevideogpt(tmp_path / folder, SMALL_05B, seed=seed)
    first, again, other = ((tmp_path / one).glob("*.safetensors") for one in ("a", "again", "b"))
    content = next(first).read_bytes()
    assert content == next(again).read_bytes() != next(other).read_bytes()
