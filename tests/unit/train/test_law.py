"""What direct feedback can come to: against Jacobians worked out one by one, and where the law must give 1."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from onward.core import Frames, Network, Residual, Static
from onward.core.errors import ShapeError
from onward.neurons import LIF
from onward.surrogates import Sigmoid
from onward.train.law import MOST_ERRORS, awakened, expected_alignment, plain_errors
from reference import dense

STEPS, SAMPLES, OUTPUTS = 3, 7, 4


def deep(hidden: int, width: int = 5) -> Network:
    torch.manual_seed(0)
    widths = [6, *[width] * hidden]
    layers = [part for n, m in pairwise(widths) for part in (nn.Linear(n, m), LIF(tau=2.0, surrogate=Sigmoid(4.0)))]
    return Network(nn.Sequential(*layers, nn.Linear(width, OUTPUTS)).double())


def frames(samples: int = SAMPLES) -> Frames:
    torch.manual_seed(1)
    return Frames(3 * torch.rand(STEPS, samples, 6, dtype=torch.float64))


def jacobian(layers: list[tuple[Tensor, Tensor]], run: dense.Run, layer: int, t: int, b: int) -> Tensor:
    """d output / d spikes of ``layer`` ``[m, n]``: later spikes move as a logistic function of slope 4 does."""

    def output(moved: Tensor) -> Tensor:
        away = moved - run.s[layer][t][b]
        for later in range(layer + 1, len(layers)):
            u, into = run.u[later][t][b], layers[later - 1][0] @ away
            away = torch.sigmoid(4 * (u + into - 1)) - torch.sigmoid(4 * (u - 1))
        return layers[-1][0] @ away

    return torch.func.jacrev(output)(run.s[layer][t][b])


def shares(net: Network, x: Frames, errors: Tensor) -> list[float]:
    """The law by its definition, layer by layer: means over one half of the samples meet those over the other."""
    modules = [node.module for node in net.synapses]
    layers = [(m.get_parameter("weight").detach(), m.get_parameter("bias").detach()) for m in modules]
    run, found = dense.forward(dense.Dense(layers, 0.5), x.chunk(0, STEPS)), []
    for layer in range(1, len(layers)):
        each = [[jacobian(layers, run, layer, t, b).T @ errors.T for t in range(STEPS)] for b in range(x.batch)]
        credit = torch.stack([torch.stack(rows) for rows in each])
        kept = (credit[::2].mean((0, 1)) * credit[1::2].mean((0, 1))).sum()
        found.append(float((kept / credit.square().sum((2, 3)).mean()).clamp(0, 1).sqrt()))
    return found


@pytest.mark.parametrize("chunk", [1, 2, None])
def test_it_is_what_jacobians_worked_out_one_by_one_say(chunk: int | None) -> None:
    net, x = deep(3), frames()
    errors = torch.randn(5, OUTPUTS, dtype=torch.float64)
    found = list(expected_alignment(net, x, errors, chunk=chunk).values())
    assert found == pytest.approx(shares(net, x, errors), rel=1e-9)
    assert 0.1 < min(found) < 0.95


def test_errors_sum_to_zero_unless_others_are_given() -> None:
    net, x = deep(2), frames()
    centred = torch.eye(OUTPUTS, dtype=torch.float64) - 1 / OUTPUTS
    assert list(expected_alignment(net, x).values()) == pytest.approx(shares(net, x, centred), rel=1e-9)


def test_the_last_hidden_layer_loses_nothing() -> None:
    (only,) = expected_alignment(deep(1), frames()).values()
    assert only == pytest.approx(1, abs=1e-12)
    *_, last = expected_alignment(deep(4), frames()).values()
    assert last == pytest.approx(1, abs=1e-12)


def test_slopes_that_are_all_the_same_lose_nothing() -> None:
    """A membrane that is never driven has one potential: so is the slope, and the network is linear in spikes."""
    net = deep(4)
    for node in net.synapses[:-1]:
        node.module.weight.data.mul_(1e-6)  # type: ignore[operator, union-attr]
        node.module.bias.data.zero_()  # type: ignore[operator, union-attr]
    assert list(expected_alignment(net, frames()).values()) == pytest.approx([1] * 4, abs=1e-4)


def test_it_falls_with_every_layer_and_less_with_residuals() -> None:
    torch.manual_seed(0)
    plain = [part for _ in range(4) for part in (nn.Linear(40, 40), LIF())]
    blocks = [Residual(nn.Sequential(*pair)) for pair in zip(plain[::2], plain[1::2], strict=True)]
    ends = nn.Sequential(nn.Linear(6, 40), LIF()), nn.Linear(40, OUTPUTS)
    x = Static(3 * torch.rand(64, 6), 4)
    chain = list(expected_alignment(Network(nn.Sequential(*ends[0], *plain, ends[1])), x).values())
    stream = list(expected_alignment(Network(nn.Sequential(*ends[0], *blocks, ends[1])), x).values())
    assert chain == sorted(chain)
    assert min(chain) < min(stream)


def test_halves_do_not_count_the_noise_of_few_samples_as_kept() -> None:
    """The mean of few samples has more energy than the mean of all; halves agree with many on average."""
    net, many = deep(3, width=30), frames(400).x
    whole = expected_alignment(net, Frames(many))["1"]
    few = [expected_alignment(net, Frames(many[:, k : k + 8]))["1"] for k in range(0, 400, 8)]
    assert sum(cosine**2 for cosine in few) / len(few) == pytest.approx(whole**2, abs=0.03)


def test_a_layer_that_no_error_reaches() -> None:
    net = deep(2)
    net.synapses[-1].module.weight.data.zero_()  # type: ignore[operator, union-attr]
    assert list(expected_alignment(net, frames()).values()) == [0, 0]


def test_awake_layers_are_driven_as_far_as_the_firing_level() -> None:
    net, x = deep(3, width=30), frames(50)
    weights = [(w["weight"], w["bias"]) for w in awakened(net, x).values()]
    run = dense.forward(dense.Dense(weights, 0.5), x.chunk(0, STEPS))
    for potentials in run.u[1:4]:
        assert float(torch.stack(potentials).std(correction=0)) == pytest.approx(1, rel=0.15)


@pytest.mark.parametrize("chunk", [1, None])
def test_layers_that_are_silent_at_the_start_are_not_flattered(chunk: int | None) -> None:
    """Neither slopes that are all alike nor the scale of initial weights play a part in awake networks."""
    net, x = deep(4, width=30), frames(50)
    loud = expected_alignment(net, x, weights=awakened(net, x, chunk=chunk))
    for node in net.synapses[:-1]:
        node.module.weight.data.mul_(0.01)  # type: ignore[operator, union-attr]
        node.module.bias.data.mul_(0.01)  # type: ignore[operator, union-attr]
    assert min(expected_alignment(net, x).values()) > 0.99
    assert expected_alignment(net, x, weights=awakened(net, x)) == pytest.approx(loud, abs=0.05)
    assert min(loud.values()) < 0.5


def test_layers_that_nothing_drives_are_left_alone() -> None:
    net = deep(2)
    for parameter in net.parameters():
        parameter.data.zero_()
    assert not any(w.any() for weights in awakened(net, frames()).values() for w in weights.values())


def test_nothing_is_changed() -> None:
    net = deep(2)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    expected_alignment(net, frames())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.training
    assert all(p.grad is None for p in net.parameters())


def test_one_sample_is_refused() -> None:
    with pytest.raises(ShapeError, match="a mini-batch of 1 sample was given"):
        expected_alignment(deep(1), frames(1))


def test_many_outputs_are_sampled() -> None:
    assert plain_errors(1).tolist() == [[1]]
    assert plain_errors(1000).shape == (MOST_ERRORS, 1000)
    assert plain_errors(1000).mean(1).abs().max() < 1e-6
