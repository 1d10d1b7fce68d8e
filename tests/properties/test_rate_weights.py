"""Properties I10 and S11: norms of feedback weights, against singular values of dense matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from onward.core import Feedback, Network, Static
from onward.core.synapse import effective
from onward.neurons import IF
from onward.testing.harness import teach
from onward.weights import operator_norm, probed_norm, restrictions
from properties.equilibrium_lab import CLASSES, still

ROUNDS = 300

SYNAPSES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(12, 9, bias=False), (12,)),
    "convolution": (lambda: nn.Conv2d(3, 4, 3, padding=1, bias=False), (3, 6, 6)),
    "strided": (lambda: nn.Conv2d(3, 4, 5, stride=2, padding=2, bias=False), (3, 8, 8)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 3, 3, 2, 1, 1, bias=False), (4, 4, 4)),
}


def matrix(synapse: nn.Module, features: tuple[int, ...]) -> Tensor:
    """The synapse as a matrix, one column for each unit input."""
    n = int(torch.tensor(features).prod())
    with torch.no_grad():
        return synapse(torch.eye(n, dtype=torch.float64).view(n, *features)).flatten(1).T


def largest(m: Tensor) -> float:
    return float(torch.linalg.matrix_norm(m, 2))


def restricted(name: str, kind: str, to: float) -> nn.Module:
    """A synapse whose weights would be ten times as large; restricted, and run until nothing moves."""
    make, features = SYNAPSES[name]
    synapse = make().double().requires_grad_(False)
    synapse.get_parameter("weight").mul_(10)
    restrictions.build({"name": kind, "to": to}).apply(synapse, features)
    for _ in range(ROUNDS):
        synapse(torch.zeros(1, *features, dtype=torch.float64))
    return synapse


@pytest.mark.parametrize("to", [1.0, 0.5])
@pytest.mark.parametrize("name", SYNAPSES)
def test_i10_the_spectral_norm_keeps_to_the_limit(name: str, to: float) -> None:
    """I10: ||W|| <= R (1 + eps), of the map itself, convolutions included; and a large weight reaches it."""
    found = largest(matrix(restricted(name, "spectral", to), SYNAPSES[name][1]))
    assert found <= to * (1 + 1e-3)
    assert found >= 0.999 * to


@pytest.mark.parametrize("name", SYNAPSES)
def test_i10_the_published_norm_limits_the_reshaped_matrix_and_not_the_convolution(name: str) -> None:
    """I10 and 2.11: exact for linear layers; a convolution may lengthen an input by more."""
    synapse = restricted(name, "reshaped", 1.0)
    weight = effective(synapse)["weight"].detach()
    assert largest(weight.flatten(1)) == pytest.approx(1.0, rel=1e-3)
    norm = largest(matrix(synapse, SYNAPSES[name][1]))
    assert norm == pytest.approx(1.0, rel=1e-3) if name == "linear" else norm > 1.05


@pytest.mark.parametrize("name", SYNAPSES)
def test_i10_measured_norms_are_singular_values(name: str) -> None:
    """What warnings are made of."""
    make, features = SYNAPSES[name]
    synapse = make().double()
    assert operator_norm(synapse, features) == pytest.approx(largest(matrix(synapse, features)), rel=1e-2)


def test_i10_restricted_feedback_stays_contractive_while_it_learns() -> None:
    """I10 through the rule: V = 2 and R = 1, steps of steepest ascent; ||J|| <= 1/2 in the end."""
    back: nn.Module = nn.Linear(20, 20, bias=False)
    restrictions.build({"name": "spectral", "to": 1.0}).apply(back, (20,))
    net = Network(nn.Sequential(Feedback(nn.Linear(6, 20), IF(threshold=2.0), back), nn.Linear(20, CLASSES))).double()
    x, y = still(net)
    for _ in range(15):
        teach(net, "ide", Static(x, 10), y)
        with torch.no_grad():
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter += 3 * parameter.grad
    for _ in range(20):
        back(torch.zeros(1, 20, dtype=torch.float64))
    assert largest(matrix(back, (20,))) <= 1.01


def test_s11_the_probed_norm_is_unbiased() -> None:
    """S11: E[phi^2] = ||W||_F^2, 3 sigma of 4000 estimates of 64 probes."""
    weight = torch.randn(7, 3, 3, dtype=torch.float64)
    squares = torch.stack([probed_norm(weight, torch.randn(64, 7, dtype=torch.float64)) ** 2 for _ in range(4000)])
    exact = sum(float(w) ** 2 for w in weight.flatten())
    assert abs(float(squares.mean()) - exact) < 3 * float(squares.std()) / 4000**0.5


@pytest.mark.parametrize("name", SYNAPSES)
def test_s11_the_frobenius_norm_keeps_to_the_limit(name: str) -> None:
    """S11: ||W||_F = R where it was larger; what is smaller is left as it is."""
    weight = effective(restricted(name, "frobenius", 2.0))["weight"]
    assert float(weight.square().sum()) ** 0.5 == pytest.approx(2.0, rel=1e-12)
    make, features = SYNAPSES[name]
    synapse = make()
    before = synapse.get_parameter("weight").detach().clone()
    restrictions.build({"name": "frobenius", "to": 1000.0}).apply(synapse, features)
    assert torch.equal(effective(synapse)["weight"], before)
