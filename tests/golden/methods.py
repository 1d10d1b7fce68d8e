"""What Onward computes for a case, method by method: pairs of a stored result's name and our value.

A name comes once for every chunking and form of input, since none of them may change a number.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from golden.cases import Trial, Unreadable
from golden.couples import spide
from golden.equilibria import ide
from golden.learned import zo_snn
from golden.local import localzo
from golden.networks import Model
from golden.projection import hlop
from golden.representation import dsr
from golden.runs import Results, Session, Tapped, inputs, plain
from golden.tables import LOSSES, STARTS_AT_RESET, SURROGATES
from golden.weights import pseuzo
from onward.core.neuron import Neuron
from onward.core.objective import MSE, CrossEntropy, Loss, Mixed, Objective, PerStep
from onward.core.signal import Carry, dense
from onward.core.trace import trace
from onward.neurons import IF, LIF, HardReset
from onward.surrogates import Surrogate


def surrogate(kind: str, alpha: float) -> Surrogate:
    """A surrogate by the vectors' name for it."""
    if kind not in SURROGATES:
        raise Unreadable(f"unknown surrogate {kind!r}; known: {', '.join(SURROGATES)}")
    return SURROGATES[kind](alpha)


def neuron(trial: Trial, options: Mapping[str, Any], psi: Surrogate, *, detach_reset: bool = True) -> Any:
    """The neuron of ``options`` (tau, v_threshold, v_reset, decay_input, kind)."""
    v_reset, tau = options.get("v_reset"), options.get("tau")
    shared: dict[str, Any] = {
        "threshold": options.get("v_threshold", 1.0),
        "reset": None if v_reset is None else HardReset(v_reset),
        "initial": (v_reset or 0.0) if STARTS_AT_RESET[trial.method] else 0.0,
        "surrogate": psi,
        "detach_reset": detach_reset,
    }
    if tau is None or options.get("kind", options.get("neuron", "lif")) == "if":
        return IF(**shared)
    return LIF(tau, decay_input=bool(options.get("decay_input")), **shared)


def surrogates(trial: Trial) -> Results:
    """``<surrogate>.spike`` and ``.dx`` for arguments ``in.x`` of the spike function and cotangents ``in.g``."""
    x, g = trial.x, trial.input("g")
    for name, psi in _named_surrogates(trial).items():
        spikes = torch.empty_like(x)
        IF().fire(x, 0.0, out=spikes)
        yield f"{name}.spike", spikes
        yield f"{name}.dx", g * psi(x)


def through_time(trial: Trial) -> Results:
    """Neurons alone, with their gradient back through time."""
    for variant, options in trial.setting("variants").items():
        for name, psi in _named_surrogates(trial).items():
            for switch, detached in {"detach": True, "nodetach": False}.items():
                node = neuron(trial, {**trial.config, **options}, psi, detach_reset=detached)
                for chunk in (1, trial.steps):
                    yield from _prefixed(variant, _fired(node, trial.x, chunk))
                    yield f"{variant}.dx.{name}.{switch}", _unrolled(node, trial, chunk)


def online_neurons(trial: Trial) -> Results:
    """Neurons alone, with the gradient within each step."""
    psi = surrogate(*trial.setting("surrogate"))
    for variant, options in trial.setting("variants").items():
        node = neuron(trial, {**trial.config, **options}, psi)
        for chunk in (1, trial.steps):
            yield from _prefixed(variant, _fired(node, trial.x, chunk, trial.input("g")))


def bptt(trial: Trial) -> Results:
    """Back-propagation through time, for every surrogate, reset switch and loss."""
    merged = bool(trial.config.get("merged_time_batch"))
    rule = {"name": "bptt", "norm_over": "sequence" if merged else "step"}
    options = trial.config.get("lif") or trial.config.get("if") or trial.config
    for name, psi in _named_surrogates(trial).items():
        for switch, detached in {"detach": True, "nodetach": False}.items():
            make = partial(neuron, trial, options, psi, detach_reset=detached)
            for loss in trial.setting("losses"):
                if loss not in LOSSES:
                    raise Unreadable(f"unknown loss {loss!r}; known: {', '.join(LOSSES)}")
                chunks = (trial.steps,) if merged else (1, trial.steps)
                for key, value in _passes(trial, make, rule, LOSSES[loss], chunks):
                    place = f"grad.{name}.{switch}.{loss}." if key.startswith("grad.") else ""
                    renamed = f"loss.{loss}" if key == "loss" else key
                    yield place + renamed.removeprefix("grad."), value


