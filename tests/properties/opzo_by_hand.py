"""OPZO on a fully connected LIF network, written down from its equations one step at a time.

The oracle of the option tests: plain loops, nothing of the engine in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

Grads = list[tuple[Tensor, Tensor]]


def psi(x: Tensor) -> Tensor:
    """The sigmoid surrogate of slope 4."""
    s = torch.sigmoid(4 * x)
    return 4 * s * (1 - s)


@dataclass
class Membranes:
    """v of every hidden layer, and the traces of every layer's spikes."""

    v: list[Tensor]
    traces: list[Tensor]


@dataclass
class Passed:
    """One noisy step: potential at the firing decision, spikes and what was sent, by layer; the readout."""

    potentials: list[Tensor]
    spikes: list[Tensor]
    sent: list[Tensor]
    v: list[Tensor]
    out: Tensor


@dataclass
class Seen:
    """What a sequence adds to the running means: of outputs, of their sums by class, and of how many they were."""

    outs: Tensor
    sums: Tensor
    count: Tensor

    def add(self, o: Tensor, y: Tensor, rho: float) -> None:
        """One step."""
        of = torch.nn.functional.one_hot(y, o.shape[1]).to(o)
        for own, new in ((self.outs, o.mean(0)), (self.sums, of.T @ o / len(o)), (self.count, of.mean(0))):
            own.mul_(rho).add_(new)

    def fresh(self) -> Seen:
        """The same, of nothing yet."""
        return Seen(*(torch.zeros_like(own) for own in (self.outs, self.sums, self.count)))


