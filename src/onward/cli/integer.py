"""``onward integer``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from onward.cli.energy import joules
from onward.cli.output import Json, console, emit
from onward.core.errors import ConfigError
from onward.data import load
from onward.energy.estimate import PICO
from onward.integer import IntegerNetwork, Law
from onward.integer.cost import Operations, operations, random_bits
from onward.integer.file import require_folder, write
from onward.integer.train import accuracy, epochs, inputs

LEAST = (("--epochs", 1), ("--limit", 1))


def integer(
    *,
    data: Annotated[str, Parameter(help="Still samples between 0 and 1.")] = "mnist",
    root: Annotated[str | None, Parameter(name="--data.root", help="As in `onward train`.")] = None,
    hidden: Annotated[tuple[int, ...], Parameter(consume_multiple=True, help="Neurons of each hidden layer.")] = (256,),
    epochs_: Annotated[int, Parameter(name="--epochs", help="Passes over the training samples.")] = 4,
    limit: Annotated[int | None, Parameter(help="Train on at most this many samples.")] = None,
    seed: Annotated[int, Parameter(help="Of weights, order, noise and rounding.")] = 0,
    out: Annotated[Path | None, Parameter(help="Write the network here, for any reader of safetensors.")] = None,
    json: Json = False,
) -> None:
    """Trains a network of integers and tests it; shows what a lesson takes."""
    for (name, least), given in zip(LEAST, (epochs_, limit), strict=True):
        if given is not None and given < least:
            raise ConfigError(f"{name} {given} was given; expected at least {least}")
    if out is not None:
        require_folder(out)
    choice = {"name": data, "limit": limit, "root": root}
    split, shown = load({field: given for field, given in choice.items() if given is not None}), console(json)
    bits = Law().levels
    train, test = inputs(split.train, bits), inputs(split.test, bits)
    net = IntegerNetwork((train[0].shape[1], *hidden, split.train.classes), seed=seed)
    found: list[float] = []
    for epoch in epochs(net, *train, epochs_, seed):
        found.append(100 * accuracy(net, *test))
        shown.print(f"epoch {epoch}/{epochs_}: test {found[-1]:.2f} %")
    rows = operations(net.law, net.sizes, net.counts, net.learned)
    shown.print(_table(rows))
    draws = random_bits(net.law, net.sizes, net.counts, net.learned)
    shown.print(
        f"Test accuracy {found[-1]:.2f} %. Weights and feedback take {net.nbytes:,} bytes; a sample that is learned "
        f"draws {draws:,.0f} random bits.",
        soft_wrap=True,
    )
    if out is not None:
        write(net, out)
        shown.print(f"The network is in {out}", soft_wrap=True)
    emit(json, _mapping(net, found, rows, draws))


def _table(rows: list[Operations]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("a sample that is learned")
    for name in ("operations", "energy", "float32", "fetched", "float32"):
        table.add_column(name, justify="right")
    for row in rows:
        energies = (joules(pj * PICO) for pj in row.picojoules + row.fetched)
        table.add_row(row.name, f"{row.number:,.0f}", *energies)
    sums = [sum(column) for column in zip(*(row.picojoules + row.fetched for row in rows), strict=True)]
    table.add_row("together", "", *(joules(pj * PICO) for pj in sums), style="bold")
    return table


def _mapping(net: IntegerNetwork, found: list[float], rows: list[Operations], draws: float) -> dict[str, Any]:
    return {
        "sizes": list(net.sizes),
        "test_accuracy": found[-1],
        "epochs": found,
        "bytes": net.nbytes,
        "random_bits": draws,
        "operations": {row.name: row.number for row in rows},
        "picojoules": sum(row.picojoules[0] for row in rows),
        "float_picojoules": sum(row.picojoules[1] for row in rows),
    }
