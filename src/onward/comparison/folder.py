"""A comparison's folder: what is compared, a line for every job that ended, and the page.

``plan.json``, ``configs/ROW.toml``, ``results.jsonl``, ``runs/ROW-seed-N/RUN``, and what is made of them:
``comparison.html``, ``.json``, ``.csv`` and ``.tex``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onward._durable import append_synced, write_whole
from onward.comparison.rows import Plan, Row, keys
from onward.core.errors import ConfigError
from onward.train import toml
from onward.train.folder import RunFolder, json_line, write_json
from onward.train.grammar import load

PLAN, RESULTS = "plan.json", "results.jsonl"


@dataclass(frozen=True)
class Result:
    """What a job answered: a training of ``row`` with ``seed``, or a test of it on further data, ``on``."""

    job: str
    row: str
    seed: int
    on: str
    key: str
    answer: Mapping[str, Any]


class ComparisonFolder:
    """The files of one comparison under ``path``."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, out: Path, plan: Plan) -> ComparisonFolder:
        """A new folder in ``out``."""
        first = plan.rows[0].config
        return cls(RunFolder.create(out, f"compare-{first.data.name}-{first.model.name}").path)

    @classmethod
    def open(cls, path: Path) -> ComparisonFolder:
        """An existing one; raises `ConfigError` where there is none."""
        if not (path / PLAN).is_file():
            raise ConfigError(f"{path} is not the folder of a comparison: it has no {PLAN}")
        return cls(path)

    def begin(self, plan: Plan) -> None:
        """Writes what is compared."""
        (self.path / "configs").mkdir(parents=True, exist_ok=True)
        for row in plan.rows:
            told = toml.dumps(row.config.model_dump())
            write_whole(self.path / "configs" / f"{plan.slugs[row.label]}.toml", told.encode())
        rows = [
            {"label": row.label, "file": plan.slugs[row.label], "evaluate": row.evaluate, "uses": row.uses}
            for row in plan.rows
        ]
        told = {"title": plan.title, "seeds": plan.seeds, "threads": plan.threads, "rows": rows}
        write_json(self.path / PLAN, told)

    def plan(self) -> Plan:
        """What is compared; raises `ConfigError` where that cannot be read."""
        try:
            told = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
            rows = [
                Row(
                    str(row["label"]),
                    load(self.path / "configs" / f"{Path(row['file']).name}.toml"),
                    tuple(map(str, row["evaluate"])),
                    {str(flag): str(label) for flag, label in row["uses"].items()},
                )
                for row in told["rows"]
            ]
            threads = None if told["threads"] is None else int(told["threads"])
            return Plan(str(told["title"]), tuple(rows), tuple(map(int, told["seeds"])), threads)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConfigError(f"{self.path / PLAN} does not say what is compared; start the comparison anew") from None

    def add(self, result: Result) -> None:
        """Appends a line, and waits until it is on the disk; half a line of a killed process before it stays one."""
        path = self.path / RESULTS
        torn = path.is_file() and path.read_bytes()[-1:] not in (b"", b"\n")
        append_synced(path, ("\n" if torn else "") + json_line(vars(result)))

    def results(self, plan: Plan) -> dict[str, Result]:
        """What jobs of ``plan`` came to, by name; lines of other configurations, and half a line, are passed over."""
        known = keys(plan)
        found = {result.job: result for result in self._lines()}
        return {name: result for name, result in found.items() if known.get(result.row) == result.key}

    def _lines(self) -> Iterator[Result]:
        path = self.path / RESULTS
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
            try:
                yield Result(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                continue