def ottt(trial: Trial) -> Results:
    """OTTT with the authors' traces: gradients of a sequence (A), or parameters after every step (O)."""
    make = partial(neuron, trial, trial.config, surrogate(*trial.setting("surrogate")))
    modes = trial.config.get("modes", ["A"])
    if "A" in modes:
        yield from _passes(trial, make, "ottt", _per_step(trial), (1, trial.steps))
        yield from _contributions(trial, make, "ottt")
    if "O" in modes:
        for momentum in trial.setting("momenta"):
            name = f"online_m{float(momentum)}".replace(".", "p")
            yield from _prefixed(name, _online_updates(trial, make, momentum))


def sltt(trial: Trial) -> Results:
    """SLTT, SLTT-K at the recorded steps, and BPTT of the same network with nothing detached."""
    psi, objective, chunks = surrogate(*trial.setting("surrogate")), _per_step(trial), (1, trial.steps)
    make: Callable[[], Neuron] = partial(neuron, trial, trial.config, psi)
    yield from _owned("sltt", _passes(trial, make, "sltt", objective, chunks))
    yield from _owned("sltt", _contributions(trial, make, "sltt"))
    for name, steps in trial.inputs.items():
        if name.startswith("subset_"):
            rule = {"name": "sltt-k", "temporal": {"k": len(steps)}}
            yield from _owned(
                f"sltt_{name.removeprefix('subset_')}", _passes(trial, make, rule, objective, chunks, steps)
            )
    undetached = partial(neuron, trial, trial.config, psi, detach_reset=False)
    yield from _owned("bptt", _passes(trial, undetached, "bptt", objective, chunks))


def _passes(
    trial: Trial,
    make: Callable[[], Neuron],
    rule: str | Mapping[str, Any],
    objective: Objective,
    chunks: tuple[int, ...],
    chosen: Tensor | None = None,
) -> Results:
    """A fresh network for every chunking and form of input: forward values, losses, gradients, statistics."""
    for chunk, x in inputs(trial, chunks):
        model = Model(trial, make)
        session = Session(model, trial, rule, objective)
        if chosen is not None:
            session.choose(chosen)
        watcher = session.run(x, chunk)
        yield from watcher.forward()
        yield from _losses(session, watcher.step_losses(), chosen)
        for name, grad in session.gradients().items():
            yield f"grad.{name}", grad
        if watcher.dx is not None:
            yield "grad.x", watcher.dx
        for name, buffer in model.buffers().items():
            yield f"buffer_after.{name}", buffer


def _losses(session: Session, step_losses: Tensor, chosen: Tensor | None) -> Results:
    yield "loss", session.loss
    counted = torch.ones_like(step_losses)
    if chosen is not None:
        counted = torch.zeros_like(step_losses).index_fill(0, chosen, 1)
    yield "loss_t", step_losses * counted


def _contributions(trial: Trial, make: Callable[[], Neuron], rule: str) -> Results:
    """The separate gradient of every step, ``[T, ...]``, by flushing after each."""
    session = Session(Model(trial, make), trial, rule, _per_step(trial))
    steps: list[dict[str, Tensor]] = []

    def flush() -> None:
        session.sink.flush()
        steps.append(session.gradients())

    session.run(plain(trial), chunk=1, after_step=flush)
    for name in session.model.parameters:
        yield f"grad_t.{name}", torch.stack([step[name] for step in steps])


def _online_updates(trial: Trial, make: Callable[[], Neuron], momentum: float) -> Results:
    """A step of SGD after every time step."""
    model = Model(trial, make)
    session = Session(model, trial, {"name": "ottt", "schedule": "step"}, _per_step(trial))
    optimizer = torch.optim.SGD(model.net.parameters(), lr=trial.setting("lr"), momentum=momentum)
    after: dict[str, list[Tensor]] = {name: [] for name in model.parameters}

    def update() -> None:
        session.sink.flush()
        optimizer.step()
        optimizer.zero_grad()
        for name, parameter in model.parameters.items():
            after[name].append(parameter.detach().clone())

    watcher = session.run(plain(trial), chunk=1, after_step=update)
    yield from watcher.forward()
    yield "loss_t", watcher.step_losses()
    for name, values in after.items():
        yield f"param_after.{name}", torch.stack(values)


