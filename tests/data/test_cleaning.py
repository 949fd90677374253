"""Which clips are rejected and why, what is written about them, and moving them aside and back."""

import csv
import json
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from clip_scenes import encode_again, film, scene

from formcoach.data.clean_folder import clean_folder
from formcoach.data.cleaning import judge
from formcoach.data.exercise_motion import read_exercise_motion
from formcoach.data.kept import read_cleaned
from formcoach.data.quality import Quality
from formcoach.data.set_aside import FOLDER, JOURNAL, aside, put_back, set_aside
from formcoach.data.thresholds import Thresholds
from formcoach.errors import ClipError, UserError

SMALL = Thresholds(min_width=320, min_height=240)


def clean(dataset, output=None, thresholds=SMALL, duplicates=True, **options):
    return clean_folder(
        dataset,
        output or dataset.parent / "out",
        options.get("labels"),
        thresholds,
        options.get("motion_file"),
        duplicates,
        workers=2,
    )


def reasons(dataset, **options):
    return clean(dataset, **options).outcome.rejected


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A dataset with a clip for every shortcoming, and good ones; tests copy it."""
    dataset = tmp_path_factory.mktemp("originals") / "dataset"
    frames = [*scene(seconds=3)]
    film(dataset / "squats" / "good.mp4", frames)
    film(dataset / "squats" / "another.mp4", scene(1, period=1.7))
    film(dataset / "squats" / "again.mp4", scene(0, period=2.1, phase=0.4))
    film(dataset / "squats" / "dark.mp4", (picture * 0.2 for picture in scene(2)))
    film(dataset / "squats" / "bright.mp4", (picture * 0.3 + 170 for picture in scene(3)))
    film(dataset / "squats" / "blurred.mp4", (cv2.GaussianBlur(picture, (0, 0), 3) for picture in scene(4)))
    film(dataset / "squats" / "frozen.mp4", [[*scene(5)][9]] * 45)
    film(dataset / "squats" / "black.mp4", [*frames[:15], *(picture * 0 for picture in frames[15:])])
    film(dataset / "squats" / "small.mp4", scene(6, size=(160, 120)))
    film(dataset / "squats" / "portrait.mp4", scene(7, size=(240, 320)))
    film(dataset / "squats" / "brief.mp4", scene(8, seconds=0.6))
    film(dataset / "squats" / "lazy.mp4", scene(9, sway=0.4, period=1.5))
    film(dataset / "plank" / "held.mp4", scene(10, sway=0.4, period=1.5))
    encode_again(dataset / "squats" / "good.mp4", dataset / "squats" / "encoded again.mp4", crf=32)
    shutil.copy(dataset / "squats" / "another.mp4", dataset / "plank" / "copy.mp4")
    (dataset / "squats" / "zero.mp4").touch()
    (dataset / "squats" / "damaged.mp4").write_bytes((dataset / "squats" / "good.mp4").read_bytes()[:9000])
    return dataset


@pytest.fixture
def dataset(originals, tmp_path):
    shutil.copytree(originals, tmp_path / "dataset")
    return tmp_path / "dataset"


def test_every_shortcoming_is_told_with_its_number(dataset):
    found = reasons(dataset)
    expected = {
        "squats/dark.mp4": r"brightness \d+(\.\d)? is below 35",
        "squats/bright.mp4": r"brightness \d+(\.\d)? is above 190",
        "squats/blurred.mp4": r"sharpness \d+(\.\d)? is below 50",
        "squats/frozen.mp4": r"frozen stretch 3 s is above 2 s",
        "squats/black.mp4": r"black stretch \d(\.\d)? s is above 1 s",
        "squats/small.mp4": r"resolution 160x120 is below 320x240",
        "squats/brief.mp4": r"duration 0.6 s is below 1 s",
        "squats/lazy.mp4": r"motion \d+(\.\d)? % is below 15 %",
        "squats/zero.mp4": r"is empty \(0 bytes\)",
        "squats/damaged.mp4": r"is damaged: .*",
        "squats/encoded again.mp4": r"shows the same as squats/good.mp4",
        "squats/another.mp4": r"shows the same as plank/copy.mp4",  # of exact copies the first path is kept
    }
    assert sorted(found) == sorted(expected)
    for path, pattern in expected.items():
        assert any(re.fullmatch(pattern, reason) for reason in found[path]), (path, found[path])


def test_every_clip_is_either_kept_or_rejected(dataset):
    cleaned = (clean(dataset), read_cleaned(dataset.parent / "out"))[1]
    clips = sorted(str(path.relative_to(dataset).as_posix()) for path in dataset.glob("*/*.mp4"))
    assert sorted([*cleaned.kept, *cleaned.rejected]) == clips
    assert cleaned.duplicates == [
        ["plank/copy.mp4", "squats/another.mp4"],
        ["squats/encoded again.mp4", "squats/good.mp4"],
    ]


def test_duplicates_can_be_switched_off(dataset):
    found = clean(dataset, duplicates=False).outcome
    assert found.duplicates == []
    assert "squats/encoded again.mp4" not in found.rejected


def test_thresholds_are_arguments(dataset):
    loose = Thresholds(0, 0, 0, 1000, 0, 255, 0, 0, 1000, 1000)
    assert sorted(reasons(dataset, thresholds=loose, duplicates=False)) == ["squats/damaged.mp4", "squats/zero.mp4"]


def test_thresholds_that_no_clip_can_pass_are_refused():
    for wrong in ({"min_duration": 9, "max_duration": 3}, {"min_brightness": 200}, {"min_motion": 15}):
        with pytest.raises(UserError):
            Thresholds(**wrong)


def test_a_labelled_clip_is_kept_rather_than_its_copy(dataset):
    record = {"video_path": "squats/another.mp4", "labels": ["squats - correct"], "worker_id": 3}
    (dataset / "ground_truth.json").write_text(json.dumps([record]))
    found = reasons(dataset)
    assert found["plank/copy.mp4"] == ["shows the same as squats/another.mp4"]
    assert "squats/another.mp4" not in found


def test_of_two_sizes_the_larger_is_kept(tmp_path):
    large = film(tmp_path / "dataset" / "squats" / "z.mp4", scene(size=(640, 480)))
    encode_again(large, tmp_path / "dataset" / "squats" / "a.mp4", size=(320, 240), crf=23)
    assert reasons(tmp_path / "dataset") == {"squats/a.mp4": ["shows the same as squats/z.mp4"]}


def test_derived_clips_resemble_their_source_and_go_where_it_goes(dataset):
    encode_again(dataset / "squats" / "again.mp4", dataset / "squats" / "again_brighter.mp4", brighter=10)
    encode_again(dataset / "squats" / "dark.mp4", dataset / "squats" / "dark_brighter.mp4", brighter=60)
    manifest = {
        "squats/again_brighter.mp4": {"class": "squats", "source": "squats/again.mp4"},
        "squats/dark_brighter.mp4": {"class": "squats", "source": "squats/dark.mp4"},
    }
    (dataset / "manifest.json").write_text(json.dumps(manifest))
    found = reasons(dataset)
    assert "squats/again_brighter.mp4" not in found
    assert found["squats/dark_brighter.mp4"][-1] == "is derived from squats/dark.mp4, which is rejected"


def test_the_order_of_clips_does_not_matter(dataset):
    outcome = clean(dataset).outcome
    measured = {
        verdict.path: verdict.quality or ClipError(verdict.path, verdict.reasons[0].text)
        for verdict in outcome.verdicts
    }
    subjects = {verdict.path: verdict.subject for verdict in outcome.verdicts}
    paths = [*measured]
    random.Random(1).shuffle(paths)
    again = judge({path: measured[path] for path in paths}, subjects, SMALL, read_exercise_motion(dataset))
    assert again == outcome


def test_exercises_that_are_held_need_not_move(dataset):
    assert "plank/held.mp4" not in reasons(dataset)
    (dataset / "exercise_motion.json").write_text('{"Plank": "moving", "squats": "any"}')
    found = reasons(dataset)
    assert "motion" in found["plank/held.mp4"][0]
    assert "squats/lazy.mp4" not in found
    other = dataset.parent / "other.json"
    other.write_text("{}")
    assert "squats/lazy.mp4" in reasons(dataset, motion_file=other)


def test_a_fault_that_is_not_to_move_is_no_reason(dataset):
    records = [
        {"video_path": "squats/lazy.mp4", "labels": ["squats - User is standing still"]},
        {"video_path": "squats/frozen.mp4", "labels": ["squats - stopping early"]},
    ]
    (dataset / "ground_truth.json").write_text(json.dumps(records))
    assert {"squats/lazy.mp4", "squats/frozen.mp4"}.isdisjoint(reasons(dataset))


@pytest.mark.parametrize(
    ("exercise", "kind"),
    [
        ("tricep stretch (right arm)", "still"),
        ("Push-Ups", "moving"),
        ("jumping_jacks", "moving"),
        ("plank jacks", "moving"),
        ("side plank (left)", "still"),
        ("juggling", None),
    ],
)
def test_the_packaged_list_knows_the_usual_exercises(tmp_path, exercise, kind):
    assert read_exercise_motion(tmp_path).kind(exercise) == kind


def test_a_name_wins_over_patterns(tmp_path):
    (tmp_path / "exercise_motion.json").write_text('{"*": "any", "wall sit": "moving"}')
    motion = read_exercise_motion(tmp_path)
    assert motion.kinds(["wall sit", "squats"]) == {"wall sit": "moving", "squats": "any"}


def test_a_motion_file_of_another_form_is_refused(tmp_path):
    (tmp_path / "exercise_motion.json").write_text('{"squats": "fast"}')
    with pytest.raises(UserError, match="squats"):
        read_exercise_motion(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_exercise_motion(tmp_path, tmp_path / "missing.json")


HOSTILE = (
    "<img src=x onerror=alert(1)>.mp4",
    '=HYPERLINK("http:evil").mp4',
    "@sum.mp4",
    "line\nbreak.mp4",
    "quote\"'&amp;.mp4",
    "{{ 7*7 }}.mp4",
    "💪 تمرين \u202e.mp4",
)


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be made")
def test_hostile_names_do_no_harm(tmp_path):
    dataset, out = tmp_path / "dataset", tmp_path / "out"
    source = film(tmp_path / "blurred.mp4", (cv2.GaussianBlur(picture, (0, 0), 3) for picture in scene(seconds=1.2)))
    dataset.mkdir()
    for name in HOSTILE:
        shutil.copy(source, dataset / name)
    (dataset / "<script>alert(2)<").mkdir()
    shutil.copy(source, dataset / "<script>alert(2)<" / "x.mp4")
    clean(dataset, duplicates=False)
    page = (out / "cleaning_report.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and page.count("<script>") == 1
    assert "&lt;script&gt;alert(2)&lt;" in page and "{{ 7*7 }}" in page
    with (out / "cleaning_report.csv").open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    assert sorted(row["path"].removeprefix("'") for row in rows) == sorted([*HOSTILE, "<script>alert(2)</x.mp4"])
    assert not any(row[column].startswith(("=", "+", "-", "@")) for row in rows for column in ("path", "exercise"))
    assert sorted(read_cleaned(out).rejected) == sorted(row["path"].removeprefix("'") for row in rows)


def test_the_page_holds_all_it_shows(dataset):
    clean(dataset)
    page = (dataset.parent / "out" / "cleaning_report.html").read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=\"(?!data:)|url\(|@import|https?:", page)
    assert page.count("data:image/jpeg;base64,/9j/") >= 10
    assert page.count("<svg") == 8


def test_the_table_has_a_line_for_every_clip(dataset):
    clean(dataset)
    with (dataset.parent / "out" / "cleaning_report.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert len(rows) == 17
    assert rows["squats/small.mp4"]["width"] == "160" and rows["squats/small.mp4"]["kept"] == "no"
    assert rows["squats/good.mp4"]["kept"] == "yes" and rows["squats/good.mp4"]["reasons"] == ""
    assert rows["squats/zero.mp4"]["sharpness"] == "" and rows["squats/zero.mp4"]["exercise"] == "squats"


def test_many_clips_make_no_large_page(tmp_path):
    from formcoach.data.cleaning import Subject
    from formcoach.data.cleaning_report import write_csv, write_html

    quality = Quality(640, 480, 5.0, 100.0, 20.0, 0.5, 1.0, 0.0, 0.0, b"", b"")
    measured = {f"squats/{number:06}.mp4": quality for number in range(20_000)}
    motion = read_exercise_motion(tmp_path)
    outcome = judge(measured, dict.fromkeys(measured, Subject("squats")), Thresholds(), motion, duplicates=False)
    write_html(tmp_path / "page.html", tmp_path, outcome, Thresholds(), motion)
    write_csv(tmp_path / "table.csv", outcome.verdicts)
    assert (tmp_path / "page.html").stat().st_size < 3_000_000
    assert "2000 of 20000 rejected clips are shown" in (tmp_path / "page.html").read_text()
    assert len((tmp_path / "table.csv").read_text().splitlines()) == 20_001


def tree(folder):
    """Return what lies below a folder: path -> content, or the target of a link."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if (path.is_symlink() or path.is_file()) and ".formcoach" not in path.parts
    }


