"""Two identities verify a synapse: <W x, g> = <x, transpose(g)> and <outer(x, g), W> = <W x, g> (bias zero)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onward.core import GradSink, Network
from onward.core.synapse import ConvOps, LinearOps, SynapseOps, VjpOps, effective, ops_of, register_synapse
from onward.testing.harness import relative
from onward.weights import standardize

CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
PADDINGS = ["zeros", "reflect", "replicate", "circular"]


def assert_identities(module: nn.Module, shape: tuple[int, ...], rows: int, ops: type[SynapseOps]) -> None:
    """Both identities, and all gradients against autograd through the module itself."""
    module = module.double()
    found = ops_of(module)
    assert type(found) is ops
    params = {k: w.detach() for k, w in effective(module).items()}
    x = torch.randn(rows, *shape, dtype=torch.float64)
    drive = found.apply(module, params, x)
    assert relative(drive, module(x).detach()) < 1e-12
    g = torch.randn_like(drive)
    into = {k: torch.zeros_like(w) for k, w in params.items()}
    found.outer(module, params, x, g, into)
    if "bias" in params:
        assert into["bias"].abs().max() == 0
    found.bias(module, g, into)
    linear = found.apply(module, {k: w * (k != "bias") for k, w in params.items()}, x)
    product = (linear * g).sum()
    assert relative((x * found.transpose(module, params, g, x)).sum(), product) < 1e-9
    assert relative((into["weight"] * params["weight"]).sum(), product) < 1e-9
    with parametrize.cached():
        expected = torch.autograd.grad(module(x), list(effective(module).values()), g)
    for name, grad in zip(params, expected, strict=True):
        assert relative(into[name], grad) < 1e-9


@given(st.integers(1, 5), st.integers(1, 6), st.integers(1, 6), st.booleans())
def test_linear(rows: int, fan_in: int, fan_out: int, bias: bool) -> None:
    assert_identities(nn.Linear(fan_in, fan_out, bias=bias), (fan_in,), rows, LinearOps)


def test_linear_on_more_axes_than_one() -> None:
    assert_identities(nn.Linear(4, 3), (5, 2, 4), 3, LinearOps)


@st.composite
def convolutions(draw: Any, dims: int) -> tuple[dict, tuple[int, ...], int]:
    groups = draw(st.integers(1, 2))
    kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    options = {
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 2)),
        "kernel_size": kernel,
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, 2)),
        "dilation": dilation,
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    side = draw(st.integers(1, 6))
    assume(side + 2 * options["padding"] >= dilation * (kernel - 1) + 1)
    return options, (options["in_channels"], *[side] * dims), draw(st.integers(1, 3))


@given(convolutions(1))
def test_conv1d(case: tuple[dict, tuple[int, ...], int]) -> None:
    assert_identities(nn.Conv1d(**case[0]), case[1], case[2], ConvOps)


@given(convolutions(2))
def test_conv2d(case: tuple[dict, tuple[int, ...], int]) -> None:
    assert_identities(nn.Conv2d(**case[0]), case[1], case[2], ConvOps)


@given(convolutions(3))
def test_conv3d(case: tuple[dict, tuple[int, ...], int]) -> None:
    assert_identities(nn.Conv3d(**case[0]), case[1], case[2], ConvOps)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", PADDINGS)
def test_padding_modes(dims: int, mode: str) -> None:
    module = CONVS[dims](2, 3, 3, padding=1, padding_mode=mode)
    assert_identities(module, (2, *[5] * dims), 2, ConvOps if mode == "zeros" else VjpOps)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_by_name(padding: str) -> None:
    assert_identities(nn.Conv2d(2, 3, 3, padding=padding), (2, 5, 5), 2, VjpOps)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1), st.integers(1, 2), st.integers(1, 3), st.booleans())
def test_transposed_convolutions_by_the_generic_products(
    kernel: int, stride: int, padding: int, groups: int, rows: int, bias: bool
) -> None:
    assume(kernel > 2 * padding)
    module = nn.ConvTranspose2d(2 * groups, 3 * groups, kernel, stride, padding, groups=groups, bias=bias)
    assert_identities(module, (2 * groups, 3, 3), rows, VjpOps)


@pytest.mark.parametrize(
    ("module", "shape", "ops"),
    [
        (nn.Linear(6, 4), (6,), LinearOps),
        (nn.Conv2d(4, 6, 3, padding=1, groups=2), (4, 5, 5), ConvOps),
        (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 5), VjpOps),
        (nn.ConvTranspose2d(2, 3, 2), (2, 4, 4), VjpOps),
    ],
    ids=str,
)
def test_standardised_weights_keep_their_products(
    module: nn.Module, shape: tuple[int, ...], ops: type[SynapseOps]
) -> None:
    assert_identities(standardize(module), shape, 3, ops)


def test_the_sink_pulls_effective_gradients_back_to_the_stored_weights() -> None:
    """A deposit into a standardised layer ends as the gradient of gain, raw weight and bias."""
    net = Network(nn.Sequential(standardize(nn.Linear(6, 4)))).double()
    sink, x, g = GradSink(net), torch.randn(2, 3, 6).double(), torch.randn(2, 3, 4).double()
    expected = torch.autograd.grad(net.get_submodule("0")(x), list(net.parameters()), g)
    sink.deposit(net.synapses[0], x, g)
    sink.flush()
    for parameter, grad in zip(net.parameters(), expected, strict=True):
        assert parameter.grad is not None
        assert relative(parameter.grad, grad) < 1e-10


def test_deposits_of_a_repeated_frame_cost_one_product_and_give_the_same() -> None:
    net = Network(nn.Sequential(nn.Linear(6, 4))).double()
    frame, g = torch.randn(3, 6).double(), torch.randn(5, 3, 4).double()
    grads = []
    for pre in (frame.expand(5, 3, 6), frame.repeat(5, 1, 1)):
        net.zero_grad()
        sink = GradSink(net)
        sink.deposit(net.synapses[0], pre, g)
        sink.flush()
        grads.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert all(relative(a, b) < 1e-12 for a, b in zip(*grads, strict=True))


def test_frozen_parameters_get_no_gradient() -> None:
    net = Network(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)))
    net.get_parameter("0.weight").requires_grad_(False)
    sink = GradSink(net)
    sink.deposit(net.synapses[0], torch.ones(1, 2, 6), torch.ones(1, 2, 4))
    sink.flush()
    assert net.get_parameter("0.weight").grad is None
    assert net.get_parameter("0.bias").grad is not None


def test_a_registered_type_uses_its_own_products() -> None:
    class Doubled(nn.Linear):
        pass

    class DoubledOps(SynapseOps):
        def apply(self, module: Any, params: Any, x: Tensor) -> Tensor:
            return 2 * x @ params["weight"].T

        def transpose(self, module: Any, params: Any, post: Tensor, like: Tensor) -> Tensor:
            return 2 * post @ params["weight"]

        def outer(self, module: Any, params: Any, pre: Tensor, post: Tensor, into: Any) -> None:
            into["weight"].add_(2 * post.T @ pre)

        def bias(self, module: Any, post: Tensor, into: Any) -> None:
            pass

    register_synapse(Doubled, DoubledOps())
    net = Network(nn.Sequential(Doubled(3, 2, bias=False)))
    out = net(torch.ones(1, 1, 3))
    assert torch.allclose(out[0, 0], 2 * net.get_parameter("0.weight").sum(1))


def test_strided_projections_of_maps_that_lie_channels_last_have_the_right_gradients() -> None:
    """torch's own product is wrong for a 1 x 1 kernel with a stride on channels-last float32 maps."""
    torch.manual_seed(0)
    module = nn.Conv2d(4, 6, 1, stride=2)
    params = {name: p.detach() for name, p in module.named_parameters()}
    for rows in (1, 4, 9):
        x = torch.randn(rows, 4, 8, 8).contiguous(memory_format=torch.channels_last)
        post = torch.randn(rows, 6, 4, 4).contiguous(memory_format=torch.channels_last)
        into = {name: torch.zeros_like(p) for name, p in params.items()}
        ops_of(module).outer(module, params, x, post, into)
        expected = torch.einsum("roij,rcij->oc", post, x[:, :, ::2, ::2])[..., None, None]
        assert torch.allclose(into["weight"], expected, atol=1e-4)
