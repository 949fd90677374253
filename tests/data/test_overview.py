import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pytest

from formcoach.data.annotations import Conversation, Turn, write_conversations
from formcoach.data.kept import Cleaned, write_cleaned
from formcoach.data.overview import histogram, read_overview
from formcoach.data.overview_concerns import find_concerns, reasons
from formcoach.data.overview_page import page
from formcoach.data.overview_strips import choose, read_strips
from formcoach.data.prepare import Choices, write_splits
from formcoach.data.splits import SPLITS
from formcoach.errors import UserError

COMMAND = Path(__file__).parents[2] / "utils" / "dataset_report.py"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUESTION = "<image>\nHow is it?"
spec = importlib.util.spec_from_file_location("dataset_report", COMMAND)
command = importlib.util.module_from_spec(spec)
spec.loader.exec_module(command)


@pytest.fixture
def make_splits(tmp_path, write_clip):
    """Return a function that writes clips and split files by hand, and returns both folders."""

    def make(clips: list[dict], manifest: dict | None = None) -> tuple[Path, Path]:
        dataset, output = tmp_path / "dataset", tmp_path / "out" / "annotaions"
        dataset.mkdir()
        by_split: dict[str, list[Conversation]] = {"train": [], "val": [], "test": []}
        for number, clip in enumerate(clips):
            path = clip.get("path", f"short_clips/{number}.mp4")
            if clip.get("write", True) and not (dataset / path).exists():
                write_clip(dataset / path, frames=5 + number % 40, size=clip.get("size", (64, 48)))
            labels = clip.get("labels", ["squats - not low enough"])
            pairs = clip.get("pairs") or [(QUESTION, clip.get("answer", "\n".join(labels)))]
            by_split[clip.get("split", "train")] += [
                Conversation(
                    f"{path}#{place}",
                    path,
                    [Turn("human", question), Turn("gpt", answer)],
                    clip.get("duration", 5.0),
                    labels,
                    clip.get("person"),
                )
                for place, (question, answer) in enumerate(pairs)
            ]
        for split, conversations in by_split.items():
            write_conversations(output / f"qevd_fit_300k_{split}.jsonl", conversations)
        if manifest is not None:
            (dataset / "manifest.json").write_text(json.dumps(manifest))
        return dataset, output

    return make


def seen(dataset, output, clips=60):
    overview, all_clips = read_overview(dataset, output, 0)
    concerns = find_concerns(overview, all_clips)
    strips = list(read_strips(dataset, choose(all_clips, clips, 0)))
    return overview, concerns, page(overview, concerns, strips, 0)


def told(concerns) -> str:
    return "\n".join(f"{'!' if one.serious else ' '} {one.text} {list(one.examples)}" for one in concerns)


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and its text without scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self._inside: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside.append(tag)

    def handle_endtag(self, tag):
        while self._inside and self._inside.pop() != tag:
            pass

    def handle_data(self, data):
        if self._inside[-1:] not in (["script"], ["style"]):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def test_numbers_of_a_dataset_as_it_is_prepared(make_dataset, tmp_path):
    paths = [f"{name}/{n}.mp4" for name in ("squats", "push_ups") for n in range(10)]
    records = [
        {
            "video_path": path,
            "labels": [f"{path.split('/')[0].replace('_', ' ')} - {'good form' if n % 2 else 'not low enough'}"],
            "worker_id": f"p{n % 5}",
        }
        for n, path in enumerate(paths)
    ]
    dataset = make_dataset(records, paths)
    output = tmp_path / "out" / "annotaions"
    summary = write_splits(dataset, output, choices=Choices(duplicates=False))
    overview, _, html = seen(dataset, output)
    assert {name: of.clips for name, of in overview.splits.items()} == {
        name: of.clips for name, of in summary.splits.items()
    }
    assert {name: of.people for name, of in overview.splits.items()} == {
        name: of.people for name, of in summary.splits.items()
    }
    assert {one.name: one.total for one in overview.classes} == {"squats": 10, "push ups": 10}
    for one in overview.classes:
        assert (
            dict(zip(("train", "val", "test"), one.clips, strict=True))
            == {
                "train": 0,
                "val": 0,
                "test": 0,
            }
            | summary.exercises[one.name]
        )
    assert overview.total.seconds == pytest.approx(20 * 5 / 15, abs=0.02)
    assert overview.faults == [("good form", 10), ("not low enough", 10)]
    assert overview.sizes == [("64 x 48", 20)]
    assert overview.rates == [("15", 20)]
    assert not any(overview.shared[kind] for kind in ("people", "clips", "sources", "derived"))
    text = Page(html).text
    assert "20 clips 5 people 2 exercises 20 conversations" in text
    assert "ground_truth.json" in text
    assert "60/20/20 with seed 42" in text


