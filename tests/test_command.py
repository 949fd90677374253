"""How every command ends: its exit code and what it says."""

import errno

import pytest

from formcoach.command import run
from formcoach.errors import UserError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("no clips; add some"), "error: no clips; add some\n"),
        (KeyboardInterrupt(), "error: interrupted; complete files and checkpoints are kept\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/data/a.json"), "error: /data/a.json: permission denied"),
        (OSError(errno.ENOSPC, "No space left on device", "/data"), "error: no space left on the disk of /data; "),
    ],
)
def test_what_a_user_can_change_ends_with_one_line_and_code_2(error, line, capsys):
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


def test_a_bug_is_not_hidden():
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(main)
