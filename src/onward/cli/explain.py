"""``onward explain``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table

from onward._durable import write_whole
from onward.cli.output import Json, console, emit
from onward.core.errors import ConfigError
from onward.explain import Explanation, explanation_page
from onward.explain import explain as explained

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def explain(
    *tokens: Tokens,
    out: Annotated[Path | None, Parameter(help="Write the picture, and all else, to this page of HTML.")] = None,
    json: Json = False,
) -> None:
    """Says how a learning rule assigns credit, from its traits and from a tiny network that it is tried on."""
    name, flags = _split(tokens)
    found = explained(name, *flags)
    shown = console(json)
    _show(shown, found)
    if out is None:
        shown.print(f"A picture of it: onward explain {' '.join(tokens)} --out {found.name}.html", soft_wrap=True)
    else:
        _write(out, explanation_page(found))
        shown.print(f"The page is {out}", soft_wrap=True)
    emit(json, {**found.mapping(), "page": out and str(out)})


def _split(tokens: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The name, where one comes first, and the flags."""
    names = list(takewhile(lambda token: not token.startswith("-"), tokens))
    if len(names) > 1:
        raise ConfigError(f"{' '.join(names)} was given; expected one name, then flags")
    return "".join(names), tokens[len(names) :]


def _write(path: Path, text: str) -> None:
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise ConfigError(f"--out {path}: the page cannot be written ({error.strerror or error})") from None


def _show(out: Console, found: Explanation) -> None:
    out.print(f"[bold cyan]{escape(found.name)}[/bold cyan]  {escape(found.meaning)}", soft_wrap=True)
    if found.cell:
        out.print(f"  in the cell {escape(found.cell)}")
    if found.untraced:
        out.print(
            f"Not traced, so that this is what its traits claim: {found.untraced}", style="yellow", soft_wrap=True
        )
    out.print("\n[bold]The update[/bold]")
    for line in _equations(found):
        out.print(escape(line), soft_wrap=True)
    out.print(Padding(_matters(found), (1, 0), expand=False))
    if found.reach is not None and found.reach.caution:
        out.print(escape(found.reach.caution), style="yellow", soft_wrap=True)


def _equations(found: Explanation) -> Iterator[str]:
    """Blocks of lines, each behind what it is of."""
    if not found.equations:
        yield "  its file states no equation"
    width = max((len(of) for of, _ in found.equations), default=0)
    before = ""
    for of, block in found.equations:
        for number, line in enumerate(block.split("\n")):
            yield f"  {(of if of != before and not number else ''):{width}}  {line}"
        before = of


def _matters(found: Explanation) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    told = found.told
    matters = {"Local": told.local, "Transported": told.transported, "Memory": told.memory, "Needs": told.needs}
    beside = {"Alignment": tuple(_alignment(found)), "Source": tuple(_sources(found))}
    for matter, lines in {**matters, **beside}.items():
        for number, line in enumerate(lines):
            table.add_row("" if number else matter, escape(line))
    return table


def _alignment(found: Explanation) -> Iterator[str]:
    """How near the network that was named lets direct feedback come to back-propagation."""
    if found.reach is not None:
        cosines = ", ".join(f"{name} {cosine:.2f}" for name, cosine in found.reach.cosines.items())
        yield f"expected cosine with back-propagation before training: {cosines}"


def _sources(found: Explanation) -> Iterator[str]:
    for source in found.sources:
        of = f"{source.of}: " if len(found.sources) > 1 else ""
        yield f"{of}{source.paper}. Published: {source.published}. Inferred: {source.inferred}."