def test_answers_and_what_a_model_gets_right_without_looking(make_splits):
    plain = [{"labels": ["squats - ok"], "answer": "good"}] * 3 + [
        {"labels": ["lunges - ok"], "answer": "deeper please"}
    ]
    others = [
        {"labels": ["lunges - ok"], "answer": "deeper please", "split": "test"},
        {"labels": ["squats - ok"], "answer": "good", "split": "test"},
        {"labels": ["squats - knee not visible", "squats - ok"], "answer": "turn to the side", "split": "test"},
        {"labels": ["planks - ok"], "answer": "good", "split": "test"},
    ]
    overview, _, html = seen(*make_splits([*plain, *others]))
    assert overview.train_answer == "good"
    train, test = overview.baselines["train"], overview.baselines["test"]
    assert (train.clips_answer, train.exercise_answer, train.unseen) == (0.75, 1.0, 0.0)
    assert (test.clips_answer, test.exercise_answer, test.unseen) == (0.5, 0.75, 0.25)
    assert overview.baselines["val"].clips_answer is None
    assert overview.answers[0] == ("good", 5)
    assert overview.labels_per_clip == [(1, 7), (2, 1)]
    assert overview.not_visible == 1
    assert overview.words.spreads["train"].middle == 1
    assert overview.characters.spreads["test"].most == len("turn to the side")
    assert overview.faults_by_exercise["squats"] == (2, [("ok", 5), ("knee not visible", 1)])
    assert "12.5 % of the clips (1) have a label that says that something is not visible" in Page(html).text


def test_a_clip_with_several_conversations_counts_once(make_splits):
    asked = [("<image>\nWhich exercise?", "squats"), ("<image>\nHow deep?", "not deep enough")]
    overview, _, _ = seen(*make_splits([{"pairs": asked}, {"split": "val"}, {"split": "test"}]))
    assert overview.total.clips == 3
    assert overview.total.conversations == 4
    assert overview.splits["train"].seconds == 5.0


def test_clips_without_labels_take_their_class_from_the_label_file(make_splits):
    dataset, output = make_splits([{"labels": [], "answer": "well done", "split": s} for s in ("train", "val", "test")])
    records = [{"video_path": f"{number}.mp4", "labels": ["lunges - ok"]} for number in range(3)]
    (dataset / "fine_grained_labels.json").write_text(json.dumps(records))
    overview, _, _ = seen(dataset, output)
    assert [(one.name, one.clips) for one in overview.classes] == [("lunges", (1, 1, 1))]


def test_leaks_are_found_in_the_split_files(make_splits):
    dataset, output = make_splits(
        [
            {"person": "anna"},
            {"person": "anna", "split": "test"},
            {"path": "a.mp4", "person": "ben"},
            {"path": "a.mp4", "person": "ben", "split": "val"},
            {"path": "flip.mp4", "person": "carl", "split": "val"},
            {"path": "orig.mp4", "person": "carla"},
            {"path": "copy.mp4", "person": "dora", "split": "test"},
        ],
        {"flip.mp4": {"class": "squats", "source": "orig.mp4", "augmentations": {"horizontal_flip": 1}}},
    )
    (dataset / "copy.mp4").write_bytes((dataset / "orig.mp4").read_bytes())
    write_cleaned(output, Cleaned(["a.mp4"], duplicates=[["short_clips/0.mp4", "short_clips/1.mp4"]]))
    overview, concerns, html = seen(dataset, output)
    assert {kind: [str(one) for one in found] for kind, found in overview.shared.items()} == {
        "people": ["anna: train, test"],
        "clips": ["a.mp4: train, val"],
        "sources": ["orig.mp4: train, val"],
        "files": ["orig.mp4 and copy.mp4: train, test"],
        "looks": ["short_clips/0.mp4 and short_clips/1.mp4: train, test"],
        "derived": ["flip.mp4: val"],
    }
    assert sum(one.serious for one in concerns) >= 6
    assert all(one.serious for one in concerns[:6])
    assert "1 person is in several splits: scores would be too good" in Page(html).text
    assert "derived from orig.mp4" in Page(html).text


