"""``onward compare``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from onward.cli import INTERRUPTED
from onward.cli.output import Json, console, emit
from onward.cli.progress import progress
from onward.core.errors import ConfigError, UnknownName
from onward.core.registry import Choice
from onward.credit import spatials
from onward.rules import rules as registry
from onward.train import Comparison, RunConfig
from onward.train import compare as run
from onward.train.grammar import Request, parse_flags
from onward.train.ranks import several
from onward.train.schema import shown

EPOCHS = tuple(parse_flags(["--train.epochs", "2"]))
"""Where none are given."""

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def compare(
    *tokens: Tokens,
    rules: Annotated[str, Parameter(help="Names, with commas between: bp,dfa,opzo.")] = "bp,dfa,opzo",
    json: Json = False,
) -> int:
    """Trains the same network with several learning rules: one table, one picture.

    Everything else is as in `onward train`, a recipe and flags included; without them, two epochs of MNIST. A rule
    that brings a network, neuron or objective of its own gets it unless recipe or flags say otherwise.
    """
    configs = configurations(rules, tokens)
    if several():
        raise ConfigError("onward compare trains one rule after the other in one process; start it without torchrun")
    out = console(json)
    with progress(out) as on_event:
        comparison = run(configs, on_event)
    out.print(_table(comparison, configs))
    if comparison.differs:
        out.print(f"Not the same for all: {'; '.join(_differences(comparison))}", soft_wrap=True)
    out.print(f"The picture is {comparison.figure}; the runs are in {comparison.folder}", soft_wrap=True)
    emit(json, asdict(comparison))
    return INTERRUPTED if any(summary.interrupted for summary in comparison.runs.values()) else 0


def configurations(names: str, tokens: tuple[str, ...]) -> dict[str, RunConfig]:
    """One configuration for each rule in ``names``."""
    labels = [name.strip() for name in names.split(",") if name.strip()]
    if not labels or len(set(labels)) < len(labels):
        raise ConfigError(f"--rules: {names!r} was given; expected different rules, such as bp,dfa,opzo")
    request = Request.read(tokens)
    if not request.sets("train", "epochs"):
        request = replace(request, flags=(*EPOCHS, *request.flags))
    configs = {label: _over(request, _rule(label)) for label in labels}
    given = configs[labels[0]].rule
    flags = [token for token in tokens if token.partition("=")[0] == "--rule" or token.startswith("--rule.")]
    if flags and given.name not in labels:
        raise ConfigError(
            f"{flags[0]} is about rule {given.name!r}, which is not compared; add it to --rules, or leave it out"
        )
    rules = {label: given if label == given.name else _rule(label) for label in labels}
    return {label: config.model_copy(update={"rule": rules[label]}) for label, config in configs.items()}


def _rule(label: str) -> Choice:
    """The rule of that name; else OTTT's traces with the spatial credit of that name (``bp`` is no rule by itself)."""
    grid = label in spatials.names() and label not in registry.names()
    return registry.parse({"name": "ottt", "spatial": label} if grid else label)


def _over(request: Request, rule: Choice) -> RunConfig:
    """The request over what ``rule`` brings; the rule that the request itself names stays."""
    try:
        return request.over(RunConfig(), rule.name)
    except (ConfigError, UnknownName) as error:
        if not registry.entry(rule.name).brings:
            raise
        raise ConfigError(f"with what rule {rule.name} brings (onward rules {rule.name}): {error}") from None


def _differences(comparison: Comparison) -> Iterator[str]:
    """Each field that is not the same for all rules: ``neuron lif for bp and dfa, if for ide``."""
    for field, by_label in comparison.differs.items():
        labels: dict[str, list[str]] = {}
        for label, value in by_label.items():
            labels.setdefault(shown(value), []).append(label)
        yield f"{field} {', '.join(f'{value} for {_and(names)}' for value, names in labels.items())}"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


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
