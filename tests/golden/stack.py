"""Layers in sequence, each made in the shape of the parameters that a case stores for it."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from golden.cases import Trial, Unreadable
from onward.core.neuron import Neuron
from onward.weights import standardize


class Parts:
    """What the stacks of one network share: the case, and every layer by the name that the case gives it."""

    def __init__(self, trial: Trial, make_neuron: Callable[[], Neuron]):
        self.trial, self.make_neuron = trial, make_neuron
        self.modules: dict[str, nn.Module] = {}
        self.masks = trial.masks

    @property
    def spatial(self) -> bool:
        """Whether what the last synapse sends, or the input if there is none yet, has height and width."""
        synapses = [module for module in self.modules.values() if isinstance(module, nn.Conv2d | nn.Linear)]
        return isinstance(synapses[-1], nn.Conv2d) if synapses else self.trial.x.dim() > 3


class Stack:
    """A sequence under construction."""

    def __init__(self, parts: Parts):
        self.parts, self.layers = parts, nn.Sequential()

    def add(self, label: str, module: nn.Module) -> None:
        """Appends a layer that the case calls ``label``."""
        self.parts.modules[label] = module
        self.layers.add_module(label.replace(".", "-"), module)

    def glue(self, module: nn.Module) -> None:
        """Appends something that the case has no name for."""
        self.layers.append(module)

    def flatten(self) -> None:
        """Merges channels and space."""
        self.glue(nn.Flatten())

    def linear(self, label: str) -> None:
        """Appends a linear layer."""
        out, into = self._shape(label)
        self._synapse(label, nn.Linear(into, out, bias=self._has(label, "bias")))

    def conv(self, label: str, stride: int, padding: int) -> None:
        """Appends a two-dimensional convolution."""
        out, into, *kernel = self._shape(label)
        bias = self._has(label, "bias")
        self._synapse(label, nn.Conv2d(into, out, tuple(kernel), stride, padding, bias=bias))  # type: ignore[arg-type]

    def norm(self, label: str) -> None:
        """Appends batch normalisation for what the layer before sends."""
        (features,) = self._shape(label)
        self.add(label, (nn.BatchNorm2d if self.parts.spatial else nn.BatchNorm1d)(features))

    def neuron(self, label: str) -> None:
        """Appends a layer of neurons, and its dropout if a mask was recorded."""
        self.add(label, self.parts.make_neuron())
        if label in self.parts.masks:
            self.add(f"mask.{label}", nn.Dropout(0.5))

    def _synapse(self, label: str, module: nn.Module) -> None:
        self.add(label, standardize(module) if self._has(label, "gain") else module)

    def _has(self, label: str, leaf: str) -> bool:
        return f"{label}.{leaf}" in self.parts.trial.params

    def _shape(self, label: str) -> list[int]:
        if not self._has(label, "weight"):
            known = ", ".join(self.parts.trial.params) or "none"
            raise Unreadable(f"there is no tensor 'param.{label}.weight'; parameters: {known}")
        return list(self.parts.trial.params[f"{label}.weight"].shape)