def test_what_is_odd_is_told(make_splits):
    clips = [{"person": f"p{n % 7}", "split": ("train", "train", "val", "test")[n % 4]} for n in range(40)]
    clips = [clip | {"person": f"{clip['split']} {clip['person']}"} for clip in clips]
    clips += [
        {"labels": ["Squats - ok"], "person": "q"},
        {"labels": ["lunges - ok"], "person": "r", "duration": 0.4},
        {"labels": ["planks - ok"], "person": "r", "duration": 90.0},
        {"labels": ["planks - ok"], "answer": "word " * 400, "size": (300, 40), "person": None},
        {"path": "gone.mp4", "write": False, "person": "s"},
    ]
    dataset, output = make_splits(clips)
    skipped = [{"video": f"x{n}.mp4", "reason": f"rejected by cleaning: sharpness {n}.5 is below 50"} for n in range(3)]
    (output / "qevd_fit_300k_skipped.jsonl").write_text("".join(json.dumps(one) + "\n" for one in skipped))
    _, concerns, html = seen(dataset, output)
    text = told(concerns)
    for expected in (
        r"! 1 clip does not open.*gone\.mp4: no such file",
        r"3 classes have no clip in val: val says nothing about them",
        r"3 classes have fewer than 10 clips",
        r"strongly unbalanced: 1 class has more than 10 times .*squats \(41\)",
        r"1 class is spelled in several ways.*Squats = squats",
        r"Nobody says who is in 1 of 45 clips",
        r"2 classes are shown by one person only.*Squats \(1\)",
        r"1 clip is shorter than 1 s.*0\.40 s",
        r"1 clip is longer than 30 s.*90\.00 s",
        r"1 clip is very narrow or very wide.*300 x 40",
        r"44 clips are smaller than 224 pixels",
        r"1 answer has more than 150 words.*400 words",
        r"3 clips were left out.*sharpness \.\.\. is below 50: 3",
        r"The clips were not cleaned",
    ):
        assert re.search(expected, text), expected
    assert "In no split 3 clips, by reason" in Page(html).text
    assert "not in val and test" in Page(html).text


def test_a_sound_dataset_raises_no_alarm(make_splits):
    clips = [
        {
            "person": f"{split} {n % 3}",
            "split": split,
            "labels": [f"{name} - finding {n}"],
            "path": f"{split}_{name}_{n}.mp4",
        }
        for split, number in (("train", 9), ("val", 3), ("test", 3))
        for n in range(number)
        for name in ("squats", "lunges")
    ]
    dataset, output = make_splits([clip | {"size": (256, 224 + 2 * n)} for n, clip in enumerate(clips)])
    write_cleaned(output, Cleaned([clip["path"] for clip in clips]))
    _, concerns, html = seen(dataset, output)
    assert told(concerns) == ""
    assert "Nothing stands out." in html


def test_derived_clips_count_in_train_and_not_in_the_shares(make_splits):
    clips = [{"path": f"{split}{n}.mp4", "split": split, "person": split} for split in SPLITS for n in range(5)]
    copies = [{"path": f"train{n}_copy.mp4", "person": "train"} for n in range(5)]
    sources = {f"train{n}_copy.mp4": {"class": "squats", "source": f"./train{n}.mp4"} for n in range(5)}
    dataset, output = make_splits([*clips, *copies], sources)
    write_cleaned(output, Cleaned([clip["path"] for clip in clips]))
    overview, concerns, html = seen(dataset, output)
    assert overview.classes[0].clips == (10, 5, 5)
    assert overview.classes[0].originals == (5, 5, 5)
    assert not overview.classes[0].uneven
    assert "came after cleaning" not in told(concerns)
    assert Page(html).text.count("33.3 %") == 3


def test_empty_splits_unknown_people_and_what_cleaning_rejected(make_splits):
    dataset, output = make_splits([{}, {}, {}])
    write_cleaned(output, Cleaned(["short_clips/0.mp4"], {"short_clips/1.mp4": ["too dark (12 is below 35)"]}))
    _, concerns, html = seen(dataset, output)
    text = told(concerns)
    assert "! val and test are empty." in text
    assert "! Nobody says who is in the clips." in text
    assert "! 1 clip that cleaning rejected is still in the splits" in text
    assert "1 clip came after cleaning" in text
    assert "Rejected by cleaning 1 of 2 clips, by reason" in Page(html).text
    assert "too dark (12 is below 35)" in html


