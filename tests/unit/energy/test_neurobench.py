"""Our counts against those of NeuroBench, where it is installed: three networks, written out in plain torch for it.

NeuroBench (Yik et al. 2025) hooks the modules of a network: for every call of a Linear or Conv layer it runs a copy
with 1 for every weight and input that is not zero, without bias, and adds the outputs up. Calls whose inputs are all
-1, 0 or 1 are ACs, others MACs. It counts no pooling, no addition of shortcuts and no neuron; what stands behind
average pooling multiplies.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from onward.core import Network, Recurrent, Residual
from onward.core.neuron import Neuron
from onward.data import ArrayDataset, Loader
from onward.data.arrays import FramesLayout
from onward.energy import Counts, count
from onward.energy.neurobench import neurobench
from onward.neurons import LIF

TAU, THRESHOLD, SAMPLES, STEPS = 2.0, 0.3, 6, 4


def oracle() -> Any:
    """NeuroBench's parts; skips where it is not there."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from neurobench.metrics.static import Footprint  # pyright: ignore[reportMissingImports]
            from neurobench.metrics.workload import (  # pyright: ignore[reportMissingImports]
                ActivationSparsity,
                SynapticOperations,
            )
            from neurobench.models import TorchModel  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        pytest.skip(f"NeuroBench is not installed ({error}): pip install --no-deps neurobench snntorch")
    return TorchModel, SynapticOperations, ActivationSparsity, Footprint


class PlainLIF(nn.Module):
    """V <- V / 2 + x; s = [V >= threshold]; V <- V - threshold s."""

    def __init__(self) -> None:
        super().__init__()
        self.v: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        v = self.v * (1 - 1 / TAU) + x
        s = (v >= THRESHOLD).to(x)
        self.v = v - THRESHOLD * s
        return s


class Stack(nn.Module):
    """Layers run step after step on ``[B, T, ...]``."""

    def __init__(self, **layers: nn.Module):
        super().__init__()
        for name, module in layers.items():
            self.add_module(name, module)

    def frame(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.frame(x[:, t]) for t in range(x.shape[1])], 1)


class Loop(Stack):
    """A layer that hears itself, and a readout."""

    def forward(self, x: Tensor) -> Tensor:
        self.past = torch.zeros(len(x), 12)
        return super().forward(x)

    def frame(self, x: Tensor) -> Tensor:
        layer: Any = self
        self.past = layer.neuron(layer.synapse(x) + layer.recurrent(self.past))
        return layer.readout(self.past)


class Shortcut(Stack):
    """A strided projection beside a convolution, average pooling, a readout."""

    def frame(self, x: Tensor) -> Tensor:
        layer: Any = self
        s = layer.neuron(layer.entry(x))
        both = layer.fire(layer.body(s)) + layer.projection(s)
        return layer.readout(layer.pool(both).flatten(1))


def lif() -> Neuron:
    return LIF(tau=TAU, threshold=THRESHOLD)


Case = tuple[Network, Stack, Tensor]


def dense() -> Case:
    """Analogue frames into an MLP, some of whose weights are zero."""
    a, b = nn.Linear(10, 16), nn.Linear(16, 3)
    a.weight.data[a.weight.abs() < 0.05] = 0
    ours = Network(nn.Sequential(a, lif(), b))
    return (
        ours,
        Stack(a=a, neuron=PlainLIF(), b=b),
        torch.rand(SAMPLES, STEPS, 10) * (torch.rand(SAMPLES, STEPS, 10) < 0.7),
    )


def maps() -> Case:
    """Binary events into padded and strided convolutions, a projected shortcut, average pooling."""
    entry, body, projection = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(4, 6, 1, 2)
    readout, pool = nn.Linear(6 * 4, 5), nn.AvgPool2d(2)
    block = Residual(nn.Sequential(body, lif()), projection)
    ours = Network(nn.Sequential(entry, lif(), block, pool, nn.Flatten(), readout))
    plain = Shortcut(
        entry=entry, neuron=PlainLIF(), body=body, fire=PlainLIF(), projection=projection, pool=pool, readout=readout
    )
    return ours, plain, (torch.rand(SAMPLES, STEPS, 2, 8, 8) < 0.3).float()


def loop() -> Case:
    """Binary events into a recurrent layer."""
    synapse, recurrent, readout = nn.Linear(9, 12), nn.Linear(12, 12, bias=False), nn.Linear(12, 4)
    ours = Network(nn.Sequential(Recurrent(synapse, lif(), recurrent), readout))
    plain = Loop(synapse=synapse, neuron=PlainLIF(), recurrent=recurrent, readout=readout)
    return ours, plain, (torch.rand(SAMPLES, STEPS, 9) < 0.4).float()


def counts(net: Network, x: Tensor) -> Counts:
    data = ArrayDataset(x, torch.zeros(len(x), dtype=torch.int64), layout=FramesLayout())
    return count(net, Loader(data, 4, x.shape[1], shuffle=False))


