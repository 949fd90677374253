"""The server of the demo page: on this machine, for this machine, leaving nothing behind."""

import argparse
import errno
import importlib.util
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from formcoach.errors import UserError
from formcoach.inference.options import load_once
from formcoach.processes import interrupt_on_terminate

if TYPE_CHECKING:
    from fastapi import FastAPI

    from formcoach.inference.app.writing import Writer

_FAREWELL = 1  # seconds that open pages get at the end


def serve(args: argparse.Namespace) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        args: the flags of `add_model_flags`, and `host`, `port`, `max_upload_mb`, `max_seconds`.

    Raises:
        UserError: Gradio is not installed, the address cannot be served at, or there is no such model.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError("the demo page needs gradio; run: pip install 'formcoach[demo]'")
    interrupt_on_terminate()
    _end_with_the_terminal()
    with _listening(args.host, args.port) as listener:
        model = args.model_path or _default_model()
        print(f"loading {model} ...", flush=True)
        predictor = load_once(args, model)()

        from formcoach.inference.app.writing import Writer

        writer = Writer(predictor)
        with TemporaryDirectory(prefix="formcoach-") as folder:  # nobody else may look into it
            app = build(writer, Path(folder), args.max_seconds, args.max_upload_mb)
            _tell_address(args.host, args.port)
            _run(app, listener, writer)
    print("ended; no clip is kept", flush=True)


def build(writer: "Writer", folder: Path, most_seconds: int, most_megabytes: int) -> "FastAPI":
    """Return the application.

    Args:
        writer: gives the answers.
        folder: an empty one, for all that is written.
        most_seconds: of a clip.
        most_megabytes: of its file.
    """
    clips = folder / "clips"
    clips.mkdir()
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.middleware import Middleware

    from formcoach.inference.app.gate import CLIPS, Gate
    from formcoach.inference.app.page import Page
    from formcoach.inference.app.uploads import Uploads
    from formcoach.pages import ASSETS

    most_bytes = most_megabytes * 10**6
    uploads = Uploads(clips)
    app = FastAPI(openapi_url=None, middleware=[Middleware(Gate, most_bytes=most_bytes)])
    app.post(CLIPS)(uploads.receive)
    return gr.mount_gradio_app(
        app,
        Page(writer, uploads, most_seconds, most_megabytes).blocks,
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=gr.themes.Default(
            primary_hue="blue",
            neutral_hue="slate",
            font=["system-ui", "sans-serif"],  # the default ones come from the internet
            font_mono=["monospace"],
        ),
        css_paths=[ASSETS / "demo_app/style.css"],
    )


def _run(app: "FastAPI", listener: socket.socket, writer: "Writer") -> None:
    import uvicorn

    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=_FAREWELL)
    try:
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])
    finally:
        writer.close()


def _end_with_the_terminal() -> None:
    """Take the end of the terminal for SIGTERM, unless `nohup` says otherwise."""
    if sys.platform != "win32" and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Hold the address from the beginning: what is wrong with it is told before a model is loaded.

    Raises:
        UserError: it is not this machine's, or taken.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port {port} is taken by another program; use another one") from None
        if error.errno == errno.EACCES:
            raise UserError(f"--port {port} is for administrators; use one from 1024 up") from None
        reason = error.strerror.partition(" (")[0]
        raise UserError(f"--host {host} is not an address of this machine ({reason})") from None
    with listener:
        yield listener


def _tell_address(host: str, port: int) -> None:
    if not _is_loopback(host):
        print(f"--host {host}: everybody who can reach this machine's port {port} can use the page", flush=True)
    shown = f"[{host}]" if ":" in host else host
    print(f"ready: http://{shown}:{port} (Ctrl-C ends it)", flush=True)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def _default_model() -> str | Path:
    """Return the newest run or, where nothing was trained, what is used where no model is named."""
    from formcoach.inference.runs import newest_run
    from formcoach.models import default_model

    with suppress(UserError):
        return newest_run()
    model, line = default_model()
    print(line, file=sys.stderr, flush=True)
    return model