def test_the_splits_asked_for_and_a_label_file_that_changed(make_splits):
    dataset, output = make_splits([{"split": s, "person": s} for s in ("train", "val", "test")])
    label_file = dataset / "ground_truth.json"
    label_file.write_text("[]")
    summary = {"label_file": str(label_file), "ratios": [0.6, 0.2, 0.2], "seed": 1}
    (output / "qevd_fit_300k_summary.json").write_text(json.dumps(summary))
    os.utime(label_file, (1, 1))
    _, concerns, _ = seen(dataset, output)
    assert "33 % / 33 % / 33 % of the clips; 60 % / 20 % / 20 % were asked for" in told(concerns)
    assert "newer" not in told(concerns)
    for file in output.glob("*.jsonl"):
        os.utime(file, (2, 2))
    os.utime(label_file, (3, 3))
    _, concerns, _ = seen(dataset, output)
    assert "ground_truth.json is newer than the splits" in told(concerns)


HOSTILE = "</pre></script><script>document.title='x'</script>\"'><img src=x onerror=alert(1)> {{ 7*7 }} $x^2$"


def test_hostile_text_is_shown_and_not_run(make_splits):
    clip = {"labels": [f"{HOSTILE} - {HOSTILE}"], "answer": HOSTILE, "person": HOSTILE}
    strange = {"labels": ["تمرين الضغط - جيد"], "answer": "🏋️ \u202eback", "split": "val", "person": "x\ty\nz"}
    outside = {"path": "../../etc/passwd.mp4", "write": False, "split": "test", "person": "<b>"}
    dataset, output = make_splits([clip, strange, outside])
    (output / "qevd_fit_300k_skipped.jsonl").write_text(json.dumps({"video": HOSTILE, "reason": HOSTILE}) + "\n")
    assert command.main(["--dataset-dir", str(dataset), "--output-dir", str(output)]) == 0
    html = Page((output / "dataset_report.html").read_text(encoding="utf-8"))
    assert [tag for tag, _ in html.elements].count("script") == 1
    assert [tag for tag, _ in html.elements].count("pre") == 1
    assert all(attrs.get("src", "").startswith("data:") for tag, attrs in html.elements if tag == "img")
    assert not any(name.startswith("on") for _, attrs in html.elements for name in attrs)
    assert " ".join(HOSTILE.split()) in html.text
    assert "تمرين الضغط" in html.text
    assert "is not a path inside the dataset folder" in html.text
    assert cv2.imread(str(output / "dataset_overview.png")).shape == (1000, 1600, 3)


def test_the_page_needs_nothing_but_itself_and_is_the_same_each_time(make_splits):
    dataset, output = make_splits([{"split": s, "person": s} for s in ("train", "train", "val", "test")])
    arguments = ["--dataset-dir", str(dataset), "--output-dir", str(output), "--report"]
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        assert command.main([*arguments, str(output / name), "--seed", seed, "--clips", "2"]) == 0
    html = (output / "a" / "dataset_report.html").read_text(encoding="utf-8")
    for tag, attrs in Page(html).elements:
        assert tag not in ("link", "iframe", "object", "base")
        for name in ("src", "href", "action"):
            assert attrs.get(name, "#").startswith(("#", "data:image/jpeg"))
    assert "url(" not in html
    assert "@import" not in html
    assert html.count("<article") == 2
    for name in ("dataset_report.html", "dataset_overview.png"):
        assert (output / "a" / name).read_bytes() == (output / "b" / name).read_bytes()
    assert html != (output / "c" / "dataset_report.html").read_text(encoding="utf-8")


def test_unreadable_samples_are_shown_as_such(make_splits):
    dataset, output = make_splits([{"split": s, "person": s} for s in ("train", "val", "test")])
    (dataset / "short_clips/0.mp4").write_bytes(b"")
    cut = dataset / "short_clips/1.mp4"
    cut.write_bytes(cut.read_bytes()[:-300])
    overview, concerns, html = seen(dataset, output)
    assert set(overview.measured.bad) == {"short_clips/0.mp4", "short_clips/1.mp4"}
    assert "! 2 clips do not open." in told(concerns)
    assert html.count('class="unreadable"') == 2
    assert "cannot be shown: is empty (0 bytes)" in Page(html).text
    assert html.count("<img") == 1


def test_a_strip_shows_six_frames_in_order(make_splits, frame_numbers):
    dataset, output = make_splits([{"person": "a"}])
    _, clips = read_overview(dataset, output, 0)
    (strip,) = read_strips(dataset, choose(clips, 5, 0))
    assert strip.frames.shape == (6, 96, 128, 3)
    assert frame_numbers(strip.frames) == [0, 1, 2, 3, 4, 4]


