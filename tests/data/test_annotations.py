import json

import pytest

from formcoach.data.annotations import (
    Conversation,
    ManifestEntry,
    Turn,
    parse_label,
    read_conversations,
    read_labels,
    read_manifest,
    write_conversations,
)
from formcoach.errors import UserError


@pytest.fixture
def label_file(tmp_path):
    def write(content):
        path = tmp_path / "ground_truth.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize(
    ("label", "parts"),
    [
        ("squats - not low enough", ("squats", "not low enough")),
        (
            "tricep stretch (right arm) - User is holding - the stretch",
            ("tricep stretch (right arm)", "User is holding - the stretch"),
        ),
        ("push-ups - hips sag", ("push-ups", "hips sag")),
        ("not visible", ("not visible", "")),
    ],
)
def test_a_label_is_split_at_the_first_spaced_hyphen(label, parts):
    assert parse_label(label) == parts


def test_records_of_the_official_form_are_read(label_file):
    record = {
        "video_path": "./00002012.mp4",
        "labels": ["tricep stretch (right arm) - User is holding the stretch"],
        "labels_descriptive": ["a", "b"],
        "split": "train",
        "worker_id": 17,
        "something_else": {"x": 1},
    }
    (read,) = read_labels(label_file([record]))
    assert (read.video_path, read.split, read.worker_id) == ("./00002012.mp4", "train", 17)
    assert read.answer == "a\nb"


@pytest.mark.parametrize(
    ("record", "answer"),
    [
        ({"labels": ["x - a", "x - b"]}, "x - a\nx - b"),
        ({"labels": ["x - a"], "labels_descriptive": "Go lower."}, "Go lower."),
        ({"labels": ["x - a"], "labels_descriptive": ["Go lower.", "Slow down."]}, "Go lower.\nSlow down."),
        ({"labels": ["x - a"], "labels_descriptive": None}, "x - a"),
        ({"labels": ["x - a"], "labels_descriptive": ["", " "]}, "x - a"),
        ({"labels": ["x - a", " x - a"]}, "x - a"),
        ({"labels_descriptive": "only this"}, "only this"),
        ({}, ""),
    ],
)
def test_the_answer_is_the_descriptive_labels_else_the_labels(label_file, record, answer):
    (read,) = read_labels(label_file([{"video_path": "x.mp4", **record}]))
    assert read.answer == answer


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[\n  {"video_path": "a.mp4",}\n]', "line 2, column"),
        ("", "line 1, column 1"),
        ("{}", "no list of records"),
        ("[]", "lists no clips"),
        ([{"video_path": "a.mp4"}, {"labels": []}], r"record 2 \(counting from 1\) has no video_path"),
        ([{"video_path": None}], r"record 1 \(counting from 1\) has no video_path"),
        ([{"video_path": ""}], r"record 1 \(counting from 1\) has no video_path"),
        ([{"video_path": 5}], r"record 1 .*Expected `str`, got `int` - at `\$.video_path`"),
        ([{"video_path": "a.mp4", "labels": "x - a"}], r"record 1 .*\$.labels"),
        ([{"video_path": "a.mp4", "labels": ["x", 3]}], r"record 1 .*\$.labels\[1\]"),
        ([{"video_path": "a.mp4"}, "b.mp4"], r"record 2 "),
    ],
)
def test_a_malformed_label_file_is_one_line_that_names_the_place(label_file, content, message):
    path = label_file(content)
    with pytest.raises(UserError, match=message) as caught:
        read_labels(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_file_that_is_missing_or_not_text_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none.json: no such file"):
        read_labels(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes('[{"video_path": "é.mp4"}]'.encode("latin-1"))
    with pytest.raises(UserError, match=r"latin.json: is not UTF-8"):
        read_labels(tmp_path / "latin.json")


def test_a_manifest_has_classes_or_objects(label_file):
    manifest = {"squats/1.mp4": "squats", "squats/1_aug.mp4": {"source": "squats/1.mp4"}}
    assert read_manifest(label_file(manifest)) == {
        "squats/1.mp4": ManifestEntry("squats"),
        "squats/1_aug.mp4": ManifestEntry(source="squats/1.mp4"),
    }
    with pytest.raises(UserError, match=r"ground_truth.json: Expected `object`, got `array`"):
        read_manifest(label_file([]))
    with pytest.raises(UserError, match=r"ground_truth.json: .*got `int`"):
        read_manifest(label_file({"a": 3}))


CONVERSATION = Conversation(
    id="squats/é 1.mp4",
    video="squats/é 1.mp4",
    conversations=[Turn("human", "<image>\nHow is it?"), Turn("gpt", "squats - zu tief 💪\nsquats - “fast”")],
    duration=0.3,
    labels=["squats - zu tief 💪"],
)


@pytest.mark.parametrize("name", ["train.jsonl", "train.json"])
def test_conversations_survive_the_disk(tmp_path, name):
    path = tmp_path / name
    other = Conversation("2", "b.mp4", CONVERSATION.conversations, 5.0, person="anna")
    write_conversations(path, [CONVERSATION, other])
    if name.endswith(".json"):
        lines = path.read_text(encoding="utf-8").splitlines()
        path.write_text(f"[{','.join(lines)}]", encoding="utf-8")
    assert read_conversations(path) == [CONVERSATION, other]
    assert CONVERSATION.question == "How is it?"
    assert CONVERSATION.answer == "squats - zu tief 💪\nsquats - “fast”"


def test_a_line_has_the_form_of_the_public_recipe(tmp_path):
    write_conversations(tmp_path / "train.jsonl", [CONVERSATION])
    (line,) = (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line) == {
        "id": "squats/é 1.mp4",
        "video": "squats/é 1.mp4",
        "conversations": [
            {"from": "human", "value": "<image>\nHow is it?"},
            {"from": "gpt", "value": "squats - zu tief 💪\nsquats - “fast”"},
        ],
        "duration": 0.3,
        "labels": ["squats - zu tief 💪"],
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "2", }', r"train.jsonl: is not JSON: .* at line 3, column"),
        ('{"id": "2", "conversations": [], "duration": 1.0}', r"line 3: Object missing required field `video`"),
        ('{"id": "2", "video": "a", "conversations": [], "duration": "1"}', r"line 3: .*\$.duration"),
        (
            '{"id": "2", "video": "a", "conversations": [], "duration": 1}',
            r"line 3: conversations must be one human turn",
        ),
        ('{"id": "2", "video": "a", "conversations": [{"from": "me", "value": ""}], "duration": 1}', r"line 3: .*'me'"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = tmp_path / "train.jsonl"
    write_conversations(path, [CONVERSATION])
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    with pytest.raises(UserError, match=message):
        read_conversations(path)


def test_missing_conversations_name_the_command_that_makes_them(tmp_path):
    with pytest.raises(UserError, match=r"none.jsonl: no such file.*initialize_dataset.sh"):
        read_conversations(tmp_path / "none.jsonl")
