"""SpikingJelly: back-propagation through time in multi-step mode, and its online OTTT and SLTT in single-step mode.

The neuron is its LIF with tau 2, undecayed input, soft reset that gradients do not pass through, and the surrogate
Sigmoid(4). On a CPU every neuron is computed by its torch implementation; the fused ones are for CUDA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocol import Contender, Peer, Task, mean_loss, plan, stateless
from spikingjelly.activation_based import functional, layer, neuron, surrogate
from torch import nn
from torch.nn import functional as F

SETTINGS: dict[str, Any] = {"tau": 2.0, "decay_input": False, "v_threshold": 1.0, "v_reset": None}
MULTI_STEP: dict[str, Callable[..., nn.Module]] = {
    "conv": lambda n, m: layer.Conv2d(n, m, 3, padding=1),
    "flatten": layer.Flatten,
    "linear": layer.Linear,
    "norm": layer.BatchNorm2d,
    "pool": layer.AvgPool2d,
}


def _neuron(kind: Callable[..., nn.Module]) -> nn.Module:
    return kind(**SETTINGS, surrogate_function=surrogate.Sigmoid(alpha=4.0), detach_reset=True)


class MultiStep(Peer):
    """Back-propagation through time; synapses and norm see time and batch merged."""

    settings = "multi-step mode, LIFNode, surrogate Sigmoid(4)"

    def __init__(self, task: Task):
        steps = plan(task)
        layers = [_neuron(neuron.LIFNode) if s[0] == "neuron" else MULTI_STEP[s[0]](*s[1:]) for s in steps]
        net = nn.Sequential(*layers)
        functional.set_step_mode(net, "m")
        super().__init__(task, net)

    def neurons(self) -> list[nn.Module]:
        return [module for module in self.net if isinstance(module, neuron.LIFNode)]

    def backward(self, number: int) -> None:
        x, y = self.batches[number % len(self.batches)]
        with self.context():
            loss = mean_loss(self.net(x), y)
        loss.backward()
        functional.reset_net(self.net)


class Online(Peer):
    """OTTT or SLTT: one backward pass a step, states detached in between, one update a sequence.

    As the library's function for online training does, which cannot be imported without tensorboard.
    """

    def __init__(self, task: Task):
        kind = {"ottt": neuron.OTTTLIFNode, "sltt": neuron.SLTTLIFNode}[task.rule]
        layers = [_neuron(kind) if s[0] == "neuron" else stateless(*s) for s in plan(task)]
        container = layer.OTTTSequential if task.rule == "ottt" else nn.Sequential
        super().__init__(task, container(*layers))
        self.settings = f"single-step mode, {kind.__name__}, norm per step"

    def neurons(self) -> list[nn.Module]:
        return [module for module in self.net if isinstance(module, neuron.OTTTLIFNode | neuron.SLTTLIFNode)]

    def backward(self, number: int) -> None:
        frames, y = self.batches[number % len(self.batches)]
        for x in frames:
            with self.context():
                loss = F.cross_entropy(self.net(x), y) / len(frames)
            loss.backward()
            functional.detach_net(self.net)
        functional.reset_net(self.net)


def make(task: Task) -> Contender:
    """A contender for the task."""
    return MultiStep(task) if task.rule == "bptt" else Online(task)
