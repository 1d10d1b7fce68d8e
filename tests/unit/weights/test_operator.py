"""The operator of a synapse, and its norm, against the dense matrix of the module's own forward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from onward.core.errors import ShapeError, UnsupportedModule
from onward.core.synapse import effective
from onward.weights import Matrix, operator_norm, operator_of, restrictions, standardize
from unit.weights.synapse_zoo import build, dense, every_synapse, true_norm


@every_synapse
def test_operators_are_what_the_module_does(name: str) -> None:
    module, features = build(name)
    operator, weight = operator_of(module, features), effective(module)["weight"].detach()
    matrix = dense(module, features)
    x = torch.randn(operator.domain(weight), dtype=torch.float64)
    y = operator.apply(weight, x)
    assert torch.allclose(y.flatten(), matrix @ x.flatten(), atol=1e-12)
    other = torch.randn_like(y)
    assert torch.allclose(operator.adjoint(weight, other).flatten(), matrix.T @ other.flatten(), atol=1e-12)


@every_synapse
def test_norms_are_those_of_the_dense_matrix(name: str) -> None:
    module, features = build(name)
    found, expected = operator_norm(module, features, iterations=20000, tolerance=1e-12), true_norm(module, features)
    assert found == pytest.approx(expected, rel=1e-6)
    assert found <= expected * (1 + 1e-12)
    assert operator_norm(module, features) == pytest.approx(expected, rel=5e-3)


def test_norms_can_be_taken_in_another_precision() -> None:
    module = nn.Conv2d(2, 3, 3, padding=1)
    rough, fine = (operator_norm(module, (2, 5, 5), dtype=dtype) for dtype in (None, torch.float64))
    assert rough == pytest.approx(fine, rel=1e-4)
    assert rough != fine
    assert module.weight.dtype is torch.float32


class Doubled(nn.Module):
    """Linear, unknown to the engine, with a bias under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.diag(torch.tensor([3.0, 1.0, 0.5])))
        self.shift = nn.Parameter(torch.tensor([5.0, 5.0, 5.0]))

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x @ self.matrix + self.shift


@pytest.mark.parametrize(
    ("module", "features", "norm"),
    [
        (Doubled(), (3,), 6.0),
        (nn.AvgPool2d(2), (1, 4, 4), 0.5),
        (nn.Sequential(nn.Linear(3, 3), nn.Flatten()), (3,), None),
    ],
    ids=["own", "no-weights", "nested"],
)
def test_norms_of_any_linear_module(module: nn.Module, features: tuple[int, ...], norm: float | None) -> None:
    module = module.double()
    expected = true_norm(module, features)
    assert operator_norm(module, features) == pytest.approx(expected, rel=1e-3)
    assert norm is None or expected == pytest.approx(norm)


def test_norms_of_reparametrised_weights_are_the_effective_ones() -> None:
    module = standardize(nn.Conv2d(2, 3, 3, padding=1)).double()
    assert operator_norm(module, (2, 5, 5)) == pytest.approx(true_norm(module, (2, 5, 5)), rel=5e-3)


def test_taking_a_norm_changes_nothing() -> None:
    module = restrictions.build("spectral").apply(nn.Conv2d(2, 2, 3, padding=1), (2, 5, 5)).train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    random = torch.get_rng_state()
    assert operator_norm(module, (2, 5, 5)) == operator_norm(module, (2, 5, 5))
    assert torch.equal(random, torch.get_rng_state())
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_weight_of_zeros_has_norm_0() -> None:
    module = nn.Linear(3, 2)
    nn.init.zeros_(module.weight)
    assert operator_norm(module, (3,)) == 0


def test_a_box_filter_is_wider_than_its_matrix() -> None:
    """I10, pitfall 4: the norm of the reshaped 3x3 box filter is too small by 2.93."""
    module = nn.Conv2d(1, 1, 3, padding=1, bias=False).double()
    nn.init.constant_(module.weight, 1 / 9)
    reshaped = float(torch.linalg.matrix_norm(effective(module)["weight"].detach().flatten(1), 2))
    assert operator_norm(module, (1, 16, 16)) / reshaped == pytest.approx(2.93, abs=0.02)


@pytest.mark.parametrize(
    ("module", "features", "says"),
    [
        (nn.Linear(4, 3), (5,), r"\[5\] does not fit Linear\(in_features=4, .*expected 4 numbers"),
        (nn.Linear(4, 3), (), r"\[\] does not fit Linear"),
        (nn.Conv2d(1, 3, 3), (4, 4), r"\[4, 4\] does not fit Conv2d.*expected 1 channels, then 2 sizes"),
        (nn.Conv2d(2, 3, 3), (3, 4, 4), r"\[3, 4, 4\] does not fit Conv2d.*expected 2 channels"),
        (nn.Conv2d(2, 3, 3), (2, 0, 4), r"\[2, 0, 4\] does not fit Conv2d.*of at least 1"),
        (nn.Conv2d(2, 3, 5), (2, 3, 3), r"\[2, 3, 3\] does not fit Conv2d.*expected what it can take"),
        (nn.ConvTranspose1d(2, 3, 3, padding=4), (2, 3), r"\[2, 3\] does not fit ConvTranspose1d"),
    ],
    ids=str,
)
def test_features_must_fit(module: nn.Module, features: tuple[int, ...], says: str) -> None:
    with pytest.raises(ShapeError, match=says):
        operator_of(module, features)
    with pytest.raises(ShapeError, match=says):
        operator_norm(module, features)


def test_operators_of_unknown_modules_are_refused() -> None:
    with pytest.raises(UnsupportedModule, match=r"operator of Doubled.*expected nn\.Linear.*'reshaped'"):
        operator_of(Doubled(), (3,))


def test_the_matrix_reads_dimension_0_against_the_rest() -> None:
    weight = torch.randn(3, 2, 2)
    x = torch.randn(Matrix().domain(weight))
    assert torch.allclose(Matrix().apply(weight, x), weight.flatten(1) @ x)
