"""`verify` finds what would stop a training, and names the remedy."""

import re
import subprocess
import sys
from pathlib import Path

import av
import msgspec
import numpy as np
import pytest

from formcoach import verify
from formcoach.data.annotations import Conversation, Turn, write_conversations
from formcoach.data.convert import mobile_conversation
from formcoach.files import write_json
from formcoach.models import FAMILIES, family_named
from formcoach.verify import FAIL, NOTICE, PASS, Gpu, Setup, checks

PROJECT = Path(__file__).parents[2]


def write_clip(path, frames=6):
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(frames):
            picture = np.full((48, 64, 3), 40 * number, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
        container.mux(stream.encode())


def record(video, person=None):
    turns = [Turn("human", "<image>\nHow?"), Turn("gpt", "squats - correct form")]
    return Conversation(video, video, turns, 0.6, ["squats - correct form"], person)


def write_split(setup, name, records):
    """Write a split in both forms, as the data commands do."""
    write_conversations(setup.splits / f"qevd_fit_300k_{name}.jsonl", records)
    mobile = [msgspec.to_builtins(mobile_conversation(one, "squats", name)) for one in records]
    write_json(setup.dataset / f"qved_{name}.json", mobile)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.key)
def setup(request, tmp_path):
    """A folder in which training could start, for either family."""
    family = request.param
    dataset, splits = tmp_path / "dataset", tmp_path / "data/annotaions"
    made = Setup(tmp_path, dataset, splits, family, family.tiny, tmp_path / "work_dirs/run")
    videos = {name: [f"squats/{name} é {number}.mp4" for number in range(2)] for name in verify.SPLITS}
    for name, paths in videos.items():
        for video in paths:
            write_clip(dataset / video)
        write_split(made, name, [record(video, name) for video in paths])
    labels = [
        {"video_path": video, "labels": ["squats - correct form"]} for paths in videos.values() for video in paths
    ]
    write_json(dataset / "ground_truth.json", labels)
    entry = {"root": "dataset", "annotation": "data/annotaions/qevd_fit_300k_train.jsonl"}
    write_json(tmp_path / "data/diy_ft_data.json", {"demo": entry})
    (tmp_path / "scripts").mkdir()
    for name in verify.SCRIPTS:
        (tmp_path / "scripts" / name).touch(0o755)
    return made


def problems(setup):
    """What is not as it should be, but for the machine's GPU and the test environment's packages."""
    return {
        check.what: check for check in checks(setup) if check.mark != PASS and check.what not in ("GPU", "packages")
    }


def test_a_good_setup_has_no_problems(setup):
    assert problems(setup) == {}


@pytest.mark.parametrize(
    ("damage", "what", "message"),
    [
        (lambda it: (it.dataset / "squats/train é 1.mp4").unlink(), "clips", "1 of 6 cannot be used.*no such file"),
        (lambda it: (it.dataset / "squats/val é 0.mp4").write_bytes(b""), "clips", r"is empty \(0 bytes\)"),
        (lambda it: (it.dataset / "squats/test é 0.mp4").write_text("no"), "clips", "is not a video"),
        (lambda it: (it.dataset / "ground_truth.json").write_text("[{]"), "labels", "line 1, column 3"),
        (
            lambda it: verify.split_file(it, "train").unlink(),
            "splits",
            "no such file. Run: bash scripts/initialize_dataset.sh",
        ),
        (lambda it: write_split(it, "train", []), "splits", "holds no clips"),
        (lambda it: (it.project / "scripts/zero2.json").unlink(), "scripts", "lacks zero2.json"),
    ],
)
def test_what_stops_a_training_is_named(setup, damage, what, message):
    damage(setup)
    found = problems(setup)
    assert list(found) == [what]
    assert found[what].mark == FAIL
    assert re.search(message, found[what].found)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: write_json(path, {"x": {"root": "gone", "annotation": "gone"}}), "gone, which does not exist"),
    ],
)
def test_the_list_of_data_sets_is_checked_where_it_is_trained_on(setup, damage, message):
    damage(setup.project / "data/diy_ft_data.json")
    found = problems(setup)
    if setup.family.runs.conversations is None:
        assert list(found) == ["data sets"] and message in found["data sets"].found
    else:
        assert found == {}


def test_many_bad_clips_are_counted_and_the_first_named(setup):
    for clip in (setup.dataset / "squats").iterdir():
        clip.write_bytes(b"")
    found = problems(setup)["clips"].found
    assert found.startswith("6 of 6 cannot be used") and found.count("is empty") == 3 and "..." in found


