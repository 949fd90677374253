"""The selective scan against its definition, in any block size, number format and with gradients."""

import pytest
import torch

from formcoach.models.mobilevideogpt.selective_scan import BLOCK, _differentiable, selective_scan


def scan_inputs(tokens, scans=2, batch=2, channels=6, states=4, seed=0):
    """Return x, delta, a, b, c, d."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator)

    return (
        normal(scans, batch, tokens, channels),
        torch.nn.functional.softplus(normal(scans, batch, tokens, channels) - 2),
        -torch.exp(normal(scans, channels, states)),
        normal(scans, batch, tokens, states),
        normal(scans, batch, tokens, states),
        normal(scans, channels),
    )


def by_definition(x, delta, a, b, c, d):
    """Compute the recurrence in float64, for one scan, clip and channel at a time."""
    x, delta, a, b, c, d = (tensor.double() for tensor in (x, delta, a, b, c, d))
    out = torch.empty_like(x)
    for scan, batch, channel in torch.cartesian_prod(*(torch.arange(size) for size in (*x.shape[:2], x.shape[3]))):
        state = torch.zeros(a.shape[2], dtype=torch.float64)
        for token in range(x.shape[2]):
            here = (scan, batch, token)
            decay = torch.exp(delta[*here, channel] * a[scan, channel])
            state = decay * state + delta[*here, channel] * b[here] * x[*here, channel]
            out[*here, channel] = c[here] @ state + d[scan, channel] * x[*here, channel]
    return out


@pytest.mark.parametrize("tokens", [1, BLOCK - 1, BLOCK, 2 * BLOCK + 3])
def test_it_is_the_recurrence(tokens):
    inputs = scan_inputs(tokens)
    with torch.no_grad():
        torch.testing.assert_close(selective_scan(*inputs).double(), by_definition(*inputs), atol=1e-5, rtol=1e-5)


def test_with_and_without_gradients_it_is_the_same():
    inputs = [tensor.requires_grad_() for tensor in scan_inputs(BLOCK + 5)]
    out = selective_scan(*inputs)
    with torch.no_grad():
        torch.testing.assert_close(selective_scan(*inputs), out)
    out.square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in inputs)
    exact = [tensor.detach()[..., :2].double().clone() for tensor in scan_inputs(3, 1, 1, 2, 2)]
    exact = [tensor.requires_grad_() for tensor in exact]
    assert torch.autograd.gradcheck(selective_scan, exact, atol=1e-2, rtol=1e-2, eps=1e-3)


def test_bfloat16_stays_close_over_many_tokens():
    inputs = scan_inputs(1569, 1, 1, 8, 16)
    with torch.no_grad():
        whole = selective_scan(*inputs)
        half = selective_scan(*(tensor.bfloat16() for tensor in inputs))
    assert half.dtype == torch.bfloat16
    error = (half.float() - whole).abs().max() / whole.abs().max()
    assert error < 0.02


@pytest.mark.parametrize("decay", [0.0, 1e-6, 1.0, 1e6, 1e30])
@pytest.mark.parametrize("step", [0.0, 1e-30, 1e-6, 1.0, 1e4])
def test_extreme_steps_and_decays_are_computed_exactly(step, decay):
    x, delta, a, b, c, d = scan_inputs(2 * BLOCK + 3, 1, 1, 2, 2)
    inputs = (x, delta * step, a * decay, b, c, d)
    expected = by_definition(*inputs)
    exact = {"atol": 1e-5 * expected.abs().max(), "rtol": 0}
    with torch.no_grad():
        torch.testing.assert_close(selective_scan(*inputs).double(), expected, **exact)
        half = selective_scan(*(tensor.bfloat16() for tensor in inputs))
    torch.testing.assert_close(_differentiable(*inputs).double(), expected, **exact)
    torch.testing.assert_close(half.double(), expected, atol=0.05 * expected.abs().max(), rtol=0)


def test_a_state_that_never_decays_is_summed_over_many_tokens():
    x, delta, a, b, c, d = scan_inputs(20_000, 1, 1, 4, 2)
    with torch.no_grad():
        found = selective_scan(x, delta, 0 * a, b, c, d)
    states = (delta[..., None] * x[..., None] * b[..., None, :]).double().cumsum(dim=2)  # (1, 1, tokens, 4, 2)
    expected = (states * c[..., None, :]).sum(dim=-1) + d[:, None, None] * x
    torch.testing.assert_close(found.double(), expected, atol=1e-5 * expected.abs().max(), rtol=0)
