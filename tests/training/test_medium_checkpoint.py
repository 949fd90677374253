"""A checkpoint of 200 million parameters from the original layout through training and back."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]


def medium(config):
    """Sizes between the recorded checkpoint's and the 8B's: frames of 224 pixels, sharded, grouped heads."""
    vision = msgspec.structs.replace(
        config.vision_config,
        hidden_size=512,
        num_hidden_layers=6,
        num_attention_heads=8,
        intermediate_size=2048,
        image_size=224,
    )
    language = msgspec.structs.replace(
        config.llm_config,
        vocab_size=32_000,
        hidden_size=1024,
        num_hidden_layers=10,
        num_attention_heads=16,
        num_key_value_heads=4,
        intermediate_size=2816,
    )
    return msgspec.structs.replace(config, vision_config=vision, llm_config=language, force_image_size=224)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [None, "nf4"])
def test_load_train_export_reload(project, logged, steps, quantization):
    from formcoach.models import load_model
    from formcoach.models.internvideo.original import PUBLISHED_8B
    from formcoach.models.internvideo.random_checkpoint import write_random_checkpoint
    from formcoach.models.internvideo.sizes import read_sizes

    base = project.root / "medium"
    write_random_checkpoint(base, medium(PUBLISHED_8B), shard_bytes=100 * 2**20)
    assert len(list(base.glob("*.safetensors"))) > 3
    assert 190e6 < read_sizes(base / "config.json").parameters < 210e6
    quantize = ["--quantization", quantization] if quantization else []
    code, _, errors = project.command(
        *["--model", base, "--dtype", "bf16", "--epochs", 2, "--lr", 1e-3, "--work-dir", "run", *quantize]
    )
    assert code == 0, errors
    losses = logged(project.root / "run", "loss")
    assert losses[-1] < losses[0]
    command = [sys.executable, REPOSITORY / "utils" / "export_model.py", "--model_path", "run"]
    for kind in ("original", "native"):
        done = subprocess.run(
            [*command, "--format", kind, "--output", kind],
            cwd=project.root,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "the adapter merged into 76 tensors" in done.stdout
    index = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    assert json.loads((project.root / "original" / "model.safetensors.index.json").read_text())["weight_map"] == index
    weights = {}
    inputs = None
    logits = {}
    for name in ("run", "original", "native"):
        model, processor = load_model(project.root / name, dtype="float32", device="cpu")
        if inputs is None:
            generator = torch.Generator().manual_seed(0)
            frames = torch.randint(0, 256, (4, 224, 224, 3), dtype=torch.uint8, generator=generator).numpy()
            inputs = processor(frames, "What is wrong?", 1.0)
        with torch.no_grad():
            logits[name] = model(**inputs).logits
        weights[name] = model.state_dict()
    assert logits["original"].equal(logits["native"])
    assert all(tensor.equal(weights["native"][name]) for name, tensor in weights["original"].items())
    # The exports are bfloat16, in which a weight keeps 8 bits; the adapter's sum was float32.
    difference = (logits["original"] - logits["run"]).norm() / logits["run"].norm()
    assert difference < 0.02
