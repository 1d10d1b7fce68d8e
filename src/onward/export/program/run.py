"""A run's network as a file of ``torch.export``, checked before it is left.

Two comparisons: the step in plain torch fires as the network does, neuron by neuron in float64; and the program that is
read back from the file does what the step does, bit by bit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram, export, load, save

from onward._tensors import CheckpointError
from onward._version import __version__
from onward.core import Network
from onward.core.errors import UnsupportedModule
from onward.export.nir.check import Agreement, Watched, compared, layer_name, probes, watched
from onward.export.program.step import InferenceStep
from onward.export.purpose import Purpose
from onward.train import RunFolder
from onward.train.networks import trained_network

NAME, TOLD = "network.pt2", "onward.json"


@dataclass(frozen=True)
class Programmed:
    """What writing a program came to: its states, operations in a step, and how the check went."""

    source: str
    file: str
    states: dict[str, tuple[int, ...]]
    operations: int
    agreement: Agreement


def export_run(folder: RunFolder, to: Path | None = None) -> Programmed:
    """Writes the trained network of a run as a program, by default ``network.pt2`` in the run's folder.

    See `write_program`.
    """
    purpose = Purpose.of(folder.config(), folder.interface())
    return write_program(to or folder.path / NAME, trained_network(folder), purpose, source=str(folder.path))


def write_program(path: Path, net: Network, purpose: Purpose, *, source: str = "the network") -> Programmed:
    """Writes a step of ``net`` in float32 as a program of ``torch.export``, which needs torch alone to run.

    ``torch.export.load(path).module()(x, states)`` is ``(output, states)``; the batch may be of any size. What is in
    ``extra_files`` under ``onward.json`` describes input, states and their first values, and the number of steps.
    Raises `UnsupportedModule` naming what cannot be written, and `CheckpointError` where the file does not do as the
    network does, or cannot be written; none is left behind then.
    """
    agreement = check_network(net, purpose, source)
    step = InferenceStep(net, purpose.features).float()
    program = traced(step, purpose.features)
    try:
        save(program, path, extra_files={TOLD: json.dumps(described(step, purpose), allow_nan=False)})
    except (OSError, RuntimeError) as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from None
    try:
        _check_bits(step, load(path).module(), purpose.features, path)
    except CheckpointError:
        path.unlink(missing_ok=True)
        raise
    states = {slot.name: slot.shape for slot in step.slots}
    operations = sum(node.op == "call_function" for node in program.graph.nodes)
    return Programmed(source, str(path), states, operations, agreement)


def traced(step: InferenceStep, features: tuple[int, ...]) -> ExportedProgram:
    """``step`` as a program of any batch size; raises `UnsupportedModule` where torch cannot follow it."""
    example = (torch.zeros(2, *features), [slot.start(2) for slot in step.slots])
    batch = Dim("batch", min=1, max=2**16)
    sizes: Any = ({0: batch}, [{0: batch} for _ in step.slots])
    try:
        with torch.no_grad():
            return export(step, example, dynamic_shapes=sizes)
    except Exception as error:  # whatever torch's tracer meets: it has no one error of its own
        first = str(error).strip().partition("\n")[0]
        raise UnsupportedModule(f"torch.export cannot follow the network ({type(error).__name__}: {first})") from None


def described(step: InferenceStep, purpose: Purpose) -> dict[str, Any]:
    """What the file says of itself."""
    return {
        "format": 1,
        "version": __version__,
        "input": {"shape": list(purpose.features), "dtype": "float32"},
        "states": [{"name": s.name, "shape": list(s.shape), "initial": s.initial} for s in step.slots],
        "outputs": purpose.classes,
        "steps": purpose.steps,
        "purpose": purpose.model_dump(mode="json"),
    }


def check_network(net: Network, purpose: Purpose, source: str) -> Agreement:
    """How the step compares with the network in float64; raises `CheckpointError` where they differ."""
    if purpose.heads > 1:
        raise UnsupportedModule(f"{source} has {purpose.heads} heads, one for each task; a program has one output")
    x, step = probes(purpose.features), InferenceStep(net, purpose.features).double()
    found = compared(watched(net, x), _stepped(step, x))
    if found.first is not None:
        raise CheckpointError(f"the program does not fire as the network does: {found.first}")
    return found


@torch.no_grad()
def _stepped(step: InferenceStep, x: Tensor) -> Watched:
    """What the step does of probes ``x``, as `watched` tells it of a network."""
    states, outs, seen = [slot.start(x.shape[1], x.dtype) for slot in step.slots], [], dict[str, list[Tensor]]()
    for frame in x:
        out, states, fired = step.fired(frame, states)
        outs.append(out)
        for name, sent in fired.items():
            seen.setdefault(layer_name(name), []).append(sent != 0)
    return {name: torch.stack(parts) for name, parts in seen.items()}, torch.stack(outs)


@torch.no_grad()
def _check_bits(step: InferenceStep, program: Any, features: tuple[int, ...], path: Path) -> None:
    """Raises `CheckpointError` unless the program that was read does what the step does."""
    x = probes(features).float()
    states = [slot.start(x.shape[1]) for slot in step.slots]
    for number, frame in enumerate(x):
        expected, found = step(frame, states), program(frame, states)
        mine, theirs = ([out, *after] for out, after in (expected, found))
        names = ["the output", *(slot.name for slot in step.slots)]
        for name, one, other in zip(names, mine, theirs, strict=True):
            if not torch.equal(one, other):
                raise CheckpointError(f"{path}: {name} is another at step {number} once read back; it was deleted")
        states = expected[1]
