"""How the modules of another library become layers here, by the names of their classes and attributes.

What stands between neurons are torch's own layers, or classes of their names with the same attributes: they become the
former. What cannot be mapped is named in one message, all of it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onward.core import Network
from onward.core.errors import ConfigError, OnwardError, UnsupportedModule
from onward.core.neuron import Neuron
from onward.surrogates import Surrogate
from onward.train.foreign import COUNTER, read_foreign

LAYERS: dict[str, Callable[..., nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
        *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
        *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.LayerNorm),
        *(nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    )
}
"""torch's layers that any library may use, by the names of their classes."""

Given = nn.Module | Iterable[nn.Module] | Mapping[str, nn.Module]
"""A network: a container, layers in order, or layers in order by name."""


@dataclass(frozen=True)
class Part:
    """A module at path ``name``; ``tensors`` are its values, which a checkpoint may have replaced.

    ``surrogate`` takes the place of its own, if given.
    """

    name: str
    module: Any
    tensors: Mapping[str, Tensor]
    surrogate: Surrogate | None

    def value(self, key: str) -> Any:
        """The tensor or attribute called ``key``; raises `ConfigError` where there is none."""
        if key in self.tensors:
            return self.tensors[key]
        try:
            return getattr(self.module, key)
        except AttributeError:
            raise ConfigError(f"has no attribute {key}") from None

    def number(self, key: str) -> float:
        """The same as one number; raises `ConfigError` where there are several."""
        value = self.value(key)
        values = value.detach().double().unique() if isinstance(value, Tensor) else torch.tensor([float(value)])
        if values.numel() != 1:
            raise ConfigError(
                f"has values of {key} that differ among its neurons ({float(values.min()):g} to "
                f"{float(values.max()):g}); the neurons of a layer have one here"
            )
        return float(values) if isinstance(value, Tensor) else float(value)


@dataclass(frozen=True)
class Library:
    """What is known of a library: how its neurons and ``layers`` are read, and its ``containers`` that are chains."""

    name: str
    neurons: Mapping[str, Callable[[Part], Neuron]]
    layers: Mapping[str, Callable[[Part], nn.Module]]
    containers: frozenset[str]


def network_of(
    library: Library, given: Given, checkpoint: Path | str | Mapping[str, Tensor] | None, surrogate: Surrogate | None
) -> Network:
    """The network that ``given`` describes, with the values of ``checkpoint`` where there is one."""
    modules = _named(library, given)
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in _state(module).items()}
    if checkpoint is not None:
        tensors = _replaced(tensors, checkpoint)
    walk = _Walk(library, tensors, surrogate)
    body = walk.chain("", modules)
    if walk.refused:
        raise UnsupportedModule(_refusal(library, walk.refused))
    net = Network(body)
    floats = [value.dtype for value in tensors.values() if value.is_floating_point()]
    return net.to(floats[0]) if floats else net


class _Walk:
    """Maps modules, and notes what cannot be mapped."""

    def __init__(self, library: Library, tensors: Mapping[str, Tensor], surrogate: Surrogate | None):
        self.library, self.tensors, self.surrogate = library, tensors, surrogate
        self.refused: list[str] = []

    def chain(self, prefix: str, modules: Mapping[str, nn.Module]) -> nn.Sequential:
        """``modules`` one behind the other, under their names."""
        made = {key: self.mapped(f"{prefix}{key}", module) for key, module in modules.items()}
        return nn.Sequential(OrderedDict((key, module) for key, module in made.items() if module is not None))

    def mapped(self, name: str, module: nn.Module) -> nn.Module | None:
        """``module`` as a layer here, or None, and a note why not."""
        if _is_chain(self.library, module):
            return self.chain(f"{name}.", dict(module.named_children()))
        own = {key.removeprefix(f"{name}."): x for key, x in self.tensors.items() if key.startswith(f"{name}.")}
        try:
            return self.read(Part(name, module, own, self.surrogate))
        except (OnwardError, TypeError, ValueError, RuntimeError) as error:
            self.refused.append(f"{name} ({_kind(module)}) {_first_line(error)}")
            return None

    def read(self, part: Part) -> nn.Module:
        """The layer that a single module becomes; raises `ConfigError` with what stands against it."""
        kind = _kind(part.module)
        if kind in self.library.neurons:
            return self.library.neurons[kind](part)
        if kind in self.library.layers:
            return self.library.layers[kind](part)
        if kind in LAYERS:
            return _copied(LAYERS[kind], part)
        if any(True for _ in part.module.children()):
            raise ConfigError("has a forward of its own, which cannot be read")
        raise ConfigError("is not known")


def _copied(make: Callable[..., nn.Module], part: Part) -> nn.Module:
    """torch's layer with the options and values of ``part``."""
    options = {key: getattr(part.module, key) for key in signature(make).parameters if hasattr(part.module, key)}
    if "bias" in options:
        options["bias"] = options["bias"] is not None
    made = make(**{key: value for key, value in options.items() if key not in ("device", "dtype")})
    floats = [value.dtype for value in part.tensors.values() if value.is_floating_point()]
    made = made.to(floats[0]) if floats else made
    made.load_state_dict(part.tensors)
    return made.train(part.module.training)


def _named(library: Library, given: Given) -> dict[str, nn.Module]:
    """The modules in order, by name; raises `UnsupportedModule` for a network whose order cannot be read."""
    if isinstance(given, nn.Module):
        if _is_chain(library, given):
            return dict(given.named_children())
        if any(True for _ in given.children()) and _kind(given) not in library.neurons:
            raise UnsupportedModule(
                f"{_kind(given)} has a forward of its own, which cannot be read; give its layers in the order in which "
                f"they are called, by name: {library.name}({_example(given)}), or make it an nn.Sequential"
            )
        return {"0": given}
    if isinstance(given, Mapping):
        return {str(name): module for name, module in given.items()}
    return {str(number): module for number, module in enumerate(given)}


def _example(given: nn.Module) -> str:
    names = [name for name, _ in given.named_children()]
    shown = ", ".join(f"{name!r}: net.{name}" for name in names[:2])
    return f"{{{shown}{', ...' if len(names) > 2 else ''}}}"


def _is_chain(library: Library, module: nn.Module) -> bool:
    """Whether a container calls its children one behind the other."""
    plain = isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward
    return plain or _kind(module) in library.containers


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach() for key, value in module.state_dict().items() if isinstance(value, Tensor)}


def _replaced(tensors: dict[str, Tensor], checkpoint: Path | str | Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values of a checkpoint of the same network; raises `ConfigError` where names or shapes differ."""
    found = read_foreign(Path(checkpoint)) if isinstance(checkpoint, Path | str) else dict(checkpoint)
    other = sorted(key for key in tensors.keys() ^ found.keys() if not key.endswith(COUNTER))
    if other:
        raise ConfigError(
            f"the checkpoint and the network differ in {', '.join(other[:4])}{' and more' if len(other) > 4 else ''}; "
            "expected the state_dict() of the same network: give layers under the names that they have there"
        )
    for key, value in found.items():
        if key in tensors and value.shape != tensors[key].shape:
            raise ConfigError(
                f"{key} has shape {list(value.shape)} in the checkpoint; expected {list(tensors[key].shape)}"
            )
    return {**tensors, **found}


def _refusal(library: Library, refused: list[str]) -> str:
    known = ", ".join((*library.neurons, *library.layers))
    return (
        f"{len(refused)} module{'s' if len(refused) > 1 else ''} cannot be mapped: {'; '.join(refused)}. Known are "
        f"torch's layers, chains of them, and {known}"
    )


def _kind(module: object) -> str:
    return type(module).__name__


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
