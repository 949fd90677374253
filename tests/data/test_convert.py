import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from formcoach.data.annotations import read_conversations
from formcoach.data.convert import QUESTION
from formcoach.data.sources import load_source, read_sources
from formcoach.data.video import probe

PROJECT = Path(__file__).parents[2]
COMMAND = PROJECT / "utils/qved_from_fine_labels.py"
SPLITS = ("train", "val", "test")


def split(folder: Path, *arguments: str, **settings) -> subprocess.CompletedProcess:
    """Run the command as a user does, in `folder`."""
    command = [sys.executable, COMMAND, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, **settings)


def one_line(result: subprocess.CompletedProcess) -> str:
    """Return the message of a user's mistake."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    return line


def files_below(folder: Path) -> set[str]:
    """All files but the cache of what clips measure, which may change at any time."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.parent.name != ".formcoach"
    }


@pytest.fixture
def folder(tmp_path, write_clip):
    """A user's project: two classes, clips of different sizes and lengths, the seeds' two JSON files."""
    dataset = tmp_path / "dataset"
    records, manifest = [], {}
    for exercise in ("squats", "push_ups"):
        for number in range(5):
            path = f"{exercise}/{number:04d}.mp4"
            write_clip(dataset / path, frames=6 + 5 * number, fps=(15, 30)[number % 2], size=(64 + 16 * number, 48))
            manifest[path] = exercise
            labels = [f"{exercise.replace('_', '-')} - fault {number % 3}"]
            records.append({"video_path": path, "labels": labels, "labels_descriptive": [*labels, "Slow down."]})
    for path, frames in (("squats/blink.mp4", 3), ("squats/très bien.mp4", 20)):
        write_clip(dataset / path, frames=frames, fps=10)
        records.append({"video_path": path, "labels": ["squats - good form"]})
        manifest[path] = "squats"
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    write_labels(tmp_path, records)
    return tmp_path


def write_labels(folder: Path, records: list[dict]) -> None:
    (folder / "dataset/ground_truth.json").write_text(json.dumps(records), encoding="utf-8")


def read_labels(folder: Path) -> list[dict]:
    return json.loads((folder / "dataset/ground_truth.json").read_text(encoding="utf-8"))


def test_a_users_folder_becomes_training_files(folder):
    result = split(folder)
    assert result.returncode == 0, result.stderr
    assert "dataset/ground_truth.json: 12 clips" in result.stdout
    videos = []
    for name in SPLITS:
        records = read_conversations(folder / f"data/annotaions/qevd_fit_300k_{name}.jsonl")
        videos += [record.video for record in records]
        for record in records:
            assert record.duration == pytest.approx(probe(folder / "dataset" / record.video).duration, abs=1e-3)
            assert record.conversations[0].value == f"<image>\n{QUESTION}"
    assert sorted(videos) == sorted(record["video_path"] for record in read_labels(folder))
    assert len(videos) == 12


def test_an_answer_is_the_descriptive_labels(folder):
    split(folder)
    records = [r for name in SPLITS for r in read_conversations(folder / f"data/annotaions/qevd_fit_300k_{name}.jsonl")]
    by_video = {record.video: record for record in records}
    assert by_video["squats/0001.mp4"].answer == "squats - fault 1\nSlow down."
    assert by_video["squats/0001.mp4"].labels == ["squats - fault 1"]
    assert by_video["squats/blink.mp4"].answer == "squats - good form"
    assert by_video["squats/blink.mp4"].duration == 0.3


def test_the_lists_of_data_sets_lead_to_the_conversations(folder):
    split(folder)
    for file, name in (("diy_ft_data.json", "train"), ("diy_ft_data_val.json", "val")):
        (source,) = read_sources(folder / "data" / file)
        records = load_source(source)
        assert records == read_conversations(folder / f"data/annotaions/qevd_fit_300k_{name}.jsonl")
        assert all(source.clip(record).is_file() for record in records)


