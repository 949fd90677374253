"""Manifests and label files are repaired where there is one way to read them, and what is wrong is named elsewhere."""

import codecs
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from formcoach.data.annotations import read_labels, read_manifest
from formcoach.data.qevd import read_folder
from formcoach.data.repair import repair_file
from formcoach.errors import UserError

COMMAND = Path(__file__).resolve().parents[2] / "utils" / "fix_manifest_format.py"
GOOD = [{"video_path": "squats/1.mp4", "labels": ["squats - low"]}]
PATHS = ("squats/1.mp4", "squats/Front View.MP4", "push_ups/2.mp4", "twice/2.mp4")


@pytest.fixture
def dataset(tmp_path):
    folder = tmp_path / "dataset"
    for path in PATHS:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"clip")
    return folder


@pytest.fixture
def repair(dataset):
    """Returns what a file becomes, and what was found; checks that looking writes nothing, and twice is as once."""

    def repair(content, name="ground_truth.json"):
        file = dataset / name
        data = content if isinstance(content, bytes) else content.encode()
        file.write_bytes(data)
        looked = repair_file(file, None, write=False)
        assert (file.read_bytes(), list(dataset.glob("*.bak*"))) == (data, [])
        done = repair_file(file, None, write=True)
        assert (done.text, done.findings) == (looked.text, looked.findings)
        if done.text is None:
            assert file.read_bytes() == data
        else:
            assert done.backup.read_bytes() == data
            done.backup.unlink()
            assert json.loads(file.read_bytes().decode()) == json.loads(done.text)
        again = repair_file(file, None, write=False)
        assert not again.findings.changes or done.text is None
        assert again.findings.problems == done.findings.problems
        return json.loads(done.text) if done.text else None, done.findings

    return repair


def records(**fields):
    return json.dumps([GOOD[0] | fields], ensure_ascii=False)


def test_what_is_right_is_left_alone(repair):
    for content in (records(worker_id=7), records(video_path="./squats/1.mp4", labels_descriptive=None, mine=[1.5])):
        value, findings = repair(content)
        assert value is None
        assert not (findings.changes or findings.problems or findings.missing)
    assert repair('{"squats/1.mp4": "squats"}', "manifest.json")[0] is None
    derived = '{"squats/1_flip.mp4": {"class": "squats", "source": "squats/1.mp4", "augmentations": {"flip": 1}}}'
    assert repair(derived, "manifest.json")[0] is None


ACCENTS = [{"video_path": "squats/1.mp4", "labels": ["étirement - très bien"]}]
TEXT = json.dumps(ACCENTS, ensure_ascii=False)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (codecs.BOM_UTF8 + TEXT.encode(), "a byte order mark"),
        (TEXT.encode("utf-16"), "UTF-16 instead of UTF-8"),
        (TEXT.encode("utf-16-le"), "UTF-16 instead of UTF-8"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "UTF-16 instead of UTF-8"),
        (TEXT.encode("latin-1"), "Latin-1 (Windows-1252) instead of UTF-8"),
    ],
)
def test_encodings(repair, dataset, data, kind):
    value, findings = repair(data)
    assert value == ACCENTS
    assert list(findings.changes) == [kind]
    assert read_labels(dataset / "ground_truth.json")[0].labels == ["étirement - très bien"]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('[{"video_path": "squats/1.mp4", "labels": ["squats - low",],},]', "commas before a closing bracket (3)"),
        ('// mine\n[{"video_path": "squats/1.mp4", # "x"\n "labels": ["squats - low"]} /* , */]', "comments (3)"),
        ('{"video_path": "squats/1.mp4", "labels": ["squats - low"]}\n\n', "a single record instead of a list"),
        ('{"video_path": "squats/1.mp4", "labels": "squats - low"}', "labels as a text instead of a list"),
        ('[{"video": "squats/1.mp4", "label": ["squats - low"]}]', "label instead of labels"),
        ('[{"file": "squats/1.mp4", "labels": ["squats - low", null]}]', "labels that are null"),
        ('{"data": [{"path": "squats/1.mp4", "labels": ["squats - low"]}]}', "path instead of video_path"),
        ('{"squats/1.mp4": ["squats - low"]}', "records by path instead of a list"),
        ('{"squats/1.mp4": {"labels": ["squats - low"]}}', "records by path instead of a list"),
        ('[{"video_path": "squats\\\\1.mp4", "labels": ["squats - low"]}]', "backslashes in a path"),
        ('[{"video_path": " squats/1.mp4\\n", "labels": ["squats - low"]}]', "blanks around a path"),
        (
            '[{"video_path": "dataset/squats/1.mp4", "labels": ["squats - low"]}]',
            "the dataset folder in front of a path",
        ),
        ('[{"video_path": "Squats/1.MP4", "labels": ["squats - low"]}]', "capitals other than on disk"),
        (
            '[{"video_path": "C:\\\\Users\\\\me\\\\dataset\\\\squats\\\\1.mp4", "labels": ["squats - low"]}]',
            "a path that is absolute or has '..'",
        ),
        (
            '[{"video_path": "push_ups/../squats/1.mp4", "labels": ["squats - low"]}]',
            "a path that is absolute or has '..'",
        ),
    ],
)
def test_label_files(repair, dataset, content, kind):
    value, findings = repair(content)
    assert value == GOOD
    assert kind in findings.changes
    assert not findings.problems
    assert len(read_folder(dataset).clips) == 1


