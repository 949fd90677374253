"""The command that makes the splits, on folders as people have them: QEVD's files, official splits, derived clips."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from formcoach.data.annotations import read_conversations
from formcoach.data.convert import FEEDBACK_QUESTION, QUESTION

PROJECT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, PROJECT / "utils/qved_from_fine_labels.py"]
SPLITS = ("train", "val", "test")


def run(folder, *arguments):
    return subprocess.run([*COMMAND, *arguments], cwd=folder, capture_output=True, text=True, check=False)


def split(folder, *arguments):
    result = run(folder, *arguments)
    assert result.returncode == 0, result.stderr
    return result


def refusal(folder, *arguments):
    result = run(folder, *arguments)
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    return line


def members(folder, name):
    return read_conversations(folder / f"data/annotaions/qevd_fit_300k_{name}.jsonl")


def where(folder):
    """The split of each clip."""
    return {record.video: name for name in SPLITS for record in members(folder, name)}


def left_out(folder):
    lines = (folder / "data/annotaions/qevd_fit_300k_skipped.jsonl").read_text(encoding="utf-8").splitlines()
    return {line["video"]: line["reason"] for line in map(json.loads, lines)}


def write(folder, name, content):
    (folder / "dataset" / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture
def clips(tmp_path, write_clip):
    """Return a function that writes so many different clips and gives their names; behind the last box they differ."""

    def make(count, pattern="{:04d}.mp4", first=0):
        names = [pattern.format(number) for number in range(first, first + count)]
        for name in names:
            path = write_clip(tmp_path / "dataset" / name, frames=4)
            path.write_bytes(path.read_bytes() + name.encode())
        return names

    return make


def labels(names, **fields):
    return [
        {"video_path": f"./{name}", "labels": [f"squats - fault {n % 3}"], **{k: v(n) for k, v in fields.items()}}
        for n, name in enumerate(names)
    ]


def test_what_a_coach_said_becomes_the_answer(tmp_path, clips):
    names = clips(6, "short_clips/{:04d}.mp4")
    feedback = [{"video_path": f"./{Path(name).name}", "feedback": ["Nice!", "Go lower."]} for name in names[:5]]
    write(tmp_path, "feedbacks_short_clips.json", feedback)
    assert "feedbacks_short_clips.json alone pass --answers feedback" in refusal(tmp_path)
    split(tmp_path, "--answers", "feedback")
    records = [record for name in SPLITS for record in members(tmp_path, name)]
    assert {(record.question, record.answer) for record in records} == {(QUESTION, "Nice!\nGo lower.")}
    assert left_out(tmp_path) == {names[5]: "no record names it"}


def test_questions_become_several_conversations(tmp_path, clips):
    names = clips(4)
    asked = {"query": ["How many?", "Which arm?"], "response": ["Three.", "The left one."], "query_type": ["a", "b"]}
    write(
        tmp_path,
        "questions.json",
        [
            {"video_path": name, "high_level": asked, "fine_grain": {"query": ["Deep?"], "response": ["Yes."]}}
            for name in names
        ],
    )
    split(tmp_path, "--answers", "questions")
    records = [record for name in SPLITS for record in members(tmp_path, name) if record.video == names[0]]
    assert [(r.id, r.question, r.answer) for r in records] == [
        (f"{names[0]}#1", "How many?", "Three."),
        (f"{names[0]}#2", "Which arm?", "The left one."),
        (f"{names[0]}#3", "Deep?", "Yes."),
    ]


def test_everything_at_once_never_asks_the_same_question_twice(tmp_path, clips):
    names = clips(5)
    write(tmp_path, "fine_grained_labels.json", labels(names[:4]))
    write(tmp_path, "feedbacks_short_clips.json", [{"video_path": name, "feedback": "Go!"} for name in names])
    split(tmp_path, "--answers", "all")
    records = [record for name in SPLITS for record in members(tmp_path, name)]
    assert len(records) == 4 + 5 == len({record.id for record in records})
    assert {record.question for record in records} == {QUESTION, FEEDBACK_QUESTION}
    mobile = [r for name in SPLITS for r in json.loads((tmp_path / f"dataset/qved_{name}.json").read_text())]
    assert sorted(entry["id"] for entry in mobile) == sorted(record.id for record in records)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "questions.json",
            [{"video_path": "0000.mp4", "high_level": {"query": ["a"]}}],
            "has 1 queries and 0 responses",
        ),
        ("questions.json", [{"video_path": "0000.mp4", "high_level": []}], "Expected `object`, got `array`"),
        ("feedbacks_long_range.json", [{"feedbacks": []}], "sessions of minutes .* not trained on yet"),
        ("ground_truth.json", [{"video_path": "0000.mp4", "feedback_timestamps": []}], "sessions of minutes"),
        (
            "ground_truth.json",
            [{"video_path": "0000.mp4", "feedback": ["a"]}],
            "it is QEVD's feedbacks_short_clips.json",
        ),
        ("ground_truth.json", [{"video_path": "0000.mp4", "fine_grain": {}}], "it is QEVD's questions.json"),
        ("ground_truth.json", [{"video_path": "0000.mp4", "labels": ["a - b"], "split": "dev"}], "'dev' .* is none of"),
    ],
)
def test_files_that_are_something_else_are_named(tmp_path, clips, name, content, message):
    clips(1)
    write(tmp_path, name, content)
    arguments = ("--answers", "questions") if name == "questions.json" else ()
    line = refusal(tmp_path, *arguments)
    assert re.search(message, line), line


def test_official_splits_are_kept_and_val_comes_out_of_train(tmp_path, clips):
    names = clips(40)
    write(tmp_path, "ground_truth.json", labels(names, split=lambda n: "test" if n % 4 == 0 else "train"))
    result = split(tmp_path, "--ratios", "60/20/20")
    places = where(tmp_path)
    assert all((places[name] == "test") == (n % 4 == 0) for n, name in enumerate(names))
    assert sum(place == "val" for place in places.values()) == pytest.approx(7.5, abs=1)
    assert "own splits were kept for 40 clips" in result.stdout
    split(tmp_path, "--resplit")
    assert sum(place == "test" for place in where(tmp_path).values()) == 8


def test_official_splits_that_share_a_person_are_refused_or_put_right(tmp_path, clips):
    names = clips(20)
    official = {"split": lambda n: "test" if n < 5 else "train", "worker_id": lambda n: "anna" if n in (4, 5) else n}
    write(tmp_path, "ground_truth.json", labels(names, **official))
    line = refusal(tmp_path)
    assert "person anna is in train and test (0005.mp4, 0004.mp4)" in line
    assert "--drop-leaks" in line and "--resplit" in line
    assert not (tmp_path / "data").exists()
    split(tmp_path, "--drop-leaks")
    assert left_out(tmp_path) == {names[5]: "shares people or pictures with clips of the official test split"}
    assert {name for name, place in where(tmp_path).items() if place == "test"} == set(names[:5])


def test_byte_equal_clips_stay_together_and_unlike_labels_are_told(tmp_path, clips):
    names = clips(12)
    for name in names[6:]:
        (tmp_path / "dataset" / name).unlink()
        os.link(tmp_path / "dataset" / names[0], tmp_path / "dataset" / name)
    write(tmp_path, "ground_truth.json", labels(names))
    result = split(tmp_path)
    assert len({where(tmp_path)[name] for name in (names[0], *names[6:])}) == 1
    assert "1 times equal files have different labels" in result.stderr
    assert "1 byte-equal files" in result.stdout
    assert len(set(split(tmp_path, "--duplicates", "off") and where(tmp_path).values())) == 3


def test_derived_clips_follow_their_source_and_its_sides(tmp_path, clips):
    names = clips(10)
    derived = clips(10, "augmented/{:04d}_1.mp4")
    records = labels(names, worker_id=lambda n: n)
    for record in records:
        record["labels"] = ["tricep stretch (right arm) - left hand on the right elbow"]
    write(tmp_path, "ground_truth.json", records)
    flip = {"horizontal_flip": 1.0}
    write(
        tmp_path,
        "manifest.json",
        {
            path: {"class": "x", "source": name, "augmentations": flip}
            for path, name in zip(derived, names, strict=True)
        },
    )
    split(tmp_path)
    places = where(tmp_path)
    for name, path in zip(names, derived, strict=True):
        assert places.get(path) == ("train" if places[name] == "train" else None)
        if places[name] != "train":
            assert left_out(tmp_path)[path] == f"is derived from {name}, which is in {places[name]}"
    mirrored = next(record for record in members(tmp_path, "train") if record.video in derived)
    assert mirrored.labels == ["tricep stretch (left arm) - right hand on the left elbow"]
    assert mirrored.person is not None


def test_new_clips_move_no_old_one(tmp_path, clips):
    old = clips(20)
    write(tmp_path, "ground_truth.json", labels(old))
    split(tmp_path, "--seed", "5", "--ratios", "50/25/25")
    first = where(tmp_path)
    new = clips(30, first=20)
    write(tmp_path, "ground_truth.json", labels(old + new))
    result = split(tmp_path)
    assert {name: place for name, place in where(tmp_path).items() if name in old} == first
    shares = {name: len(members(tmp_path, name)) / 50 for name in SPLITS}
    assert shares == pytest.approx({"train": 0.5, "val": 0.25, "test": 0.25}, abs=0.03)
    assert "anew" not in result.stderr
    assert "--seed is not as before: all clips are split anew" in split(tmp_path, "--seed", "6").stderr


def test_a_renamed_clip_stays_where_it_was(tmp_path, clips):
    names = clips(12)
    write(tmp_path, "ground_truth.json", labels(names))
    split(tmp_path)
    first = where(tmp_path)
    for name in names:
        (tmp_path / "dataset" / name).rename(tmp_path / "dataset" / f"x{name}")
    write(tmp_path, "ground_truth.json", labels([f"x{name}" for name in names]))
    split(tmp_path)
    assert where(tmp_path) == {f"x{name}": place for name, place in first.items()}


def test_cleanings_rejects_are_left_out_and_look_alikes_stay_together(tmp_path, clips):
    names = clips(12)
    write(tmp_path, "ground_truth.json", labels(names))
    kept = {
        "kept": names[1:11],
        "rejected": {names[0]: ["too dark"], names[11]: ["blurred"]},
        "duplicates": [names[3:8]],
    }
    (tmp_path / "data/annotaions").mkdir(parents=True)
    (tmp_path / "data/annotaions/kept_clips.json").write_text(json.dumps(kept))
    (tmp_path / "dataset" / names[11]).unlink()  # as clean_dataset --apply does
    split(tmp_path)
    assert left_out(tmp_path) == {
        names[0]: "rejected by cleaning: too dark",
        names[11]: "rejected by cleaning: blurred",
    }
    assert len({where(tmp_path)[name] for name in names[3:8]}) == 1
    clips(1, "late.mp4")
    write(tmp_path, "ground_truth.json", labels([*names, "late.mp4"]))
    assert "1 clip came after cleaning, first: late.mp4" in split(tmp_path).stderr


def test_the_summary_is_saved(tmp_path, clips):
    names = clips(10)
    write(tmp_path, "ground_truth.json", labels(names, worker_id=lambda n: n // 2))
    split(tmp_path)
    summary = json.loads((tmp_path / "data/annotaions/qevd_fit_300k_summary.json").read_text())
    assert summary["splits"]["train"]["clips"] == len(members(tmp_path, "train"))
    assert sum(summary["exercises"]["squats"].values()) == 10
    assert (summary["shared_by_several_clips"]["people"], summary["shared_by_two_splits"]) == (5, 0)


def test_two_at_once_wait_for_each_other(tmp_path, clips):
    write(tmp_path, "ground_truth.json", labels(clips(30)))
    running = [
        subprocess.Popen(
            [*COMMAND, "--seed", str(seed)], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        for seed in range(4)
    ]
    assert [process.wait(120) for process in running] == [0, 0, 0, 0]
    assert len(where(tmp_path)) == 30 == sum(len(members(tmp_path, name)) for name in SPLITS)


@pytest.mark.slow
def test_killed_at_any_moment_the_files_are_old_or_new_and_the_next_call_works(tmp_path, clips):
    names = clips(60)
    write(tmp_path, "ground_truth.json", labels(names))
    split(tmp_path)
    for attempt in range(25):
        process = subprocess.Popen(
            [*COMMAND, "--seed", str(attempt)], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(0.2 + attempt * 0.03)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert sum(len(members(tmp_path, name)) for name in SPLITS) > 0  # each file can be read
    split(tmp_path, "--seed", "1")
    assert len(where(tmp_path)) == 60 == sum(len(members(tmp_path, name)) for name in SPLITS)
    assert not list(tmp_path.rglob("*.tmp*"))
