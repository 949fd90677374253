"""Which file a model is tested on where the user names none."""

import argparse

import pytest

from formcoach.errors import UserError
from formcoach.files import write_json
from formcoach.inference import options


@pytest.fixture
def project(tmp_path):
    """A dataset in both forms, and a run of `tiny-mobile`."""
    write_json(tmp_path / "dataset/qved_test.json", [])
    write_json(tmp_path / "dataset/qved_train.json", [])
    write_json(tmp_path / "data/diy_ft_data.json", {"demo": {}})
    write_json(tmp_path / "run/checkpoint-1/adapter_config.json", {"base_model_name_or_path": "tiny-mobile"})
    (tmp_path / "run/checkpoint-1/adapter_model.safetensors").touch()
    return tmp_path


def asked(project, model):
    parser = argparse.ArgumentParser()
    options.add_test_flags(parser)
    args = parser.parse_args(["--data_path", str(project / "dataset"), "--splits_dir", str(project / "splits")])
    return options.test_file(args, model).relative_to(project).as_posix()


def test_it_is_in_the_form_that_the_run_was_trained_on(project) -> None:
    splits, own = "splits/qevd_fit_300k_test.jsonl", "dataset/qved_test.json"
    assert (asked(project, "tiny"), asked(project, "tiny-mobile")) == (splits, own)
    for name, expected in (("dataset/qved_train.json", own), ("data/diy_ft_data.json", splits), ("gone.json", own)):
        settings = {"datasets": str(project / name)}
        described = {"settings": settings, "base": "", "resolved": {}, "versions": {}, "data": {}}
        write_json(project / "run/training_config.json", described)
        assert asked(project, project / "run") == expected
        assert asked(project, project / "run/checkpoint-1") == expected


def test_damaged_settings_are_named(project) -> None:
    write_json(project / "run/training_config.json", {"settings": []})
    with pytest.raises(UserError, match=r"run/training_config.json: .*Name the test file with --test_json"):
        asked(project, project / "run")
