"""DeepSpeed without its own launcher."""

import os

from formcoach.processes import Place


def name_accelerator(cuda: bool) -> None:
    """Tell DeepSpeed what it computes on; other libraries import it too, and it would look around and warn."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if cuda else "cpu")


def prepare_deepspeed(where: Place, cuda: bool) -> None:
    """Make the process ready for DeepSpeed without its own launcher, MPI or a free port.

    Args:
        where: this process; a single one talks to nobody, so it needs no address.
        cuda: whether it has a GPU.
    """
    if where.count == 1:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ.update(alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    import deepspeed.ops
    import torch

    if not cuda:
        # DeepSpeed would compile a shared-memory all-reduce for CPUs at the first start: half a minute and a C++
        # compiler for something that one process does not need and gloo does as well. Its `ops` module keeps what is
        # available in this attribute and says that edits of it persist.
        deepspeed.ops.__compatible_ops__ = {}
    if where.count == 1:
        backend = "nccl" if cuda else "gloo"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
