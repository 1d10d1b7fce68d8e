"""The complete models of IDE: normalised input, feedback of restricted norm, one training step and an evaluation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from golden.cases import Trial, Unreadable
from golden.loops import teach
from golden.runs import Results
from golden.spied import Spied
from onward.core import CrossEntropy, GradSink, Network, Static, evaluate
from onward.core.containers import Feedback
from onward.core.objective import Readout, Weighted
from onward.core.synapse import effective
from onward.neurons import Affine
from onward.rules.ide import IDE
from onward.weights import restrictions

_LEAVES = {
    "weight_w": "parametrizations.weight.original",
    "weight_g": "parametrizations.weight.0.gain",
    "weight_u": "parametrizations.weight.0.u",
    "weight_v": "parametrizations.weight.0.v",
}
"""The names of what the restricted weight is made of."""


def full_model(trial: Trial, solver: Any) -> Results:
    """A training step, and what evaluation says after it."""
    leak, steps = trial.setting("leak") or 1.0, trial.setting("T")
    net, places = _network(trial, leak)
    _load(places, trial)
    x, y, back = Static(trial.x, steps), trial.input("y"), net.get_submodule("loop.back")
    back.eval()  # the sink reads the weights once more than training does
    sink = Spied(GradSink(net))
    back.train()
    taught = teach(net, IDE(solver), x, y, leak, sink)
    rate, errors = taught.rates(leak)[-1], taught.sink.posts[net.synapses[-1].index]
    given = (errors[0] @ net.get_submodule("readout").get_parameter("weight").detach()).view(rate.shape)
    yield from {"train.rate": rate, "train.logits": taught.logits, "train.loss": taught.loss}.items()
    yield "train.dloss_drate", given
    yield "train.beta", given + solver.solution.value.view(rate.shape)
    yield "train.effective_feedback_weight", sink.params(_node(net, back))["weight"]
    yield "train.grad.in.x", taught.sink.before(net.synapses[0], trial.x.shape)[0]
    for name, (module, leaf) in places.items():
        found = module.get_parameter(leaf).grad if leaf in dict(module.named_parameters()) else module.get_buffer(leaf)
        kind = "grad" if leaf in dict(module.named_parameters()) else "state_after"
        if found is not None:
            yield f"train.{kind}.{name}", found.clone()
    yield from _evaluated(trial, net, places, x, y, leak)


def _evaluated(trial: Trial, net: Network, places: Any, x: Static, y: Tensor, leak: float) -> Results:
    """The authors evaluate with statistics that were updated twice, and iterate once more for the norm."""
    for name, (module, leaf) in places.items():
        if "running" in leaf:
            module.get_buffer(leaf).copy_(trial.stored[f"train.state_after.{name}"])
    yield "eval_after.effective_feedback_weight", effective(net.get_submodule("loop.back"))["weight"].detach()
    objective = Readout(CrossEntropy(), Weighted(leak))
    done = evaluate(net, objective, x, y)
    yield "eval_after.logits", objective.reduce.finish(done.evidence, x.steps)


def _node(net: Network, module: nn.Module) -> Any:
    return next(node for node in net.synapses if node.module is module)


def _network(trial: Trial, leak: float) -> tuple[Network, dict[str, tuple[nn.Module, str]]]:
    """The network, and where each of the case's parameters and buffers lies in it."""
    kind = next((k for k in ("conv", "fc") if f"network_x.{k}.weight" in trial.params), None)
    if kind is None:
        raise Unreadable(f"no input branch network_x.conv or network_x.fc among {', '.join(trial.params)}")
    entry, norm = _entry(trial, kind)
    weight = trial.params[f"network_s.{kind}.weight_w"]
    back: nn.Module
    if kind == "conv":
        back = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding=weight.shape[2] // 2, bias=False)
    else:
        back = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    restrictions.build({"name": "reshaped", "to": 1.0}).apply(back, ())
    layers = nn.Sequential()
    loop = Feedback(nn.Sequential(entry, norm), nn.Sequential(Affine(leak, threshold=trial.setting("vth"))), back)
    layers.add_module("loop", loop)
    layers.add_module("flatten", nn.Flatten())
    classifier = trial.params["classifier.weight"]
    readout = nn.Linear(classifier.shape[1], classifier.shape[0], bias="classifier.bias" in trial.params)
    layers.add_module("readout", readout)
    roots = {f"network_x.{kind}": entry, "network_x.bn": norm, f"network_s.{kind}": back, "classifier": readout}
    places = {}
    for name in trial.params:
        root, _, leaf = name.rpartition(".")
        if root not in roots:
            raise Unreadable(f"{name!r} belongs to no part of the model; known: {', '.join(roots)}")
        places[name] = roots[root], _LEAVES.get(leaf, leaf)
    return Network(layers).to(trial.x.dtype), places


def _entry(trial: Trial, kind: str) -> tuple[nn.Module, nn.Module]:
    weight, bias = trial.params[f"network_x.{kind}.weight"], f"network_x.{kind}.bias" in trial.params
    out, into, *kernel = weight.shape
    if kind == "fc":
        return nn.Linear(into, out, bias=bias), nn.BatchNorm1d(out)
    stride = trial.config.get("stride", 1)
    return nn.Conv2d(into, out, tuple(kernel), stride, kernel[0] // 2, bias=bias), nn.BatchNorm2d(out)  # type: ignore[arg-type]


def _load(places: dict[str, tuple[nn.Module, str]], trial: Trial) -> None:
    with torch.no_grad():
        for name, (module, leaf) in places.items():
            holder, _, last = leaf.rpartition(".")
            getattr(module.get_submodule(holder), last).copy_(trial.params[name])
