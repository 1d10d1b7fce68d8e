"""The step of a network as an ONNX file, compared in ONNX Runtime.

Other runtimes add up in another order, so that the last bits differ, and a potential that meets its threshold up to
rounding may fire in one and not in the other. So every step starts from the states that torch came to, and a step of a
sample agrees where all its numbers do.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onward._tensors import CheckpointError
from onward.core import Network
from onward.core.errors import ConfigError, UnsupportedModule
from onward.export.nir.check import Agreement, probes
from onward.export.program.run import TOLD, check_network, described, traced
from onward.export.program.step import InferenceStep
from onward.export.purpose import Purpose
from onward.train import RunFolder
from onward.train.networks import trained_network

NAME = "network.onnx"
TOLERANCE, SHARE = 1e-4, 0.9
"""How far numbers may be apart, relative to 1 or more; and which share of the steps of samples must agree."""


@dataclass(frozen=True)
class Written:
    """What writing an ONNX file came to: its states, how the step fired in torch, and how many steps agreed."""

    source: str
    file: str
    states: dict[str, tuple[int, ...]]
    agreement: Agreement
    steps: int
    agreed: int


def export_run_onnx(folder: RunFolder, to: Path | None = None) -> Written:
    """Writes the trained network of a run as an ONNX file, by default ``network.onnx`` in the run's folder."""
    purpose = Purpose.of(folder.config(), folder.interface())
    return write_onnx(to or folder.path / NAME, trained_network(folder), purpose, source=str(folder.path))


def write_onnx(path: Path, net: Network, purpose: Purpose, *, source: str = "the network") -> Written:
    """Writes a step of ``net`` in float32 as an ONNX file: ``input`` and states to ``output`` and states, any batch.

    A state NAME goes in as ``NAME`` and comes out as ``NAME.next``; the model's property ``onward.json`` describes
    them. Raises as `onward.export.program.write_program` does, and `ConfigError` where a package is not installed.
    """
    onnx, runtime = (_package(name) for name in ("onnx", "onnxruntime"))
    _package("onnxscript")
    agreement = check_network(net, purpose, source)
    step = InferenceStep(net, purpose.features).float()
    names = [slot.name for slot in step.slots]
    model = _model(step, purpose.features, names)
    onnx.helper.set_model_props(model, {TOLD: json.dumps(described(step, purpose), allow_nan=False)})
    try:
        onnx.save(model, str(path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error})") from None
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    same = _same_steps(step, session, purpose.features)
    if float(same.double().mean()) < SHARE:
        path.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: {int(same.sum())} of {same.numel()} steps of probes agree once read back; it was deleted"
        )
    states = {slot.name: slot.shape for slot in step.slots}
    return Written(source, str(path), states, agreement, same.numel(), int(same.sum()))


def _model(step: InferenceStep, features: tuple[int, ...], names: list[str]) -> Any:
    """The step as ONNX describes it; raises `UnsupportedModule` for operations that it has not."""
    ends: dict[str, Any] = {
        "input_names": ["input", *names],
        "output_names": ["output", *(f"{name}.next" for name in names)],
    }
    program = traced(step, features)
    try:
        with _quiet():
            found: Any = torch.onnx.export(program, dynamo=True, verbose=False, **ends)
    except Exception as error:  # whatever the translation meets: it has no one error of its own
        first = str(error).strip().partition("\n")[0]
        raise UnsupportedModule(f"ONNX cannot say what the network does ({type(error).__name__}: {first})") from None
    return found.model_proto


@torch.no_grad()
def _same_steps(step: InferenceStep, session: Any, features: tuple[int, ...]) -> Tensor:
    """Whether all numbers agree, for every step and sample ``[T, B]``."""
    x = probes(features).float()
    names = [given.name for given in session.get_inputs()]
    states, same = [slot.start(x.shape[1]) for slot in step.slots], []
    for frame in x:
        given = dict(zip(["input", *(slot.name for slot in step.slots)], [frame, *states], strict=True))
        found = [torch.from_numpy(a) for a in session.run(None, {name: given[name].numpy() for name in names})]
        out, states = step(frame, states)
        near = [
            ((a - b).abs() <= TOLERANCE * b.abs().clamp_min(1)).view(len(b), -1).all(1)
            for a, b in zip(found, [out, *states], strict=True)
        ]
        same.append(torch.stack(near).all(0))
    return torch.stack(same)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps what the translation says of its own insides from whoever waits for it."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _package(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ConfigError(
            f"ONNX files are written and checked by the packages onnx, onnxscript and onnxruntime, and {name} is not "
            "installed; install Onward with its extra `onnx`, or write a program of torch: onward export torch"
        ) from None
