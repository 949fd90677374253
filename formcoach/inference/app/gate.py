"""What reaches Gradio: the requests of its page and no others, none of them large; and what the page may load."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from fastapi.responses import PlainTextResponse

# https://asgi.readthedocs.io/en/latest/specs/main.html
Scope = Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]

# Gradio has some seventy routes: files of the machine, its own API and documentation, proxies, recordings, profiling.
NEEDED = re.compile(
    r"/|/(config|favicon\.ico|theme\.css|manifest\.json)|/(assets|static/(fonts|img|js))/[\w./-]+"
    r"|/gradio_api/(cancel|queue/join|queue/data|heartbeat/\w+)|/clips"
)
CLIPS = "/clips"
QUESTION = 2**16  # bytes of any other request
# The page runs its own scripts (Gradio compiles templates, so `eval`), and talks to nobody but this server.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)


class Gate:
    """An ASGI application in front of another one.

    Args:
        app: the other one.
        most_bytes: of a clip that is sent.
    """

    def __init__(self, app: ASGIApp, most_bytes: int) -> None:
        self._app = app
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            refusal = self._refusal(scope)
            await (refusal or self._app)(scope, receive, _with_policy(send))

    def _refusal(self, scope: Scope) -> PlainTextResponse | None:
        if not NEEDED.fullmatch(scope["path"]) or ".." in scope["path"]:
            return PlainTextResponse("not found", status_code=404)
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"0")
        most = self._most_bytes if scope["path"] == CLIPS else QUESTION
        if b"transfer-encoding" in headers or not length.isdigit() or int(length) > most:
            return PlainTextResponse(f"a request may have {most} bytes, and has to say so", status_code=413)
        return None


def _with_policy(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
        await send(message)

    return answer
