"""Mamba's selective scan: a linear recurrence whose decay and input depend on the token.

For each channel c with states n (Gu and Dao, Mamba, 2023, section 3.2, discretised as there)::

    h[t] = exp(delta[t] * A) * h[t - 1] + delta[t] * B[t] * x[t]
    y[t] = sum over n of C[t] * h[t] + D * x[t]

The state is kept in float32, whatever the inputs are: decays multiply over thousands of tokens. Decays are below 1, so
that nothing grows, and no logarithm or quotient of them is taken.
"""

from typing import Any

import torch
from torch import Tensor

BLOCK = 16  # tokens whose decays and states are in memory at a time; of 16 to 64 all are as fast


def selective_scan(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Return the scan's output, in the type of `x`.

    Without gradients it works in blocks of tokens: what does not depend on the state is computed for a whole block at
    once, and the recurrence itself is one fused operation a token. Its memory does not grow with the number of tokens.
    `benchmarks/selective_scan.py` compares it with the recurrence as published.

    Args:
        x: the input, (scans, batch, tokens, channels); scans have matrices of their own, as the two directions have.
        delta: the step sizes, positive, of the same shape.
        a: the decay rates, negative, (scans, channels, states).
        b: how the input enters the states, (scans, batch, tokens, states).
        c: how the states are read, of the same shape.
        d: the input's direct share, (scans, channels).

    Returns:
        (scans, batch, tokens, channels).
    """
    inputs = (x, delta, a, b, c, d)
    with_graph = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    scan = _differentiable if with_graph else _in_blocks
    with torch.autocast(x.device.type, enabled=False):
        return scan(*(tensor.float() for tensor in inputs)).to(x.dtype)


def _in_blocks(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    scans, batch, tokens, channels = x.shape
    rates = a.mT.contiguous()[:, None]  # (scans, 1, states, channels): channels side by side in memory
    states = rates.shape[2]
    enters = delta * x
    out = torch.empty_like(x)
    decays = x.new_empty(BLOCK, scans, batch, states, channels)
    block = torch.empty_like(decays)
    state = x.new_zeros(scans, batch, states, channels)
    for begin in range(0, tokens, BLOCK):
        here = slice(begin, min(begin + BLOCK, tokens))
        count = here.stop - begin
        decay, held = decays[:count], block[:count]
        torch.mul(_first(delta, here)[..., None, :], rates, out=decay).exp_()
        torch.mul(_first(enters, here)[..., None, :], _first(b, here)[..., None], out=held)
        for token in range(count):
            held[token].addcmul_(decay[token], state)
            state = held[token]
        state = state.clone()  # the block's memory is used again
        read = torch.matmul(_first(c, here)[..., None, :], held)  # (count, scans, batch, 1, channels)
        _first(out, here).copy_(read[..., 0, :])
    return out.addcmul_(x, d[:, None, None])


def _first(values: Tensor, tokens: slice) -> Tensor:
    """Return some tokens of (scans, batch, tokens, ...) as (tokens, scans, batch, ...)."""
    return values[:, :, tokens].movedim(2, 0)


def _differentiable(x: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    """Compute the same in operations that have gradients; all decays and states are in memory at once."""
    delta, entering, b, c = (part.movedim(2, 0) for part in (delta, delta * x, b, c))  # (tokens, scans, batch, ...)
    decays = torch.exp(delta[..., None, :] * a.mT[:, None])  # (tokens, scans, batch, states, channels)
    states = _Recurrence.apply(decays, entering[..., None, :] * b[..., None])
    read = torch.matmul(c[..., None, :], states)[..., 0, :]  # (tokens, scans, batch, channels)
    return read.movedim(0, 2) + x * d[:, None, None]


class _Recurrence(torch.autograd.Function):
    """``h[t] = decay[t] * h[t - 1] + input[t]`` over the first dimension, one operation a token in either direction."""

    @staticmethod
    def forward(context: Any, decays: Tensor, inputs: Tensor) -> Tensor:
        """Return all states."""
        states = inputs.clone()
        for token in range(1, len(states)):
            states[token].addcmul_(decays[token], states[token - 1])
        context.save_for_backward(decays, states)
        return states

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Run the recurrence backwards: a state's gradient decays into that of the state before it."""
        decays, states = context.saved_tensors
        gradient = gradient.clone()
        for token in range(len(states) - 1, 0, -1):
            gradient[token - 1].addcmul_(decays[token], gradient[token])
        of_decays = torch.zeros_like(decays)
        torch.mul(gradient[1:], states[:-1], out=of_decays[1:])
        return of_decays, gradient
