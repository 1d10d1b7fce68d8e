"""What Onward computes for cases of LocalZO, with the noise that they record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import pairwise
from math import sqrt
from typing import Any

import torch
from torch import Tensor, nn

from golden.cases import Trial, Unreadable
from golden.runs import Results, Session, inputs
from onward.core import Delay
from onward.core.draws import Law
from onward.core.network import Network
from onward.core.neuron import Draw
from onward.core.objective import MSE, CrossEntropy, Max, Mean, Mixed, Objective, PerStep, Readout
from onward.core.signal import Carry, dense
from onward.core.trace import trace
from onward.neurons import LI, LIF, HardReset, SoftReset
from onward.neurons.affine import Affine
from onward.surrogates import FastSigmoid, LocalZO, Sigmoid, Surrogate
from onward.surrogates.probes import Flat, Laplace, Normal, Probe, Superspike

FAST = 100.0
"""Slope of the authors' fast sigmoid."""
SIGMOID = sqrt(1 / 0.4262)
"""Slope of their sigmoid for a delta of 1."""
ZOSNN_LEAK, ZOSNN_DELTA = 0.95, 0.6
"""Leak and perturbation of the ZO-SNN project's networks."""
PROBES: dict[str, Probe] = {
    "normal": Normal(),
    "uniform": Flat(),
    "laplace": Laplace(),
    "sigmoid": Normal(),  # its law has exponent and factor 1 as well, and draws are given
    "fsigmoid": Superspike(FAST),
}


def localzo(trial: Trial) -> Results:
    """Everything that Onward has to say about a case of LocalZO."""
    for setting, results in _KINDS.items():
        if setting in trial.config:
            return results(trial)
    raise Unreadable(f"the configuration has none of {', '.join(_KINDS)}")


def probing(trial: Trial) -> Results:
    """The estimate alone, for noise ``z`` ``[m, B, N]`` of each delta."""
    x, g = trial.x, trial.input("g")
    for delta in trial.setting("deltas"):
        name = f"d{float(delta)}".replace(".", "p")
        z = trial.input(f"z.{name}")
        psi = LocalZO(delta, len(z)).bound(recorded(z[None]))
        yield f"{name}.spike", (x > 0).to(x.dtype)
        yield f"{name}.dx", g * psi(x[None])[0]


def recorded(z: Tensor) -> Draw:
    """Draws from ``z`` ``[T, m, B, ...]``: part "slope k" is z[:, k]."""

    def draw(law: Law, part: str, like: Tensor, start: int = 0) -> Tensor:  # noqa: ARG001
        return z[start : start + len(like), int(part.split()[-1])]

    return draw


