"""Restricted weights: their norms, gradients and state, and what cannot be restricted."""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn.utils import parametrize

from onward.core import GradSink, Network
from onward.core.errors import ConfigError, OnwardError, ShapeError, UnsupportedModule
from onward.core.synapse import ops_of
from onward.kernels.rows import SparseRows
from onward.weights import (
    Frobenius,
    Matrix,
    RestrictionChoice,
    Spectral,
    operator_of,
    probed_norm,
    restrictions,
    standardize,
)
from unit.weights.synapse_zoo import SYNAPSES, build, every_synapse, true_norm

ACTIVE = ["spectral", "reshaped", "frobenius"]
every_restriction = pytest.mark.parametrize("norm", ACTIVE)


def restricted(norm: Any, module: nn.Module, features: tuple[int, ...]) -> nn.Module:
    return restrictions.build(norm).apply(module, features)


def parts(module: nn.Module) -> Any:
    """The parametrization of the weight, and the stored weight."""
    held: Any = module.parametrizations
    return held.weight[0], held.weight.original


@torch.no_grad()
def settle(module: nn.Module, readings: int = 400) -> None:
    module.train()
    for _ in range(readings):
        _ = module.weight
    module.eval()


def matrix_norm(weight: Tensor) -> float:
    return float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2))


@every_synapse
def test_the_true_norm_keeps_to_the_limit(name: str) -> None:
    """I10, for the operator itself."""
    module, features = build(name)
    nn.init.normal_(module.get_parameter("weight"))
    assert true_norm(module, features) > 1.2
    restricted({"name": "spectral", "to": 1.2}, module, features)
    settle(module)
    assert true_norm(module, features) == pytest.approx(1.2, rel=2e-3)


@pytest.mark.parametrize("name", ["linear", "conv2d", "transposed2d"])
def test_the_reshaped_norm_keeps_to_the_limit(name: str) -> None:
    """I10, for the matrix of dimension 0 (of a transposed convolution, its inputs) against the rest."""
    module, features = build(name)
    nn.init.normal_(module.get_parameter("weight"))
    restricted("reshaped", module, features)
    settle(module)
    assert matrix_norm(module.weight) == pytest.approx(1, rel=1e-9)  # type: ignore[arg-type]


def test_a_matrix_settles_within_rounding() -> None:
    module, features = build("linear")
    nn.init.normal_(module.get_parameter("weight"))
    settle(restricted("spectral", module, features))
    assert true_norm(module, features) == pytest.approx(1, rel=1e-12)


@every_synapse
def test_weights_within_the_limit_start_as_they_are(name: str) -> None:
    module, features = build(name)
    before = module.get_parameter("weight").detach().clone()
    for norm in ACTIVE:
        once = restricted({"name": norm, "to": 100}, deepcopy(module), features).eval()
        assert torch.allclose(once.weight, before, rtol=1e-12)  # type: ignore[arg-type]


def test_a_box_filter_within_the_reshaped_limit_lengthens_its_input() -> None:
    """Pitfall 4: why the default is the operator."""
    norms = {}
    for norm in ("reshaped", "spectral"):
        module = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
        nn.init.constant_(module.weight, 1.0)
        settle(restricted(norm, module, (1, 16, 16)))
        norms[norm] = true_norm(module, (1, 16, 16))
    assert norms["reshaped"] == pytest.approx(2.93, abs=0.02)
    assert norms["spectral"] == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("name", ["linear", "conv2d-strided", "conv2d-circular", "transposed2d"])
@pytest.mark.parametrize("norm", ["spectral", "reshaped"])
def test_gradients_flow_through_the_norm(name: str, norm: str) -> None:
    """Finite differences, with u and v at rest."""
    module, features = build(name)
    restriction, weight = parts(restricted(norm, module, features).eval())
    with torch.no_grad():
        restriction.gain.fill_(0.7)
    gain = restriction.gain

    def effective(w: Tensor, g: Tensor) -> Tensor:
        return torch.func.functional_call(restriction, {"gain": g}, (w,))

    inputs = (weight.detach().requires_grad_(), gain.detach().clone().requires_grad_())
    assert torch.autograd.gradcheck(effective, inputs)


def test_a_gain_beyond_the_limit_has_no_gradient() -> None:
    """Pitfall 5."""
    restriction = Spectral(torch.eye(3, dtype=torch.float64), Matrix(), to=2.0)
    weight = torch.randn(3, 3, dtype=torch.float64)
    for gain, moves in ((1.5, True), (-1.5, True), (2.5, False), (-2.5, False)):
        with torch.no_grad():
            restriction.gain.fill_(gain)
        (grad,) = torch.autograd.grad(restriction(weight).square().sum(), [restriction.gain])
        assert bool(grad != 0) is moves
    with torch.no_grad():
        restriction.gain.fill_(-2.5)
    restriction.eval()
    assert torch.allclose(restriction(weight), -2 * weight / restriction._sigma(weight))


