"""``onward energy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.table import Table

from onward.cli.output import Json, console, emit
from onward.core.errors import ConfigError
from onward.energy import Energy, energy_of_run, technology
from onward.energy.constants import DEFAULT
from onward.energy.training import SOURCE
from onward.train import RunFolder
from onward.train.source import evaluation_data

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]
PREFIXES = ((1e-3, "mJ"), (1e-6, "uJ"), (1e-9, "nJ"), (1e-12, "pJ"))


def energy(
    run: Annotated[Path, Parameter(help="The folder of a run.")],
    /,
    *tokens: Tokens,
    samples: Annotated[int | None, Parameter(help="Count on so many samples, spread over the data; default: 1000.")] = (
        1000
    ),
    technology_: Annotated[
        str, Parameter(name="--technology", help="45nm-fp32, 45nm-fp16, 45nm-int32 or 45nm-int8.")
    ] = DEFAULT,
    mac: Annotated[float | None, Parameter(help="pJ of a multiplication and addition, in place of its own.")] = None,
    ac: Annotated[float | None, Parameter(help="pJ of an addition.")] = None,
    word: Annotated[float | None, Parameter(help="pJ of a number fetched from memory.")] = None,
    traffic: Annotated[bool, Parameter(negative="", help="Count what is fetched from memory, too.")] = False,
    data: Annotated[str | None, Parameter(help="A data set's name, or an .npz file; default: the run's own.")] = None,
    split: Annotated[str | None, Parameter(name="--data.split", help="As in `onward eval`.")] = None,
    task: Annotated[int | None, Parameter(help="Of a stream of tasks: which one, counted from 1.")] = None,
    device: Annotated[str, Parameter(help="cpu, cuda or cuda:N.")] = "cpu",
    json: Json = False,
) -> None:
    """Counts the operations of a trained network on data, and what they cost beside the same network without spikes."""
    if samples is not None and samples < 1:
        raise ConfigError(f"--samples {samples} was given; expected at least 1")
    folder, costs = RunFolder.open(run), technology(technology_).but(mac, ac, word)
    found = energy_of_run(
        folder, evaluation_data(folder.config(), data, split, tokens, task), costs, samples, traffic, device
    )
    out = console(json)
    counts = found.counts
    out.print(f"One sample of {found.data}, {counts.steps} time steps, a mean over {counts.samples:,}:", soft_wrap=True)
    out.print(_layers(found))
    out.print(_sums(found))
    for line in _closing(found):
        out.print(line, soft_wrap=True)
    out.print("Telling layers their errors, for the same sample (numbers held, MACs, all layers at once or in turn):")
    out.print(_training(found))
    gradients = found.training.gradients
    out.print(
        f"Weight gradients take {gradients:,.0f} MACs more under every rule, were nothing zero. Published orders: "
        f"{SOURCE}; nothing was run on such hardware.",
        soft_wrap=True,
    )
    out.print(f"pJ: MAC {costs.mac:g}, AC {costs.ac:g}, number fetched {costs.word:g}. {costs.source}", soft_wrap=True)
    emit(json, found.mapping())


def joules(amount: float) -> str:
    """An energy with a unit in which it is at least 1.

    >>> joules(4.6e-12), joules(2.5e-6)
    ('4.60 pJ', '2.50 uJ')
    """
    scale, unit = next((pair for pair in PREFIXES if amount >= pair[0]), PREFIXES[-1])
    return f"{amount / scale:,.2f} {unit}"


def _grid(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column(columns[0])
    for name in columns[1:]:
        table.add_column(name, justify="right")
    return table


def _layers(found: Energy) -> Table:
    table = _grid("layer", "inputs active", "MACs", "ACs", "of dense", "energy")
    for layer in found.counts.layers:
        table.add_row(
            layer.name,
            f"{layer.active / layer.inputs:.1%}" if layer.inputs else "-",
            f"{layer.macs:,.0f}",
            f"{layer.acs:,.0f}",
            f"{layer.synops / layer.dense:.1%}" if layer.dense else "-",
            joules(found.of(layer.macs, layer.acs)),
        )
    return table


def _sums(found: Energy) -> Table:
    counts, table = found.counts, _grid("", "MACs", "ACs", "energy")
    table.add_row("synapses", f"{counts.macs:,.0f}", f"{counts.acs:,.0f}", joules(found.synapses))
    table.add_row("membranes", f"{counts.leaking:,.0f}", f"{counts.integrating:,.0f}", joules(found.membranes))
    if found.with_traffic:
        table.add_row("memory", "", "", joules(found.total - found.synapses - found.membranes))
    table.add_row("together", "", "", joules(found.total), style="bold")
    passes = "one pass" if counts.passes == 1 else f"{counts.passes} passes"
    table.add_row(f"without spikes, {passes}", f"{found.ann_macs:,.0f}", "0", joules(found.ann))
    return table


def _closing(found: Energy) -> list[str]:
    counts, ratio = found.counts, found.ratio
    compared = f"{ratio:.2f} times less energy than" if ratio >= 1 else f"{1 / ratio:.2f} times the energy of"
    lines = [
        f"The spiking network takes {compared} the same network without spikes. "
        f"{counts.sparsity:.1%} of its neurons are silent in a step; it occupies {counts.footprint:,} bytes.",
    ]
    if counts.passes == 1 < counts.steps:
        lines.append(
            "The input stands still: what it drives could be worked out once a sample, for a "
            f"{counts.steps}th of the first layer's operations."
        )
    if counts.uncounted:
        lines.append(f"Not counted, for nobody has said how: {', '.join(counts.uncounted)}")
    return lines


def _training(found: Energy) -> Table:
    table = _grid("rule", "feedback", "error MACs", "learning", "energy", "at once", "W^T", "orders")
    for cost in found.training.rules:
        table.add_row(
            cost.rule,
            f"{cost.feedback:,}",
            f"{cost.errors:,.0f}",
            f"{cost.learning:,.0f}",
            joules(found.feedback(cost)),
            "yes" if cost.together else "no",
            "yes" if cost.transport else "no",
            cost.source,
        )
    return table
