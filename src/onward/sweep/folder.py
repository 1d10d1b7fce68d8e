"""A sweep's folder: what is searched, Optuna's database, the trainings, and what is made of them.

``sweep-plan.json``, ``recipe.toml`` where there is one, ``sweep.db``, ``configs/trial-N.toml``,
``runs/trial-N/RUN``, and ``sweep.html``, ``sweep.json`` and ``best.toml``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from onward._durable import write_whole
from onward.core.errors import ConfigError
from onward.launch import Job
from onward.sweep.plan import Plan, read_plan, recipe_of
from onward.train import toml
from onward.train.config import RunConfig
from onward.train.folder import DONE, METRICS, RunFolder, write_json

PLAN, RECIPE, DATABASE, LOCK = "sweep-plan.json", "recipe.toml", "sweep.db", ".lock"


class SweepFolder:
    """The files of one sweep under ``path``."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def create(cls, out: Path, plan: Plan) -> SweepFolder:
        """A new folder in ``out``."""
        return cls(RunFolder.create(out, f"sweep-{plan.base.data.name}-{plan.base.model.name}").path)

    @classmethod
    def open(cls, path: Path) -> SweepFolder:
        """An existing one; raises `ConfigError` where there is none."""
        if not (path / PLAN).is_file():
            raise ConfigError(f"{path} is not the folder of a sweep: it has no {PLAN}")
        return cls(path)

    @property
    def database(self) -> Path:
        """Where Optuna keeps the trials."""
        return self.path / DATABASE

    @contextmanager
    def held(self) -> Iterator[None]:
        """While entered, no other process may go on with the sweep; raises `ConfigError` where one does."""
        try:
            with FileLock(self.path / LOCK, timeout=0):
                yield
        except Timeout:
            raise ConfigError(
                f"{self.path} is being swept by another process; wait for it to end, or stop it"
            ) from None

    def begin(self, plan: Plan) -> None:
        """Writes what is searched; a recipe is copied, so that the sweep goes on when the recipe has changed."""
        (self.path / "configs").mkdir(parents=True, exist_ok=True)
        recipe = recipe_of(plan.tokens)
        if recipe is not None and recipe != self.path / RECIPE:
            write_whole(self.path / RECIPE, recipe.read_bytes())
        told = {
            "recipe": recipe is not None,
            "flags": plan.tokens if recipe is None else plan.tokens[1:],
            "over": [axis.text for axis in plan.axes],
            "trials": plan.trials,
            "prune": plan.prune,
        }
        write_json(self.path / PLAN, told)

    def plan(self) -> Plan:
        """What is searched; raises `ConfigError` where that cannot be read."""
        try:
            told = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
            recipe = [str(self.path / RECIPE)] if told["recipe"] else []
            tokens = (*recipe, *map(str, told["flags"]))
            over = list(map(str, told["over"]))
            trials, prune = int(told["trials"]), bool(told["prune"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConfigError(f"{self.path / PLAN} does not say what is searched; start the sweep anew") from None
        return read_plan(tokens, over, trials, prune)

    def job(self, place: int, config: RunConfig, threads: int) -> Job:
        """The training of a trial, whose configuration is written; run again, it goes on."""
        file = self.path / "configs" / f"trial-{place}.toml"
        write_whole(file, toml.dumps(config.model_dump()).encode())
        out = self.path / "runs" / f"trial-{place}"
        arguments = ("train", str(file), "--train.out", str(out), "--continue", "--json")
        return Job(f"trial {place}", arguments, threads=threads, gpus=int(config.device.startswith("cuda")))

    def run_of(self, place: int) -> RunFolder | None:
        """The newest run of a trial; None before there is one."""
        runs = sorted((self.path / "runs" / f"trial-{place}").glob("*/"))
        return RunFolder(runs[-1]) if runs else None

    def accuracies(self, place: int) -> Iterator[tuple[int, float]]:
        """Epochs and held-out accuracies that a trial's training has written so far."""
        run = self.run_of(place)
        path = None if run is None else run.path / METRICS
        if path is None or not path.is_file():
            return
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            told = json.loads(line) if line.endswith("\n") else {}
            if told.get("judged_on") == "validation" and told.get("score"):
                yield int(told["epoch"]), float(told["score"]["accuracy"])

    def test_accuracy(self, place: int) -> float | None:
        """What a trial's training came to on test data; nothing is chosen by it."""
        run = self.run_of(place)
        return None if run is None else run.record(DONE).get("test_accuracy")
