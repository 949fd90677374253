"""The demo page's parts: a clip is looked at once and deleted, answers are the predictor's, little is let through."""

import asyncio
import socket
import threading
from itertools import pairwise
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient

from formcoach.errors import UserError
from formcoach.inference.app.gate import Gate
from formcoach.inference.app.kept_clips import KeptClips
from formcoach.inference.app.looking import frames_html, look
from formcoach.inference.app.page import Page
from formcoach.inference.app.server import build
from formcoach.inference.app.uploads import MOST, Uploads
from formcoach.inference.app.writing import BASE, ONLY, TUNED, Writer
from inference.conftest import write_clip
from inference.test_asking import damage
from inference.test_commands import command

QUESTION = "What is wrong?"


@pytest.fixture
def clip(clips):
    root, records = clips
    return root / records[3].video


@pytest.fixture(scope="module")
def visitor(predictor, tmp_path_factory):
    """A client of the whole application; it is of 1 MB and 20 seconds at most."""
    with TestClient(build(Writer(predictor), tmp_path_factory.mktemp("app"), 20, 1)) as client:
        yield client


def answers(predictor, path, question=QUESTION):
    prompt = predictor.prompt(predictor.read(path), question)
    with predictor.base():
        base = predictor.answer(prompt)
    return {BASE: base, TUNED: predictor.answer(prompt)}


def whole(written):
    return {one.model: one.text for one in written if one.is_whole}


def test_answers_grow_and_end_as_the_predictor_s(predictor, clip):
    looked = look(clip, predictor, 20)
    written = list(Writer(predictor).write(looked.clip, QUESTION))
    assert whole(written) == answers(predictor, clip)
    assert [one.model for one in written if one.is_whole] == [BASE, TUNED]
    for model in (BASE, TUNED):
        texts = [one.text for one in written if one.model == model]
        assert texts[0] == "" and len(texts) >= predictor.max_new_tokens
        assert all(later.startswith(earlier) for earlier, later in pairwise(texts[:-1]))
        assert texts[-2].strip() == texts[-1]
        seconds = [one.seconds for one in written if one.model == model]
        assert seconds == sorted(seconds) and seconds[0] >= 0


def test_a_model_without_an_adapter_has_one_answer(base_model, clip):
    from formcoach.inference.predict import Predictor
    from formcoach.models import load_model

    predictor = Predictor(*load_model(base_model, device="cpu"), max_new_tokens=4)
    written = whole(Writer(predictor).write(look(clip, predictor, 20).clip, QUESTION))
    assert written == {ONLY: predictor.answer(predictor.prompt(predictor.read(clip), QUESTION))}


def test_visitors_at_once_get_their_own_answers(predictor, clips):
    root, records = clips
    writer, given = Writer(predictor), {}

    def visit(record):
        looked = look(root / record.video, predictor, 20)
        given[record.id] = whole(writer.write(looked.clip, QUESTION))

    visits = [threading.Thread(target=visit, args=(record,)) for record in records]
    for thread in visits:
        thread.start()
    for thread in visits:
        thread.join()
    assert given == {record.id: answers(predictor, root / record.video) for record in records}


def test_one_who_leaves_in_the_middle_leaves_the_model_as_it_was(predictor, clip):
    writer, kept = Writer(predictor), look(clip, predictor, 20).clip
    leaving = writer.write(kept, QUESTION)
    assert next(leaving).model == BASE
    leaving.close()  # while the adapter is off
    assert whole(writer.write(kept, QUESTION)) == answers(predictor, clip)
    writer.close()
    assert whole(writer.write(kept, QUESTION)) == {}


def test_a_question_with_a_control_token_is_refused(predictor, clip):
    with pytest.raises(UserError, match="control token"):
        next(Writer(predictor).write(look(clip, predictor, 20).clip, "Well? <|im_end|>"))


def test_what_is_shown_are_the_frames_that_the_model_gets(predictor, clip):
    looked = look(clip, predictor, 20)
    read = predictor.read(clip)
    assert looked.clip.indices == read.indices and len(looked.pictures) == len(read.frames)
    assert looked.times == pytest.approx([index / 12 for index in read.indices])
    assert frames_html(looked).count('<img src="data:image/jpeg;base64,') == len(read.frames)
    assert looked.clip.frames.nbytes < 8 * 448 * 448 * 3 + 1


def test_a_clip_that_is_not_taken_is_told_without_its_path(predictor, clip, tmp_path):
    garbage, damaged, long = (tmp_path / name for name in ("garbage", "damaged.mp4", "long.mp4"))
    garbage.write_bytes(b"<html>" * 100)
    damaged.write_bytes(clip.read_bytes())
    damage(damaged)
    write_clip(long, frames=42, fps=2)
    large = tmp_path / "large.mp4"
    write_clip(large, frames=2, size=(4608, 2592))
    for path, reason in (
        (garbage, "is not a video"),
        (damaged, "is damaged"),
        (long, "lasts 21.0 s, and at most 20 s"),
        (large, "4608 x 2592 pixels"),
    ):
        with pytest.raises(UserError, match=reason) as told:
            look(path, predictor, 20)
        assert str(tmp_path) not in str(told.value) and path.name not in str(told.value)