def test_a_path_out_of_the_dataset_is_refused(setup):
    write_split(setup, "val", [record("../secret.mp4")])
    assert "not inside" in problems(setup)["clips"].found


def test_shared_clips_and_people_are_noticed(setup):
    write_split(setup, "train", [record("squats/train é 0.mp4", "test")])
    assert (problems(setup)["splits"].mark, problems(setup)["splits"].found.split("; ")[1]) == (
        NOTICE,
        "person test is in both train and test: scores will be too good",
    )
    write_split(setup, "train", [record("squats/val é 0.mp4")])
    assert "clip squats/val é 0.mp4 is in both train and val" in problems(setup)["splits"].found


def test_splits_without_label_file_are_enough(setup):
    (setup.dataset / "ground_truth.json").unlink()
    assert problems(setup)["labels"].mark == NOTICE


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.key)
def test_models(family, tmp_path):
    assert verify.check_model(family, None, []).found.startswith(family.tiny)
    assert family.large in verify.check_model(family, None, [Gpu("H100", 80)]).found
    assert verify.check_model(family, "owner/name", []).mark == PASS
    assert verify.check_model(family, "owner/name@refs/pr/1", []).mark == PASS
    assert verify.check_model(family, "work_dirs/some/where", []).mark == FAIL
    assert verify.check_model(family, str(tmp_path), []).mark == FAIL
    (tmp_path / "config.json").touch()
    assert verify.check_model(family, str(tmp_path), []).mark == PASS


@pytest.mark.parametrize(
    ("gpus", "torch", "mark", "advice"),
    [
        ([], "2.13.0", NOTICE, "`tiny` is trained on the CPU"),
        ([Gpu("RTX 4070", 12)], "2.13.0", NOTICE, "--quantization nf4"),
        ([Gpu("RTX 4090", 24)], "2.13.0+cpu", NOTICE, "built for the CPU"),
        ([Gpu("RTX 4090", 23.6), Gpu("RTX 4090", 23.6)], "2.13.0", PASS, "24 GiB (and 1 more)"),
    ],
)
def test_gpu_and_torch_decide_what_is_advised(gpus, torch, mark, advice, monkeypatch):
    monkeypatch.setattr(verify, "_version", lambda package: torch)
    check = verify.check_gpu(family_named("internvideo"), gpus)
    assert check.mark == mark and advice in check.found


def test_a_laptop_is_enough_for_mobile_videogpt():
    assert verify.check_gpu(family_named("mobilevideogpt"), [Gpu("RTX 4070 Laptop", 8.0)]).mark != FAIL
    assert verify.check_gpu(family_named("mobilevideogpt"), [Gpu("GTX 1650", 4.0)]).mark == NOTICE


def test_packages_are_compared_with_what_is_asked_for():
    assert verify.check_packages("pytest").mark == PASS
    missing = verify.check_packages("no-such-package")
    assert missing.mark == FAIL and "setup_env.sh" in missing.found


def test_a_full_disk_stops_training(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**29})
    monkeypatch.setattr(verify.shutil, "disk_usage", lambda path: usage)
    assert verify.check_disk(tmp_path / "not/there/yet", FAMILIES[0], []).mark == FAIL


def test_the_command_ends_with_one_line_and_loads_no_torch(setup):
    (setup.dataset / "squats/train é 1.mp4").unlink()
    code = (
        "import sys, runpy; sys.argv = sys.argv[1:]\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert not {'torch', 'transformers', 'cv2', 'decord'} & set(sys.modules)"
    )
    arguments = [PROJECT / "utils/verify_setup.py", "--dataset-dir", setup.dataset, "--output-dir", setup.splits]
    for asked in (["--family", setup.family.key], ["--model", setup.family.tiny]):
        command = [sys.executable, "-c", code, *arguments, *asked]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "✗ clips: 1 of 6 cannot be used" in done.stdout
        assert ("data sets:" in done.stdout) == (setup.family.runs.conversations is None)
        assert done.stderr.startswith("error: training cannot start: ") and done.stderr.count("\n") == 1


def test_a_model_of_another_family_than_named_is_refused():
    command = [PROJECT / "utils/verify_setup.py", "--family", "internvideo", "--model", "tiny-mobile"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "tiny-mobile is not of --family internvideo, but Mobile-VideoGPT; leave one" in done.stderr
