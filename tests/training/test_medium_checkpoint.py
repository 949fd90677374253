"""A checkpoint of 200 million parameters from the original layout through training and back."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from resized import resized_8b
from small_models import ONE

REPOSITORY = Path(__file__).resolve().parents[2]
VISION = {
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "image_size": 224,
}
LANGUAGE = {
    "vocab_size": 32_000,
    "hidden_size": 1024,
    "num_hidden_layers": 10,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "intermediate_size": 2816,
}


def write_medium(folder):
    from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint
    from formcoach.models.internvideo.sizes import read_sizes

    write_random_checkpoint(folder, resized_8b(VISION, LANGUAGE), shard_bytes=100 * 2**20)
    assert len(list(folder.glob("*.safetensors"))) > 3
    assert 190e6 < read_sizes(folder / "config.json").parameters < 210e6


def export(root, kind):
    command = [sys.executable, REPOSITORY / "utils" / "export_model.py", "--model_path", "run"]
    done = subprocess.run(
        [*command, "--format", kind, "--output", kind], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def load_and_answer(folder):
    """Return the weights and the logits for one clip, in float32."""
    from formcoach.models import load_model

    model, processor = load_model(folder, dtype="float32", device="cpu")
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (4, 224, 224, 3), dtype=torch.uint8, generator=generator).numpy()
    with torch.no_grad():
        return model.state_dict(), model(**processor(frames, "What is wrong?", 1.0)).logits


def index_of(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


@ONE
@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_load_train_export_reload(project, logged, quantization):
    base, run, original, native = (project.root / name for name in ("medium", "run", "original", "native"))
    write_medium(base)
    flags = ["--model", base, "--dtype", "bf16", "--epochs", 2, "--lr", 1e-3, "--work-dir", run]
    code, _, errors = project.command(*flags, *(["--quantization", quantization] if quantization else []))
    assert code == 0, errors
    losses = logged(run, "loss")
    assert losses[-1] < losses[0]

    for folder in (original, native):
        assert "the adapter merged into 76 tensors" in export(project.root, folder.name)
    assert index_of(original) == index_of(base)
    _, tuned = load_and_answer(run)
    weights, merged = load_and_answer(original)
    same_weights, same = load_and_answer(native)
    assert merged.equal(same)
    assert all(tensor.equal(same_weights[name]) for name, tensor in weights.items())
    # The export rounds each sum of weight and adapter to the base's bfloat16, which has 8 bits.
    assert (merged - tuned).norm() < 0.02 * tuned.norm()
