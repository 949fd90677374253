"""Starts trainings that cost no time to import: each line on standard input is a command line, run in a fork.

Says `started PID` and, when it has ended, `ended STATUS` (negative: by that signal).
"""

import json
import os
import sys
import traceback

import deepspeed  # noqa: F401 (what takes long to import)
import torch
import transformers.trainer  # noqa: F401

import formcoach.training.run  # noqa: F401
from formcoach.training.launch import main


def train(arguments: list[str]) -> int:
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123
        os.dup2(nowhere.fileno(), 1)
    try:
        return main(arguments)
    except BaseException:
        traceback.print_exc()
        return 1


torch.set_num_threads(1)
for line in sys.stdin:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        os._exit(train(json.loads(line)))
    print("started", pid, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
