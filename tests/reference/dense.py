"""Fully connected LIF networks as plain loops over time and layers; no autograd anywhere.

    u^l[t] = lam v^l[t-1] + W^l s^{l-1}[t] + b^l,   s = [u >= 1],   v = u - s,   o[t] = W^N s^{N-1}[t] + b^N

The loss is (1/T) sum_t CE(o[t], y), averaged over the batch, so e[t] = (softmax(o[t]) - onehot(y)) / (T B).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Grads = list[tuple[Tensor, Tensor]]


@dataclass
class Dense:
    """Weights ``[out, in]`` and biases, layer by layer; the last pair is the memoryless readout."""

    layers: list[tuple[Tensor, Tensor]]
    decay: float

    @property
    def hidden(self) -> int:
        return len(self.layers) - 1


@dataclass
class Run:
    """``s[l][t]`` spikes (``s[0]`` is the input), ``u[l][t]`` potentials (``u[0]`` unused), ``o[t]`` outputs."""

    s: list[list[Tensor]]
    u: list[list[Tensor]]
    o: list[Tensor]


def psi(x: Tensor) -> Tensor:
    """The derivative of a logistic function of slope 4."""
    return 4 * torch.exp(-4 * x) / (1 + torch.exp(-4 * x)) ** 2


def forward(net: Dense, x: Tensor) -> Run:
    """Runs the network on ``x`` ``[T, B, n]``."""
    run = Run(s=[list(x)] + [[] for _ in range(net.hidden)], u=[[] for _ in range(net.hidden + 1)], o=[])
    v = [torch.zeros(x.shape[1], len(w), dtype=x.dtype) for w, _ in net.layers[:-1]]
    for t in range(len(x)):
        for layer, (w, b) in enumerate(net.layers[:-1], start=1):
            u = net.decay * v[layer - 1] + run.s[layer - 1][t] @ w.T + b
            s = (u >= 1).to(u.dtype)
            v[layer - 1] = u - s
            run.u[layer].append(u)
            run.s[layer].append(s)
        w, b = net.layers[-1]
        run.o.append(run.s[net.hidden][t] @ w.T + b)
    return run


def errors(run: Run, y: Tensor) -> list[Tensor]:
    """e[t] of the mean cross-entropy."""
    steps, batch, classes = len(run.o), *run.o[0].shape
    onehot = torch.eye(classes, dtype=run.o[0].dtype)[y]
    return [(o.exp() / o.exp().sum(1, keepdim=True) - onehot) / (steps * batch) for o in run.o]


def zeros(net: Dense) -> Grads:
    """A gradient of nothing."""
    return [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in net.layers]


def bptt(net: Dense, run: Run, e: list[Tensor], *, reset_in_graph: bool) -> Grads:
    """delta^l[t] = psi (W^{l+1})^T delta^{l+1}[t] + eps delta^l[t+1]; eps is lam, or lam (1 - psi) with the reset."""
    grads, later = zeros(net), [0.0] * (net.hidden + 1)
    for t in reversed(range(len(e))):
        delta = e[t]
        add(grads[net.hidden], run.s[net.hidden][t], delta, delta)
        for layer in reversed(range(1, net.hidden + 1)):
            slope = psi(run.u[layer][t] - 1)
            keep = net.decay * (1 - slope) if reset_in_graph else net.decay
            delta = slope * (delta @ net.layers[layer][0]) + keep * later[layer]
            later[layer] = delta
            add(grads[layer - 1], run.s[layer - 1][t], delta, delta)
    return grads


def instant_deltas(net: Dense, run: Run, e: list[Tensor], t: int) -> list[Tensor]:
    """delta^1..delta^N of one step alone, the past held fixed."""
    deltas = [e[t]]
    for layer in reversed(range(1, net.hidden + 1)):
        deltas.insert(0, psi(run.u[layer][t] - 1) * (deltas[0] @ net.layers[layer][0]))
    return deltas


def sltt(net: Dense, run: Run, e: list[Tensor], steps: list[int] | None = None) -> Grads:
    """Instantaneous credit at all steps, or at those given."""
    grads = zeros(net)
    for t in range(len(e)) if steps is None else steps:
        for layer, delta in enumerate(instant_deltas(net, run, e, t)):
            add(grads[layer], run.s[layer][t], delta, delta)
    return grads


def ottt(net: Dense, run: Run, e: list[Tensor], *, exact: bool) -> Grads:
    """Traced inputs. Exact: input and biases traced, readout not. Reference: the other way round."""
    grads = zeros(net)
    for t in range(len(e)):
        for layer, delta in enumerate(instant_deltas(net, run, e, t)):
            readout, first = layer == net.hidden, layer == 0
            traced = not readout if exact else not first
            pre = weighted_past(run.s[layer], t, net.decay) if traced else run.s[layer][t]
            ones = sum(net.decay ** (t - k) for k in range(t + 1)) if exact and not readout else 1.0
            add(grads[layer], pre, delta, ones * delta)
    return grads


def weighted_past(x: list[Tensor], t: int, decay: float) -> Tensor:
    """sum_{k <= t} decay^(t - k) x[k]."""
    total = torch.zeros_like(x[0])
    for k in range(t + 1):
        total = total + decay ** (t - k) * x[k]
    return total


def add(grad: tuple[Tensor, Tensor], pre: Tensor, post: Tensor, bias_post: Tensor) -> None:
    """Adds the outer product of every sample of the batch."""
    for a, d in zip(pre, post, strict=True):
        grad[0].add_(torch.outer(d, a))
    grad[1].add_(bias_post.sum(0))
