"""Clips from the hub, here a stand-in on the loopback interface: choice, resumption, limits and refusals.

huggingface_hub reads its environment when it is imported, so that the command runs in processes of its own.
"""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from hub_stub import HubStub

from formcoach.data import hub_requests
from formcoach.data.selection import Wanted, classes_of, select

COMMAND = Path(__file__).resolve().parents[2] / "utils" / "load_dataset.py"
REPO = "org/clips"
CLIPS = {
    f"{name}/{number}.mp4": f"{name} {number} ".encode() * 500 for name in ("squats", "push_ups") for number in range(6)
}


def folder_of(root, files):
    for path, content in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(content)
    return root


def labels_for(paths, exercise="lunges", **fields):
    records = [{"video_path": path, "labels": [f"{exercise} - correct form"], **fields} for path in paths]
    return json.dumps(records).encode()


@pytest.fixture
def hub():
    with HubStub() as stub:
        yield stub


@pytest.fixture
def publish(hub, tmp_path):
    """Serves files as a new commit of the repository."""

    def publish(files, *revisions, repo=REPO, **options):
        folder = tmp_path / "published"
        shutil.rmtree(folder, ignore_errors=True)
        return hub.publish(repo, folder_of(folder, files), *(revisions or ("main",)), kind="dataset", **options)

    return publish