def test_samples_are_of_all_splits_and_do_not_depend_on_order(make_splits):
    exercises = [f"exercise {n}" for n in range(12)]
    clips = [
        {"labels": [f"{exercise} - ok"], "split": split, "path": f"{exercise}{split}{n}.mp4", "write": False}
        for exercise in exercises
        for split, number in (("train", 6), ("val", 2), ("test", 2))
        for n in range(number)
    ]
    _, found = read_overview(*make_splits(clips), 0)
    chosen = choose(found, 12, 3)
    assert chosen == choose(found[::-1], 12, 3)
    assert {clip.exercise for clip in chosen} == set(exercises)
    assert {clip.split for clip in chosen} == {"train", "val", "test"}
    assert len(choose(found, 1000, 3)) == 36  # three of each
    assert len(choose(found, 5, 3)) == 5
    assert choose(found, 0, 3) == []


def test_a_thousand_classes_stay_complete_and_light(make_splits):
    clips = [{"labels": [f"class {n // 2} - ok"], "write": False, "path": f"{n}.mp4"} for n in range(2000)]
    clips[0]["labels"] = ["two\tlines\nand a " + "very long name " * 50 + "- ok"]
    dataset, output = make_splits(clips)
    overview, _, html = seen(dataset, output, 5)
    assert html.count("<tr><th") < 300
    lines = re.search(r'<pre id="class-data">(.*?)</pre>', html, re.DOTALL).group(1).splitlines()
    assert len(lines) == 1 + len(overview.classes) == 1002
    assert all(line.count("\t") == 7 for line in lines)
    assert "and 801 more" in html


@pytest.mark.parametrize(
    ("values", "whole"),
    [([3.2, 4.1, 4.15, 7.9], False), ([1, 2, 2, 3, 900], True), ([5.0] * 9, False), ([0], True), (range(1000), True)],
)
def test_histograms_count_every_value_once(values, whole):
    found = histogram({"train": list(values), "val": []}, whole)
    assert sum(found.counts["train"]) == len(values)
    assert sum(found.counts["val"]) == 0
    assert len(found.counts["train"]) == len(found.bins) <= 30
    assert np.allclose(np.diff(found.edges), found.edges[1] - found.edges[0])
    low, high = found.bins[0][0], found.bins[-1][1]
    assert low <= min(values)
    assert found.more == sum(value > high for value in values)


def test_reasons_that_differ_in_numbers_and_paths_are_one():
    given = ["too dark (12.5 is below 35)", "too dark (9 is below 35)", "is derived from a/b.mp4, which is in val"]
    assert reasons([*given, "no such file", "is derived from c.mp4, which is in val", "no such file"]) == [
        ("is derived from ..., which is in val", 2),
        ("no such file", 2),
        ("too dark (... is below 35)", 2),
    ]


def test_missing_splits_say_what_to_run(tmp_path, make_splits):
    with pytest.raises(UserError, match=r"qevd_fit_300k_train\.jsonl: no such file.*scripts/initialize_dataset\.sh"):
        command.main(["--dataset-dir", str(tmp_path), "--output-dir", str(tmp_path / "none")])
    _, output = make_splits([{}])
    with pytest.raises(UserError, match="no such folder"):
        command.main(["--dataset-dir", str(tmp_path / "gone"), "--output-dir", str(output)])
    (output / "qevd_fit_300k_val.jsonl").write_text("{\n")
    with pytest.raises(UserError, match=r"qevd_fit_300k_val\.jsonl: is not JSON"):
        command.main(["--dataset-dir", str(tmp_path / "dataset"), "--output-dir", str(output)])


@pytest.mark.parametrize("arguments", [["--clips", "-1"], ["--clips", "many"], ["--output-dir", "none"], ["--wrong"]])
def test_mistakes_on_the_command_line_are_one_line(arguments, tmp_path):
    asked = [sys.executable, str(COMMAND), *arguments]
    ended = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_sorts_and_filters_and_runs_nothing_else(make_splits, tmp_path):
    names = [*(f"class {n}" for n in range(40)), HOSTILE.replace(" - ", " ")]
    clips = [{"labels": [f"{name} - ok"], "write": False, "path": f"{n}.mp4"} for n, name in enumerate(names)]
    dataset, output = make_splits([{"answer": HOSTILE}, *clips])
    command.main(["--dataset-dir", str(dataset), "--output-dir", str(output), "--clips", "3"])
    page_file = output / "dataset_report.html"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--dump-dom"]
    flags.append(f"--user-data-dir={tmp_path / 'browser'}")
    shown = subprocess.run([CHROMIUM, *flags, page_file.as_uri()], capture_output=True, text=True, check=True).stdout
    assert "<title>Dataset report: " in shown  # the hostile script would have changed it
    assert 'aria-sort="descending"' in shown
    assert "show 17 more of 17" in shown
    assert "3 of 3" in shown
