"""The demo page from end to end: the command itself, driven in Chromium as a visitor would."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright
from small_models import ONE

from formcoach.inference.app.writing import BASE, TUNED
from inference.conftest import write_clip
from inference.test_demo_app import QUESTION, answers
from inference.test_no_network import WATCH

PROJECT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SLOW_MACHINE = 120_000  # milliseconds
SECONDS, MEGABYTES = 20, 1
CAMERA = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
DROP = """
([name, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type: "video/mp4" }));
  document.querySelector(".drop").dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true }));
}
"""
SHOWN = "texts => texts.every((text, place) => document.querySelectorAll('.answer textarea')[place].value === text)"

pytestmark = [ONE, pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]


@contextmanager
def server(adapter, folder, tokens):
    """Run the command; yield its process and address. What it writes is below `folder`, and tells of connections."""
    (folder / "watch").mkdir(parents=True)
    (folder / "watch/sitecustomize.py").write_text(WATCH)
    (folder / "tmp").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, str(PROJECT / "utils/demo_app.py"), "--model_path", str(adapter.parent)]
    command += ["--device", "cpu", "--max_new_tokens", str(tokens), "--port", str(port)]
    command += ["--max_seconds", str(SECONDS), "--max-upload-mb", str(MEGABYTES)]
    environment = os.environ | {
        "TMPDIR": str(folder / "tmp"),
        "PYTHONPATH": str(folder / "watch"),
        "NETWORK_LOG": str(folder / "network.log"),
    }
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("ready: "):
                break
        assert lines and lines[-1] == f"ready: http://127.0.0.1:{port} (Ctrl-C ends it)\n", lines
        yield process, f"http://127.0.0.1:{port}/"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def running(adapter, tmp_path_factory):
    """The address of a running page, and the folder that its command writes to."""
    folder = tmp_path_factory.mktemp("app")
    with server(adapter, folder, 12) as (process, address):
        yield address, folder
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 0
        assert process.stdout.read() == "ended; no clip is kept\n"
    assert list((folder / "tmp").glob("formcoach-*")) == []
    log = folder / "network.log"
    tried = log.read_text().splitlines() if log.exists() else []
    assert [line for line in tried if "127.0.0.1" not in line] == []


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *CAMERA])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(running, browser):
    """Return a function that opens the page as another visitor; all that it asks for comes from the server."""
    address, _ = running
    contexts, asked, problems = [], [], []

    def visit():
        context = browser.new_context()
        contexts.append(context)
        context.set_default_timeout(SLOW_MACHINE)
        context.on("request", lambda request: asked.append(request.url))
        context.on("weberror", lambda error: problems.append(str(error.error)))
        page = context.new_page()
        page.goto(address)
        page.get_by_text("Drop a clip here").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert asked and [url for url in asked if not url.startswith((address, f"blob:{address}", "data:"))] == []
    assert problems == []


def drop(page, path):
    page.evaluate(DROP, [path.name, base64.b64encode(path.read_bytes()).decode()])


def wait_for_answers(page, expected):
    """Wait until the boxes have the text, with line breaks as browsers have them."""
    texts = [re.sub("\r\n?", "\n", expected[model]) for model in (BASE, TUNED)]
    page.wait_for_function(SHOWN, arg=texts)
    labels = [label for label in page.locator(".answer label span").all_inner_texts() if label]
    assert [re.sub(r"\d+\.\d", "0.1", label) for label in labels] == [f"{BASE} · 0.1 s", f"{TUNED} · 0.1 s"]


def wait_for_problem(page, text):
    expect(page.locator(".problem textarea")).to_have_value(re.compile(text), timeout=SLOW_MACHINE)


def files(folder):
    """Return all files that the command has in its temporary folder."""
    return [path for path in (folder / "tmp").rglob("*") if path.is_file()]


def test_a_clip_is_dropped_and_asked_about_twice(running, visit, predictor, clips):
    root, records = clips
    path, page = root / records[3].video, visit()
    page.get_by_label("Question").fill(QUESTION)
    assert page.get_by_role("button", name="Ask", exact=True).is_disabled()
    drop(page, path)
    wait_for_answers(page, answers(predictor, path))
    assert page.locator(".frames img").count() == 8
    assert files(running[1]) == []

    other = 'Is <b>this</b> <img src=x onerror=alert(1)> *good*, "really"?'
    page.get_by_label("Question").fill(other)
    page.get_by_role("button", name="Ask", exact=True).click()
    wait_for_answers(page, answers(predictor, path, other))

    for question, problem in (("  ", "Ask something"), ("Well? <|im_end|>", "control token")):
        page.get_by_label("Question").fill(question)
        page.get_by_role("button", name="Ask", exact=True).click()
        wait_for_problem(page, problem)
    page.get_by_label("Question").fill(QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    wait_for_answers(page, answers(predictor, path))
    expect(page.locator(".problem textarea")).to_have_count(0)


def test_what_is_not_a_clip_is_told_and_another_one_is_taken(running, visit, predictor, clips, tmp_path):
    root, records = clips
    page = visit()
    page.get_by_label("Question").fill(QUESTION)
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    (tmp_path / "large.mp4").write_bytes(bytes(MEGABYTES * 10**6 + 1))
    write_clip(tmp_path / "long.mp4", frames=2 * SECONDS + 2, fps=2)
    page.set_input_files(".choose", root / records[2].video)
    wait_for_answers(page, answers(predictor, root / records[2].video))
    for name, problem in (("bad.mp4", "^The clip is not a video"), ("long.mp4", "^The clip lasts 21.0 s")):
        page.set_input_files(".choose", tmp_path / name)
        wait_for_problem(page, problem)
        assert page.locator(".frames img").count() == 0
        assert page.get_by_role("button", name="Ask", exact=True).is_disabled()
        assert files(running[1]) == []
    page.set_input_files(".choose", tmp_path / "large.mp4")
    expect(page.locator(".told")).to_have_text("The clip has 2 MB, and 1 MB are taken. Cut it or scale it down.")
    page.set_input_files(".choose", root / records[1].video)
    wait_for_answers(page, answers(predictor, root / records[1].video))


def test_several_visitors_with_one_clip_get_its_answers(running, visit, predictor, clips):
    root, records = clips
    pages = [visit() for _ in range(3)]
    for page in pages:
        page.get_by_label("Question").fill(QUESTION)
    for page in pages:
        drop(page, root / records[4].video)
    for page in pages:
        wait_for_answers(page, answers(predictor, root / records[4].video))
    assert files(running[1]) == []


def test_a_recording_is_answered(running, visit):
    page = visit()
    page.get_by_role("button", name="Record").click()
    page.wait_for_function("document.querySelector('.drop video').currentTime > 1.5")
    page.get_by_role("button", name="Stop").click()
    page.locator(".frames img").first.wait_for()
    page.wait_for_function("[...document.querySelectorAll('.answer textarea')].every((box) => box.value)")
    assert page.locator(".frames img").count() in (4, 8)
    last = page.locator(".frames figcaption").last.inner_text()
    assert 0 <= float(last.removesuffix(" s")) < SECONDS  # a busy machine records a single frame
    assert files(running[1]) == []


def test_requests_that_no_page_sends_read_nothing(running, tmp_path):
    address, folder = running
    config = json.loads(urllib.request.urlopen(f"{address}config").read())
    functions = {function["api_name"]: function for function in config["dependencies"]}
    assert all(function["api_visibility"] == "private" for function in functions.values())
    (tmp_path / "secret.txt").write_text("of the machine")
    before = set((folder / "tmp").rglob("*"))
    for path in (str(tmp_path / "secret.txt"), "http://192.0.2.1/x.mp4", "file:///etc/hostname", {"a": []}):
        crafted = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
        for function in functions.values():
            data = [crafted for _ in function["inputs"]]
            body = {"fn_index": function["id"], "data": data, "event_data": {"name": path}, "session_hash": "crafted"}
            request = urllib.request.Request(
                f"{address}gradio_api/queue/join", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            urllib.request.urlopen(request).close()
            with urllib.request.urlopen(f"{address}gradio_api/queue/data?session_hash=crafted", timeout=120) as told:
                assert b"of the machine" not in told.read()
    assert set((folder / "tmp").rglob("*")) == before
    log = folder / "network.log"
    assert not log.exists() or "192.0.2.1" not in log.read_text()


def test_another_clip_or_the_end_comes_in_the_middle_of_an_answer(adapter, browser, clips, tmp_path):
    root, records = clips
    with server(adapter, tmp_path, 100_000) as (process, address):
        page = browser.new_page()
        page.set_default_timeout(SLOW_MACHINE)
        page.goto(address)
        page.get_by_text("Drop a clip here").wait_for()
        page.set_input_files(".choose", root / records[0].video)
        begun = page.locator(".answer").get_by_text(re.compile(rf"^{BASE} · \d"))
        begun.wait_for()
        (tmp_path / "bad.mp4").write_bytes(b"no video at all")
        page.set_input_files(".choose", tmp_path / "bad.mp4")
        wait_for_problem(page, "^The clip is not a video")
        expect(begun).to_have_count(0)
        page.set_input_files(".choose", root / records[1].video)
        begun.wait_for()  # 100,000 tokens would take longer than one waits
        folder = next((tmp_path / "tmp").glob("formcoach-*"))
        assert folder.stat().st_mode & 0o777 == 0o700
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=300) == 0
        assert not folder.exists()
        page.close()
