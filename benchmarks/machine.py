"""The machine that a benchmark ran on, in one line."""

import os
import platform
import sys
from pathlib import Path


def describe_machine(device: str) -> str:
    """Return processor, cores, memory, versions, and the GPU if `device` is one."""
    import torch

    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    parts = [f"{_processor()}, {cores} cores"]
    if sys.platform == "linux":
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.0f} GB")
    if torch.device(device).type == "cuda":
        card = torch.cuda.get_device_properties(device)
        parts.append(f"{card.name} {card.total_memory / 1e9:.0f} GB")
    return ", ".join([*parts, f"Python {platform.python_version()}", f"torch {torch.__version__}"])


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
