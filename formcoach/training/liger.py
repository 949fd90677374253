"""Liger's Triton kernels for the language model's norms, rotary embeddings and feed-forward parts (optional package).

Its fused head and loss are left out: the loss is computed on answer positions only, see `answer_loss`.
"""

import importlib.util
from typing import Any

from formcoach.errors import UserError
from formcoach.models.family import Family


def check_liger(cuda: bool) -> None:
    """Refuse Liger's kernels where they cannot run.

    Raises:
        UserError: there is no GPU, or the package is not installed.
    """
    if not cuda:
        raise UserError("--liger: Liger's kernels run on CUDA GPUs only, and there is none; leave it out")
    if importlib.util.find_spec("liger_kernel") is None:
        raise UserError("--liger needs a package that is not installed: pip install liger-kernel, or leave it out")


def apply_liger(model: Any, family: Family) -> None:
    """Let a base model's language model compute with Liger's kernels.

    Args:
        model: without adapters.
        family: its family.
    """
    from transformers.integrations.liger import apply_liger_kernel

    language = next(module for name, module in model.named_modules() if name.rpartition(".")[2] == family.language)
    apply_liger_kernel(language, {"fused_linear_cross_entropy": False})
