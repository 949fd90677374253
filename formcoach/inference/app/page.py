"""The page: a clip, its frames, a question, and the answers beside each other."""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import gradio as gr

from formcoach.data.video import Clip
from formcoach.errors import UserError
from formcoach.inference.app.kept_clips import KeptClips
from formcoach.inference.app.looking import frames_html, look
from formcoach.inference.app.uploads import Uploads
from formcoach.inference.app.writing import Writer, Written
from formcoach.pages import ASSETS

LONGEST = 1000  # characters of a question
_LOOKING = 2  # clips decoded at a time
_WAITING = 32  # questions

Changes = dict[Any, Any]  # of components, as Gradio takes them


class Page:
    """The page and what happens when something is done on it.

    Whatever a visitor or a model wrote is shown in text boxes: as text, never as HTML or Markdown.

    Args:
        writer: gives the answers.
        uploads: has the clips that are sent.
        most_seconds: of a clip.
        most_megabytes: of its file.
    """

    def __init__(self, writer: Writer, uploads: Uploads, most_seconds: int, most_megabytes: int) -> None:
        self._writer, self._uploads, self._most_seconds = writer, uploads, most_seconds
        self._kept = KeptClips()
        with gr.Blocks(title="formcoach", analytics_enabled=False, fill_width=False) as self.blocks:
            gr.HTML(
                "<h1>formcoach</h1><p>Drop a clip of an exercise, or record one: up to "
                f"{most_seconds} seconds and {most_megabytes} MB. It is deleted as soon as its frames are taken.</p>",
                elem_classes="head",
            )
            with gr.Row():
                with gr.Column(min_width=280):
                    self._clip = _clip_input(most_seconds, most_megabytes)
                with gr.Column(min_width=280):
                    self._question = _question_box(writer.predictor.processor.question)
                    self._ask = gr.Button("Ask", variant="primary", interactive=False)
                    self._problem = gr.Textbox(
                        show_label=False, interactive=False, visible=False, elem_classes="problem", lines=1
                    )
            self._frames = gr.HTML(elem_classes="shown")
            self._answers = {}
            with gr.Row():
                for model in writer.models:
                    with gr.Column(min_width=280):
                        self._answers[model] = _answer_box(model)
            self._connect()
        self.blocks.queue(api_open=False, max_size=_WAITING)

    def _connect(self) -> None:
        private = {"api_visibility": "private"}
        model = private | {"concurrency_limit": 1, "concurrency_id": "model", "show_progress": "minimal"}
        answers = [self._problem, *self._answers.values()]
        shown = [self._frames, self._ask, *answers]
        # Another clip is taken while the last one's answer is still being written: by default it would be passed over.
        always = {"trigger_mode": "multiple"}
        looked = self._clip.upload(self.look, None, shown, concurrency_limit=_LOOKING, **always, **private)
        looked.then(self.answer, self._question, answers, **always, **model)
        gr.on([self._ask.click, self._question.submit], self.answer, self._question, answers, **model)
        self.blocks.unload(self.forget)

    def look(self, request: gr.Request, sent: gr.EventData) -> Changes:
        """Show the frames of a clip that was sent, and keep them; nothing is left of its file, whatever happens."""
        self._kept.forget(request.session_hash)
        try:
            with self._uploads.taken(str(sent.name)) as path:
                looked = look(path, self._writer.predictor, self._most_seconds)
        except UserError as problem:
            self._kept.keep(request.session_hash, problem)
            return self._looked("", str(problem))
        self._kept.keep(request.session_hash, looked.clip)
        return self._looked(frames_html(looked), "")

    def answer(self, question: str, request: gr.Request) -> Iterator[Changes]:
        """Answer a question about the visitor's last clip, until there is another one.

        Each time all answers are given: of changes in quick succession, Gradio's page may show the last one only.
        """
        given: dict[str, Written] = {}
        try:
            clip, asked = self._clip_of(request.session_hash), _checked(question)
            yield self._told("", given)
            with closing(self._writer.write(clip, asked)) as answers:
                for written in answers:
                    if (kept := self._kept.of(request.session_hash)) is not clip:
                        yield self._told(str(kept) if isinstance(kept, UserError) else "", {})
                        return
                    given[written.model] = written
                    yield self._told("", given)
        except UserError as problem:
            yield self._told(str(problem), given)

    def forget(self, request: gr.Request) -> None:
        """Drop the clip of a visitor who has left."""
        self._kept.forget(request.session_hash)

    def _clip_of(self, visitor: str) -> Clip:
        """Return the visitor's last clip.

        Raises:
            UserError: there is none, or what is wrong with it.
        """
        kept = self._kept.of(visitor)
        if kept is None:
            raise UserError("Drop or record a clip first.")
        if isinstance(kept, UserError):
            raise kept
        return kept

    def _looked(self, frames: str, problem: str) -> Changes:
        return {self._frames: frames, self._ask: gr.update(interactive=not problem)} | self._told(problem, {})

    def _told(self, problem: str, given: Mapping[str, Written]) -> Changes:
        """Return what is wrong, if something is, and the answers so far; Gradio alters what it is given."""
        changes = {self._problem: gr.update(value=problem, visible=bool(problem))}
        for model, box in self._answers.items():
            written = given.get(model)
            label = f"{model} · {written.seconds:.1f} s" if written else model
            changes[box] = gr.update(value=written.text if written else "", label=label)
        return changes


def _checked(question: str) -> str:
    """Return what is asked.

    Raises:
        UserError: nothing, or too much.
    """
    asked = question.strip()
    if not asked:
        raise UserError("Ask something about the clip.")
    if len(asked) > LONGEST:
        raise UserError(f"The question has {len(asked)} characters, and {LONGEST} are taken. Shorten it.")
    return asked


def _clip_input(most_seconds: int, most_megabytes: int) -> gr.HTML:
    """Return where a clip is dropped or recorded.

    Gradio's own video component keeps what is sent, serves it again and loads 32 MB of ffmpeg into the browser.
    """
    folder = ASSETS / "demo_app"
    limits = json.dumps({"bytes": most_megabytes * 10**6, "seconds": most_seconds})
    script = (folder / "clip.js").read_text(encoding="utf-8").replace("LIMITS", limits)
    return gr.HTML((folder / "clip.html").read_text(encoding="utf-8"), js_on_load=script)


def _question_box(question: str) -> gr.Textbox:
    box = gr.Textbox(question, label="Question", lines=3, max_lines=8, max_length=LONGEST)

    async def left_alone(name: str) -> str:
        return name

    # Gradio would fetch the address, or copy the file of this machine, that a crafted request has in a text's place.
    box.async_move_resource_to_block_cache = left_alone
    return box


def _answer_box(model: str) -> gr.Textbox:
    return gr.Textbox(label=model, interactive=False, lines=4, max_lines=12, buttons=["copy"], elem_classes="answer")