@pytest.fixture
def load(hub, tmp_path):
    """Runs the command, as a user would, and returns what it says."""

    def load(*arguments, code=0, **environment):
        done = subprocess.run(
            [sys.executable, str(COMMAND), "--repo", REPO, "--dataset-dir", "dataset", *arguments],
            env=hub.environment(tmp_path, **environment),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return load


def error_of(done):
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def clips_in(dataset):
    return {str(path.relative_to(dataset)): path.read_bytes() for path in dataset.rglob("*.mp4")}


def manifest_of(dataset):
    return json.loads((dataset / "manifest.json").read_text())


def test_all_of_a_repository_arrives_with_its_labels(publish, load, hub, tmp_path):
    labels = labels_for(CLIPS, "squats")
    commit = publish(CLIPS | {"fine_grained_labels.json": labels, "README.md": b"# clips", "x.py": b"raise SystemExit"})
    done = load()
    dataset = tmp_path / "dataset"
    assert clips_in(dataset) == CLIPS
    assert (dataset / "fine_grained_labels.json").read_bytes() == labels
    assert manifest_of(dataset) == {path: path.split("/")[0] for path in CLIPS}
    [download] = json.loads((dataset / "download.json").read_text())["downloads"]
    assert (download["repo"], download["commit"], download["complete"]) == (REPO, commit, True)
    assert download["files"] == {
        path: {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for path, content in (CLIPS | {"fine_grained_labels.json": labels}).items()
    }
    assert {path.name for path in dataset.iterdir()} == {
        ".formcoach", "download.json", "fine_grained_labels.json", "manifest.json", "push_ups", "squats",
    }  # fmt: skip
    assert not (dataset / ".formcoach" / "download").exists()
    assert "12 clips in 2 classes" in done.stdout
    assert "13 files, " in done.stdout
    hub.asked.clear()
    before = {path: (dataset / path).stat() for path in ("manifest.json", *CLIPS)}
    assert "0 files, 0.0 kB came" in load().stdout
    assert hub.files_asked() == []
    assert {path: (dataset / path).stat() for path in before} == before


def test_a_choice_depends_on_the_seed_only_and_a_larger_one_contains_it():
    paths = [f"{name}/{number}.mp4" for name in "abc" for number in range(50)]
    few = select(paths, {}, Wanted(5, seed=1))
    assert few == select(paths[::-1], {}, Wanted(5, seed=1))
    assert few.counts == dict.fromkeys("abc", 5)
    assert few.clips.items() < select(paths, {}, Wanted(9, seed=1)).clips.items()
    assert few.clips != select(paths, {}, Wanted(5, seed=2)).clips
    fewer_listed = [path for path in paths if path in few.clips or path.endswith("7.mp4")]
    assert select(fewer_listed, {}, Wanted(5, seed=1)).clips == few.clips
    assert select(paths, {}, Wanted(500)).counts == dict.fromkeys("abc", 50)


@pytest.mark.parametrize(
    ("paths", "exercises", "expected"),
    [
        (["squats/1.mp4", "push_ups/a/2.mp4"], {}, ["squats", "push_ups"]),
        (["squats/1.mp4", "squats/2.mp4"], {"squats/2.mp4": "deep squats"}, ["squats", "deep squats"]),
        (["short_clips/1.mp4", "short_clips/2.mp4"], {"short_clips/2.mp4": "lunges"}, ["", "lunges"]),
        (["1.mp4", "squats/2.mp4"], {}, ["", "squats"]),
        (["QEVD-Part-1/short_clips/1.mp4", "QEVD-Part-2/short_clips/2.mp4"], {}, ["", ""]),
        (["all/train/squats/1.mp4", "all/test/lunges/2.mp4"], {}, ["squats", "lunges"]),
    ],
)
def test_the_class_is_the_folder_or_what_the_label_says(paths, exercises, expected):
    assert [*classes_of(paths, exercises).values()] == expected


def test_so_many_clips_a_class_and_later_more(publish, load, hub, tmp_path):
    publish(CLIPS)
    hub.page = 5  # the list comes in pages
    load("--videos-per-class", "2", "--classes", "Push ups, squats")
    dataset = tmp_path / "dataset"
    few = clips_in(dataset)
    assert sorted(path.split("/")[0] for path in few) == ["push_ups"] * 2 + ["squats"] * 2
    hub.asked.clear()
    load("--videos-per-class", "4")
    assert few.items() < clips_in(dataset).items()
    assert len(hub.files_asked()) == 4
    assert sorted(manifest_of(dataset)) == sorted(clips_in(dataset))


def test_clips_of_one_folder_are_classed_by_their_labels(publish, load, tmp_path):
    clips = {f"videos/{number}.mp4": bytes([number]) * 100 for number in range(6)}
    records = json.loads(labels_for(["./0.mp4", "./1.mp4", "./2.mp4", "gone.mp4"], "squats"))
    records += json.loads(labels_for(["videos/3.mp4", "4.mp4"], "lunges"))
    publish(clips | {"labels/fine_grained_labels.json": json.dumps(records).encode()})
    done = load("--videos-per-class", "2")
    assert sorted(manifest_of(tmp_path / "dataset").values()) == ["lunges"] * 2 + ["squats"] * 2
    assert (tmp_path / "dataset" / "fine_grained_labels.json").is_file()
    assert "notice: 1 clips are in no class's folder and have no label; left out" in done.stderr
    assert "notice: 1 clips that labels name are not there" in done.stderr


def test_entries_of_other_clips_and_corrections_stay_in_the_manifest(publish, load, tmp_path):
    publish(CLIPS)
    load("--videos-per-class", "1")
    dataset = tmp_path / "dataset"
    first = min(manifest_of(dataset))
    derived = {"class": "squats", "source": "squats/1.mp4", "augmentations": {"flip": 1.0}}
    entries = {"mine/1.mp4": "mine", "squats/1_flip.mp4": derived, f"./{first}": "corrected"}
    others = {path: name for path, name in manifest_of(dataset).items() if path != first}
    (dataset / "manifest.json").write_text(json.dumps(others | entries))
    (dataset / "squats").mkdir(exist_ok=True)
    load("--videos-per-class", "6")
    expected = {path: path.split("/")[0] for path in CLIPS} | {first: "corrected"}
    assert manifest_of(dataset) == expected | {name: entries[name] for name in ("mine/1.mp4", "squats/1_flip.mp4")}


def test_a_dry_run_writes_nothing(publish, load, tmp_path):
    publish(CLIPS | {"fine_grained_labels.json": labels_for(CLIPS)})
    done = load("--dry-run", "--videos-per-class", "3")
    assert "7 files, " in done.stdout
    assert "6 clips in 2 classes" in done.stdout
    assert not (tmp_path / "dataset").exists()


def test_rate_limits_are_waited_out_as_the_server_asks(publish, load, hub, tmp_path):
    publish(CLIPS)
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=3), usegmt=True)
    hub.instead = {
        "revision": [(429, {"Retry-After": "1"})],
        "squats/1.mp4": [(429, {"Retry-After": soon})],
        "squats/2.mp4": [(429, {"RateLimit": '"resolvers";r=0;t=1', "Retry-After": "500"})],
    }
    began = time.monotonic()
    done = load()
    assert 3 < time.monotonic() - began < 400  # not the 500 seconds
    assert clips_in(tmp_path / "dataset") == CLIPS
    told = [line for line in done.stderr.splitlines() if "the hub limits how often it is asked; going on in" in line]
    assert 2 <= len(told) <= 3
    assert "going on in 1 s" in told[0]