@every_restriction
def test_evaluation_is_reproducible(norm: str) -> None:
    """I11: pitfall 6 does not hold here."""
    module = restricted(norm, nn.Linear(6, 6), (6,)).eval()
    x = torch.randn(2, 6)
    assert torch.equal(module(x), module(x))


def test_each_reading_in_training_is_one_iteration() -> None:
    module = restricted("spectral", nn.Linear(6, 6), (6,))
    restriction, weight = parts(module)
    u = restriction.u.clone()
    v = nn.functional.normalize(weight.detach().T @ u, dim=0)
    _ = module.weight
    assert torch.allclose(restriction.v, v, atol=1e-6)
    assert torch.allclose(restriction.u, nn.functional.normalize(weight.detach() @ v, dim=0), atol=1e-6)


def test_the_gain_starts_at_the_norm_after_ten_iterations() -> None:
    weight = torch.randn(6, 6, dtype=torch.float64)
    restriction, again = Spectral(weight, Matrix()), Spectral(weight, Matrix())
    assert restriction.gain.shape == ()
    assert float(restriction.gain.detach()) == pytest.approx(matrix_norm(weight), rel=0.05)
    assert float(restriction.gain.detach()) <= matrix_norm(weight)
    assert torch.equal(restriction.u, again.u)


@every_restriction
def test_building_draws_no_random_numbers(norm: str) -> None:
    module, before = nn.Linear(4, 4), torch.get_rng_state()
    restricted(norm, module, (4,))
    assert torch.equal(before, torch.get_rng_state())


@every_restriction
@pytest.mark.parametrize("name", ["linear", "conv2d", "transposed2d"])
def test_state_survives_saving_and_copying(norm: str, name: str) -> None:
    make, features = SYNAPSES[name]
    module = restricted(norm, make(), features)
    for _ in range(3):
        _ = module.weight
    fresh = restricted(norm, make(), features)
    fresh.load_state_dict(module.state_dict())
    copied = deepcopy(module)
    for _ in range(2):
        expected: Any = module.weight
        assert torch.equal(fresh.weight, expected)  # type: ignore[arg-type]
        assert torch.equal(copied.weight, expected)  # type: ignore[arg-type]
    wide: Any = deepcopy(module).double().weight
    assert wide.dtype is torch.float64
    assert torch.allclose(wide.float(), module.weight, atol=1e-6)  # type: ignore[arg-type]


def test_iterations_leave_earlier_graphs_alone() -> None:
    module = restricted("spectral", nn.Conv2d(2, 2, 3, padding=1).double(), (2, 5, 5))
    grads = []
    for readings in (0, 3):
        once = deepcopy(module)
        read: Any = once.weight
        for _ in range(readings):
            _ = once.weight
        read.square().sum().backward()
        grads.append(parts(once)[1].grad)
    assert torch.equal(*grads)


@pytest.mark.parametrize("name", ["linear", "conv2d", "transposed2d"])
@every_restriction
def test_the_engine_pulls_gradients_back(norm: str, name: str) -> None:
    module, features = build(name)
    net = Network(nn.Sequential(restricted({"name": norm, "to": 50.0}, module, features))).double()
    parameters = list(net.parameters())
    before = deepcopy(net.state_dict())
    x = torch.randn(2, 3, *features, dtype=torch.float64)
    drive = net.get_submodule("0")(x.flatten(0, 1))
    g = torch.randn_like(drive)
    expected = torch.autograd.grad(drive, parameters, g)
    net.load_state_dict(before)
    sink = GradSink(net)
    _ = module.weight
    sink.deposit(net.synapses[0], x, g.unflatten(0, (2, 3)))
    sink.flush()
    for parameter, grad in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        assert torch.allclose(parameter.grad, grad, atol=1e-10)


def test_looking_for_taps_is_no_iteration() -> None:
    """Sparse input asks a synapse for its geometry, which must not move its weight."""
    module = restricted("spectral", nn.Conv2d(2, 2, 3, padding=1), (2, 4, 4))
    restriction, none = parts(module)[0], torch.empty(0)
    u = restriction.u.clone()
    assert ops_of(module).taps(module, SparseRows(none, none, none, torch.Size((1, 1, 2, 4, 4)), 16)) is not None
    assert torch.equal(restriction.u, u)


def test_standardised_weights_can_be_restricted() -> None:
    module = standardize(nn.Conv2d(2, 3, 3, padding=1)).double()
    settle(restricted({"name": "spectral", "to": 0.5}, module, (2, 5, 5)))
    assert true_norm(module, (2, 5, 5)) == pytest.approx(0.5, rel=2e-3)


