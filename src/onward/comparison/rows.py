"""What is compared: rows, each with every seed, and the jobs that this makes."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import count, product
from pathlib import Path
from typing import Any

from onward.core.errors import ConfigError
from onward.launch import Job
from onward.train.config import RunConfig
from onward.train.grammar import parse_tokens
from onward.train.toml import read as read_toml

RUNS = {"starts": "--train.init-from", "teacher": "--distil.teacher"}
"""Keys of a recipe's row that name another row, and the flags that take its run."""


@dataclass(frozen=True)
class RecipeRow:
    """A row as a recipe has it: ``flags`` on top of the recipe's configuration.

    ``evaluate`` are data of which the test accuracy is reported as well, ``uses`` the labels of rows whose runs it
    needs, by the flag that takes a run's folder.
    """

    label: str
    flags: tuple[str, ...]
    evaluate: tuple[str, ...] = ()
    uses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One line of a comparison: a configuration, whose seed is left open; see `RecipeRow`."""

    label: str
    config: RunConfig
    evaluate: tuple[str, ...] = ()
    uses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """Every row with every seed. ``threads`` is what each training may use, None for a share of the cores."""

    title: str
    rows: tuple[Row, ...]
    seeds: tuple[int, ...]
    threads: int | None = None

    def __post_init__(self) -> None:
        labels = [row.label for row in self.rows]
        for what, given in (("rows", labels), ("seeds", self.seeds)):
            if not given or len(set(given)) < len(given):
                raise ConfigError(f"{what}: {', '.join(map(str, given)) or 'none'} given; expected some, all different")

    @property
    def slugs(self) -> dict[str, str]:
        """The labels as names of files, no two alike."""
        taken: dict[str, str] = {}
        for row in self.rows:
            plain = re.sub(r"[^a-z0-9]+", "-", row.label.lower()).strip("-") or "row"
            names = (plain if k == 1 else f"{plain}-{k}" for k in count(1))
            taken[row.label] = next(name for name in names if name not in taken.values())
        return taken


def read_recipe(path: Path) -> tuple[dict[str, Any], list[RecipeRow]]:
    """The table ``[recipe]`` of a file, and its rows; both are empty where there is none.

    Raises `ConfigError` where the table is not as it should be.
    """
    recipe = read_toml(path).get("recipe", {})
    try:
        return recipe, [as_row(row) for row in recipe.get("row", [])]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(f"{path}: [[recipe.row]] needs a label, and flags as a list of texts") from None


def as_row(row: Mapping[str, Any]) -> RecipeRow:
    """A row as a recipe has it."""
    uses = {flag: row[key] for key, flag in RUNS.items() if key in row}
    return RecipeRow(row["label"], tuple(row.get("flags", ())), tuple(row.get("evaluate", ())), uses)


def chosen(rows: Sequence[RecipeRow], labels: Sequence[str] | None) -> list[RecipeRow]:
    """The rows of these ``labels`` and those whose runs they use; all rows where no label is given."""
    if not labels:
        return list(rows)
    unknown = set(labels) - {row.label for row in rows}
    if unknown:
        known = ", ".join(row.label for row in rows)
        raise ConfigError(f"no row is called {' or '.join(sorted(unknown))}; rows of this recipe: {known}")
    wanted = set(labels)
    for row in reversed(rows):
        if row.label in wanted:
            wanted.update(row.uses.values())
    return [row for row in rows if row.label in wanted]


def configured(recipe: Path, rows: Sequence[RecipeRow], flags: Sequence[str] = ()) -> tuple[Row, ...]:
    """The rows of a recipe with their configurations; ``flags`` win over those of the rows."""
    return tuple(
        Row(row.label, parse_tokens([str(recipe), *row.flags, *flags]), row.evaluate, row.uses) for row in rows
    )


def jobs_of(plan: Plan, folder: Path, cores: int) -> Iterator[Job]:
    """A training for every row and seed, and the tests on further data; ``folder`` has the configurations.

    A training that was cut short goes on when its job is run again.
    """
    trainings = len(plan.rows) * len(plan.seeds)
    threads = plan.threads or max(1, cores // trainings)
    for row, seed in product(plan.rows, plan.seeds):
        name, slug = training(row.label, seed), plan.slugs[row.label]
        gpus = int(row.config.device.startswith("cuda"))
        uses = {flag: training(label, seed) for flag, label in row.uses.items()}
        config, out = folder / "configs" / f"{slug}.toml", folder / "runs" / f"{slug}-seed-{seed}"
        arguments = ("train", str(config), "--seed", str(seed), "--train.out", str(out), "--continue", "--json")
        yield Job(name, arguments, uses, threads, gpus)
        for data in map(os.path.expandvars, row.evaluate):
            flags = ("eval", "--data", data, "--device", row.config.device, "--json")
            yield Job(f"{name}, on {Path(data).stem}", flags, {"": name}, threads, gpus)


def training(label: str, seed: int) -> str:
    """The name of the job that trains a row with a seed."""
    return f"{label}, seed {seed}"


def keys(plan: Plan) -> dict[str, str]:
    """A hash, by label, of all that decides what a row comes to but its seed; of rows whose runs it uses as well."""
    rows = {row.label: row for row in plan.rows}

    def key(label: str) -> str:
        row = rows[label]
        told = row.config.model_dump_json(exclude={"seed": True, "train": {"out"}})
        used = [f"{flag} {key(other)}" for flag, other in row.uses.items()]
        return sha256("\n".join([told, *used]).encode()).hexdigest()[:16]

    return {label: key(label) for label in rows}
