"""The mistakes a user can make, each told in one line that names the remedy."""


class UserError(Exception):
    """Something the user can put right.

    The message is one line: what is wrong, in which file or flag, and what to do about it. Commands print it
    without a traceback and exit with code 2 (see `formcoach.command`).
    """


class ClipError(UserError):
    """A clip that is missing, empty, damaged or not a video.

    Args:
        path: the clip as the user knows it.
        reason: what is wrong with it, e.g. ``"is empty (0 bytes)"``.
    """

    def __init__(self, path: object, reason: str) -> None:
        self.path = str(path)
        self.reason = reason
        super().__init__(f"{path}: {reason}")

    def __reduce__(self) -> tuple:
        return (ClipError, (self.path, self.reason))  # so that it survives the way back from a worker process
