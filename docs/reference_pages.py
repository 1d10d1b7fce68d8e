"""Writes the pages of reference that are drawn from the program itself: ``python -m docs.reference_pages``.

`docs/reference/cli.md` says what the parsers of commands and the configuration say, `docs/reference/rules.md` what the
registries and traits of rules say. A test compares them with what they would be now.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from inspect import getfile
from itertools import groupby
from pathlib import Path
from typing import Any

from cyclopts import App
from pydantic import BaseModel

import onward
from onward._folders import VARIABLE as CACHE
from onward.cli import EXIT_CODES, app, meta_train, train
from onward.cli.completion import OF_DATA
from onward.core.registry import OWN, Entry, Registry
from onward.core.rule import Traits
from onward.data.folders import VARIABLE as DATA
from onward.explain.equations import GRID, printed, stated
from onward.meta.config import MetaRecipe
from onward.rules import rules
from onward.train import RunConfig
from onward.train.schema import Option, expected, options, shown

REFERENCE = Path(__file__).parent / "reference"
SOURCES = Path(onward.__file__).parent
MADE = "Drawn from the program by `make reference`; edit that, and not this page.\n"
OWN_HELP = {"train": (train.USAGE, train.EXAMPLES), "meta-train": (meta_train.USAGE, meta_train.EXAMPLES)}
"""Commands that print their help themselves."""
PLAIN = {"name": "online", "temporal": "sltt", "spatial": "dfa", "local": "none"}
"""The cell of the grid in which a single choice shows its needs."""


def pages() -> dict[Path, str]:
    """Every page, by where it is."""
    return {REFERENCE / "cli.md": "\n".join(_cli()), REFERENCE / "rules.md": "\n".join(_rules())}


def _cli() -> Iterator[str]:
    yield f"# The command line\n\n{MADE}"
    yield (
        "Every command takes `--help`, and `--json`: the last line of standard output is then one JSON object, and "
        "words for people go to standard error.\n"
    )
    yield "## Exit codes\n"
    yield table(("code", "means"), ((str(code), meaning) for code, meaning in EXIT_CODES.items()))
    yield "## Environment\n"
    yield table(("variable", "means"), ENVIRONMENT)
    for chain, command in commands(app):
        yield from _command(chain, command)
    yield "## Fields of a run\n"
    takers = sorted(
        f"`{' '.join(chain)}`" for chain, command in commands(app) if _takes_fields(command) and chain[0] not in OF_DATA
    )
    yield (
        f"Flags of {', '.join(takers)}; {' and '.join(f'`{name}`' for name in OF_DATA)} take those of `data` alone. "
        "A choice takes its name directly, as in `--rule dfa`, and which fields it has depends on the name: these "
        "are those of the default configuration, and `onward train --rule dfa --help` shows those of another.\n"
    )
    yield from _fields(RunConfig())
    yield "## Fields of a meta-training\n"
    yield from _fields(MetaRecipe.parse(()).help())


ENVIRONMENT = (
    (f"`{DATA}`", "the folder of data sets; `--data.root` wins over it"),
    (f"`{CACHE}`", "the folder of what is made once and kept; default: the platform's"),
    ("`NO_COLOR`", "where it is set to anything, nothing is printed in colour"),
    ("`COLUMNS`", "how wide lines and tables may be; default: the terminal"),
)


def commands(group: App, before: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Every command as typed, groups left out."""
    for name in sorted(name for name in group if not name.startswith("-")):
        chain, command = (*before, name), group[name]
        if command.default_command is None:
            yield from commands(command, chain)
        else:
            yield chain, command


def _takes_fields(command: App) -> bool:
    return any(each.field_info.name == "tokens" for each in command.assemble_argument_collection())


def _command(chain: tuple[str, ...], command: App) -> Iterator[str]:
    name = " ".join(chain)
    arguments = [each for each in command.assemble_argument_collection() if each.show]
    usage, epilogue = OWN_HELP.get(name, (command.usage, command.help_epilogue))
    examples = str(epilogue).split("\n\n")[1:]
    yield f"## onward {name}\n\n{command.help}\n"
    yield f"```console\n{_usage(name, usage, arguments)}\n```\n"
    yield table(("argument", "default", "meaning"), map(_argument, arguments))
    yield "\n".join(("```console", *(f"$ {line}" for line in examples), "```\n"))


def _usage(name: str, usage: Any, arguments: Sequence[Any]) -> str:
    """As its help prints it."""
    if usage:
        return str(usage).removeprefix("Usage: ")
    needed = [each.name for each in arguments if not each.name.startswith("-")]
    return " ".join(("onward", name, *needed, "[OPTIONS]"))


