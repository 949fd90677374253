"""Where things are, for the tests of sharing."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = REPOSITORY / "utils" / "hf_upload.py"
BASE = REPOSITORY / "tests" / "fixtures" / "internvideo2_5_tiny"
PERSON = "coach-user-7"  # stands for somebody's name in a path
