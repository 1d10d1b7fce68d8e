"""Networks of other libraries: the same spikes, weights and constants, and every refusal in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.contenders import PEERS_FOLDER
from lookalikes import (
    S2NN,
    Leaky,
    LIFNode,
    Linear,
    MultiStepContainer,
    ParametricLIFNode,
    RLeaky,
    Sigmoid,
    Synaptic,
    WSConv2d,
    fast_sigmoid,
    triangular,
)
from torch import Tensor, nn

import onward
from onward.core.errors import ConfigError, UnsupportedModule
from onward.neurons import Affine, CubaLIF, HardReset, SoftReset
from onward.surrogates import ATan, FastSigmoid
from onward.surrogates import Sigmoid as OurSigmoid

STEPS = 30
ROOT = Path(__file__).parents[3]


def net_of(*neurons: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(Linear(12, 20), neurons[0], nn.Linear(20, 6), neurons[-1]).double()
    for module in net:
        if isinstance(module, nn.Linear):
            module.weight.data.mul_(4)
    return net


@torch.no_grad()
def assert_same(theirs: nn.Sequential, ours: onward.Network) -> None:
    x = torch.rand(STEPS, 4, 12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.stack([theirs(frame) for frame in x])
    assert 0 < float((expected > 0).double().mean()) < 1
    assert torch.equal(ours(x), expected)


@pytest.mark.parametrize("reset", [0, 1, 2])
def test_leaky_neurons_fire_alike(reset: int) -> None:
    theirs = net_of(Leaky(0.9, 1.2, reset), Leaky(0.7, 1.0, reset))
    assert_same(theirs, onward.from_snntorch(theirs))


@pytest.mark.parametrize(("decay_input", "v_reset"), [(True, 0.0), (False, 0.0), (True, None), (False, -0.3)])
def test_lif_nodes_fire_alike(decay_input: bool, v_reset: float | None) -> None:
    theirs = net_of(LIFNode(2.5, decay_input, v_reset), LIFNode(2.0, decay_input, v_reset))
    assert_same(theirs, onward.from_spikingjelly(theirs))


def neuron(net: onward.Network, index: int = 0) -> Any:
    return net.neurons[index].module


def test_constants_resets_and_surrogates_are_read() -> None:
    net = onward.from_snntorch(
        [nn.Linear(3, 4), Leaky(0.5, 1.5, spike_grad=fast_sigmoid(10.0)), nn.Linear(4, 2), Leaky(1.3, reset=1)]
    )
    first, second = neuron(net), neuron(net, 1)
    assert (first.decay, first.threshold, first.reset, first.ties_fire) == (0.5, 1.5, SoftReset(2.0), False)
    assert (first.surrogate, second.surrogate, second.reset) == (FastSigmoid(10.0), ATan(2.0), HardReset(0.0))
    assert (second.decay, first.detach_reset) == (1.0, True)
    node = neuron(onward.from_spikingjelly([LIFNode(4.0, True, -0.5, Sigmoid(3.0))]))
    assert (node.decay, node.gain, node.drift, node.initial) == (0.75, 0.25, -0.125, -0.5)
    assert (node.reset, node.surrogate, node.detach_reset) == (HardReset(-0.5), OurSigmoid(3.0), False)
    learned = neuron(onward.from_spikingjelly([ParametricLIFNode()]))
    assert learned.decay == pytest.approx(1 - float(torch.tensor(0.3).sigmoid()))
    learned = neuron(onward.from_snntorch([Leaky(0.5, learn_threshold=True)]))
    assert isinstance(learned, Affine)
    assert isinstance(learned.threshold, nn.Parameter)
    current = neuron(onward.from_snntorch([Synaptic(0.25, 0.5)]))
    assert isinstance(current, CubaLIF)
    assert (current.current_decay, current.decay) == (0.25, 0.5)


def test_layers_become_torchs_own_with_their_options_and_weights() -> None:
    conv = nn.Conv2d(2, 4, (3, 1), stride=2, padding=(1, 0), groups=2, bias=False)
    theirs = nn.Sequential(conv, nn.BatchNorm2d(4, eps=0.1), LIFNode(), nn.AvgPool2d(2), nn.Flatten())
    theirs[1].running_mean.fill_(0.5)
    body = onward.from_spikingjelly(nn.Sequential(MultiStepContainer(*theirs), Linear(8, 3)).eval())
    kinds = [type(node.module) for node in body.nodes[1:]]
    assert kinds == [nn.Conv2d, nn.BatchNorm2d, Affine, nn.AvgPool2d, nn.Flatten, nn.Linear]
    made: Any = body.nodes[1].module
    assert repr(made) == repr(conv)
    assert made.weight is not conv.weight
    assert torch.equal(made.weight, conv.weight)
    assert torch.equal(body.get_buffer("0.1.running_mean"), theirs[1].running_mean)
    assert not made.training


def test_a_checkpoint_brings_weights_and_constants(tmp_path: Path) -> None:
    theirs, other = net_of(Leaky(0.9), Leaky(0.9)), net_of(Leaky(0.6), Leaky(0.8))
    other[0].weight.data.neg_()
    path = tmp_path / "trained.pt"
    torch.save(other.state_dict(), path)
    for checkpoint in (path, str(path), other.state_dict()):
        net = onward.from_snntorch(theirs, checkpoint)
        assert neuron(net).decay == pytest.approx(0.6)
        assert torch.equal(net.get_parameter("0.weight"), other[0].weight)
    named = onward.from_snntorch(dict(zip("abcd", theirs, strict=True)))
    assert "a.weight" in named.state_dict()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("0.weight"), r"differ in 0\.weight; expected the state_dict"),
        (lambda state: state.update({"7.weight": torch.zeros(1)}), r"differ in 7\.weight"),
        (lambda state: state.update({"0.weight": torch.zeros(2, 2)}), r"shape \[2, 2\] in the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_network_is_refused(change: Any, words: str) -> None:
    theirs = net_of(Leaky(0.9), Leaky(0.9))
    state = dict(theirs.state_dict())
    change(state)
    with pytest.raises(ConfigError, match=words):
        onward.from_snntorch(theirs, state)


def test_all_that_cannot_be_mapped_is_named_at_once() -> None:
    block = nn.Sequential(nn.Conv2d(1, 2, 3), RLeaky(0.5))
    given = nn.Sequential(block, WSConv2d(2, 2, 3), nn.LSTM(3, 3), nn.Bilinear(2, 2, 2), Leaky(0.5, inhibition=True))
    with pytest.raises(UnsupportedModule) as caught:
        onward.from_snntorch(given)
    said = str(caught.value)
    for words in (
        "5 modules cannot be mapped",
        "0.1 (RLeaky) is not known",
        "1 (WSConv2d) is not known",
        "2 (LSTM) is not known",
        "4 (Leaky) lets one neuron fire at a time",
        "Known are torch's layers",
    ):
        assert words in said


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (Leaky(0.5, reset_delay=False), "subtracts at once"),
        (Leaky(0.0), "remembers nothing"),
        (Leaky(torch.tensor([0.5, 0.6])), "differ among its neurons"),
        (Leaky(0.5, state_quant=True), "rounds its states"),
        (Leaky(0.5, spike_grad=triangular()), "surrogate triangular, which is not there; say which one"),
        (Synaptic(0.5, 0.5, reset=1), "drops what comes in"),
    ],
)
def test_what_snntorch_does_otherwise_is_refused(module: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedModule, match=words):
        onward.from_snntorch([module])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (LIFNode(surrogate=S2NN()), "surrogate S2NN, which is not there; say which one with surrogate="),
        (LIFNode(surrogate=Sigmoid(spiking=False)), "in place of spikes"),
        (LIFNode(tau=0.5), "leak of -1"),
    ],
)
def test_what_spikingjelly_does_otherwise_is_refused(module: nn.Module, words: str) -> None:
    with pytest.raises(UnsupportedModule, match=words):
        onward.from_spikingjelly([module])


def test_a_surrogate_of_ones_own_takes_the_place_of_an_unknown_one() -> None:
    net = onward.from_spikingjelly([LIFNode(surrogate=S2NN())], surrogate=ATan(3.0))
    assert neuron(net).surrogate == ATan(3.0)


class Free(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.lif1, self.fc2 = nn.Linear(3, 4), Leaky(0.5), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.lif1(self.fc1(x)))


def test_a_forward_of_ones_own_is_refused_with_the_way_out() -> None:
    net = Free()
    with pytest.raises(UnsupportedModule, match=r"from_snntorch\(\{'fc1': net\.fc1, 'lif1': net\.lif1, \.\.\.\}\)"):
        onward.from_snntorch(net)
    with pytest.raises(UnsupportedModule, match="has a forward of its own"):
        onward.from_snntorch([net])
    made = onward.from_snntorch({"fc1": net.fc1, "lif1": net.lif1, "fc2": net.fc2}, net.state_dict())
    assert [node.name for node in made.nodes[1:]] == ["fc1", "lif1", "fc2"]


def test_an_adapted_network_learns() -> None:
    net = onward.from_snntorch(net_of(Leaky(0.9), Leaky(0.9)))
    objective = onward.PerStep(onward.CrossEntropy())
    stepper = onward.Stepper(net, onward.rules.build("ottt"), objective, torch.zeros(2, 12, dtype=torch.float64))
    for _ in range(8):
        stepper.step(torch.rand(2, 12, dtype=torch.float64))
    stepper.learn(torch.tensor([0, 1]))
    grad = net.get_parameter("0.weight").grad
    assert grad is not None
    assert bool(grad.any())


@pytest.mark.slow
@pytest.mark.skipif(not (PEERS_FOLDER / "bin" / "python").exists(), reason="needs the other libraries: make peers")
def test_the_libraries_themselves_fire_alike() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.adapter_peers"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows = ended.stdout.strip().splitlines()
    assert len(rows) == 18
    assert all(" 0 of " in row for row in rows)