def test_the_mobile_form_has_its_own_prompt_prefix_and_split(folder):
    split(folder)
    for name in SPLITS:
        entries = json.loads((folder / f"dataset/qved_{name}.json").read_text(encoding="utf-8"))
        lines = read_conversations(folder / f"data/annotaions/qevd_fit_300k_{name}.jsonl")
        assert [entry["video"] for entry in entries] == [f"dataset/{line.video}" for line in lines]
        for entry, line in zip(entries, lines, strict=True):
            exercise = "push-ups" if "push" in line.video else "squats"
            assert entry["conversations"] == [
                {"from": "human", "value": f"Analyze this {exercise} video and provide corrective feedback."},
                {"from": "gpt", "value": line.answer},
            ]
            assert entry["split"] == name


def test_the_same_seed_gives_the_same_bytes(folder):
    def outputs():
        return {name: (folder / name).read_bytes() for name in files_below(folder) if "data/" in name or "qved" in name}

    split(folder)
    first = outputs()
    split(folder)
    assert outputs() == first
    split(folder, "--seed", "43")
    assert outputs() != first


def test_settings_and_other_data_sets_of_the_user_are_kept(folder):
    split(folder)
    path = folder / "data/diy_ft_data.json"
    listed = json.loads(path.read_text())
    listed["qevd_fit_300k"] |= {"repeat_time": 3, "root": "elsewhere"}
    listed["mine"] = {"root": "mine", "annotation": "mine.jsonl", "note": "keep"}
    path.write_text(json.dumps(listed))
    split(folder)
    after = json.loads(path.read_text())
    assert after["mine"] == listed["mine"]
    assert after["qevd_fit_300k"]["repeat_time"] == 3
    assert after["qevd_fit_300k"]["root"] == "dataset"


def test_folders_elsewhere_are_written_whole(folder, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    arguments = ("--dataset-dir", str(folder / "dataset"), "--output-dir", "project/data/annotaions")
    assert split(other, *arguments).returncode == 0
    (source,) = read_sources(other / "project/data/diy_ft_data.json")
    assert source.root == folder / "dataset"
    assert load_source(source)


def make_bad(folder: Path, kind: str) -> str:
    """Damage a clip of the folder; return its path."""
    path = folder / "dataset/squats/0002.mp4"
    if kind == "missing":
        path.unlink()
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        path.write_text("not a video")
    return "dataset/squats/0002.mp4"


@pytest.mark.parametrize(
    ("kind", "reason"), [("missing", "no such file"), ("empty", "is empty (0 bytes)"), ("text", "is not a video")]
)
def test_a_bad_clip_stops_the_command_unless_it_may_be_skipped(folder, kind, reason):
    path = make_bad(folder, kind)
    before = files_below(folder)
    message = one_line(split(folder))
    assert f"1 clip that cannot be used: {path}: {reason}" in message
    assert "dataset/ground_truth.json" in message and "--skip-bad-clips" in message
    assert files_below(folder) == before

    result = split(folder, "--skip-bad-clips")
    assert result.returncode == 0
    skipped = "data/annotaions/qevd_fit_300k_skipped.jsonl"
    assert f"left out 1 clip that cannot be used; see {skipped}" in result.stderr
    (line,) = (folder / skipped).read_text().splitlines()
    assert json.loads(line)["video"] == path.removeprefix("dataset/")
    assert "11 clips" in result.stdout


def test_the_list_of_skipped_clips_goes_when_they_are_put_right(folder, write_clip):
    path = make_bad(folder, "empty")
    split(folder, "--skip-bad-clips")
    write_clip(folder / path)
    assert split(folder).returncode == 0
    assert not (folder / "data/annotaions/qevd_fit_300k_skipped.jsonl").exists()


def test_many_bad_clips_are_counted_and_the_first_named(folder):
    records = read_labels(folder)
    write_labels(folder, records + [{"video_path": f"gone/{n}.mp4", "labels": ["x - y"]} for n in range(7)])
    message = one_line(split(folder))
    assert "names 7 clips that cannot be used: dataset/gone/0.mp4: no such file;" in message
    assert "and 4 more" in message


def test_clips_without_a_record_are_counted(folder, write_clip):
    write_clip(folder / "dataset/other/a.mp4")
    write_clip(folder / "dataset/other/b.mp4")
    result = split(folder)
    assert "notice: 2 clips on disk without a label, first: dataset/other/a.mp4" in result.stderr
    assert result.returncode == 0


def test_people_are_kept_together_and_counted(folder):
    records = read_labels(folder)
    for number, record in enumerate(records):
        record["worker_id"] = number % 5
    write_labels(folder, records)
    assert split(folder).returncode == 0
    people = [
        {record.person for record in read_conversations(folder / f"data/annotaions/qevd_fit_300k_{name}.jsonl")}
        for name in SPLITS
    ]
    assert sum(map(len, people)) == 5 == len(set().union(*people))
    del records[0]["worker_id"]
    write_labels(folder, records)
    assert "nobody says who is in 1 clip of 12" in split(folder).stderr


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, r"dataset/ground_truth.json: no such file"),
        (
            '[{"video_path": "a.mp4"},\n {"video_path": }]',
            "dataset/ground_truth.json: is not JSON: Expecting value at line 2, column 17",
        ),
        ('[{"labels": ["x - y"]}]', "dataset/ground_truth.json: record 1 (counting from 1) has no video_path"),
        ('[{"video_path": 3}]', "dataset/ground_truth.json: record 1 (counting from 1): Expected `str`, got `int`"),
        (
            '[{"video_path": "../a.mp4"}]',
            "dataset/ground_truth.json: record 1 (counting from 1): path '../a.mp4' is not inside",
        ),
    ],
)
def test_bad_labels_are_one_line_and_nothing_is_written(folder, labels, message):
    split(folder)
    file = folder / "dataset/ground_truth.json"
    if labels is None:
        file.unlink()
    else:
        file.write_text(labels)
    before = {name: (folder / name).read_bytes() for name in files_below(folder)}
    assert message in one_line(split(folder))
    assert {name: (folder / name).read_bytes() for name in files_below(folder)} == before