@pytest.fixture
def shelf(tmp_path):
    """A folder of files named like clips."""
    folder = tmp_path / "dataset"
    for name in ("squats/a.mp4", "squats/b.mp4", "plank/c.mp4"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    (folder / "ground_truth.json").write_text("[]")
    return folder


def test_rejects_go_aside_and_come_back(shelf):
    before = tree(shelf)
    moves = set_aside(shelf, {"squats/a.mp4": ["is dark"], "plank/c.mp4": ["is blurred"]})
    assert (moves.moved, moves.left) == (["plank/c.mp4", "squats/a.mp4"], [])
    after = tree(shelf)
    assert after.pop(f"{FOLDER}/{JOURNAL}")
    assert sorted(after) == [f"{FOLDER}/plank/c.mp4", f"{FOLDER}/squats/a.mp4", "ground_truth.json", "squats/b.mp4"]
    assert aside(shelf) == {"plank/c.mp4": ["is blurred"], "squats/a.mp4": ["is dark"]}
    assert put_back(shelf).moved == ["plank/c.mp4", "squats/a.mp4"]
    assert tree(shelf) == before and not (shelf / FOLDER).exists()
    assert put_back(shelf).moved == []


def test_setting_aside_twice_breaks_nothing(shelf):
    rejects = {"squats/a.mp4": ["is dark"]}
    assert set_aside(shelf, rejects).moved == ["squats/a.mp4"]
    again = set_aside(shelf, rejects | {"squats/b.mp4": ["is blurred"]})
    assert again.moved == ["squats/b.mp4"]
    assert sorted(put_back(shelf).moved) == ["squats/a.mp4", "squats/b.mp4"]


def test_nothing_is_overwritten(shelf):
    set_aside(shelf, {"squats/a.mp4": ["is dark"], "squats/b.mp4": ["is dark"]})
    (shelf / "squats" / "a.mp4").write_text("a new one")
    moves = put_back(shelf)
    assert moves.moved == ["squats/b.mp4"]
    assert moves.left == ["squats/a.mp4 stays in .rejected: there is a file in its place"]
    assert (shelf / "squats" / "a.mp4").read_text() == "a new one"
    moves = set_aside(shelf, {"squats/a.mp4": ["is dark"]})
    assert moves.left == ["squats/a.mp4 stays where it is: .rejected holds another clip of that name"]
    assert (shelf / FOLDER / "squats" / "a.mp4").read_text() == "squats/a.mp4"
    (shelf / "squats" / "a.mp4").unlink()
    assert put_back(shelf).moved == ["squats/a.mp4"]


@pytest.mark.skipif(sys.platform == "win32", reason="links need a privilege there")
def test_links_are_moved_as_links_and_linked_folders_are_left_alone(shelf, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.mp4").write_text("original")
    (shelf / "squats" / "link.mp4").symlink_to(tmp_path / "elsewhere" / "d.mp4")
    (shelf / "part").symlink_to(tmp_path / "elsewhere")
    before = tree(shelf)
    moves = set_aside(shelf, {"squats/link.mp4": ["is dark"], "part/d.mp4": ["is dark"]})
    assert moves.moved == ["squats/link.mp4"]
    assert moves.left == ["part/d.mp4 stays where it is: its folder is a link to another place"]
    assert (shelf / FOLDER / "squats" / "link.mp4").is_symlink()
    assert (tmp_path / "elsewhere" / "d.mp4").read_text() == "original"
    put_back(shelf)
    assert tree(shelf) == before


def test_a_journal_that_leads_outside_is_refused(shelf):
    (shelf / FOLDER).mkdir()
    (shelf / FOLDER / JOURNAL).write_text('{"path": "../../etc/passwd"}\n')
    with pytest.raises(UserError, match="not inside"):
        put_back(shelf)


def test_a_torn_journal_line_is_no_obstacle(shelf):
    set_aside(shelf, {"squats/a.mp4": ["is dark"]})
    journal = shelf / FOLDER / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"path": "squats/b.m')
    set_aside(shelf, {"plank/c.mp4": ["is dark"]})
    assert sorted(put_back(shelf).moved) == ["plank/c.mp4", "squats/a.mp4"]


KILLED = """
import os, signal, sys
from pathlib import Path
from formcoach.data import set_aside as module

after = int(sys.argv[2])
rename = Path.rename
def rename_or_die(self, target):
    global after
    if after == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    after -= 1
    return rename(self, target)
Path.rename = rename_or_die
rejects = [{"squats/a.mp4": [], "squats/b.mp4": []}] if sys.argv[3] == "set_aside" else []
getattr(module, sys.argv[3])(Path(sys.argv[1]), *rejects)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no kill -9")
@pytest.mark.parametrize("after", [0, 1])
def test_a_killed_command_can_be_undone(shelf, after):
    before = tree(shelf)

    def killed(what):
        command = [sys.executable, "-c", KILLED, str(shelf), str(after), what]
        return subprocess.run(command, check=False, timeout=300).returncode == -signal.SIGKILL

    assert killed("set_aside")
    set_aside(shelf, {"squats/a.mp4": [], "squats/b.mp4": []})
    assert sorted(aside(shelf)) == ["squats/a.mp4", "squats/b.mp4"]
    assert killed("put_back")
    put_back(shelf)
    assert tree(shelf) == before


def test_clips_that_were_set_aside_stay_rejected_in_the_list(dataset):
    first = clean(dataset)
    set_aside(dataset, first.outcome.rejected)
    second = clean(dataset)
    assert second.set_aside == len(first.outcome.rejected)
    assert second.outcome.rejected == {}
    cleaned = read_cleaned(dataset.parent / "out")
    assert cleaned.rejected == first.outcome.rejected
    put_back(dataset)
    assert clean(dataset).outcome.rejected == first.outcome.rejected


def test_a_folder_without_clips_is_named(tmp_path):
    for folder in (tmp_path / "missing", tmp_path):
        with pytest.raises(UserError, match=re.escape(str(folder))):
            clean(folder, tmp_path / "out")
    assert not (Path(tmp_path) / "out").exists()


def test_means_of_noise(tmp_path):
    """A dim webcam's noise is neither motion nor sharpness enough to hide that nobody moves."""
    film(tmp_path / "dataset" / "squats" / "noisy.mp4", scene(sway=0, noise=7))
    assert np.all(["motion" in text or "frozen" in text for text in reasons(tmp_path / "dataset")["squats/noisy.mp4"]])
