"""The data files are read by the public InternVideo2.5 recipe as they are.

The rules are those of its reader. A record that breaks one is not named there but replaced by another, so that each is
checked against all of them here.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
EXAMPLE = PROJECT / "data/annotaions/qevd_fit_300k_example.jsonl"


@pytest.fixture
def folder(tmp_path, make_dataset, write_clip):
    """A user's folder with labels, a coach's feedback and questions, prepared for training."""
    names = [f"squats/{number}.mp4" for number in range(8)] + ["push-ups/séance 8.mp4"]
    labels = [{"video_path": name, "labels": [f"{name.split('/')[0]} - too fast"]} for name in names]
    dataset = make_dataset(labels, [])
    for number, name in enumerate(names):
        write_clip(dataset / name, frames=5 + number)
    said = [{"video_path": name, "feedback": ["Slow down.", "Good depth!"]} for name in names]
    asked = {"query": ["How many?", "Which arm?"], "response": ["Two.", "The left."], "query_type": ["a", "b"]}
    questions = [{"video_path": name, "high_level": asked} for name in names]
    (dataset / "feedbacks_short_clips.json").write_text(json.dumps(said))
    (dataset / "questions.json").write_text(json.dumps(questions))
    command = [sys.executable, PROJECT / "utils/qved_from_fine_labels.py", "--answers", "all"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tmp_path


def records(path):
    """Each line of the file, as the reader splits it."""
    with path.open() as file:
        return [json.loads(line) for line in file]


def check_record(record):
    assert record.get("image") is None  # it would be taken for a picture
    assert isinstance(record["video"], str) and record["video"]
    assert isinstance(record["duration"], float) and record["duration"] > 0  # asserted where samples are packed
    turns = record["conversations"]
    assert [turn["from"] for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
    assert turns[0]["value"].startswith("<image>\n")
    assert sum(turn["value"].count("<image>") for turn in turns) == 1
    assert all(turn["value"].strip() for turn in turns)


@pytest.mark.parametrize("name", ["diy_ft_data.json", "diy_ft_data_val.json"])
def test_each_record_keeps_the_rules_of_the_recipes_reader(folder, name):
    for data_set in json.loads((folder / "data" / name).read_text()).values():
        assert "media_root" not in data_set  # it would win over `root`
        assert data_set["annotation"].endswith(".jsonl")
        times = data_set.get("repeat_time", 1)
        assert times <= 1 or isinstance(times, int)
        found = records(folder / data_set["annotation"])  # relative to where the recipe is started: the project
        assert found
        for record in found:
            check_record(record)
            assert (folder / data_set["root"] / record["video"]).is_file()


def test_the_example_keeps_them_too():
    for record in records(EXAMPLE):
        check_record(record)
