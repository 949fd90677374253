"""The optional CUDA kernels: stand-ins of their documented signatures get what they ask for, and results are equal."""

import sys
from types import ModuleType

import pytest
import torch
from torch.nn import functional

from formcoach.models.mobilevideogpt import kernels, videomamba
from formcoach.models.mobilevideogpt.videomamba import BidirectionalMixer, MambaSizes

SIZES = MambaSizes(depth=1, width=32, states=4)
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """Compute what mamba-ssm documents, token by token, and refuse what its kernel refuses.

    u, delta, z: (batch, channels, length); A: (channels, states); B, C: (batch, groups, states, length).
    """
    assert A.dtype == D.dtype == delta_bias.dtype == torch.float32
    assert delta.dtype == B.dtype == C.dtype == z.dtype == u.dtype
    assert u.shape == delta.shape == z.shape
    assert all(tensor.stride(-1) == 1 for tensor in (B, C))
    batch, channels, length = u.shape
    each = channels // B.shape[1]
    B, C = (tensor.float().repeat_interleave(each, dim=1) for tensor in (B, C))  # (batch, channels, states, length)
    delta = delta.float() + delta_bias[:, None]
    delta = functional.softplus(delta) if delta_softplus else delta
    state, out = torch.zeros(batch, channels, A.shape[1]), []
    for token in range(length):
        step = delta[:, :, token, None]
        state = torch.exp(step * A) * state + step * B[..., token] * u[:, :, token, None].float()
        out.append((state * C[..., token]).sum(dim=-1))
    out = torch.stack(out, dim=2) + D[:, None] * u.float()
    return (out * functional.silu(z.float())).to(u.dtype)


def causal_conv1d_fn(x, weight, bias=None, seq_idx=None, initial_states=None, activation=None):
    """x: (batch, channels, length); weight: (channels, kernel); bias: (channels,)."""
    assert activation in ("silu", "swish") and weight.dtype == bias.dtype == x.dtype
    assert x.stride(2) == 1 and 2 <= weight.shape[1] <= 4
    padded = functional.pad(x, (weight.shape[1] - 1, 0))
    return functional.silu(functional.conv1d(padded, weight[:, None], bias, groups=len(weight)))


@pytest.fixture
def installed(monkeypatch):
    """Installs the stand-ins that are named, and none of the others."""

    def install(*names):
        scan, convolution = ModuleType("mamba_ssm.ops.selective_scan_interface"), ModuleType("causal_conv1d")
        scan.selective_scan_fn, convolution.causal_conv1d_fn = selective_scan_fn, causal_conv1d_fn
        modules = {"mamba_ssm": None, "mamba_ssm.ops": None, scan.__name__: None, "causal_conv1d": None}
        if "mamba_ssm" in names:
            modules |= {"mamba_ssm": ModuleType("mamba_ssm"), "mamba_ssm.ops": ModuleType("mamba_ssm.ops")}
            modules[scan.__name__] = scan
        if "causal_conv1d" in names:
            modules["causal_conv1d"] = convolution
        for name, module in modules.items():
            monkeypatch.setitem(sys.modules, name, module)
        kernels._selective_scan_fn.cache_clear()
        kernels._causal_conv1d_fn.cache_clear()

    yield install
    kernels._selective_scan_fn.cache_clear()
    kernels._causal_conv1d_fn.cache_clear()


@pytest.fixture
def mixer():
    torch.manual_seed(0)
    mixer = BidirectionalMixer(SIZES)
    for name, parameter in mixer.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3)
        if name in ("A_log", "A_b_log"):
            parameter.data += torch.arange(1, SIZES.states + 1).log()
    return mixer


def pretend_cuda(monkeypatch):
    """Let the mixer ask for the kernels that it would use if its tensors were on a GPU."""
    monkeypatch.setattr(videomamba, "scan_kernel", lambda device: kernels.scan_kernel(CUDA))
    monkeypatch.setattr(videomamba, "convolution_kernel", lambda device: kernels.convolution_kernel(CUDA))


def test_kernels_are_for_cuda_where_they_import(installed):
    installed("mamba_ssm", "causal_conv1d")
    assert kernels.scan_kernel(CUDA) is selective_scan_fn and kernels.convolution_kernel(CUDA) is causal_conv1d_fn
    assert kernels.scan_kernel(CPU) is None and kernels.convolution_kernel(CPU) is None
    installed()
    assert kernels.scan_kernel(CUDA) is None and kernels.convolution_kernel(CUDA) is None


@pytest.mark.parametrize("names", [("mamba_ssm", "causal_conv1d"), ("mamba_ssm",), ("causal_conv1d",)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_kernels_give_equal_results(monkeypatch, installed, mixer, names, dtype, tolerance):
    mixer.to(dtype)
    hidden = torch.randn(2, 21, SIZES.width).to(dtype)
    with torch.no_grad():
        expected = mixer(hidden)
        installed(*names)
        pretend_cuda(monkeypatch)
        found = mixer(hidden)
    assert found.dtype == dtype and expected.std() > 0.1
    torch.testing.assert_close(found.float(), expected.float(), atol=tolerance * expected.abs().max(), rtol=0)


def test_gradients_through_kernels_are_equal(monkeypatch, installed, mixer):
    hidden = torch.randn(1, 9, SIZES.width, requires_grad=True)

    def gradients():
        return torch.autograd.grad(mixer(hidden).square().sum(), [hidden, *mixer.parameters()])

    expected = gradients()
    installed("mamba_ssm", "causal_conv1d")
    pretend_cuda(monkeypatch)
    for found, wanted in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


def test_autocast_hands_the_kernel_one_type(monkeypatch, installed, mixer):
    installed("mamba_ssm", "causal_conv1d")
    pretend_cuda(monkeypatch)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert mixer(torch.randn(1, 9, SIZES.width)).isfinite().all()