def test_the_frobenius_norm_keeps_to_the_limit_as_a_constant() -> None:
    restriction, weight = Frobenius(2.0), torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    norm = float(torch.linalg.vector_norm(weight.detach()))
    assert norm > 2
    found = restriction(weight)
    assert float(torch.linalg.vector_norm(found.detach())) == pytest.approx(2, rel=1e-12)
    g = torch.randn_like(weight)
    (grad,) = torch.autograd.grad(found, [weight], g)
    assert torch.allclose(grad, g * 2 / norm, rtol=1e-12)
    small = weight.detach() / norm
    assert torch.equal(restriction(small), small)
    assert torch.equal(restriction(torch.zeros(2, 2)), torch.zeros(2, 2))


def test_probes_estimate_the_frobenius_norm() -> None:
    """S11: E[phi^2] = ||W||_F^2, within 3 standard errors."""
    weight = torch.randn(5, 3, 2, dtype=torch.float64)
    squares = torch.stack([probed_norm(weight, torch.randn(64, 5).double()).square() for _ in range(400)])
    error = float(squares.std()) / len(squares) ** 0.5
    expected = float(weight.square().sum())
    assert error < 0.02 * expected
    assert abs(float(squares.mean()) - expected) < 3 * error


def test_none_leaves_the_synapse_alone() -> None:
    module = nn.Linear(2, 2)
    assert restricted("none", module, (2,)) is module
    assert not parametrize.is_parametrized(module)


class Holder(BaseModel):
    norm: RestrictionChoice = restrictions.parse("spectral")


def test_restrictions_are_chosen_by_name() -> None:
    assert restrictions.names() == ["frobenius", "none", "reshaped", "spectral"]
    assert {n: restrictions.parse(n).model_dump().get("to") for n in restrictions.names()} == {
        "frobenius": 2.0,
        "none": None,
        "reshaped": 1.0,
        "spectral": 1.0,
    }
    holder = Holder.model_validate({"norm": {"name": "frobenius", "to": 10}})
    assert holder.model_dump() == {"norm": {"name": "frobenius", "to": 10.0}}
    for norm in ACTIVE:
        module = restricted({"name": norm, "to": 3}, nn.Linear(2, 2), (2,))
        assert "limit=3" in repr(parts(module)[0])


def empty() -> nn.Module:
    with warnings.catch_warnings(action="ignore"):  # torch warns of a weight without elements
        return nn.Linear(0, 3)


def zeros() -> nn.Module:
    module = nn.Conv2d(2, 2, 3)
    nn.init.zeros_(module.weight)
    return module


def unseen() -> nn.Module:
    """On one place, a filter with nothing in its middle sees padding only."""
    module = nn.Conv1d(1, 1, 3, padding=1, bias=False)
    module.weight.data = torch.tensor([[[1.0, 0.0, 1.0]]])
    return module


@pytest.mark.parametrize(
    ("wrong", "kind", "says"),
    [
        (lambda: restrictions.parse({"name": "spectral", "to": 0}), ConfigError, "to = 0 will not do: .*greater than"),
        (lambda: restrictions.parse({"name": "frobenius", "to": -1}), ConfigError, "to = -1 will not do"),
        (lambda: restrictions.parse({"name": "none", "to": 1}), OnwardError, "unknown option of none 'to'"),
        (lambda: Spectral(torch.eye(2), Matrix(), to=-1), ConfigError, "at most -1 was asked for; expected .* above 0"),
        (lambda: Frobenius(float("nan")), ConfigError, "at most nan was asked for"),
        (lambda: restricted("spectral", empty(), (0,)), ConfigError, r"\[3, 0\] hold no number"),
        (lambda: restricted("reshaped", empty(), (0,)), ConfigError, r"\[3, 0\] hold no number"),
        (lambda: restricted("frobenius", empty(), (0,)), ConfigError, r"\[3, 0\] hold no number"),
        (lambda: restricted("spectral", zeros(), (2, 4, 4)), ConfigError, "spectral norm of 0, .* other numbers"),
        (lambda: restricted("reshaped", zeros(), (2, 4, 4)), ConfigError, "spectral norm of 0"),
        (lambda: restricted("spectral", unseen(), (1, 1)), ConfigError, "spectral norm of 0"),
        (lambda: Spectral(torch.full((2, 2), float("nan")), Matrix()), ConfigError, "spectral norm of nan"),
        (lambda: restricted("spectral", nn.Conv2d(2, 2, 3), (3, 4, 4)), ShapeError, r"\[3, 4, 4\] does not fit"),
        (lambda: restricted("frobenius", nn.Flatten(), (3,)), UnsupportedModule, "Flatten has no weight"),
        (lambda: restricted("spectral", nn.LayerNorm(3), (3,)), UnsupportedModule, "LayerNorm.* is not known"),
    ],
)
def test_what_cannot_be_restricted_says_why(wrong: Any, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        wrong()


def test_a_refused_synapse_stays_as_it_was() -> None:
    module = nn.Conv2d(2, 2, 3)
    with pytest.raises(ShapeError):
        restricted("spectral", module, (2, 1, 1))
    assert not parametrize.is_parametrized(module)
    assert operator_of(module, (2, 3, 3)).domain(module.weight) == (2, 3, 3)
