"""Makes cases of the golden layouts by plain loops, written from the equations and without Onward.

They show that the checker follows settings, not cases: other sizes, resets, strides and names, and networks that no
stored case has.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

PSI: dict[str, Callable[[Tensor, float], Tensor]] = {
    "triangle": lambda x, a: (a - a * a * x.abs()).clamp_min(0),
    "sigmoid": lambda x, a: a * torch.sigmoid(a * x) * torch.sigmoid(-a * x),
    "atan": lambda x, a: a / 2 / (1 + (torch.pi / 2 * a * x) ** 2),
}
MARGIN = 1e-4
"""How far potentials keep from the threshold, so that rounding changes no spike."""


class TooNear(Exception):
    """A potential came too near the threshold."""


class _Spike(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: str, alpha: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.psi = kind, alpha
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        kind, alpha = ctx.psi
        return grads[0] * PSI[kind](ctx.saved_tensors[0], alpha), None, None


@dataclass
class Plain:
    """One run of a network over time: parameters in autograd's graph, memories in a dictionary."""

    params: dict[str, Tensor]
    config: dict[str, Any]
    across_time: bool
    detach_reset: bool = False
    surrogate: tuple[str, float] = ("sigmoid", 4.0)
    start: float = 0.0
    v: dict[str, Tensor] = field(default_factory=dict)
    seen: dict[str, list[Tensor]] = field(default_factory=dict)
    running: dict[str, Tensor] = field(default_factory=dict)
    drives: list[tuple[str, Tensor, Tensor, int]] = field(default_factory=list)

    def synapse(self, name: str, x: Tensor, stride: int = 1) -> Tensor:
        """W x + b."""
        y = self.apply(name, x, stride)
        self.drives.append((name, x, y, stride))
        return y

    def apply(self, name: str, x: Tensor, stride: int) -> Tensor:
        """W x + b, unrecorded."""
        weight, bias = self.params[f"{name}.weight"], self.params.get(f"{name}.bias")
        if weight.dim() == 2:
            return x @ weight.T + (0 if bias is None else bias)
        return F.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Statistics over the batch (and space) of this step."""
        over = [d for d in range(x.dim()) if d != 1]
        mean, var, n = x.mean(over), x.var(over, unbiased=False), x.numel() // x.shape[1]
        for kind, value in (("running_mean", mean), ("running_var", var * n / (n - 1))):
            first = torch.zeros_like(mean) if kind == "running_mean" else torch.ones_like(mean)
            old = self.running.get(f"{name}.{kind}", first)
            self.running[f"{name}.{kind}"] = 0.9 * old + 0.1 * value.detach()
        wide = [1, -1] + [1] * (x.dim() - 2)
        y = (x - mean.view(wide)) / (var.view(wide) + 1e-5).sqrt()
        return y * self.params[f"{name}.weight"].view(wide) + self.params[f"{name}.bias"].view(wide)

    def neuron(self, name: str, x: Tensor) -> Tensor:
        """Charge, fire, reset."""
        tau, r, threshold = self.config["tau"], self.config.get("v_reset"), self.config["v_threshold"]
        v, rest = self.v.get(name, torch.full_like(x, self.start)), r or 0.0
        u = x / tau if tau and self.config.get("decay_input") else x
        h = v + x if tau is None else v - (v - rest) / tau + u
        if (h - threshold).abs().min() < MARGIN:
            raise TooNear(name)
        s = _Spike.apply(h - threshold, *self.surrogate)
        back = s.detach() if self.detach_reset else s
        v = h - back * threshold if r is None else (1 - back) * h + back * r
        self.v[name] = v if self.across_time else v.detach()
        for kind, value in (("spike", s), ("h", h), ("v", v)):
            self.seen.setdefault(f"{kind}.{name}", []).append(value.detach())
        return s


Step = Callable[[Plain, Tensor], Tensor]


def preactivation(names: dict[str, str], strides: tuple[int, ...]) -> Step:
    """Stem, pre-activation blocks, BN, LIF, global average pooling, head; ``names`` by role."""

    def step(net: Plain, x: Tensor) -> Tensor:
        x = net.synapse(names["stem"], x)
        for b, stride in enumerate(strides, start=1):
            a = net.neuron(names[f"{b}lif1"], net.norm(names[f"{b}bn1"], x))
            inner = net.norm(names[f"{b}bn2"], net.synapse(names[f"{b}conv1"], a, stride))
            y = net.synapse(names[f"{b}conv2"], net.neuron(names[f"{b}lif2"], inner))
            x = y + (net.synapse(names[f"{b}shortcut"], a, stride) if f"{b}shortcut" in names else a)
        x = net.neuron(names["lif"], net.norm(names["bn"], x))
        return net.synapse(names["fc"], x.flatten(2).mean(2) if x.dim() > 2 else x)

    return step


def preactivation_params(names: dict[str, str], widths: tuple[int, ...], c_in: int, kernel: int) -> dict[str, Tensor]:
    """Random parameters; ``widths`` of the stem and of every block; kernel 0 makes every synapse linear."""
    tall = [kernel, kernel] if kernel else []
    params = {f"{names['stem']}.weight": torch.randn(widths[0], c_in, *tall)}
    for b, (into, out) in enumerate(pairwise(widths), start=1):
        for i, (left, right) in enumerate(((into, out), (out, out)), start=1):
            params |= _affine(names[f"{b}bn{i}"], left, 0.6)
            params |= _synapse(names[f"{b}conv{i}"], right, left, *tall)
        if f"{b}shortcut" in names:
            params |= _synapse(names[f"{b}shortcut"], out, into, *[1 for _ in tall])
    return params | _affine(names["bn"], widths[-1], 0.6) | _synapse(names["fc"], 5, widths[-1])


def _affine(name: str, width: int, shift: float) -> dict[str, Tensor]:
    return {f"{name}.weight": 0.5 + torch.rand(width), f"{name}.bias": shift * torch.rand(width)}


def _synapse(name: str, *shape: int) -> dict[str, Tensor]:
    spread = torch.Size(shape[1:]).numel() ** -0.5
    return {f"{name}.weight": 1.5 * spread * torch.randn(shape), f"{name}.bias": 0.2 * torch.randn(shape[0])}


def per_step_losses(config: dict[str, Any], out: Tensor, y: Tensor) -> Tensor:
    """((1 - k) CE + k MSE) / T at every step."""
    k, losses = config.get("loss_lambda", 0.0), []
    for o in out:
        target = F.one_hot(y, o.shape[1]).to(o) if config.get("loss_means") is None else config["loss_means"] + 0 * o
        losses.append(((1 - k) * F.cross_entropy(o, y) + k * F.mse_loss(o, target)) / len(out))
    return torch.stack(losses)


def sltt_results(
    step: Step, config: dict[str, Any], params: dict[str, Tensor], x: Tensor, y: Tensor, subsets: dict[str, list[int]]
) -> dict[str, Tensor]:
    """Everything that an SLTT case stores, in the precision of ``x``."""
    every = list(range(len(x)))
    found: dict[str, Tensor] = {}
    for across_time, runs in ((False, {"sltt": every, **subsets}), (True, {"bptt": every})):
        own = {name: p.to(x).requires_grad_() for name, p in params.items()}
        frames = [frame.clone().requires_grad_() for frame in x]
        net = Plain(own, config, across_time, surrogate=config["surrogate"], start=config.get("v_reset") or 0.0)
        out = torch.stack([step(net, frame) for frame in frames])
        losses = per_step_losses(config, out, y)
        for name, steps in runs.items():
            grads = gradients(losses[steps].sum(), {**own, **{f"#{t}": frame for t, frame in enumerate(frames)}})
            found |= {f"{name}.grad.{key}": grads[key] for key in own}
            found[f"{name}.grad.x"] = torch.stack([grads[f"#{t}"] for t in every])
            counted = torch.tensor([t in steps for t in every])
            found |= {f"{name}.loss": losses.sum()} if across_time else {f"{name}.loss_t": losses * counted}
        found |= {name: torch.stack(values) for name, values in net.seen.items()}
        found |= {**{f"buffer_after.{name}": value for name, value in net.running.items()}, "out": out}
    return found


def gradients(loss: Tensor, wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """d loss / d each of ``wanted``; zero where nothing depends on it."""
    grads = torch.autograd.grad(loss, list(wanted.values()), retain_graph=True, allow_unused=True)
    pairs = zip(wanted.items(), grads, strict=True)
    return {name: torch.zeros_like(value) if g is None else g for (name, value), g in pairs}


def ottt_results(
    step: Step, config: dict[str, Any], params: dict[str, Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Everything that an OTTT_A case stores, in the precision of ``x``: traces on all weights but the first."""
    own = {name: p.to(x).requires_grad_() for name, p in params.items()}
    net = Plain(own, config, across_time=False, surrogate=config["surrogate"])
    lam = 1.0 if config["tau"] is None else 1 - 1 / config["tau"]
    traces: dict[str, Tensor] = {}
    rows: dict[str, list[Tensor]] = {}
    for frame in x:
        net.drives, leaf = [], frame.clone().requires_grad_()
        out = step(net, leaf)
        loss = per_step_losses(config, out[None], y)[0] / len(x)
        posts = torch.autograd.grad(loss, [y for *_, y, _ in net.drives] + [leaf], retain_graph=True)
        for place, (name, pre, _, stride) in enumerate(net.drives):
            held = lam * traces.get(name, torch.zeros_like(pre)) if place else 0
            traces[name] = pre.detach() + held
            weight, bias = own[f"{name}.weight"], own[f"{name}.bias"]
            (grad,) = torch.autograd.grad(net.apply(name, traces[name], stride), weight, posts[place])
            rows.setdefault(f"grad_t.{name}.weight", []).append(grad)
            (grad,) = torch.autograd.grad(net.apply(name, pre.detach(), stride), bias, posts[place])
            rows.setdefault(f"grad_t.{name}.bias", []).append(grad)
        for key, value in (("out", out), ("loss_t", loss), ("grad.x", posts[-1])):
            rows.setdefault(key, []).append(value)
    found = {name: torch.stack(values) for name, values in {**rows, **net.seen}.items()}
    return found | {k.replace("grad_t", "grad"): g.sum(0) for k, g in found.items() if k.startswith("grad_t")}


def write(
    path: Path,
    case: str,
    config: dict[str, Any],
    inputs: dict[str, Tensor],
    params: dict[str, Tensor],
    results: Callable[[Tensor], dict[str, Tensor]],
) -> None:
    """Writes a case whose results are ``results(x)`` in both precisions."""
    tensors = {f"in.{name}": value for name, value in inputs.items()}
    tensors |= {f"param.{name}": value for name, value in params.items()}
    for tag, dtype in (("f32", torch.float32), ("f64", torch.float64)):
        tensors |= {f"{tag}.{name}": value for name, value in results(inputs["x"].to(dtype)).items()}
    plain = {name: value.detach().clone().contiguous() for name, value in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(plain, path, metadata={"case": case, "config": json.dumps(config)})
