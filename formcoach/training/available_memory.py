"""How much memory a training can have: of its GPU, and of the computer."""

import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

from formcoach.processes import Place
from formcoach.training.memory import CUDA_CONTEXT

# Of a container: version 2 of control groups, and version 1.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


@dataclass(frozen=True)
class Available:
    """The memory that one process of a training can have, with what it holds already.

    Args:
        where: it computes, as a user knows it.
        memory: bytes there.
        host: bytes of the computer's memory.
    """

    where: str
    memory: float
    host: float


def available_memory(place: Place, cuda: bool) -> Available:
    """Return what there is now.

    Args:
        place: this process; those of one computer share its memory.
        cuda: whether it computes on a GPU.
    """
    host = _host() / place.local_count
    if not cuda:
        return Available("the computer", host, host)
    import torch

    device = torch.device("cuda", place.local_rank)
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device) + CUDA_CONTEXT
    name = f"GPU {place.local_rank} ({torch.cuda.get_device_name(device)})"
    return Available(name, min(total, free + own), host)


def _host() -> float:
    """Return the bytes that this process holds or can get, the limits that are set for it considered."""
    own = psutil.Process().memory_info()
    bounds = [float(psutil.virtual_memory().available + own.rss)]
    bounds += [float(text) for path in LIMITS if path.is_file() and (text := path.read_text().strip()) != "max"]
    if sys.platform != "win32":
        import resource

        addresses, _ = resource.getrlimit(resource.RLIMIT_AS)
        if addresses != resource.RLIM_INFINITY:
            bounds.append(float(max(addresses - own.vms, 0) + own.rss))
    return min(bounds)
