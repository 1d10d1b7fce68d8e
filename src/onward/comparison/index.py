"""The index of reproductions as a page of the documentation, made from what the recipes hold."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onward.comparison.markdown import as_table
from onward.comparison.reproduction import HOLDS, Reproduction, costs_of, table_of
from onward.credit import locals_, spatials, temporals
from onward.credit.opzo import OPZOOptions
from onward.rules import rules
from onward.train.schema import shown

HEAD = """# Reproductions

Made from the results in `recipes/*.toml` by `onward reproduce --index docs/reproductions.md`; do not edit it. Numbers
stand here only for what was run; `onward reproduce NAME` runs a recipe (again) and says what came out. Ours are means
over seeds, with half of the 95 % interval by Student's t where there are several. One seed says little about half a
point. "Reached" is about what we said must come out, at our sizes: it is not the published number.
"""
INFERRED = """## What is published, and what is inferred

What no publication states had to be chosen. `onward rules` says the same of every rule.
"""
OPZO = """### OPZO

No code of its authors was found. Equations, noise laws and positions, and results are published; numbers below are ours
where the last column says so, and the published results are not evidence for them.
"""


def provenance() -> Iterator[tuple[str, str, str]]:
    """OPZO's choices: what is known of each, and what it is here."""
    defaults = OPZOOptions.model_validate({"name": "opzo"}).model_dump()

    def ours(name: str) -> str:
        value = defaults[name]
        return f"`{name.replace('_', '-')} {value['name'] if isinstance(value, dict) else shown(value)}`"

    yield "M <- rho M + (1 - rho) z o^T, credit M e", "published", "as published"
    yield (
        "rho, the momentum of M",
        "'extremely large' according to its reviewers; values not available",
        f"{ours('rho')}, inferred",
    )
    yield "alpha, the strength of the noise", "not stated in what is available", f"{ours('alpha')}, inferred"
    yield "M divided by alpha", "left out in practice, according to its reviewers", ours("inverse_alpha")
    yield "M at the start", "not documented", "zero, inferred"
    yield "M updated once a sequence", "not stated", f"{ours('per')}, inferred"
    yield "credit reads M before its own update", "not stated", f"{ours('reads')}, inferred"
    yield "M of a convolution", "not stated", f"{ours('sharing')}, inferred"
    yield "law of the noise", "Gaussian; others as ablations", f"{ours('law')}, cheaper and as good; `opzo-gaussian`"
    yield "position of the noise", "after the neuron", ours("position")
    yield "antithetic noise over time steps", "published", ours("schedule")
    yield "noise for every sample", "not stated", f"{ours('per_sample')}, inferred"
    yield "noise in traces", "not stated", f"{ours('traced')}, inferred"
    yield "weight, pooling and place of local losses", "not stated", "inferred"
    yield "optimiser, batch, epochs of the results", "not stated for each data set", "those of each recipe"


def index(reproductions: Iterable[Reproduction]) -> str:
    """The page."""
    known = list(reproductions)
    run = [one for one in known if one.found]
    missed = [one for one in run if "not reached" in one.verdict]
    parts = [HEAD, as_table(("recipe", "what", "verdict"), ((_link(one), one.title, one.verdict) for one in run))]
    parts.append(f"Not run yet: {', '.join(f'`{one.name}`' for one in known if not one.found) or 'none'}.\n")
    if missed:
        parts.append("What was not reached: " + "; ".join(_misses(one) for one in missed) + ".\n")
    parts += [*_side_by_side(run), *map(_section, run)]
    parts += [INFERRED, OPZO, as_table(("choice", "publication", "here"), provenance()), "### Rules\n"]
    parts.append(as_table(("name", "publication", "published", "inferred"), _rules()))
    return "\n".join(parts)


def _side_by_side(run: Sequence[Reproduction]) -> Iterator[str]:
    """A table for each set of recipes that have rows in common: rows down, recipes across."""
    for table in dict.fromkeys(one.table for one in run if one.table):
        ones = [one for one in run if one.table == table]
        labels = dict.fromkeys(row.label for one in ones for row in one.rows)
        shared = [label for label in labels if sum(label in one.found for one in ones) > 1]
        rows = ([label, *(one.found[label].told if label in one.found else "" for one in ones)] for label in shared)
        yield f"## {table}\n"
        yield as_table(("row", *map(_link, ones)), rows)


def _rules() -> Iterator[tuple[str, ...]]:
    for registry in (rules, temporals, spatials, locals_):
        for name in registry.names():
            facts = registry.entry(name).facts
            yield f"`{name}`", *(facts.get(key, "not stated") for key in ("paper", "published", "inferred"))


def _misses(one: Reproduction) -> str:
    failed = [check.says for check in one.checks if check.verdict(one.found) not in (HOLDS, "not run")]
    return f"{_link(one)} ({', '.join(failed)})"


def _link(one: Reproduction) -> str:
    return f"[{one.name}](#{one.name})"


def _section(one: Reproduction) -> str:
    command = one.by and f"{one.by} recipes/{one.name}.toml"
    facts = [
        f"## {one.name}\n\n{one.title}. Run it: `{command or f'onward reproduce {one.name}'}`.\n",
        f"Published: {one.published}.\n\nMust come out: {one.must}. Verdict: **{one.verdict}**.\n",
        as_table(("row", "published", "ours", "settings"), ((a, b, c, d and f"`{d}`") for a, b, c, d in table_of(one))),
    ]
    took = costs_of(one)
    if took:
        facts.append(as_table(took[0], took[1:]))
    if one.checks:
        facts.append(as_table(("check", "verdict"), ((check.says, check.verdict(one.found)) for check in one.checks)))
    dates = sorted({found.date for found in one.found.values()})
    machines = sorted({found.machine for found in one.found.values()})
    facts.append(f"{dates[0] if len(dates) == 1 else f'{dates[0]} to {dates[-1]}'}; {'; '.join(machines)}.\n")
    missing = [row.label for row in one.rows if not any(label.startswith(row.label) for label in one.found)]
    facts += [f"Rows not run: {', '.join(missing)}.\n"] * bool(missing)
    return "\n".join([*facts, *(f"{note}\n" for note in one.notes)])