def _per_step(trial: Trial) -> Objective:
    """((1 - lambda) CE + lambda MSE) / T; the MSE's target is one-hot, or ``loss_means`` for every class."""
    weight = trial.config.get("loss_lambda", 0.0)
    loss: Loss = CrossEntropy()
    if weight:
        loss = Mixed(loss, MSE(trial.config.get("loss_means")), weight)
    return PerStep(loss)


def _named_surrogates(trial: Trial) -> dict[str, Surrogate]:
    """``surrogates`` as {name: [kind, alpha]} or as [[name, kind, alpha], ...]."""
    listed = trial.setting("surrogates")
    named = {name: rest for name, *rest in listed} if isinstance(listed, list) else listed
    return {name: surrogate(*kind_and_alpha) for name, kind_and_alpha in named.items()}


def _fired(node: Any, x: Tensor, chunk: int, g: Tensor | None = None) -> Results:
    """Spikes, potentials before and after the reset, traces and, for cotangents ``g``, dx = g times slope."""
    state, carry, seen = node.start(x[0]), Carry(), []
    for start in range(0, len(x), chunk):
        firing = node.scan(x[start : start + chunk], state)
        state = firing.state
        passed = dense(trace(firing.out, node.decay, carry, "neuron"))
        seen.append((firing.out, firing.potential, node.after_reset(firing), passed, firing.slope))
    spike, h, v, passed, slope = (torch.cat(values) for values in zip(*seen, strict=True))
    yield from {"spike": spike, "h": h, "v": v, "trace": passed}.items()
    if g is not None:
        yield "dx", g * slope


def _unrolled(node: Any, trial: Trial, chunk: int) -> Tensor:
    """d(sum of g s) / dx back through time, with the sequence split into chunks."""
    tapped, state, outs = Tapped(trial.x), node.start(trial.x[0]), []
    for start in range(0, trial.steps, chunk):
        out, state, _ = node.unroll(tapped.chunk(start, start + chunk), state)
        outs.append(out)
    total = (torch.cat(outs) * trial.input("g")).sum()
    return torch.cat(torch.autograd.grad(total, tapped.leaves))


def _prefixed(prefix: str, results: Results) -> Results:
    for name, value in results:
        yield f"{prefix}.{name}", value


def _owned(prefix: str, results: Results) -> Results:
    """Gradients and losses carry the rule's name; forward values are shared by all rules."""
    for name, value in results:
        owned = name.partition(".")[0] in ("grad", "grad_t", "loss", "loss_t")
        yield f"{prefix}.{name}" if owned else name, value


_NEURONS = {"neurons": through_time, "ottt": online_neurons}
_NETWORKS = {"bptt": bptt, "ottt": ottt, "sltt": sltt}
_INPUTS = re.compile(r"x|y|g|mask\..+|subset_k\d+")
_OWN = {"dsr": dsr, "hlop": hlop, "ide": ide, "spide": spide, "localzo": localzo, "pseuzo": pseuzo, "zo-snn": zo_snn}
METHODS = sorted(_NEURONS.keys() | _NETWORKS.keys() | _OWN.keys())


def results(trial: Trial) -> Results:
    """Everything that Onward has to say about a case."""
    if trial.method not in METHODS:
        raise Unreadable(f"unknown method {trial.method!r}; known: {', '.join(METHODS)}")
    if trial.method in _OWN:
        return _OWN[trial.method](trial)
    unread = [name for name in trial.inputs if not _INPUTS.fullmatch(name)]
    if unread:
        raise Unreadable(f"inputs that the checker would not use: {', '.join(unread)}")
    if "y" in trial.inputs and trial.method in _NETWORKS:
        return _NETWORKS[trial.method](trial)
    if "variants" in trial.config and trial.method in _NEURONS:
        return _NEURONS[trial.method](trial)
    return surrogates(trial)