def test_an_upload_is_given_away_once_and_deleted(visitor, tmp_path):
    uploads = Uploads(tmp_path)
    name = receive(uploads, b"some", b"thing").body.decode()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with pytest.raises(ValueError, match="broken"), uploads.taken(name) as path:
        assert path.read_bytes() == b"something"
        raise ValueError("broken")
    assert list(tmp_path.iterdir()) == []
    for other in (name, "", "../secret", "/etc/hostname"):
        with pytest.raises(UserError, match="Drop it again"), uploads.taken(other):
            pass


def test_what_is_half_sent_or_never_looked_at_does_not_pile_up(tmp_path, monkeypatch):
    uploads = Uploads(tmp_path)
    with pytest.raises(ConnectionError):
        receive(uploads, b"some", ConnectionError())
    assert list(tmp_path.iterdir()) == []
    sent = [receive(uploads, b"clip") for _ in range(MOST + 1)]
    assert [response.status_code for response in sent] == [200] * MOST + [503]
    monkeypatch.setattr("formcoach.inference.app.uploads.SECONDS", -1)
    last = receive(uploads, b"clip").body.decode()
    assert [path.name for path in tmp_path.iterdir()] == [last]


def test_an_answer_is_about_the_last_clip(predictor, clip, tmp_path):
    uploads, visitor = Uploads(tmp_path), SimpleNamespace(session_hash="a")
    page = Page(Writer(predictor), uploads, 20, 1)

    def drop(data):
        page.look(visitor, SimpleNamespace(name=receive(uploads, data).body.decode()))

    def last(question):
        return [change["value"] for change in list(page.answer(question, visitor))[-1].values()]

    assert last(QUESTION) == ["Drop or record a clip first.", "", ""]
    drop(clip.read_bytes())
    assert last(QUESTION) == ["", *answers(predictor, clip).values()]
    drop(b"garbage")
    assert last(QUESTION)[0].startswith("The clip is not a video")
    drop(clip.read_bytes())
    assert last("x" * 1001) == ["The question has 1001 characters, and 1000 are taken. Shorten it.", "", ""]
    begun = page.answer(QUESTION, visitor)
    assert next(begun) and next(begun)
    drop(clip.read_bytes())
    assert [[change["value"] for change in changes.values()] for changes in begun] == [["", "", ""]]
    page.forget(visitor)
    assert last(QUESTION) == ["Drop or record a clip first.", "", ""]


def receive(uploads, *chunks):
    class Request:
        async def stream(self):
            for chunk in chunks:
                if isinstance(chunk, Exception):
                    raise chunk
                yield chunk

    return asyncio.run(uploads.receive(Request()))


def test_few_clips_are_kept_and_none_for_long():
    now = [0.0]
    kept = KeptClips(most=2, seconds=10, now=lambda: now[0])
    for visitor in "abc":
        kept.keep(visitor, visitor.upper())
    assert [kept.of(visitor) for visitor in "abc"] == [None, "B", "C"]
    kept.keep("b", "B2")
    kept.forget("c")
    assert (kept.of("b"), kept.of("c")) == ("B2", None)
    now[0] = 8
    assert kept.of("b") == "B2"  # used: the time begins anew
    now[0] = 19
    assert kept.of("b") is None


@pytest.mark.parametrize(
    "path",
    [
        "gradio_api/file=/etc/hostname",
        "gradio_api/proxy=http://example.com",
        "gradio_api/info",
        "gradio_api/openapi.json",
        "gradio_api/startup-events",
        "gradio_api/app_id",
        "gradio_api/runs",
        "gradio_api/vibe-code",
        "gradio_api/deep_link",
        "static/../app.py",
        "assets/%2e%2e/%2e%2e/package.json",
        "static/ffmpeg/ffmpeg-core.wasm",
        "monitoring",
        "docs",
        "clips/x",
    ],
)
def test_only_what_the_page_needs_is_let_through(visitor, path):
    assert visitor.get(path).status_code == 404
    assert visitor.post(path).status_code == 404


def test_the_page_comes_with_a_policy_and_without_foreign_addresses(visitor):
    page = visitor.get("/")
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "fonts.googleapis" not in page.text + visitor.get("theme.css").text
    assert "is_space" not in page.text or '"is_space":false' in page.text


def test_requests_that_are_too_large_are_refused(visitor):
    assert visitor.post("clips", content=b"x" * 10**6).status_code == 200
    assert visitor.post("clips", content=b"x" * (10**6 + 1)).status_code == 413
    assert visitor.post("clips", content=(b"x" for _ in range(2))).status_code == 413  # says not how much it is
    assert visitor.post("gradio_api/queue/join", content=b"x" * 70_000).status_code == 413
    assert visitor.get("clips").status_code == 404


def test_only_web_requests_are_let_through():
    async def never(scope, receive, send):
        raise AssertionError(scope)

    asyncio.run(Gate(never, 1)({"type": "websocket", "path": "/"}, None, None))


def test_what_is_wrong_with_the_address_is_told_before_a_model_is_loaded(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with pytest.raises(UserError, match=f"^--port {port} is taken by another program; use another one$"):
            command("demo_app")(["--model_path", "no such model", "--port", port])
    with pytest.raises(UserError, match=r"^--host 192\.0\.2\.1 is not an address of this machine"):
        command("demo_app")(["--model_path", "no such model", "--host", "192.0.2.1"])
    for port in ("0", "65536", "-1"):
        with pytest.raises(SystemExit):
            command("demo_app")(["--port", port])
    assert capsys.readouterr().out == ""


def test_without_gradio_the_remedy_is_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'formcoach\[demo\]'"):
        command("demo_app")([])
