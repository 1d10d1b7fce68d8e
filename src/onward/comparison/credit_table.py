"""The table of rules x networks x data: what each rule came to, what it took, and what it needs to know."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from onward.comparison.markdown import as_table
from onward.comparison.reproduction import Found, Reproduction
from onward.comparison.rows import RecipeRow, configured
from onward.core.errors import UnknownName
from onward.core.rule import Traits
from onward.rules import rules
from onward.train.config import RunConfig

HEAD = """# Rules, networks, data

Every rule on every network that it was tried on, with the settings of one recipe for all rows but what the row names.
Made from the results in `recipes/*.toml` by `python -m benchmarks.credit_table`; do not edit it. Accuracy is the mean
over seeds with half of its 95 % interval by Student's t. Time and memory are those of one update, all rows turn by turn
in one session on a processor: time as a multiple of the first row's of the recipe, memory as the most that was held
beyond parameters and optimiser.

What a rule needs to know is claimed by its traits; `onward explain RULE` traces it on a small network.

* **errors come** straight from the output to each layer, layer by layer within a step, or back in time as well; *local*
  where a layer has a readout of its own beside that;
* **W^T**: whether errors read the transposed weights of layers above;
* **over T**: how memory grows with the number of time steps.

Your own rule joins the table by one command, where its package is installed. It trains the rule on the recipes here, or
on those that are named, with each recipe's seeds, and writes the results into the recipes and this file; options of the
rule follow as flags:

    python -m benchmarks.credit_table --add MY-RULE [--recipes mnist-mlp] [--rule.FIELD VALUE ...]
"""
COLUMNS = ("rule", "accuracy", "seeds", "time", "MiB", "errors come", "W^T", "over T", "date")
WAYS = {"none": "straight", "step": "layer by layer", "time": "back in time"}


@dataclass(frozen=True)
class Needs:
    """What a row's rule needs to know, in words; empty where the rule is not installed here."""

    errors: str = ""
    transport: str = ""
    memory: str = ""


def credit_table(reproductions: Iterable[Reproduction]) -> str:
    """The page: of recipes that have rows in common with others, which name a ``table``."""
    known = [one for one in reproductions if one.table and one.found]
    return "\n".join([HEAD, *map(_section, known)])


def _section(one: Reproduction) -> str:
    lines = sorted(_lines(one), key=lambda line: -_accuracy(line[1]))
    machines = "; ".join(sorted({found.machine for _, found in lines}))
    rows = (_cells(one, row, found) for row, found in lines)
    return f"## {one.title}\n\n{_settings(one)}\n\n{as_table(COLUMNS, rows)}\n{machines}. Recipe: `{one.name}`.\n"


def _lines(one: Reproduction) -> Iterator[tuple[RecipeRow, Found]]:
    """Rows that were run; tests on further data are left to the reproductions."""
    return ((row, one.found[row.label]) for row in one.rows if row.label in one.found)


def _accuracy(found: Found) -> float:
    return found.value("accuracies") or 0.0


def _settings(one: Reproduction) -> str:
    (plain,) = configured(one.path, [RecipeRow("", ())])
    train, data, optim = plain.config.train, plain.config.data.model_dump(), plain.config.optim.model_dump()
    rate = f" at {optim['lr']:g}" if "lr" in optim else ""
    limit = f", {data['limit']:,} samples" if data.get("limit") else ""
    return (
        f"{data['name']}{limit}; {train.epochs} epochs of T = {train.steps} in mini-batches of {train.batch_size}, "
        f"{optim['name']}{rate}."
    )


def _cells(one: Reproduction, row: RecipeRow, found: Found) -> tuple[str, ...]:
    needs = _needs(one, row)
    took = [f"{found.update[key]:,.{digits}f}" if found.update else "" for key, digits in (("time", 2), ("mib", 0))]
    return (
        row.label,
        found.told,
        str(len(found.seeds)),
        *took,
        needs.errors,
        needs.transport,
        needs.memory,
        found.date,
    )


def _needs(one: Reproduction, row: RecipeRow) -> Needs:
    try:
        config = configured(one.path, [row])[0].config
        traits = rules.build(config.rule).traits
    except UnknownName:
        return Needs()
    return Needs(_way(config, traits), "yes" if traits.weight_transport else "no", traits.memory)


def _way(config: RunConfig, traits: Traits) -> str:
    local = getattr(config.rule, "local", None)
    beside = ", local" if local is not None and local.name != "none" else ""
    return f"{WAYS[traits.backward]}{beside}"