def test_absolute_paths_into_the_folder(repair, dataset):
    assert repair(records(video_path=str(dataset / "squats/1.mp4")))[0] == GOOD


def test_one_record_a_line(repair):
    lines = [json.dumps(GOOD[0] | {"worker_id": number}) for number in range(3)]
    expected = [json.loads(line) for line in lines]
    assert repair("\n".join(lines) + "\n")[0] == expected
    assert repair(",\n".join(lines) + ",\n")[0] == expected


def test_the_order_and_unknown_fields_stay(repair):
    value, _ = repair(
        '[{"extra": {"x": 1.0}, "video": "squats/1.mp4", "label": "a - b", "split": "Train", "worker_id": 7.0}]'
    )
    assert value == [
        {"extra": {"x": 1.0}, "video_path": "squats/1.mp4", "labels": ["a - b"], "split": "train", "worker_id": 7}
    ]
    assert list(value[0]) == ["extra", "video_path", "labels", "split", "worker_id"]


def test_comments_inside_texts_are_texts(repair):
    value, _ = repair('[{"video_path": "squats/1.mp4", "labels": ["a - // b, ] # \\" /* c */"],}]')
    assert value[0]["labels"] == ['a - // b, ] # " /* c */']


@pytest.mark.parametrize(
    "content",
    [
        '[{"video_path": "squats/1.mp4", "class": "squats"}, {"path": "push_ups/2.mp4", "label": "push ups"}]',
        '{"squats": ["squats/1.mp4"], "push ups": ["push_ups\\\\2.mp4"]}',
        '{"squats": "squats/1.mp4", "push ups": "push_ups/2.mp4"}',
        '{"data": [{"video": "SQUATS/1.mp4", "exercise": "squats"}, {"file": "push_ups/2.mp4", "class": "push ups"}]}',
        '{"squats/1.mp4": "squats", "dataset/squats/1.mp4": "squats", "push_ups/2.mp4": "push ups",}',
    ],
)
def test_manifests(repair, dataset, content):
    value, findings = repair(content, "manifest.json")
    assert value == {"squats/1.mp4": "squats", "push_ups/2.mp4": "push ups"}
    assert not findings.problems
    assert len(read_manifest(dataset / "manifest.json")) == 2


