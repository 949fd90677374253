"""What docs/serving.md shows works as it stands there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from original_checkpoints import FIXTURE
from safetensors import safe_open

from formcoach.models import export_model, load_model
from formcoach.models.adapters import add_lora, save_adapter
from formcoach.models.internvideo import INTERNVIDEO

PAGE = Path(__file__).parents[2] / "docs/serving.md"
FRAMES = np.arange(8 * 64 * 64 * 3, dtype=np.uint32).reshape(8, 64, 64, 3).astype(np.uint8)


@pytest.fixture(scope="module")
def snippets():
    """The Python blocks of the page."""
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    model, processor = load_model(FIXTURE, dtype="float32", device="cpu")
    torch.manual_seed(2)
    adapted = add_lora(model, INTERNVIDEO, str(FIXTURE), rank=4, alpha=8)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    folder = tmp_path_factory.mktemp("serving") / "adapter"
    save_adapter(adapted, processor, folder)
    return folder


def test_peft_answers_as_load_model_does(snippets, adapter, capsys):
    names = {"base": FIXTURE, "adapter": adapter, "frames": FRAMES}
    exec(snippets[0], names)  # the page's own words
    model, processor = load_model(adapter, dtype="float32", device="cpu")
    inputs = processor(FRAMES, "What mistakes, if any, are present?", duration=4.8)
    expected = model.generate(**inputs, max_new_tokens=64)[0, inputs["input_ids"].shape[1] :]
    assert capsys.readouterr().out == processor.decode(expected) + "\n"
    merged = names["coach"].merge_and_unload()
    with torch.no_grad():
        torch.testing.assert_close(merged(**inputs).logits, model(**inputs).logits, atol=1e-4, rtol=0)


def test_an_original_export_has_the_base_s_tensors_and_files(snippets, adapter, tmp_path):
    export_model(adapter, "original", tmp_path / "coach")
    names = {"exported": tmp_path / "coach"}
    exec(snippets[1], names)
    base = {}
    for shard in FIXTURE.glob("model*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                tensor = file.get_slice(name)
                base[name] = tuple(tensor.get_shape()), tensor.get_dtype()
    assert names["weights"] == {name: shape for name, (shape, _) in base.items()}
    for shard in (tmp_path / "coach").glob("model*.safetensors"):
        with safe_open(shard, framework="pt") as file:
            assert all(file.get_slice(name).get_dtype() == base[name][1] for name in file.keys())  # noqa: SIM118
    others = {path.name for path in FIXTURE.iterdir() if path.name != "expected.safetensors"}
    assert {path.name for path in (tmp_path / "coach").iterdir()} == others