def test_what_breaks_off_goes_on_where_it_was(publish, load, hub, tmp_path):
    publish(CLIPS)
    hub.breaks = {"squats/1.mp4": 1, "push_ups/0.mp4": 1}
    hub.instead = {"squats/3.mp4": [(503, {}), (500, {})]}
    done = load("--workers", "2")
    assert clips_in(tmp_path / "dataset") == CLIPS
    assert "the hub answers with HTTP 503; going on in 1 s" in done.stderr


def test_what_cannot_be_had_is_named_and_comes_the_next_time(publish, load, hub, tmp_path, monkeypatch):
    publish(CLIPS)
    hub.instead = {"squats/1.mp4": [(404, {"X-Error-Code": "EntryNotFound"})], "squats/2.mp4": [(418, {})]}
    done = load(code=2)
    assert error_of(done) == (
        "error: 2 files are missing, first squats/1.mp4: it is not on the hub any more. Run this again"
    )
    assert "notice: squats/2.mp4: the hub answers with HTTP 418" in done.stderr
    dataset = tmp_path / "dataset"
    assert sorted(manifest_of(dataset)) == sorted(clips_in(dataset)) == sorted(CLIPS.keys() - hub.instead.keys())
    load()
    assert clips_in(dataset) == CLIPS
    assert sorted(manifest_of(dataset)) == sorted(CLIPS)


def test_other_content_than_listed_is_refused(publish, load, hub, tmp_path):
    commit = publish(CLIPS)
    hub.altered = {"squats/1.mp4": b"?" * len(CLIPS["squats/1.mp4"])}
    done = load(code=2)
    assert "squats/1.mp4: it arrives with another content than the hub lists" in error_of(done)
    assert not (tmp_path / "dataset" / "squats" / "1.mp4").exists()
    assert commit in (tmp_path / "dataset" / "download.json").read_text()


