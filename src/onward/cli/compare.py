"""``onward compare``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from onward.cli import INTERRUPTED
from onward.cli.output import Json, console, emit
from onward.cli.progress import progress
from onward.core.errors import ConfigError
from onward.core.registry import Choice
from onward.credit import spatials
from onward.rules import rules as registry
from onward.train import Comparison, RunConfig, parse_tokens
from onward.train import compare as run
from onward.train.ranks import several

BRIEF = ["--train.epochs", "2"]
Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def compare(
    *tokens: Tokens,
    rules: Annotated[str, Parameter(help="Names, with commas between: bp,dfa,opzo.")] = "bp,dfa,opzo",
    json: Json = False,
) -> int:
    """Trains the same network with several learning rules: one table, one picture.

    Everything else is as in `onward train`, a recipe and flags included; without them, two epochs of MNIST.
    """
    configs = configurations(rules, tokens)
    if several():
        raise ConfigError("onward compare trains one rule after the other in one process; start it without torchrun")
    out = console(json)
    with progress(out) as on_event:
        comparison = run(configs, on_event)
    out.print(_table(comparison, configs))
    out.print(f"The picture is {comparison.figure}; the runs are in {comparison.folder}", soft_wrap=True)
    emit(json, asdict(comparison))
    return INTERRUPTED if any(summary.interrupted for summary in comparison.runs.values()) else 0


def configurations(names: str, tokens: tuple[str, ...]) -> dict[str, RunConfig]:
    """One configuration for each rule in ``names``."""
    labels = [name.strip() for name in names.split(",") if name.strip()]
    if not labels or len(set(labels)) < len(labels):
        raise ConfigError(f"--rules: {names!r} was given; expected different rules, such as bp,dfa,opzo")
    base = parse_tokens(tokens, parse_tokens(BRIEF))
    flags = [token for token in tokens if token.partition("=")[0] == "--rule" or token.startswith("--rule.")]
    if flags and base.rule.name not in labels:
        raise ConfigError(
            f"{flags[0]} is about rule {base.rule.name!r}, which is not compared; add it to --rules, or leave it out"
        )
    return {label: base.model_copy(update={"rule": _rule(label, base.rule)}) for label in labels}


def _rule(label: str, given: Choice) -> Choice:
    """The rule of that name, with the options ``given`` for it.

    Else OTTT's traces with the spatial credit of that name (``bp`` is no rule by itself).
    """
    if label == given.name:
        return given
    grid = label in spatials.names() and label not in registry.names()
    return registry.parse({"name": "ottt", "spatial": label} if grid else label)


def _table(comparison: Comparison, configs: dict[str, RunConfig]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("rule")
    for name in ("test accuracy", "test loss", "samples/s", "peak memory", "memory in T"):
        table.add_column(name, justify="right")
    table.add_column("weight transport")
    for label, summary in comparison.runs.items():
        traits = registry.build(configs[label].rule).traits
        tested = summary.test_accuracy is not None and summary.test_loss is not None
        table.add_row(
            label,
            f"{summary.test_accuracy:.2f} %" if tested else "interrupted",
            f"{summary.test_loss:.4f}" if tested else "",
            f"{summary.samples_per_second:,.0f}",
            f"{summary.peak_bytes / 2**20:,.1f} MiB",
            traits.memory,
            "needed" if traits.weight_transport else "none",
        )
    return table
