"""``onward meta-train``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape

from onward.cli import INTERRUPTED, examples
from onward.cli.fields import show_fields
from onward.cli.output import Json, console, emit
from onward.cli.progress import told
from onward.core.errors import ConfigError
from onward.meta.config import MetaRecipe
from onward.meta.train import Judged, MetaSummary, Planned, TaskDone, meta_train, resume_meta
from onward.train.events import Ended, Event, Warned
from onward.train.ranks import several

USAGE = "onward meta-train [RECIPE.toml] [--meta.FIELD VALUE ...] [--FIELD VALUE ...] [--json]"
PURPOSE = (
    "Trains a learned optimiser on fresh networks; use it by onward train --optim lstm --optim.weights FILE. Data, "
    "network, neuron, rule and objective are those of onward train, and so are their flags."
)
EXAMPLES = examples("onward meta-train --rule bptt --model.hidden 20")

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]
Help = Annotated[bool, Parameter(name=["--help", "-h"], negative="")]
Force = Annotated[bool, Parameter(negative="", help="Go on although versions or data have changed.")]
Folder = Annotated[Path | None, Parameter(help="Folder of a meta-training to continue.")]


def train(*tokens: Tokens, resume: Folder = None, force: Force = False, json: Json = False, help: Help = False) -> int:
    """Trains a learned optimiser as a recipe and flags describe it, or continues one that was cut short."""
    out = console(json)
    if help:
        show_fields(out, MetaRecipe.parse(tokens).help(), USAGE, PURPOSE, EXAMPLES)
        return 0
    if several():
        raise ConfigError("onward meta-train works in one process; start it without torchrun")
    if resume is not None and tokens:
        raise ConfigError(
            f"{tokens[0]!r} was given with --resume, which takes everything from the folder; leave it out"
        )
    with told(out):
        tell = _Teller(out)
        summary = (
            meta_train(MetaRecipe.parse(tokens), tell)
            if resume is None
            else resume_meta(resume, force=force, on_event=tell)
        )
    out.print(_closing(summary), soft_wrap=True)
    emit(json, asdict(summary))
    return INTERRUPTED if summary.interrupted else 0


class _Teller:
    """Prints events, a line each."""

    def __init__(self, console: Console):
        self.console = console

    def __call__(self, event: Event) -> None:
        """Prints an event."""
        self.console.print(escape(_line(event)), soft_wrap=True, highlight=False)


def _line(event: Event) -> str:
    match event:
        case Planned():
            return _plan(event)
        case TaskDone(task=task, first=None):
            return f"task {task}: diverged"
        case TaskDone():
            return f"task {event.task}: loss {event.first:.4f} in the first window, {event.last:.4f} in the last"
        case Judged():
            found = "diverged" if event.loss is None else f"mean loss {event.loss:.4f}"
            return f"comparison after task {event.task}: {found}{', the best so far' if event.best else ''}"
        case Warned(text=text):
            return f"warning: {text}"
        case Ended(reason=reason):
            return reason
    return str(event)


def _plan(event: Planned) -> str:
    memory = event.memory
    return (
        f"{event.learned:,} numbers to learn from {event.tasks} tasks of {event.windows} windows of {event.window} "
        f"updates of {event.parameters:,} parameters"
        f"{f'; {event.done} tasks were done before' if event.done else ''}. A window takes {memory.total / 2**20:,.1f} "
        f"MiB: {memory.records / 2**20:,.1f} of records, {memory.activations / 2**20:,.1f} to differentiate "
        f"{memory.block:,} coordinates at a time. The run is in {event.folder}"
    )


def _closing(summary: MetaSummary) -> str:
    if summary.interrupted:
        return f"Everything is in {summary.run}; go on with: onward meta-train --resume {summary.run}"
    if not summary.weights:
        return f"No {summary.noun} came of it: every comparison diverged. What was learned is in {summary.run}"
    gain = (
        ""
        if summary.dc_gain is None
        else (f" For small gradients it is a filter that comes to SGD with a learning rate of {-summary.dc_gain:.3g}.")
    )
    return (
        f"The best {summary.noun}, after task {summary.best_task} (mean loss {summary.best_loss:.4f}), is "
        f"{summary.weights}.{gain} Train with it: onward train {summary.use} {summary.weights}"
    )
