"""Restricted weights and operator norms against the matrices that the synapses are."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from onward.core.errors import ConfigError, ShapeError
from onward.core.synapse import effective
from onward.weights import Spectral, operator_norm, probed_norm, restrictions
from onward.weights.operator import Operator, Reshaped

SYNAPSES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(7, 5), (7,)),
    "conv": (lambda: nn.Conv2d(2, 3, 3, padding=1, bias=False), (2, 5, 4)),
    "strided": (lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2), (2, 6, 6)),
    "dilated": (lambda: nn.Conv1d(3, 2, 3, dilation=2), (3, 9)),
    "transposed": (lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1), (3, 4, 4)),
    "volume": (lambda: nn.Conv3d(1, 2, 2), (1, 3, 3, 3)),
}
each_synapse = pytest.mark.parametrize("name", SYNAPSES)


def make(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(3)
    build, features = SYNAPSES[name]
    return build().double(), features


def matrix(synapse: nn.Module, features: tuple[int, ...]) -> Tensor:
    """The linear map of a synapse, column by column."""
    columns = torch.eye(torch.Size(features).numel(), dtype=torch.float64).view(-1, *features)
    with torch.no_grad():
        return (synapse(columns) - synapse(torch.zeros_like(columns))).flatten(1).T


def true_norm(synapse: nn.Module, features: tuple[int, ...]) -> float:
    return float(torch.linalg.matrix_norm(matrix(synapse, features), 2))


def read_often(synapse: nn.Module, times: int = 300) -> None:
    for _ in range(times):
        effective(synapse)


@each_synapse
def test_the_operator_norm_is_that_of_the_matrix(name: str) -> None:
    synapse, features = make(name)
    assert operator_norm(synapse, features, tolerance=1e-9, most=5000) == pytest.approx(
        true_norm(synapse, features), rel=1e-5
    )


@each_synapse
@pytest.mark.parametrize("to", [0.5, 1.0])
def test_a_spectral_restriction_bounds_the_true_operator(name: str, to: float) -> None:
    """I10, for linear maps and for convolutions of every kind."""
    synapse, features = make(name)
    restrictions.build({"name": "spectral", "to": to}).apply(synapse, features)
    with torch.no_grad():
        synapse.get_parameter("parametrizations.weight.0.gain").fill_(7.0)
    read_often(synapse)
    synapse.eval()
    assert true_norm(synapse, features) == pytest.approx(to, rel=1e-4)


@each_synapse
def test_the_initial_weight_is_kept_but_for_its_bound(name: str) -> None:
    synapse, features = make(name)
    before = synapse.get_parameter("weight").detach().clone()
    restrictions.build({"name": "spectral", "to": 1e6}).apply(synapse, features)
    read_often(synapse)
    assert torch.allclose(effective(synapse.eval())["weight"], before, rtol=0.2)


def test_the_reshaped_norm_of_a_convolution_is_not_its_norm() -> None:
    """Pitfall 4: a 3 x 3 box filter is longer by about 2.93 than its row of nine numbers."""
    box = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    nn.init.constant_(box.weight, 1.0)
    restrictions.build("reshaped").apply(box, (1, 28, 28))
    with torch.no_grad():
        box.get_parameter("parametrizations.weight.0.gain").fill_(1.0)
    assert operator_norm(box, (1, 28, 28), tolerance=1e-8, most=2000) == pytest.approx(2.98, abs=0.06)


@pytest.mark.parametrize("kind", ["operator", "reshaped"])
def test_gradients_hold_u_and_v_constant(kind: str) -> None:
    synapse, features = make("conv")
    weight = synapse.get_parameter("weight").detach()
    linear = Operator(synapse, weight, features) if kind == "operator" else Reshaped(weight)
    restricted = Spectral(weight, linear, to=100.0).double().eval()
    assert torch.autograd.gradcheck(restricted, (weight.clone().requires_grad_(),))


def test_a_gain_beyond_the_bound_gets_no_gradient() -> None:
    layer = restrictions.build("spectral").apply(nn.Linear(4, 4), (4,))
    gain = layer.get_parameter("parametrizations.weight.0.gain")
    for value, moves in ((2.0, False), (0.5, True)):
        gain.data.fill_(value)
        (grad,) = torch.autograd.grad(effective(layer)["weight"].square().sum(), gain)
        assert bool(grad.abs() > 0) == moves


@pytest.mark.parametrize("name", ["spectral", "reshaped", "frobenius"])
def test_evaluation_repeats_and_state_dicts_carry_everything(name: str) -> None:
    layer = restrictions.build(name).apply(nn.Conv2d(2, 2, 3, padding=1), (2, 5, 5))
    read_often(layer, 3)
    layer.eval()
    first = effective(layer)["weight"].detach().clone()
    assert torch.equal(effective(layer)["weight"], first)
    twin = restrictions.build(name).apply(nn.Conv2d(2, 2, 3, padding=1), (2, 5, 5)).eval()
    twin.load_state_dict(layer.state_dict())
    assert torch.equal(effective(twin)["weight"], first)
    assert torch.equal(effective(deepcopy(layer))["weight"], first)


def test_looking_at_a_norm_moves_nothing() -> None:
    layer = restrictions.build("spectral").apply(nn.Linear(6, 6), (6,))
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    operator_norm(layer, (6,))
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())
    assert layer.training


def test_building_draws_nothing_from_torchs_generator() -> None:
    state = torch.get_rng_state()
    weight = torch.ones(3, 3)
    Spectral(weight, Reshaped(weight))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("size", [0.5, 3.0])
def test_frobenius_shortens_and_never_lengthens(size: float) -> None:
    layer = nn.Linear(5, 5)
    layer.weight.data.mul_(size / layer.weight.norm())
    restrictions.build({"name": "frobenius", "to": 2.0}).apply(layer, (5,))
    assert float(layer.weight.detach().norm()) == pytest.approx(min(size, 2.0), rel=1e-5)


def test_probes_estimate_the_frobenius_norm() -> None:
    """S11: the mean of the estimate's square is ||W||_F^2, within three standard errors."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 3, 3, 3, generator=generator, dtype=torch.float64)
    squares = torch.stack(
        [probed_norm(weight, torch.randn(64, 6, generator=generator, dtype=torch.float64)) ** 2 for _ in range(400)]
    )
    error = squares.std() / len(squares) ** 0.5
    assert abs(squares.mean() - weight.norm() ** 2) < 3 * error


@pytest.mark.parametrize(
    ("build", "kind", "words"),
    [
        (lambda: restrictions.build("spectral").apply(_zero(), (4,)), ConfigError, "all zero"),
        (lambda: restrictions.build("frobenius").apply(_zero(), (4,)), ConfigError, "choose the restriction 'none'"),
        (
            lambda: restrictions.build("spectral").apply(nn.Linear(4, 4), (5,)),
            ShapeError,
            r"cannot read features \[5\]",
        ),
        (lambda: restrictions.build({"name": "spectral", "to": 0.0}), ConfigError, "to = 0.0 will not do"),
    ],
)
def test_bad_input_is_refused_in_words(build: Callable[[], object], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        build()


def _zero() -> nn.Module:
    layer = nn.Linear(4, 4)
    nn.init.zeros_(layer.weight)
    return layer


def test_no_restriction_is_the_synapse_itself() -> None:
    layer = nn.Linear(3, 3)
    assert restrictions.build("none").apply(layer, (3,)) is layer
    assert not hasattr(layer, "parametrizations")
