"""``onward memplan``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict
from math import isfinite, nan
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from onward.cli import USER_ERROR
from onward.cli.output import Json, console, emit
from onward.core.errors import ConfigError
from onward.plan.predict import Measured, Plan, Planner, Proposal
from onward.train import RunConfig, parse_tokens

_SIZE = re.compile(r"(?P<number>.*?)\s*((?P<prefix>[kmgt])(?P<binary>i)?)?b?", re.IGNORECASE | re.DOTALL)
Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def memplan(
    *tokens: Tokens,
    budget: Annotated[str | None, Parameter(help="Memory to stay within, such as 512MiB, 2GB or 4e8 (bytes).")] = None,
    check: Annotated[bool, Parameter(help="Measure one training step too.")] = True,
    json: Json = False,
) -> int:
    """Predicts by part how much memory training takes, checks it by one step, and proposes what fits a budget.

    Everything else is as in `onward train`, a recipe and flags included. What is beyond the budget is not measured.
    """
    allowed = None if budget is None else bytes_of(budget)
    planner = Planner(parse_tokens(tokens))
    plan = planner.plan()
    measured = planner.check() if check and (allowed is None or plan.total <= allowed) else None
    proposal = None if allowed is None else planner.propose(allowed)
    out = console(json)
    out.print(heading(planner.config, plan))
    out.print(_table(plan, measured))
    for line in _closing(check, measured, proposal):
        out.print(line, soft_wrap=True)
    emit(json, _object(plan, measured, proposal))
    return 0 if proposal is None or proposal.fits else USER_ERROR


def bytes_of(text: str) -> int:
    """The number of bytes that ``text`` means; raises `ConfigError` for anything else.

    >>> bytes_of("512MiB"), bytes_of("2 GB"), bytes_of("4e8")
    (536870912, 2000000000, 400000000)
    """
    parsed = _SIZE.fullmatch(text.strip())
    assert parsed is not None
    try:
        number = float(parsed["number"])
    except ValueError:
        number = nan
    if parsed["prefix"]:
        number *= (1024 if parsed["binary"] else 1000) ** ("kmgt".index(parsed["prefix"].lower()) + 1)
    if not (isfinite(number) and number >= 1):
        raise ConfigError(f"--budget: {text!r} was given; expected a number of bytes, such as 512MiB, 2GB or 4e8")
    return int(number)


def heading(config: RunConfig, plan: Plan) -> str:
    """What is planned, in a line."""
    what = f"{config.rule.name} on {config.data.name}, {config.model.name}, {config.device}"
    return f"{what}: mini-batches of {plan.batch}, chunks of {plan.chunk} of {plan.steps} time steps"


def _table(plan: Plan, measured: Measured | None) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("part")
    table.add_column("predicted", justify="right")
    for part, amount in plan.parts.items():
        table.add_row(part, _size(amount))
    table.add_row("total", _size(plan.total), style="bold")
    if measured is not None:
        table.add_row("measured in one step", _size(measured.total))
        table.add_row("error of the prediction", f"{100 * measured.error(plan):+.1f} %")
    return table


def _closing(check: bool, measured: Measured | None, proposal: Proposal | None) -> Iterator[str]:
    if check and measured is None:
        yield "Not measured: the prediction is beyond the budget."
    if proposal is None:
        return
    plan, limit = proposal.plan, _size(proposal.budget)
    if proposal.fits:
        yield f"Within {limit}: {proposal.flags}  ({_size(plan.total)} predicted)"
    else:
        most = f"{_size(plan.parts[plan.largest])} of it for {plan.largest}"
        yield f"Nothing fits {limit}: the least, {proposal.flags}, takes {_size(plan.total)}, {most}."


def _size(amount: int) -> str:
    return f"{amount / 2**20:,.1f} MiB"


def _object(plan: Plan, measured: Measured | None, proposal: Proposal | None) -> dict[str, Any]:
    found: dict[str, Any] = {**asdict(plan), "total": plan.total, "measured": None, "error": None, "proposal": None}
    if measured is not None:
        found |= {"measured": {**asdict(measured), "total": measured.total}, "error": measured.error(plan)}
    if proposal is not None:
        proposed = {**asdict(proposal.plan), "total": proposal.plan.total}
        found["proposal"] = {"budget": proposal.budget, "fits": proposal.fits, "flags": proposal.flags, **proposed}
    return found