def test_a_manifest_of_paths_in_their_classes_folders(repair):
    value, _ = repair('["squats/1.mp4", "push_ups/2.mp4"]', "manifest.json")
    assert value == {"squats/1.mp4": "squats", "push_ups/2.mp4": "push_ups"}
    value, findings = repair('["short_clips/1.mp4"]', "manifest.json")
    assert findings.problems == ["entry 1 has no class but null"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "is empty"),
        ('[{"video_path": "squats/1.mp4",\n "labels": ["a - b"}]', "is not JSON: .* at line 2"),
        ('["a", {"labels": []}, 3]', 'record 1 is no object but "a"'),
        ('[{"labels": ["a - b"]}]', "record 1 has no video_path"),
        ('[{"video": "a.mp4", "path": "b.mp4"}]', "record 1 has video and path, which differ"),
        ('[{"video_path": "../secret.mp4"}]', "record 1: '../secret.mp4' leads outside the dataset folder"),
        ('[{"video_path": "/etc/passwd"}]', "leads outside"),
        ('[{"video_path": "2.mp4", "labels": ["a - b"]}]', "2.mp4 could be push_ups/2.mp4 or twice/2.mp4"),
        ('[{"video_path": 7}]', "record 1: 7 is no path"),
        ('[{"video_path": "squats/1.mp4", "labels": [1]}]', r"record 1: Expected `str`, got `int`"),
        ('[{"video_path": "squats/1.mp4", "labels": ["a"], "labels": ["b"]}]', "'labels' stands twice"),
        ('[{"video_path": "squats/1.mp4", "labels": ["\\ud83d"]}]', "half a character"),
        ('[{"video_path": "squats/1.mp4", "worker_id": NaN}]', "holds NaN"),
        (
            b'[{"video_path": "squats/1.mp4",\n "labels": ["\xc3\xa9 \xff"]}]',
            "mixes UTF-8 with another encoding at line 2",
        ),
        (b'[{"video_path": "\x81.mp4"}]', "text in no usual encoding"),
        ("7", "holds no records"),
        ("[]", "lists no clips"),
        ("[" * 100_000, "nested too deeply|is not JSON"),
    ],
)
def test_what_cannot_be_repaired_is_named(repair, content, problem):
    _, findings = repair(content)
    assert len(findings.problems) >= 1
    assert re.search(problem, findings.problems[0])


def test_manifests_that_cannot_be_repaired(repair):
    _, findings = repair('{"squats/1.mp4": "squats", "dataset/squats/1.mp4": "lunges"}', "manifest.json")
    assert findings.problems == ['entry 2: squats/1.mp4 is "squats" above and "lunges" here']
    _, findings = repair(
        '{"squats/1.mp4": null, "x.mp4": {"source": "squats\\\\1.mp4", "augmentations": 3}}', "manifest.json"
    )
    assert findings.problems[0] == "entry 1 has no class but null"
    assert findings.problems[1].startswith("entry 2: Expected `object`, got `int`")
    assert findings.missing == 1


def test_what_can_be_repaired_is_while_the_rest_is_named(repair):
    value, findings = repair('[{"video": "squats/1.mp4", "label": "a - b"}, {"video_path": "../x.mp4", "labels": []}]')
    assert value == [{"video_path": "squats/1.mp4", "labels": ["a - b"]}, {"video_path": "../x.mp4", "labels": []}]
    assert len(findings.problems) == 1


def test_qevds_other_files(repair, dataset):
    value, _ = repair('[{"video": "squats/1.mp4", "feedback": ["Lower"],}]', "feedbacks_short_clips.json")
    assert value == [{"video_path": "squats/1.mp4", "feedback": ["Lower"]}]
    (dataset / "feedbacks_long_range.json").write_text("[]")
    with pytest.raises(UserError, match="sessions of minutes"):
        repair_file(dataset / "feedbacks_long_range.json", None, write=True)


def test_the_command(dataset):
    def run(*arguments):
        command = [sys.executable, str(COMMAND), *arguments]
        return subprocess.run(command, cwd=dataset.parent, capture_output=True, text=True, check=False, timeout=300)

    good, bad = dataset / "ground_truth.json", dataset / "bad.json"
    good.write_text('[{"video": "gone.mp4", "label": "\x1b[2J"},]')
    bad.write_text("[")
    done = run("dataset/ground_truth.json")
    assert (done.returncode, good.read_text()[:3]) == (0, '[{"')
    assert "dataset/ground_truth.json: 1 x video instead of video_path" in done.stdout
    assert "1 clips are not on disk; left as they are" in done.stderr
    assert "--write does it" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    done = run("dataset/ground_truth.json", "dataset/bad.json", "--write")
    assert done.returncode == 2
    assert "wrote dataset/ground_truth.json; the file as it was is kept as " in done.stdout
    assert done.stderr.splitlines()[-1] == (
        "error: 1 places cannot be repaired without guessing, see above; correct them by hand"
    )
    assert run("dataset/ground_truth.json").stdout == "dataset/ground_truth.json: nothing to repair\n"
    for arguments in ([], ["dataset/none.json"], ["--nothing", "x"]):
        done = run(*arguments)
        assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
