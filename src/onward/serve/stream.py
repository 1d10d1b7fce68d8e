"""The metrics of runs as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any

from onward.serve.shelf import shelf
from onward.train.folder import METRICS

MOST_BYTES = 2**20
"""Of one file at one look; the rest comes with the next."""


class Tail:
    """The whole lines of a growing file, each once; from the start again where the file was cut back."""

    def __init__(self, path: Path):
        self.path, self.place = path, 0

    def lines(self) -> Iterator[tuple[bool, dict[str, Any]]]:
        """New lines that are JSON objects, with whether the file begins anew at this one."""
        try:
            size = self.path.stat().st_size
            if size == self.place:
                return
            anew = size < self.place or self.place == 0
            self.place = 0 if size < self.place else self.place
            with self.path.open("rb") as file:
                file.seek(self.place)
                content = file.read(MOST_BYTES)
        except OSError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self.place += len(whole)
        for line in whole.splitlines():
            told = _object(line)
            if told is not None:
                yield anew, told
                anew = False


class Points:
    """New points of all runs under ``root``, or of the one called ``name``."""

    def __init__(self, root: Path, name: str | None = None):
        self.root, self.name = root, name
        self._tails: dict[str, Tail] = {}

    def new(self) -> Iterator[dict[str, Any]]:
        """What was written since the last call: ``run``, its ``label``, ``epoch`` and the numbers of the line."""
        for name, found in shelf(self.root).items():
            if found.is_run and self.name in (None, name):
                tail = self._tails.setdefault(name, Tail(found.path / METRICS))
                for anew, line in tail.lines():
                    yield {"run": name, "label": found.label, "anew": anew, **point(line)}


def point(line: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics that are drawn.

    >>> point({"epoch": 1, "loss": 0.5, "accuracy": 80.0, "score": {"accuracy": 79.0}})
    {'epoch': 1.0, 'loss': 0.5, 'accuracy': 80.0, 'tested': 79.0}
    """
    score = line.get("score")
    tested = score.get("accuracy") if isinstance(score, Mapping) else None
    told = {**{key: line.get(key) for key in ("epoch", "loss", "accuracy")}, "tested": tested}
    return {key: float(value) for key, value in told.items() if value is not None and _finite(value)}


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None
