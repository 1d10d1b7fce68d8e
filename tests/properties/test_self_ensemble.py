"""A spiking network whose temporal gradient is stopped is an ensemble of its time steps (BW7, BW8, BW12)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onward.core import Network, Static
from onward.data import ArrayDataset, Loader
from onward.data.arrays import FramesLayout
from onward.neurons import IF, LIF
from onward.testing.harness import assert_close, relative, teach
from onward.testing.zoo import BATCH, CLASSES, STEPS, data, make
from onward.train.members import Members, members
from reference import plain
from reference.plain import Heaviside
from reference.tiny import body, sequence_loss, step_loss


def layers(neuron=LIF, gain: float = 2.0) -> nn.Sequential:
    torch.manual_seed(1)
    found = nn.Sequential(nn.Linear(12, 10), neuron(), nn.Linear(10, 8), neuron(), nn.Linear(8, CLASSES)).double()
    for parameter in found.parameters():
        parameter.data.mul_(gain)
    return found


def binary(net: nn.Sequential, x: Tensor, noises: Sequence[Tensor | float]) -> Tensor:
    """One pass through a network of binary activations, with ``noises`` added to what they are the signs of."""
    left, modules = list(noises), list[Any](net)
    for layer in modules:
        if isinstance(layer, nn.Linear):
            x = layer(x)
        else:
            x = Heaviside.apply(x + left.pop(0) - layer.threshold, layer.surrogate, layer.ties_fire)
    return x


def injected(net: Network, records) -> list[list[Tensor]]:
    """n[t] of every hidden layer, step by step: what the membranes kept of before."""
    found: list[list[Tensor]] = []
    for node in net.hidden:
        neuron: Any = node.module
        after = torch.cat([neuron.after_reset(record.firings[node.index]) for record in records])
        found.append([torch.zeros_like(after[0]), *(neuron.decay * v for v in after[:-1])])
    return [list(step) for step in zip(*found, strict=True)]


@pytest.mark.parametrize("neuron", [LIF, IF, lambda: LIF(tau=3.0)], ids=["lif", "if", "lif-3"])
@pytest.mark.parametrize("chunk", [1, STEPS])
def test_bw7_each_step_is_a_binary_network_with_noise(neuron, chunk: int) -> None:
    x, y = data("mlp")
    net, ensemble = Network(layers(neuron)), layers(neuron)
    taught = teach(net, "sltt", x, y, chunk=chunk)
    outs = [binary(ensemble, frame, n) for frame, n in zip(x, injected(net, taught.records), strict=True)]
    loss = torch.stack([F.cross_entropy(o, y) for o in outs]).mean()
    grads = torch.autograd.grad(loss, list(ensemble.parameters()))
    assert relative(taught.outs, torch.stack(outs).detach()) < 1e-15
    assert_close(taught.grads, dict(zip(dict(net.named_parameters()), grads, strict=True)), 1e-14)
    assert sum(int(n.count_nonzero()) for step in injected(net, taught.records) for n in step) > 100


@pytest.mark.parametrize("rule", ["sltt", "bptt", "ottt"])
def test_bw8_one_step_is_the_binary_network(rule: str) -> None:
    x, y = data("mlp", steps=1)
    ensemble = layers()
    taught, o = teach(Network(layers()), rule, x, y), binary(ensemble, x[0], [0.0, 0.0])
    grads = torch.autograd.grad(F.cross_entropy(o, y), list(ensemble.parameters()))
    assert torch.equal(taught.outs[0], o.detach())
    assert_close(taught.grads, {k: g for (k, _), g in zip(ensemble.named_parameters(), grads, strict=True)}, 1e-14)


def test_bw8_without_a_leak_all_members_are_the_same_however_many_there_are() -> None:
    x, y = data("mlp")[0][0], data("mlp")[1]
    found = [teach(Network(layers(lambda: LIF(decay=0.0))), "sltt", Static(x, steps), y) for steps in (1, 3, 7)]
    for taught in found:
        assert torch.equal(taught.outs, taught.outs[:1].expand_as(taught.outs))
        assert_close(taught.grads, found[0].grads, 1e-14)


@pytest.mark.parametrize("name", ["mlp", "conv", "spike-residual", "recurrent", "batchnorm"])
def test_bw12_steps_one_by_one_add_up_to_the_whole_graph(name: str) -> None:
    """Batch normalisation with the statistics of each step."""
    x, y = data(name)
    assert_close(teach(make(name), "sltt", x, y, chunk=1).grads, plain.sltt(body(name), x, step_loss(y)))


def test_bw12_with_running_statistics_too() -> None:
    x, y = data("batchnorm")
    warm = make("batchnorm")
    teach(warm, "sltt", x, y)
    net, plainly = warm.eval(), nn.Sequential(*warm.children())
    expected = plain.sltt(plainly, x, step_loss(y))
    assert_close(teach(net, "sltt", x, y, chunk=1).grads, expected)
    net.train()
    assert relative(teach(net, "sltt", x, y).grads["0.weight"], expected["0.weight"]) > 1e-3


def test_bw12_needs_the_stopped_gradient() -> None:
    x, y = data("mlp")
    through_time = plain.bptt(body("mlp"), x, sequence_loss(y))
    assert relative(teach(make("mlp"), "sltt", x, y, chunk=1).grads["0.weight"], through_time["0.weight"]) > 1e-3


def counted(o: Tensor, y: list[int]) -> Members:
    """The same numbers, sample by sample and pair by pair."""
    steps, samples = o.shape[:2]
    share = 100 / samples
    said = [[int(o[t, b].argmax()) for b in range(samples)] for t in range(steps)]
    mean = [[int(o[: t + 1, b].mean(0).argmax()) for b in range(samples)] for t in range(steps)]
    pairs = [(t, u) for t in range(steps) for u in range(t)]
    apart = sum(said[t][b] != said[u][b] for t, u in pairs for b in range(samples))
    return Members(
        tuple(share * sum(said[t][b] == y[b] for b in range(samples)) for t in range(steps)),
        tuple(share * sum(mean[t][b] == y[b] for b in range(samples)) for t in range(steps)),
        tuple(share * sum(said[t][b] != mean[-1][b] for b in range(samples)) for t in range(steps)),
        share * apart / len(pairs) if pairs else 0.0,
        samples,
    )


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("chunk", [1, 3, None])
def test_members_are_counted_as_by_hand(steps: int, chunk: int | None) -> None:
    generator, net = torch.Generator().manual_seed(4), Network(layers().float())
    x, y = torch.rand(23, steps, 12, generator=generator) * 2, torch.randint(CLASSES, (23,), generator=generator)
    dataset = ArrayDataset(x, y, layout=FramesLayout())
    found = members(net, Loader(dataset, BATCH, steps, shuffle=False), chunk=chunk)
    expected = counted(net(x.movedim(1, 0)), y.tolist())
    for name in ("alone", "together", "astray", "disagreement", "samples", "gain"):
        assert getattr(found, name) == pytest.approx(getattr(expected, name))
    assert found.gain == pytest.approx(found.together[-1] - sum(found.alone) / steps)
