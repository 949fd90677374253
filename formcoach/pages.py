"""HTML pages that need nothing but themselves: the templates' environment, the style they share, and their policy.

Whatever comes from files is escaped by the template; a policy in a page's head lets a browser run no other script than
the page's own, whatever a label holds.
"""

import base64
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

ASSETS = Path(__file__).resolve().parent / "assets"


def environment(folder: str) -> "Environment":
    """Return the environment of the templates in a folder of `assets`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(ASSETS / folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )


def shared_style() -> str:
    """Return the style sheet that pages have in common."""
    return (ASSETS / "page.css").read_text(encoding="utf-8")


def script_of(folder: str) -> tuple[str, str]:
    """Return the script of a folder's page and what names it in the page's policy."""
    script = (ASSETS / folder / "script.js").read_text(encoding="utf-8")
    return script, "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def embedded_json(value: Any) -> str:
    """Return JSON that may stand inside a `script` element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace").decode().replace("<", "\\u003c")
