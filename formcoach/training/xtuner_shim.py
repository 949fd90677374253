"""The one function that xtuner misses in current releases of transformers.

xtuner 0.2.0, the latest release, was made for transformers 4.48. In transformers 5 `is_safetensors_available` is gone
from `transformers.utils`, since safetensors is always there; xtuner imports it for models that are split over experts,
and does not start without it. That is all that keeps it from running: nothing else of either is touched.

`xtuner_shim.pth`, which scripts/setup_env.sh puts into .venv-xtuner, has every Python there call `watch`, so that
`xtuner train` typed by hand works as well.
"""

import sys
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

USER = "xtuner.utils.handle_moe_load_and_save"  # the module that imports it
FUNCTION = "is_safetensors_available"


def watch() -> None:
    """Have the function put in when xtuner is about to import it: transformers takes seconds to load otherwise."""
    sys.meta_path.insert(0, _Watcher())


def put_in(utils: ModuleType) -> None:
    """Put the function into `transformers.utils`; nothing is done where it is there."""
    if FUNCTION not in vars(utils):
        setattr(utils, FUNCTION, _is_safetensors_available)


def _is_safetensors_available() -> bool:
    return True  # transformers 5 does not install without it


class _Watcher(MetaPathFinder):
    """Is asked about every module before it is looked for; finds none."""

    def find_spec(self, fullname: str, *_: Any) -> None:
        """Act when `USER` is asked for."""
        if fullname == USER:
            import transformers.utils

            sys.meta_path.remove(self)
            put_in(transformers.utils)
