"""Properties MO8 and MO9: the networks of the ZO-SNN project, and the loss of their output spikes."""

from __future__ import annotations

from math import e, log

import pytest
import torch
from torch import Tensor

from onward.core import Static, evaluate
from onward.core.errors import ConfigError
from onward.core.objective import objectives
from onward.models import models
from onward.neurons import neurons

N1 = {
    "name": "lif",
    "decay": 0.95,
    "reset": "delayed",
    "ties_fire": False,
    "surrogate": {"name": "localzo", "delta": 0.6, "samples": 1},
}
RATE = objectives.build("per-step")


def built(choice: object, features: tuple[int, ...] = (1, 28, 28)):
    return models.build(choice, features, 10, lambda: neurons.build(N1))


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        ("zosnn-linear", 15_910),
        ({"name": "zosnn-linear", "hidden": [40]}, 31_810),
        ({"name": "zosnn-linear", "hidden": [20, 20]}, 16_330),
        ("zosnn-conv", 431_080),
    ],
)
def test_MO8_networks_have_the_published_sizes(choice: object, count: int) -> None:
    net = built(choice)
    assert sum(p.numel() for p in net.parameters()) == count
    out = evaluate(net, RATE, Static(torch.rand(3, 1, 28, 28), 5), torch.tensor([1, 2, 3])).evidence
    assert out.shape == (3, 10)
    assert torch.equal(out, out.round())  # counts of spikes


def total(spikes: Tensor, y: Tensor) -> float:
    return float(RATE.total(spikes.sum(0), RATE.step_losses(spikes, y, len(spikes)).sum(0), y, len(spikes)))


def test_MO9_the_loss_lies_between_that_of_silence_and_that_of_a_perfect_answer() -> None:
    y = torch.tensor([3, 7])
    silent, perfect = torch.zeros(25, 2, 10), torch.zeros(25, 2, 10)
    perfect[:, [0, 1], y] = 1
    assert total(silent, y) == pytest.approx(log(10), abs=1e-6)
    assert total(perfect, y) == pytest.approx(log(1 + 9 / e), abs=1e-6)


def test_MO9_the_loss_of_a_step_counts_its_spikes() -> None:
    spikes, y = (torch.rand(25, 40, 10, dtype=torch.float64) < 0.3).double(), torch.randint(10, (40,))
    found = RATE.step_losses(spikes, y, 1)
    k, right = spikes.sum(-1), spikes.gather(-1, y.expand(25, 40)[..., None])[..., 0]
    assert torch.allclose(found, (k * e + 10 - k).log() - right, atol=1e-12)


def test_hidden_membranes_never_fall_far_below_rest() -> None:
    net, seen = built("zosnn-linear"), []

    def watch(record) -> None:
        seen.append(record.firings[net.hidden[0].index].potential)

    evaluate(net, RATE, Static(5 * torch.rand(8, 1, 28, 28), 40), torch.arange(8), watch=watch)
    assert float(torch.cat(seen).min()) > -0.05 - 1e-6


def test_the_convolutional_one_reads_images() -> None:
    with pytest.raises(ConfigError, match="reads images, and features \\[784\\]"):
        built("zosnn-conv", (784,))
