"""``onward train``."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from onward.cli import INTERRUPTED, examples
from onward.cli.fields import show_fields
from onward.cli.output import Json, console, emit
from onward.cli.progress import progress
from onward.cli.report import show_page
from onward.train import Summary, parse_tokens
from onward.train import train as train_anew
from onward.train.lessons import Retention
from onward.train.log import logged
from onward.train.ranks import group_of, restarted
from onward.train.resume import train_on

USAGE = "onward train [RECIPE.toml] [--continue] [--log tensorboard] [--json] [--FIELD VALUE ...]"
PURPOSE = (
    "Trains a network as a recipe and flags describe it; with neither, OPZO on MNIST. With --continue the newest run "
    "of the same configuration in train.out goes on, where there is one. With --log tensorboard curves are written "
    "into the run's folder while it trains."
)
EXAMPLES = examples(
    "onward train --rule dfa --model.hidden 400 400 --train.epochs 5",
    "onward train --rule online --rule.temporal sltt --rule.spatial opzo --rule.local ll",
)

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]
Help = Annotated[bool, Parameter(name=["--help", "-h"], negative="")]
Logger = Annotated[str | None, Parameter(help="tensorboard: curves in the run's folder, written while it trains.")]
Continue = Annotated[bool, Parameter(name="--continue", negative="", help="Go on with the newest run of the same.")]


def train(*tokens: Tokens, go_on: Continue = False, log: Logger = None, json: Json = False, help: Help = False) -> int:
    """Trains a network as a recipe and flags describe it; with neither, OPZO on MNIST.

    With ``--continue`` the newest run of the same configuration in ``train.out`` goes on, where there is one: the same
    command again, after whatever cut it short.
    """
    config = parse_tokens(tokens)
    if help:
        show_fields(console(json), config, USAGE, PURPOSE, EXAMPLES)
        return 0
    with group_of(config.device) as group:
        out, run = console(json, group.rank), train_on if go_on or restarted() else train_anew
        with progress(out) as shown, logged(log if group.rank == 0 else None, shown) as on_event:
            summary = run(config, on_event, group=group)
        out.print(closing(summary), soft_wrap=True)
        if group.rank == 0:
            show_page(out, summary.run)
        emit(json, asdict(summary), group.rank)
    return INTERRUPTED if summary.interrupted else 0


def closing(summary: Summary) -> str:
    """The last line for people."""
    if summary.interrupted:
        return f"What was learned so far is in {summary.run}; go on with: onward resume {summary.run}"
    if summary.test_accuracy is None:
        return f"Not tested. What was learned is in {summary.run}"
    if summary.stream is not None:
        return f"{kept(summary.stream)} The run is in {summary.run}"
    return f"Test accuracy {summary.test_accuracy:.2f} % ({summary.reported}). The run is in {summary.run}"


def kept(found: Retention) -> str:
    """What a stream of tasks came to."""
    text = f"ACC {found.accuracy:.2f} %, the mean over {len(found.tasks)} tasks at the end"
    if found.backward is not None:
        text += f"; BWT {found.backward:+.2f} points since each was learned"
    if found.forward is not None:
        text += f"; FWT {found.forward:+.2f} points before"
    return f"{text}."
