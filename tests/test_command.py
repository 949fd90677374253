"""How every command ends: its exit code and what it says."""

import errno
import subprocess
import sys

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


@pytest.mark.parametrize("lines", [1, 10_000])  # written at the end, and before it
def test_a_reader_that_goes_away_is_no_crash(lines, monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    program = f"from formcoach.command import run; input(); run(lambda: print('line\\n' * {lines}))"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.close()
        process.stdin.write(b"\n")
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1
