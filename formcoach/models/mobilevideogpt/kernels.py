"""The CUDA kernels of `mamba-ssm` and `causal-conv1d`, used where they are installed; else PyTorch computes the same.

A package that is there but cannot be imported (an older mamba-ssm beside a newer transformers, say) counts as absent.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

Kernel = Callable[..., Tensor]


def scan_kernel(device: torch.device) -> Kernel | None:
    """Return mamba-ssm's `selective_scan_fn`, or None: tensors are not on CUDA, or it is not installed."""
    return _selective_scan_fn() if device.type == "cuda" else None


def convolution_kernel(device: torch.device) -> Kernel | None:
    """Return causal-conv1d's `causal_conv1d_fn`, or None as above."""
    return _causal_conv1d_fn() if device.type == "cuda" else None


@cache
def _selective_scan_fn() -> Kernel | None:
    try:
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except ImportError:
        return None
    return selective_scan_fn


@cache
def _causal_conv1d_fn() -> Kernel | None:
    try:
        from causal_conv1d import causal_conv1d_fn
    except ImportError:
        return None
    return causal_conv1d_fn