@pytest.mark.parametrize("case", [dense, maps, loop], ids=["mlp", "convolutions and a shortcut", "recurrent"])
@torch.no_grad()
def test_counts_agree_with_neurobench(case: Callable[[], Case]) -> None:
    wrap, operations, sparsity, footprint = oracle()
    torch.manual_seed(0)
    net, plain, x = case()
    mine, model = counts(net, x), wrap(plain)
    model.add_activation_module(PlainLIF)
    model.register_hooks()
    data = (x, torch.zeros(len(x)))
    predicted = model(x)
    theirs = operations()(model, predicted, data)
    found = {
        "Effective_MACs": mine.macs,
        "Effective_ACs": mine.acs,
        "Dense": mine.dense,
        "sparsity": mine.sparsity,
        "footprint": mine.footprint,
    }
    theirs |= {"sparsity": sparsity()(model, predicted, data), "footprint": footprint()(model)}
    assert found == pytest.approx(theirs, rel=1e-3)
    assert mine.acs > 0


def spiking(plain: Stack) -> type[nn.Module]:
    """Puts neurons in place that NeuroBench looks into: a kind of snnTorch's, with the equations from above."""
    import snntorch  # pyright: ignore[reportMissingImports]

    class SpikingLIF(snntorch.SpikingNeuron):
        def __init__(self) -> None:
            super().__init__(init_hidden=True)
            self.mem = torch.zeros(())

        def forward(self, x: Tensor) -> Tensor:
            v = self.mem * (1 - 1 / TAU) + x
            s = (v >= THRESHOLD).to(x)
            self.mem = v - THRESHOLD * s
            return s

    for name, module in plain.named_children():
        if isinstance(module, PlainLIF):
            plain.add_module(name, SpikingLIF())
    return SpikingLIF


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [dense, maps, loop], ids=["mlp", "convolutions and a shortcut", "recurrent"])
@torch.no_grad()
def test_the_metrics_are_neurobench_s(case: Callable[[], Case]) -> None:
    wrap, operations, sparsity, footprint = oracle()
    from neurobench.metrics.static import (  # pyright: ignore[reportMissingImports]
        ConnectionSparsity,
        ParameterCount,
    )
    from neurobench.metrics.workload import (  # pyright: ignore[reportMissingImports]
        ClassificationAccuracy,
        MembraneUpdates,
    )

    torch.manual_seed(0)
    net, plain, x = case()
    x[::2, :2] = 0
    for module in net.modules():
        if getattr(module, "bias", None) is not None:
            nn.init.zeros_(module.bias)  # pyright: ignore[reportArgumentType]
    theirs = {"footprint": footprint()(wrap(plain))}  # before snnTorch's neurons bring buffers of their own
    kind, model = spiking(plain), wrap(plain)
    model.add_activation_module(kind)
    model.register_hooks()
    predicted = model(x)
    labels, guess = torch.arange(len(x)) % 3, predicted.sum(1).argmax(-1)
    theirs |= {
        "parameter_count": ParameterCount()(model),
        "connection_sparsity": ConnectionSparsity()(model),
        "activation_sparsity": sparsity()(model, predicted, (x, labels)),
        "membrane_updates": MembraneUpdates()(model, predicted, (x, labels)),
        "classification_accuracy": ClassificationAccuracy()(model, guess, (x, labels)),
    }
    synaptic = operations()(model, predicted, (x, labels))
    data = ArrayDataset(x, labels, layout=FramesLayout())
    right = float((guess == labels).float().mean())
    for chunk in (1, 3, STEPS):
        ours = dict(neurobench(net, Loader(data, 4, STEPS, shuffle=False), right, chunk=chunk))
        assert ours.pop("synaptic_operations") == pytest.approx(synaptic, rel=1e-3)
        assert ours == pytest.approx(theirs, rel=1e-3)
    places = sum(out.numel() for hook in model.activation_hooks for out in hook.activation_outputs)
    assert 0 < theirs["membrane_updates"] < places / len(x), "membranes at rest stay as they are"


def test_metrics_of_a_network_that_one_can_count_by_hand() -> None:
    """Two inputs, two neurons that halve; the second one's weights are zero, so that it never moves again."""
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = torch.tensor([[0.25, 0.25], [0.0, 0.0]])
    net = Network(nn.Sequential(layer, lif()))
    x = torch.tensor([[[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]]])
    data = ArrayDataset(x, torch.zeros(1, dtype=torch.int64), layout=FramesLayout())
    found = neurobench(net, Loader(data, 1, 3, shuffle=False), 1.0)
    assert found == {
        "footprint": 16,
        "parameter_count": 4,
        "connection_sparsity": 0.5,
        "activation_sparsity": pytest.approx(5 / 6),
        "synaptic_operations": {"Effective_MACs": 0.0, "Effective_ACs": 3.0, "Dense": 12.0},
        "membrane_updates": 4.0,  # both at the first step, then the first one: 0.25, 0.125, 0.5625 - 0.3
        "classification_accuracy": 1.0,
    }
