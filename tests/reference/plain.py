"""Any small network, one time step after another, with its weights in autograd's graph.

`Simulation` re-tells what each module means as directly as possible. From it follow BPTT (one graph over all
steps), SLTT (memories detached) and OTTT (drives' gradients of one step times explicitly summed traces).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from onward.core import Delay, Feedback, Joined, Recurrent, Residual
from onward.core.glue import Fitted
from onward.neurons import LI, AdaptiveLIF, Affine, CubaLIF, HardReset, Neuron

Loss = Callable[[Tensor], Tensor]
"""From outputs ``[B, m]`` of one step to that step's share of the loss."""


class Heaviside(torch.autograd.Function):
    """[x >= 0], or [x > 0], with a stand-in derivative."""

    @staticmethod
    def forward(ctx, x, psi, ties_fire):
        ctx.save_for_backward(x)
        ctx.psi = psi
        return (x >= 0).to(x.dtype) if ties_fire else (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx, g):
        return g * ctx.psi(ctx.saved_tensors[0]), None, None


def affine_step(n: Affine, x: Tensor, v: Tensor, raised: Tensor | float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes, the membrane after the reset, and before it."""
    h = n.decay * v + n.gain * x + n.drift
    s = Heaviside.apply(h - n.threshold - raised, n.surrogate, n.ties_fire)
    back = s.detach() if n.detach_reset else s
    if isinstance(n.reset, HardReset):
        return s, h * (1 - back) + n.reset.to * back, h
    return s, h - n.reset.scale * n.threshold * back, h


class Simulation:
    """One sequence; ``across_time`` decides whether memories stay in the graph."""

    def __init__(self, body: nn.Module, across_time: bool):
        self.body, self.across_time = body, across_time
        self.memory: dict[str, Tensor | list[Tensor] | tuple[Tensor, ...]] = {}
        self.seen: list[tuple[str, nn.Module, Tensor, Tensor]] = []

    def step(self, x: Tensor) -> Tensor:
        """One time step; afterwards ``seen`` lists this step's synapses with input and drive."""
        self.seen = []
        return self._run("", self.body, x)

    def _run(self, name: str, m: nn.Module, x: Tensor) -> Tensor:
        if isinstance(m, nn.Sequential):
            for key, child in m.named_children():
                x = self._run(f"{name}.{key}" if name else key, child, x)
            return x
        if isinstance(m, Residual):
            return self._run(f"{name}.body", m.body, x) + self._run(f"{name}.shortcut", m.shortcut, x)
        if isinstance(m, Joined):
            return m.join(*(self._run(f"{name}.{key}", m.get_submodule(key), x) for key in m.branches))
        if isinstance(m, Recurrent):
            drive = self._with_past(name, self._run(f"{name}.synapse", m.synapse, x), f"{name}.recurrent", m.recurrent)
            return self._remembered(name, self._run(f"{name}.neuron", m.neuron, drive))
        if isinstance(m, Feedback):
            drive = self._with_past(name, self._run(f"{name}.entry", m.entry, x), f"{name}.back", m.back)
            return self._remembered(name, self._run(f"{name}.body", m.body, drive))
        if isinstance(m, Delay):
            line = self.memory.setdefault(name, [torch.zeros_like(x)] * m.steps)
            self.memory[name] = [*line[1:], self._kept(x)]
            return line[0]
        if isinstance(m, Neuron):
            return self._neuron(name, m, x)
        y = m(x)
        if any(True for _ in m.parameters()) and not isinstance(m, _BatchNorm | Fitted):
            self.seen.append((name, m, x, y))
        return y

    def _with_past(self, name: str, drive: Tensor, back_name: str, back: nn.Module) -> Tensor:
        past = self.memory.get(name)
        return drive if past is None else drive + self._run(back_name, back, past)

    def _remembered(self, name: str, out: Tensor) -> Tensor:
        self.memory[name] = self._kept(out)
        return out

    def _kept(self, x: Tensor) -> Tensor:
        return x if self.across_time else x.detach()

    def _neuron(self, name: str, n: Neuron, x: Tensor) -> Tensor:
        old = self.memory.get(name)
        if isinstance(n, LI):
            y = n.decay * (torch.zeros_like(x) if old is None else old[0]) + n.gain * x
            out, new = y, (y,)
        elif isinstance(n, CubaLIF):
            i, v = old or (torch.zeros_like(x), torch.full_like(x, n.membrane.initial))
            i = n.current_decay * i + x
            s, v, _ = affine_step(n.membrane, i, v)
            out, new = n.membrane.height * s, (i, v)
        elif isinstance(n, AdaptiveLIF):
            v, a = old or (torch.full_like(x, n.membrane.initial), torch.zeros_like(x))
            s, v, _ = affine_step(n.membrane, x, v, n.adaptation * a)
            out, new = n.membrane.height * s, (v, n.adaptation_decay * a + s)
        else:
            assert isinstance(n, Affine)
            s, v, _ = affine_step(n, x, torch.full_like(x, n.initial) if old is None else old[0])
            out, new = n.height * s, (v,)
        self.memory[name] = tuple(self._kept(value) for value in new)
        return out


def outputs(body: nn.Module, x: Tensor) -> Tensor:
    """``[T, B, m]``."""
    simulation = Simulation(body, across_time=False)
    with torch.no_grad():
        return torch.stack([simulation.step(frame) for frame in x])


def bptt(body: nn.Module, x: Tensor, loss: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    """Gradients of ``loss(outputs [T, B, m])`` through everything."""
    simulation = Simulation(body, across_time=True)
    out = torch.stack([simulation.step(frame) for frame in x])
    return _named(body, torch.autograd.grad(loss(out), list(body.parameters()), allow_unused=True))


def sltt(body: nn.Module, x: Tensor, loss: Loss) -> dict[str, Tensor]:
    """The sum over steps of each step's own gradient."""
    simulation, total = Simulation(body, across_time=False), torch.zeros((), dtype=x.dtype)
    for frame in x:
        total = total + loss(simulation.step(frame))
    return _named(body, torch.autograd.grad(total, list(body.parameters()), allow_unused=True))


def ottt(
    body: nn.Module, x: Tensor, loss: Loss, decay: Mapping[str, float], bias_decay: Mapping[str, float]
) -> dict[str, Tensor]:
    """Each step's gradient at the drives times traces; decays by synapse name."""
    simulation, grads = Simulation(body, across_time=False), {}
    past: dict[str, list[Tensor]] = {}
    for frame in x:
        value = loss(simulation.step(frame))
        seen = list(simulation.seen)
        deltas = torch.autograd.grad(value, [drive for *_, drive in seen], retain_graph=True)
        for (name, module, pre, _), delta in zip(seen, deltas, strict=True):
            past.setdefault(name, []).append(pre.detach())
            ages = list(reversed(range(len(past[name]))))
            trace = sum(decay[name] ** age * s for age, s in zip(ages, past[name], strict=True))
            ones = sum(bias_decay[name] ** age for age in ages)
            for key, parameter in module.named_parameters():
                factor, source = (ones, pre.detach()) if key == "bias" else (1.0, trace)
                (grad,) = torch.autograd.grad(module(source), parameter, delta)
                grads[f"{name}.{key}"] = grads.get(f"{name}.{key}", 0) + factor * grad
    return grads


def _named(body: nn.Module, grads: tuple[Tensor | None, ...]) -> dict[str, Tensor]:
    pairs = zip(body.named_parameters(), grads, strict=True)
    return {name: grad for (name, _), grad in pairs if grad is not None}