def _argument(argument: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{name}`" for name in (*argument.names, *argument.negatives))
    default = argument.field_info.default
    plain = "" if default in (None, False, "", argument.field_info.empty) else f"`{_portable(default)}`"
    return names, plain, argument.parameter.help or "Show help."


def _portable(default: Any) -> Any:
    """A default without the place of this checkout."""
    return default.name if isinstance(default, Path) and default.is_absolute() else default


def _fields(config: BaseModel) -> Iterator[str]:
    listed = [one for one in options(type(config), config.model_dump()) if _has_value(one)]
    for group, members in groupby(listed, key=lambda option: option.path[0] if _below(option) else "run"):
        yield f"### {group}\n"
        yield table(("flag", "default", "takes", "meaning"), map(_field, members))


def _has_value(option: Option) -> bool:
    return option.registry is not None or not isinstance(option.value, dict)


def _below(option: Option) -> bool:
    return len(option.path) > 1 or isinstance(option.value, dict)


def _field(option: Option) -> tuple[str, ...]:
    meaning = option.info.description or ""
    if option.registry is None:
        return f"`{option.flag}`", f"`{shown(option.value)}`", expected(option.info), meaning
    name = shown(option.value["name"]) if option.value else shown(None)
    return f"`{option.flag}`", f"`{name}`", ", ".join(option.registry.names()), meaning


def _rules() -> Iterator[str]:
    yield f"# Rules and credit choices\n\n{MADE}"
    yield (
        "Use one by `onward train --rule NAME`, mix choices by `--rule.temporal`, `--rule.spatial` and `--rule.local`. "
        "`onward explain NAME` traces what one does, `onward rules NAME --cite` prints where it comes from as BibTeX. "
        "Equations are those of the file; a rule that is a cell of the grid has those of its choices too. Traits are "
        "claims that the conformance tests check.\n"
    )
    yield "## Rules\n"
    for name in _own(rules):
        yield from _entry(rules.entry(name), rules.build(name).traits, _cell(name))
    for axis, registry in GRID.items():
        yield from _axis(axis, registry)


def _own(registry: Registry[Any]) -> list[str]:
    """The names that no plug-in brought."""
    return [name for name in registry.names() if registry.entry(name).origin == OWN]


def _axis(axis: str, registry: Registry[Any]) -> Iterator[str]:
    yield f"## Credit, {axis}\n"
    for name in _own(registry):
        yield from _entry(registry.entry(name), rules.build({**PLAIN, axis: name}).traits, f"`--rule.{axis} {name}`")


def _cell(name: str) -> str:
    """The place of a rule on the credit grid, where it has one."""
    choice = rules.parse(name)
    parts = [f"{axis} `{getattr(choice, axis).name}`" for axis in GRID if hasattr(choice, axis)]
    return ", ".join(parts)


def entry_of(name: str) -> str:
    """The section of one rule, a plug-in's included."""
    return "\n".join(_entry(rules.entry(name), rules.build(name).traits, _cell(name)))


def _entry(entry: Entry[Any], traits: Traits, cell: str) -> Iterator[str]:
    """A rule or a choice."""
    yield f"### {entry.name}\n\n{entry.summary[0].upper()}{entry.summary[1:]}.\n"
    for block in stated(entry):
        yield f"```text\n{printed(block)}\n```\n"
    yield table(("matter", ""), _matters(entry, traits, cell))


def _matters(entry: Entry[Any], traits: Traits, cell: str) -> Iterator[tuple[str, str]]:
    facts, path = entry.facts, Path(getfile(entry.build))
    if cell:
        yield "place", cell
    yield "memory in time steps", traits.memory
    yield "autograd reaches", REACH[traits.backward]
    yield "needs", "; ".join(_needs(traits)) or "nothing more"
    yield "source", f"{facts['paper']}; published: {facts['published']}; inferred: {facts['inferred']}"
    yield "options", ", ".join(f"`{name.replace('_', '-')}`" for name in entry.config.model_fields if name != "name")
    yield ("file", _link(path)) if entry.origin == OWN else ("plug-in", entry.origin)


def _link(path: Path) -> str:
    return f"[{path.name}](../../src/onward/{path.relative_to(SOURCES).as_posix()})"


REACH = {"none": "no further than a neuron", "step": "through one time step", "time": "through time"}


def _needs(traits: Traits) -> Iterator[str]:
    """What a rule asks for, in words."""
    if traits.weight_transport:
        yield "transposed weights"
    if traits.per_step_error:
        yield "an error at every step"
    if traits.rate:
        yield "neurons with a rate law, and an objective of the mean output"
    if traits.stochastic:
        yield "random numbers"
    if traits.perturbs:
        yield "outputs of training that differ from the network's own"
    if traits.max_chunk is not None:
        yield f"chunks of at most {traits.max_chunk} step"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, its cells on one line each; nothing where it has no rows."""
    lines = [[re.sub(r"\s+", " ", cell).replace("|", "\\|") for cell in row] for row in rows]
    drawn = [list(header), ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in drawn) + "\n" if lines else ""


def main() -> int:
    """Writes every page."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(f"{path.name} is written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