@dataclass
class Hand:
    """Weights (readout last) and options; ``halves`` ``[2, n_l, m]``, whose mean is M, and expectations live on."""

    weights: list[Tensor]
    biases: list[Tensor]
    alpha: float = 0.2
    rho: float = 0.9
    position: str = "after"
    two_pass: bool = False
    per_step: bool = False
    factor: float = 1.0
    correct: bool = False
    baseline: bool = False
    by_class: bool = False
    innovation: bool = False
    warmup: int = 0
    freeze_after: int | None = None
    delay: int = 0
    decay: float = 0.5
    halves: list[Tensor] = field(default_factory=list)
    steps: int = 0
    sequences: int = 0

    def __post_init__(self) -> None:
        classes = len(self.biases[-1])
        self.halves = [torch.zeros(2, len(w), classes, dtype=w.dtype) for w in self.weights[:-1]]
        self.mean = torch.zeros(classes, dtype=self.weights[0].dtype)
        self.sums, self.count = torch.zeros(classes, classes, dtype=self.mean.dtype), torch.zeros_like(self.mean)

    def sequence(self, x: Tensor, y: Tensor, z: list[Tensor]) -> Grads | None:
        """Gradients for inputs ``[T, B, n]`` and noise ``[T, B, n_l]``; None while M warms up."""
        steps, batch = x.shape[:2]
        state = Membranes([x.new_zeros(batch, len(w)) for w in self.weights[:-1]], [])
        state.traces = [torch.zeros_like(v) for v in state.v]
        grads = [(torch.zeros_like(w), torch.zeros_like(b)) for w, b in zip(self.weights, self.biases, strict=True)]
        late: list[Tensor] = [x.new_zeros(batch, len(self.biases[-1])) for _ in range(self.delay)]
        products = [torch.zeros_like(m) for m in self.halves]
        seen = Seen(torch.zeros_like(self.mean), torch.zeros_like(self.sums), torch.zeros_like(self.count))
        for t in range(steps):
            noise = [layer[t] for layer in z]
            step = self.forward(x[t], noise, state.v)
            met = step.out
            if self.two_pass:
                met = (step.out - self.forward(x[t], [-n for n in noise], state.v).out) / 2
            state.v = step.v
            state.traces = [self.decay * a + s for a, s in zip(state.traces, step.spikes, strict=True)]
            late.append(self.error(step.out, y, steps))
            self.teach(grads, x[t], step, state.traces, late[-1], late.pop(0))
            products = [self.rho * p + now for p, now in zip(products, self.met(met, y, noise), strict=True)]
            seen.add(met, y, self.rho)
            if self.per_step:
                self.absorb(products, seen, 1)
                products, seen = [torch.zeros_like(p) for p in products], seen.fresh()
        if not self.per_step:
            self.absorb(products, seen, steps)
        self.sequences += 1
        return grads if self.sequences > self.warmup else None

    def forward(self, x: Tensor, z: list[Tensor], v: list[Tensor]) -> Passed:
        """One step of the whole network from membranes ``v``."""
        passed = Passed([], [], [], [], x)
        for w, b, z_l, v_l in zip(self.weights[:-1], self.biases[:-1], z, v, strict=True):
            u = self.decay * v_l + x @ w.T + b
            kick = self.alpha * z_l
            if self.position == "before":
                u = u + kick
            at_fire = u + kick if self.position == "firing" else u
            s = (at_fire >= 1).to(u)
            x = s + kick if self.position == "after" else s
            passed.potentials.append(at_fire)
            passed.spikes.append(s)
            passed.sent.append(x)
            passed.v.append(u - s)
        passed.out = x @ self.weights[-1].T + self.biases[-1]
        return passed

    def error(self, o: Tensor, y: Tensor, steps: int) -> Tensor:
        """dL/do of the cross-entropy, divided by steps and batch."""
        return (o.softmax(-1) - torch.nn.functional.one_hot(y, o.shape[-1])) / (steps * len(y))

    def teach(self, grads: Grads, x: Tensor, step: Passed, traces: list[Tensor], now: Tensor, late: Tensor) -> None:
        """Adds one step's deposits: the readout learns from the error of now, hidden layers from the late one."""
        pres = [x, *traces]
        posts = [(late @ self.read(m).T) * psi(u - 1) for m, u in zip(self.m, step.potentials, strict=True)]
        for (dw, db), post, pre in zip(grads, [*posts, now], pres, strict=True):
            dw += post.T @ pre
            db += post.sum(0)

    def met(self, o: Tensor, y: Tensor, z: list[Tensor]) -> list[Tensor]:
        """z (o - b)^T, or z (o - b - alpha M^T z)^T, by layer and halves of the batch, each mean over its half."""
        expected = self.mean if self.baseline else torch.zeros_like(self.mean)
        if self.by_class:
            expected = (self.sums / self.count.clamp_min(1e-300)[:, None])[y]
        first = (len(o) + self.sequences % 2) // 2
        found = [torch.zeros_like(m) for m in self.halves]
        for half, part in enumerate((slice(first), slice(first, None))):
            left = (o - expected)[part]
            if self.innovation:
                left = left - sum(n[part] @ m[half] / self.factor for n, m in zip(z, self.halves, strict=True))
            for into, n in zip(found, z, strict=True):
                into[half] = 2 * n[part].T @ left / len(o)
        return found

    @property
    def m(self) -> list[Tensor]:
        """M, by layer."""
        return [halves.mean(0) for halves in self.halves]

    def read(self, m: Tensor) -> Tensor:
        """M as the error meets it."""
        return m / (1 - self.rho ** max(1, self.steps)) if self.correct else m

    def absorb(self, products: list[Tensor], seen: Seen, steps: int) -> None:
        """Moves M and what readouts are expected to be; by innovations, M moves from where it is."""
        if self.freeze_after is not None and self.sequences >= self.freeze_after:
            return
        for m, product in zip(self.halves, products, strict=True):
            m.mul_(1 if self.innovation else self.rho**steps).add_((1 - self.rho) * self.factor * product)
        for own, new in ((self.mean, seen.outs), (self.sums, seen.sums), (self.count, seen.count)):
            own.mul_(self.rho**steps).add_((1 - self.rho) * new)
        self.steps += steps
