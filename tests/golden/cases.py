"""Reading one golden case: settings, inputs, parameters and stored results of one file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PRECISIONS = {"f32": torch.float32, "f64": torch.float64}
ONE_PRECISION = "out"
"""Where a case stores results in single precision alone."""
STATE = "state_before"
"""Where a case stores parameters and buffers together."""
START = "param0"
"""Where a case of several updates stores its parameters."""
LEARNED = ("lstm", "lnlstm", "fast")
"""Where a case stores the weights of learned optimisers; they keep these names before their own."""


class Unreadable(Exception):
    """A case that cannot be read, or that asks for something the checker does not know."""


@dataclass(frozen=True)
class Trial:
    """A case in one precision: what goes in, and the results to compare with, by name."""

    method: str
    config: Mapping[str, Any]
    inputs: Mapping[str, Tensor]
    params: Mapping[str, Tensor]
    stored: Mapping[str, Tensor]

    def setting(self, name: str) -> Any:
        """A setting that must be there."""
        if name not in self.config:
            raise Unreadable(f"the configuration has no {name!r}; it has {', '.join(sorted(self.config))}")
        return self.config[name]

    def input(self, name: str) -> Tensor:
        """An input that must be there."""
        if name not in self.inputs:
            raise Unreadable(f"there is no tensor 'in.{name}'; inputs: {', '.join(sorted(self.inputs)) or 'none'}")
        return self.inputs[name]

    @property
    def x(self) -> Tensor:
        """The input currents or frames, time first."""
        return self.input("x")

    @property
    def steps(self) -> int:
        """T."""
        return len(self.x)

    @property
    def masks(self) -> dict[str, Tensor]:
        """Recorded dropout masks ``[B, ...]`` by neuron."""
        return {name.removeprefix("mask."): m for name, m in self.inputs.items() if name.startswith("mask.")}

    def maps(self) -> dict[str, torch.Size]:
        """The shape of one sample's spikes by neuron, as the stored results show it."""
        found = {}
        for key, value in self.stored.items():
            match = re.search(r"(?:^|\.)(?:spike|h|v)\.(.+)$", key)
            if match:
                found[match[1]] = value.shape[2:]
        return found


@dataclass(frozen=True)
class Case:
    """One file. ``name`` is ``method/case`` as the file calls itself."""

    name: str
    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def method(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors called ``prefix.*``, by the rest of their names."""
        return {k.removeprefix(f"{prefix}."): t for k, t in self.tensors.items() if k.startswith(f"{prefix}.")}

    def trials(self) -> dict[str, Trial]:
        """The case in every precision that it has results for; inputs and parameters are upcast."""
        found = {}
        for tag, dtype in PRECISIONS.items():
            stored = self.part(tag) or (self.part(ONE_PRECISION) if tag == "f32" else {})
            if stored:
                inputs, params = _cast(self.part("in"), dtype), _cast(self._params(), dtype)
                found[tag] = Trial(self.method, self.config, inputs, params, stored)
        return found

    def _params(self) -> dict[str, Tensor]:
        learned = {key: t for key, t in self.tensors.items() if key.partition(".")[0] in LEARNED}
        return self.part("param") or self.part(STATE) or self.part(START) or learned


def _cast(tensors: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}


def read(path: Path) -> Case:
    """The case in ``path``; raises `Unreadable`."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Unreadable(f"not a readable safetensors file: {error}") from None
    name = metadata.get("case", path.stem)
    case = Case(name if "/" in name else f"{path.parent.name}/{name}", _config(metadata), tensors)
    kinds = ("in", "param", *PRECISIONS, ONE_PRECISION, STATE, START, *LEARNED)
    strange = [key for key in tensors if key.partition(".")[0] not in kinds]
    if strange:
        raise Unreadable(f"tensors of no known kind ({', '.join(kinds)}): {', '.join(strange)}")
    if not case.trials():
        raise Unreadable("no results (f32.*, f64.*) are stored")
    return case


def _config(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        config = json.loads(metadata["config"])
    except KeyError:
        raise Unreadable("the file's metadata has no 'config'") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"the configuration is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise Unreadable(f"the configuration is a JSON {type(config).__name__}; expected an object")
    return config
