"""Building the network that a case describes, from its settings and the names and shapes of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from golden.cases import Trial, Unreadable
from golden.residual import blocks_of, preactivation
from golden.stack import Parts, Stack
from golden.tables import CONV_SCALE
from onward.core.glue import Scale
from onward.core.network import Network
from onward.core.neuron import Neuron


class Model:
    """A network, its parameters and buffers by the case's names, and its neurons' names by node index."""

    def __init__(self, trial: Trial, make_neuron: Callable[[], Neuron]):
        parts = Parts(trial, make_neuron)
        self.net = Network(_layers(trial, parts)).to(trial.x.dtype)
        self.modules = parts.modules
        self.parameters = {name: self._parameter(name) for name in trial.params}
        labels = {id(module): label for label, module in parts.modules.items()}
        self.neurons = {node.index: labels[id(node.module)] for node in self.net.neurons}
        self._load(trial)

    def buffers(self) -> dict[str, Tensor]:
        """Running statistics, ``<layer>.<buffer>``."""
        return {f"{label}.{name}": b for label, module in self.modules.items() for name, b in module.named_buffers()}

    def dropouts(self, masks: dict[str, Tensor]) -> dict[tuple[str, str], Tensor]:
        """Recorded masks as the engine asks for them."""
        names = {id(node.module): node.name for node in self.net.nodes}
        return {("dropout", names[id(self.modules[f"mask.{label}"])]): mask[None] for label, mask in masks.items()}

    def _parameter(self, name: str) -> nn.Parameter:
        label, _, leaf = name.rpartition(".")
        module: Any = self.modules.get(label)
        if module is None:
            raise Unreadable(f"the parameter {name!r} belongs to no layer; layers: {', '.join(self.modules)}")
        if parametrize.is_parametrized(module) and leaf in ("weight", "gain"):
            stored = module.parametrizations.weight
            return stored.original if leaf == "weight" else stored[0].gain
        return module.get_parameter(leaf)

    def _load(self, trial: Trial) -> None:
        given = {id(parameter) for parameter in self.parameters.values()}
        missing = [name for name, parameter in self.net.named_parameters() if id(parameter) not in given]
        if missing:
            raise Unreadable(f"no values are stored for the parameters of {', '.join(missing)}")
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                if parameter.shape != trial.params[name].shape:
                    raise Unreadable(f"{name} has shape {list(trial.params[name].shape)}, not {list(parameter.shape)}")
                parameter.copy_(trial.params[name])


def _layers(trial: Trial, parts: Parts) -> nn.Sequential:
    if "layers" in trial.config:
        return _from_list(trial, parts)
    arch = trial.config.get("arch")
    if arch in _ARCHITECTURES and not blocks_of(trial.params):
        return _ARCHITECTURES[arch](trial, parts)
    return preactivation(parts)


def _mlp(trial: Trial, parts: Parts) -> nn.Sequential:
    """fc1 [bn1] lif1 [scale] fc2 ...; the last linear layer fires only if its spikes are stored."""
    stack, maps = Stack(parts), trial.maps()
    for i in range(1, len(trial.setting("sizes"))):
        stack.linear(f"fc{i}")
        if f"bn{i}.weight" in trial.params:
            stack.norm(f"bn{i}")
        if i < len(trial.setting("sizes")) - 1 or f"lif{i}" in maps:
            stack.neuron(f"lif{i}")
            _scale(stack, trial.config.get("scale"))
    return stack.layers


def _conv(trial: Trial, parts: Parts) -> nn.Sequential:
    """A number is conv 3x3 [bn] lif [scale], 'M' 2x2 average pooling, 'S' stride 2 for the next convolution."""
    stack, count, stride = Stack(parts), 0, 1
    for item in _flat(trial.setting("conv_cfg")):
        if item == "M":
            stack.glue(nn.AvgPool2d(2))
        elif item == "S":
            stride = 2
        elif isinstance(item, int):
            count, normed = count + 1, f"bn{count + 1}.weight" in trial.params
            stack.conv(f"conv{count}", stride, padding=1)
            if normed:
                stack.norm(f"bn{count}")
            stack.neuron(f"lif{count}")
            _scale(stack, trial.config.get("scale") or (None if normed else CONV_SCALE.get(trial.method)))
            stride = 1
        else:
            raise Unreadable(f"conv_cfg has {item!r}; expected numbers of filters, 'M' or 'S'")
    side = trial.config.get("fc_hw") or trial.config.get("hw")
    if side:
        stack.glue(nn.AdaptiveAvgPool2d(side))
    stack.flatten()
    stack.linear("fc")
    return stack.layers


_ARCHITECTURES: dict[str, Callable[[Trial, Parts], nn.Sequential]] = {"mlp": _mlp, "conv": _conv, "convbn": _conv}


_KINDS = {"linear", "conv", "bn1d", "bn2d", "lif", "if", "avgpool", "flatten"}


def _from_list(trial: Trial, parts: Parts) -> nn.Sequential:
    """``layers`` as a list of [name, kind, sizes ...]."""
    unknown = sorted({layer[1] for layer in trial.setting("layers")} - _KINDS)
    if unknown:
        return _beyond_lists(parts, unknown)
    stack = Stack(parts)
    for label, kind, *sizes in trial.setting("layers"):
        match kind:
            case "linear":
                stack.linear(label)
            case "conv":
                stack.conv(label, stride=sizes[3], padding=sizes[4])
            case "bn1d" | "bn2d":
                stack.norm(label)
            case "lif" | "if":
                stack.neuron(label)
            case "avgpool":
                stack.glue(nn.AvgPool2d(*sizes))
            case "flatten":
                stack.flatten()
    return stack.layers


def _beyond_lists(parts: Parts, kinds: list[str]) -> nn.Sequential:
    """A list with kinds that are no single layer: the one such network known is residual."""
    try:
        return preactivation(parts)
    except Unreadable as error:
        known = ", ".join(sorted(_KINDS))
        raise Unreadable(f"layers of unknown kind: {', '.join(kinds)}; known: {known}; {error}") from None


def _scale(stack: Stack, factor: float | None) -> None:
    if factor is not None:
        stack.glue(Scale(factor))


def _flat(items: list[Any]) -> list[Any]:
    return [inner for item in items for inner in (_flat(item) if isinstance(item, list) else [item])]
