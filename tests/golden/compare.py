"""Comparing computed with stored tensors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from golden.tables import EXACT, TOLERANCES, ZERO_GRADIENT, Tolerance


@dataclass
class Verdict:
    """What became of the tensors of one precision."""

    compared: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    relative: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether something was compared and everything agreed."""
        return bool(self.compared) and not self.faults


def compare(
    tag: str,
    stored: Mapping[str, Tensor],
    computed: Iterable[tuple[str, Tensor]],
    zero_gradients: Iterable[str] = (),
    not_compared: Mapping[str, str] | None = None,
    tolerances: Mapping[str, Mapping[str, Tolerance]] | None = None,
) -> Verdict:
    """Every stored tensor against every computed one of its name; a name may be computed several times, or never.

    ``zero_gradients`` are name endings; ``not_compared`` reasons, and ``tolerances`` other than the general ones by
    precision, by regular expression.
    """
    verdict = Verdict(left_out=_left_out(stored, not_compared or {}))
    endings = tuple(f".{name}" for name in zero_gradients)
    for key, value in computed:
        if key not in stored or key in verdict.left_out:
            continue
        verdict.compared.add(key)
        rounding_noise = bool(endings) and key.endswith(endings)
        allowed = ZERO_GRADIENT if rounding_noise else _tolerance(tag, key, tolerances or {})
        _judge(verdict, key, stored[key], value, allowed)
    for key in stored.keys() - verdict.compared - verdict.left_out.keys():
        verdict.faults[key] = "is stored, but the checker computes nothing by that name"
    return verdict


def _tolerance(tag: str, key: str, table: Mapping[str, Mapping[str, Tolerance]]) -> Tolerance:
    return next((row[tag] for pattern, row in table.items() if re.fullmatch(pattern, key)), TOLERANCES[tag])


def _left_out(stored: Mapping[str, Tensor], table: Mapping[str, str]) -> dict[str, str]:
    return {key: reason for key in stored for pattern, reason in table.items() if re.fullmatch(pattern, key)}


def _judge(verdict: Verdict, key: str, stored: Tensor, value: Tensor, tolerance: Tolerance) -> None:
    value = value.detach()
    if value.shape != stored.shape or value.dtype != stored.dtype:
        verdict.faults[key] = (
            f"is stored as {list(stored.shape)} {stored.dtype}, computed as {list(value.shape)} {value.dtype}"
        )
        return
    if stored.numel() == 0:
        return
    wide = stored.double()
    error, size = float((value.double() - wide).abs().max()), float(wide.abs().max())
    if EXACT.intersection(key.split(".")) and not torch.equal(value != 0, stored != 0):
        verdict.faults[key] = f"differs in {int(((value != 0) != (stored != 0)).sum())} of {value.numel()} spikes"
        return
    if size > tolerance.absolute and tolerance.relative:
        verdict.relative = max(verdict.relative, error / size)
    allowed = tolerance.absolute + tolerance.relative * size
    if not error <= allowed:
        verdict.faults[key] = (
            f"differs by {error:.3g}; {allowed:.3g} is allowed, the largest stored value is {size:.3g}"
        )