def start(hub, tmp_path, *arguments):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit that it is ignored
    return subprocess.Popen(
        [sys.executable, str(COMMAND), "--repo", REPO, "--dataset-dir", "dataset", *arguments],
        env=hub.environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_download_is_completed_from_the_same_commit(publish, load, hub, tmp_path):
    first = publish(CLIPS)
    hub.held = {"squats/3.mp4"}
    process = start(hub, tmp_path, "--workers", "1")
    store = tmp_path / "dataset" / ".formcoach" / "download"
    wait_for(lambda: store.is_dir() and held(hub) and any(file.stat().st_size for file in store.iterdir()))
    process.kill()
    process.communicate()
    hub.held.clear()
    publish({path: content + b"newer" for path, content in CLIPS.items()})
    hub.asked.clear()
    done = load()
    dataset = tmp_path / "dataset"
    assert clips_in(dataset) == CLIPS
    assert manifest_of(dataset) == {path: path.split("/")[0] for path in CLIPS}
    assert f"going on with commit {first[:12]}" in done.stderr
    assert len(hub.files_asked()) < len(CLIPS)  # what was complete is kept
    assert "something else is there already, and so it is with 11 more" in error_of(load(code=2))
    assert clips_in(dataset) == CLIPS
    load("--overwrite")
    assert clips_in(dataset) == {path: content + b"newer" for path, content in CLIPS.items()}


def held(hub):
    return any(path.endswith("squats/3.mp4") for _, path in hub.asked)


def test_an_interrupted_download_leaves_a_true_manifest(publish, hub, tmp_path):
    publish(CLIPS)
    hub.held = {"squats/3.mp4"}
    process = start(hub, tmp_path, "--workers", "1")
    dataset = tmp_path / "dataset"
    wait_for(lambda: held(hub) and len(list(dataset.rglob("*.mp4"))) == 9)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 2
    assert "error: interrupted" in errors
    assert sorted(manifest_of(dataset)) == sorted(clips_in(dataset))


def test_two_at_once_do_not_mix(publish, load, hub, tmp_path):
    publish(CLIPS)
    hub.held = {"squats/3.mp4"}
    process = start(hub, tmp_path)
    wait_for(lambda: held(hub))
    assert error_of(load(code=2)) == "error: dataset: another process is loading clips into it; wait until it has ended"
    hub.held.clear()
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert clips_in(tmp_path / "dataset") == CLIPS


def test_a_file_of_ones_own_is_never_replaced_untold(publish, load, tmp_path):
    publish(CLIPS)
    own = tmp_path / "dataset" / "squats" / "1.mp4"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    assert error_of(load(code=2)).startswith(
        "error: dataset/squats/1.mp4: something else is there already; move it away"
    )
    assert own.read_bytes() == b"mine"
    assert len(clips_in(tmp_path / "dataset")) == 1  # nothing came
    own.write_bytes(CLIPS["squats/1.mp4"][:-1] + b"!")  # same size
    assert "something else" in error_of(load(code=2))
    own.write_bytes(b"")  # nothing to lose
    load()
    assert clips_in(tmp_path / "dataset") == CLIPS


def test_labels_that_were_repaired_here_stay(publish, load, tmp_path):
    publish(CLIPS | {"fine_grained_labels.json": labels_for(CLIPS)})
    load("--videos-per-class", "1")
    labels = tmp_path / "dataset" / "fine_grained_labels.json"
    labels.write_bytes(labels_for([*CLIPS][:3]))
    done = load("--videos-per-class", "2")
    assert labels.read_bytes() == labels_for([*CLIPS][:3])
    assert "notice: dataset/fine_grained_labels.json was changed since it came and stays" in done.stderr


@pytest.mark.parametrize(
    "name", ["../x.mp4", "/etc/x.mp4", "a/../../x.mp4", "C:/x.mp4", "a\\x.mp4", "a//x.mp4", "\x1b[2J.mp4"]
)
def test_a_list_with_a_hostile_name_is_refused_before_anything_is_written(publish, load, hub, tmp_path, name):
    commit = publish(CLIPS)
    hub.repos["dataset", REPO].commits[commit][name] = b"hostile"
    done = load(code=2)
    assert "nothing was downloaded" in error_of(done)
    assert "\x1b" not in done.stderr
    assert not (tmp_path / "dataset").exists()


def test_a_list_that_goes_on_elsewhere_is_not_followed(publish, load, hub, tmp_path):
    publish(CLIPS)
    hub.page, hub.next_page = 3, "http://192.0.2.1/api/datasets/org/clips/tree/main"
    assert "goes on at another server (192.0.2.1)" in error_of(load(code=2, HF_TOKEN="secret"))
    hub.next_page = f"{hub.endpoint}/api/datasets/{REPO}/tree/main?cursor=3"
    assert "leads back to itself" in error_of(load(code=2))


def test_files_elsewhere_are_fetched_without_the_token(publish, load, hub, tmp_path):
    publish(CLIPS)
    with HubStub() as elsewhere:
        elsewhere.repos = hub.repos
        hub.elsewhere = elsewhere.endpoint
        load(HF_TOKEN="hf_secret")
        assert clips_in(tmp_path / "dataset") == CLIPS
        assert "Bearer hf_secret" in hub.tokens
        assert elsewhere.tokens == {None}


def test_refusals_are_told_in_one_line(publish, load, hub, tmp_path):
    publish(CLIPS)
    publish(CLIPS, repo="org/gated", gated=True)
    assert "org/none: there is no such dataset on the hub" in error_of(load("--repo", "org/none", code=2))
    assert "org/gated: access is restricted; ask for it" in error_of(load("--repo", "org/gated", code=2))
    assert "org/clips: it has no revision v9" in error_of(load("--revision", "v9", code=2))
    assert "the hub has no ids like this" in error_of(load("--repo", "a b/c/d", code=2))
    assert "HF_HUB_OFFLINE is set" in error_of(load(code=2, HF_HUB_OFFLINE="1"))
    assert "did you mean: squats?" in error_of(load("--classes", "squat", code=2))
    publish({"README.md": b"no clips"})
    assert "has no clips" in error_of(load(code=2))
    publish({"videos/1.mp4": b"1", "2.mp4": b"2"})
    assert "2 of 2 clips lie in no class's folder" in error_of(load(code=2))
    (tmp_path / "file").touch()
    assert "file: is a file; name a folder with --dataset-dir" in error_of(load("--dataset-dir", "file", code=2))
    hub.stop()
    assert f"the hub cannot be reached at {hub.endpoint}" in error_of(load(code=2))
    assert not (tmp_path / "dataset" / "manifest.json").exists()


@pytest.mark.slow
def test_a_hub_that_dies_in_the_middle_is_given_up(publish, hub, tmp_path):
    publish(CLIPS)
    hub.held = {path for path in CLIPS if path.startswith("squats")}
    process = start(hub, tmp_path, "--workers", "2")
    wait_for(lambda: held(hub) or any("squats" in path for _, path in hub.asked if "/resolve/" in path))
    hub.broken = set(CLIPS)
    hub.stop()
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 2
    assert "the hub does not answer any more; run this again later" in errors
    dataset = tmp_path / "dataset"
    assert sorted(manifest_of(dataset)) == sorted(clips_in(dataset))


def test_wrong_arguments(load):
    for arguments, message in [
        (["--videos-per-class", "0"], "'0' is not a whole number from 1 up"),
        (["--classes", " , "], "names no class"),
        (["--workers", "-1"], "not a whole number"),
        (["--copy"], "--copy is for --from-dir"),
        (["--from-dir", "x"], "--from-dir takes a folder"),
        (["--from-dir", ".", "--workers", "2"], "--from-dir takes a folder"),
        (["--surplus"], "unrecognized arguments"),
    ]:
        assert message in error_of(load(*arguments, code=2))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "import shutil, types; shutil.disk_usage = lambda _: types.SimpleNamespace(free=1000)",
            r"error: dataset: 60.0 kB are needed and 1.0 kB are free; free some, choose fewer clips",
        ),
        (
            "import formcoach.data.hub_dataset as it\n"
            "put = it._put\n"
            "def full(partial, target):\n"
            "    if target.name == '3.mp4':\n"
            "        raise OSError(28, 'No space left on device', str(target))\n"
            "    put(partial, target)\n"
            "it._put = full",
            r"error: no space left on the disk of dataset/\w+/3.mp4; free some and run this again",
        ),
    ],
    ids=["beforehand", "meanwhile"],
)
def test_a_disk_that_is_too_small(publish, hub, load, tmp_path, fault, message):
    publish(CLIPS)
    code = f"{fault}\nimport runpy, sys; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(COMMAND), "--repo", REPO, "--dataset-dir", "dataset"]
    environment = hub.environment(tmp_path)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert re.search(message, error_of(done))
    dataset = tmp_path / "dataset"
    arrived = clips_in(dataset)
    assert len(arrived) < len(CLIPS)
    assert not arrived or sorted(manifest_of(dataset)) == sorted(arrived)
    load()
    assert clips_in(dataset) == CLIPS


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"ratelimit": '"api";r=0;t=55'}, 56),
        ({"ratelimit": '"api";r=9;t=55', "Retry-After": "3"}, 3),
    ],
)
def test_what_a_server_may_ask(headers, seconds):
    assert hub_requests.asked_pause(headers) == seconds