class Local:
    """A network by its modules' labels, as `Session` wants it; weights may be stored ``[in, out]``."""

    def __init__(self, layers: Mapping[str, nn.Module], params: Mapping[str, tuple[str, bool]], trial: Trial):
        self.net = Network(nn.Sequential(*layers.values())).to(trial.x.dtype)
        labels = {id(module): label for label, module in layers.items()}
        self.neurons = {node.index: labels[id(node.module)] for node in self.net.neurons}
        self.modules, self.turned = dict(layers), {name: turned for name, (_, turned) in params.items()}
        self.parameters = {name: self._parameter(place) for name, (place, _) in params.items()}
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(self.stored(name, trial.params[name]))

    def stored(self, name: str, value: Tensor) -> Tensor:
        """A value between the case's layout and ours."""
        return value.T if self.turned[name] else value

    def _parameter(self, place: str) -> nn.Parameter:
        label, _, leaf = place.rpartition(".")
        return self.modules[label].get_parameter(leaf)

    def dropouts(self, masks: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        """None are recorded."""
        return {}

    def noise(self, recorded: Mapping[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        """Noise ``[T, m, B, ...]`` by neuron as the engine asks for it."""
        nodes = {self.neurons[node.index]: node for node in self.net.neurons}
        return {(f"slope {k}", nodes[label].name): z[:, k] for label, z in recorded.items() for k in range(z.shape[1])}


def learned(
    trial: Trial,
    build: Callable[[], Local],
    noise: Mapping[str, Tensor],
    objective: Objective,
    norm_over: str = "step",
) -> Results:
    """Forward values, loss, gradients and statistics by BPTT; ``noise`` ``[T, m, B, ...]`` by neuron."""
    for chunk, x in inputs(trial, (trial.steps,) if norm_over == "sequence" else (1, trial.steps)):
        model = build()
        session = Session(model, trial, {"name": "bptt", "norm_over": norm_over}, objective)
        session.recorded.update(model.noise(noise))
        watcher = session.run(x, chunk)
        yield from watcher.forward()
        yield "loss", session.loss
        for name, grad in session.gradients().items():
            yield f"grad.{name}", model.stored(name, grad)
        if watcher.dx is not None:
            yield "grad.x", watcher.dx
        for label, z in noise.items():
            module: Any = model.modules[label]
            h = torch.cat(watcher.seen[f"h.{label}"])
            yield f"surrogate.{label}", module.surrogate.bound(recorded(z))(h - module.threshold)
        for label, module in model.modules.items():
            for leaf, buffer in module.named_buffers():
                yield f"buffer_after.{label}.{leaf}", buffer


def main(trial: Trial) -> Results:
    """The authors' networks: hard reset, differentiated; two losses."""
    trial = time_first(trial)
    noise = {name.removeprefix("z."): z for name, z in trial.inputs.items() if name.startswith("z.")}
    tet = PerStep(Mixed(CrossEntropy(), MSE(trial.setting("means")), trial.setting("lamb")))
    merged = "sequence" if trial.setting("arch") == "conv" else "step"
    for name, objective in {"mean": Readout(CrossEntropy(), Mean()), "tet": tet}.items():
        for key, value in learned(trial, partial(_main_network, trial), noise, objective, merged):
            if key.startswith("grad."):
                yield f"grad.{name}.{key.removeprefix('grad.')}", _batch_first(key, value)
            else:
                yield (f"loss.{name}" if key == "loss" else key), value.transpose(0, 1) if key == "out" else value


def _main_network(trial: Trial) -> Local:
    return Local(_layers(trial, partial(_hard, trial)), {key: (key, False) for key in trial.params}, trial)


def _hard(trial: Trial) -> Affine:
    return LIF(
        decay=trial.setting("tau"),
        threshold=trial.setting("thresh"),
        reset=HardReset(0.0),
        ties_fire=False,
        surrogate=LocalZO(trial.setting("delta"), trial.setting("samples")),
        detach_reset=False,
    )


def _layers(trial: Trial, neuron: Callable[[], Affine]) -> dict[str, nn.Module]:
    """The labelled modules of ``sizes``, or of ``conv_cfg`` with 'P' for 2 x 2 average pooling."""
    if trial.setting("arch") == "mlp":
        return _dense_layers(trial, neuron)
    found, count = dict[str, nn.Module](), 0
    for item in trial.setting("conv_cfg"):
        if item == "P":
            found[f"pool{count}"] = nn.AvgPool2d(2)
            continue
        count += 1
        channels, filters, *geometry = item
        found[f"blk{count}.conv"] = nn.Conv2d(channels, filters, *geometry)
        found[f"blk{count}.bn"] = nn.BatchNorm2d(filters)
        found[f"lif{count}"] = neuron()
    return {**found, "flat": nn.Flatten(), "fc": nn.Linear(trial.setting("flat"), trial.setting("classes"))}


def _dense_layers(trial: Trial, neuron: Callable[[], Affine]) -> dict[str, nn.Module]:
    """fc1 lif1 fc2 lif2 ... of ``sizes``; the last layer does not fire."""
    found, pairs = dict[str, nn.Module](), list(pairwise(trial.setting("sizes")))
    for i, (n, m) in enumerate(pairs, 1):
        found[f"fc{i}"] = nn.Linear(n, m)
        if i < len(pairs):
            found[f"lif{i}"] = neuron()
    return found


def soft(trial: Trial) -> Results:
    """The independent implementation: delayed soft reset, differentiated."""
    noise = {name.removeprefix("z."): z for name, z in trial.inputs.items() if name.startswith("z.")}
    fixed = "time_order_fixed"
    for key, value in learned(trial, partial(_soft_network, trial), noise, Readout(CrossEntropy(), Mean())):
        if key != "grad.x":
            yield f"{fixed}.{key}" if key.startswith("grad.") else key, value
    neuron = _soft(trial)
    drive = nn.functional.linear(trial.x, trial.params["fc1.weight"].T, trial.params["fc1.bias"]).requires_grad_()
    out, _, _ = neuron.unroll(drive, neuron.start(drive[0]), recorded(noise["lif1"]))
    yield f"{fixed}.dcurrent_lif1", torch.autograd.grad((out * trial.input("g_lif1")).sum(), drive)[0]


def _soft(trial: Trial) -> Affine:
    return LIF(
        decay=trial.setting("beta"),
        threshold=trial.setting("u_th"),
        reset=SoftReset(1 / trial.setting("beta")),
        ties_fire=False,
        surrogate=LocalZO(trial.setting("sigma"), trial.setting("samples")),
        detach_reset=False,
    )


def _soft_network(trial: Trial) -> Local:
    layers = _dense_layers(trial, partial(_soft, trial))
    return Local(layers, {key: (key, key.endswith("weight")) for key in trial.params}, trial)


def _delayed(trial: Trial, threshold: float, surrogate: Surrogate | None = None) -> Affine:
    beta = trial.setting("beta")
    return LIF(decay=beta, threshold=threshold, reset=SoftReset(1 / beta), ties_fire=False, surrogate=surrogate)


def layer(trial: Trial) -> Results:
    """One layer behind a delay of one step, and the estimates of several laws."""
    trial, beta, delta = time_first(trial), trial.setting("beta"), trial.setting("delta")
    neuron = _delayed(trial, trial.setting("th"), Sigmoid())
    late = torch.cat([torch.zeros_like(trial.x[:1]), trial.x[:-1]])
    drive = late @ trial.input("W")
    firing = neuron.scan(drive, neuron.start(drive[0]))
    above = firing.potential - trial.setting("th")
    seen = dense(trace(late, beta, Carry(), "layer"))
    for name, value in {"spike": firing.out, "h": firing.potential, "trace": seen}.items():
        yield name, value.transpose(0, 1)
    for name, samples in trial.setting("combos"):
        z = trial.input(f"absz.{name}_n{samples}").movedim(2, 0)
        found = LocalZO(delta, samples, PROBES[name]).bound(recorded(z))(above)
        yield f"{name}_n{samples}.surrogate", found.transpose(0, 1)
    means = {name: probe.mean(delta) for name, probe in PROBES.items()}
    means |= {"sigmoid": Sigmoid(SIGMOID / delta), "fsigmoid": FastSigmoid(FAST)}
    for name, mean in means.items():
        yield f"closed_form.{name}", mean(above).transpose(0, 1)


def sparse(trial: Trial) -> Results:
    """Layers with a delay each, and a leaky readout of which the largest value counts."""
    trial = time_first(trial)
    if trial.setting("readout") != "max":
        raise Unreadable(f"readout {trial.setting('readout')!r} is not known; known: max")
    noise = {k.removeprefix("absz."): z.movedim(2, 0) for k, z in trial.inputs.items() if k.startswith("absz.")}
    for key, value in learned(trial, partial(_sparse_network, trial), noise, Readout(CrossEntropy(), Max())):
        turned = key == "out" or key.split(".")[0] in ("spike", "surrogate")
        yield key, value.transpose(0, 1) if turned else value


def _sparse_network(trial: Trial) -> Local:
    layers, pairs = dict[str, nn.Module](), list(pairwise(trial.setting("sizes")))
    for i, (n, m) in enumerate(pairs, 1):
        layers |= {f"delay{i}": Delay(1), f"w{i}": nn.Linear(n, m, bias=False)}
        if i < len(pairs):
            psi = LocalZO(trial.setting("delta"), trial.setting("samples"), PROBES[trial.setting("dist")])
            layers[f"lif{i}"] = _delayed(trial, 1.0, psi)
    layers["readout"] = LI(decay=trial.setting("beta_readout"), decay_input=True)
    return Local(layers, {name: (f"{name}.weight", True) for name in trial.params}, trial)


def sampled(trial: Trial) -> Results:
    """The estimate of the ZO-SNN project, which adds up draws where a mean is meant."""
    x, delta = trial.input("u_minus_threshold"), trial.setting("delta")
    for q in trial.setting("q"):
        z = trial.input(f"q{q}.z")
        slope = q * LocalZO(delta, q).bound(recorded(z[None]))(x[None])[0]
        found = {"spike": (x > 0).to(x.dtype), "surrogate": slope, "grad": slope * trial.input("upstream")}
        yield from ((f"q{q}.{name}", value) for name, value in found.items())


def spiking(trial: Trial) -> Results:
    """The project's fully connected network on one frame of 25 steps."""
    noise = {f"layer{i}": trial.input(f"noise.forward0.layer{i}")[:, None] for i in range(1, trial.setting("L") + 1)}
    frame = trial.x.flatten(1)
    frames = replace(
        trial,
        config={**trial.config, "static_input": True},
        inputs={**trial.inputs, "x": frame.expand(len(noise["layer1"]), *frame.shape)},
    )
    for key, value in learned(frames, partial(_zosnn_network, frames), noise, PerStep(CrossEntropy())):
        if key == "out":
            yield "spikes", value.to(torch.uint8)
        elif key == "loss":
            yield key, value[None]
        elif key in trial.stored:
            yield key, value
        elif key.startswith("grad.linear"):
            yield f"{key}.frobenius_norm", value.norm()


def _zosnn_network(trial: Trial) -> Local:
    layers, count = dict[str, nn.Module](), trial.setting("L")
    for i in range(1, count + 1):
        out, into = trial.params[f"linear{i}.weight"].shape
        layers[f"linear{i}"] = nn.Linear(into, out)
        if i < count:
            layers[f"relu{i}"] = nn.ReLU()
        layers[f"layer{i}"] = LIF(
            decay=ZOSNN_LEAK,
            reset=SoftReset(1 / ZOSNN_LEAK),
            ties_fire=False,
            surrogate=LocalZO(ZOSNN_DELTA, 1),
        )
    return Local(layers, {name: (name, False) for name in trial.params}, trial)


def time_first(trial: Trial) -> Trial:
    """The case with its input time first."""
    return replace(trial, inputs={**trial.inputs, "x": trial.x.transpose(0, 1)})


def _batch_first(key: str, value: Tensor) -> Tensor:
    return value.transpose(0, 1) if key == "grad.x" else value


_KINDS = {"deltas": probing, "combos": layer, "readout": sparse, "u_th": soft, "arch": main}