@pytest.mark.parametrize("ratios", ["60/40", "60/20/-20", "a/b/c", "60/40/0", "inf/1/1"])
def test_ratios_that_make_no_sense_are_refused(folder, ratios):
    assert "is not three numbers above 0 like 60/20/20" in one_line(split(folder, f"--ratios={ratios}"))


def test_a_damaged_list_of_data_sets_is_not_overwritten(folder):
    (folder / "data").mkdir()
    (folder / "data/diy_ft_data.json").write_text("{oops")
    assert "data/diy_ft_data.json: is not JSON" in one_line(split(folder))
    assert (folder / "data/diy_ft_data.json").read_text() == "{oops"
    assert not (folder / "data/annotaions").exists()


def test_a_disk_that_fills_up_leaves_the_old_files(folder):
    split(folder)
    before = {name: (folder / name).read_bytes() for name in files_below(folder)}
    limit = len((folder / "data/annotaions/qevd_fit_300k_train.jsonl").read_bytes()) - 1
    result = split(folder, "--seed", "1", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    assert result.returncode != 0
    assert {name: (folder / name).read_bytes() for name in files_below(folder)} == before


def test_help_is_quick_to_load_and_has_an_example():
    result = split(PROJECT, "--help")
    assert result.returncode == 0
    assert "example:\n  python utils/qved_from_fine_labels.py" in result.stdout


def test_the_script_passes_folders_and_arguments_on(folder):
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix}
    check = [sys.executable, PROJECT / "utils/check_environment.py"]
    if subprocess.run(check, capture_output=True, check=False, env=environment).returncode:
        pytest.skip("formcoach is not installed in this environment")
    environment |= {"DATASET_DIR": str(folder / "dataset"), "OUTPUT_DIR": str(folder / "out/annotaions")}
    script = ["bash", PROJECT / "scripts/initialize_dataset.sh", "--ratios", "34/33/33"]
    result = subprocess.run(
        script, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert len(read_conversations(folder / "out/annotaions/qevd_fit_300k_train.jsonl")) == 4
    assert (folder / "out/diy_ft_data.json").exists()
