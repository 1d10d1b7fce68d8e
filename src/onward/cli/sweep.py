"""``onward sweep``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from onward.cli import INTERRUPTED
from onward.cli.output import Json, console, emit
from onward.core.errors import ConfigError
from onward.launch import Launcher
from onward.launch import chosen as launcher_called
from onward.launch.choice import available
from onward.sweep import Plan, SweepFolder, Swept, Trial, planned, record, swept, write
from onward.sweep import sweep as search
from onward.sweep.folder import PLAN
from onward.sweep.outcome import BEST, PAGE, settings, shown
from onward.sweep.search import OnTrial
from onward.sweep.study import installed
from onward.train.interrupt import as_ctrl_c
from onward.train.ranks import several

TRIALS, SHOWN, FAILED = 20, 10, 1

Tokens = Annotated[str, Parameter(show=False, allow_leading_hyphen=True)]


def sweep(
    *tokens: Tokens,
    over: Annotated[
        list[str] | None,
        Parameter(help="FIELD=LO..HI, FIELD=LO..HI:log or FIELD=A,B,C; may be given again.", negative=""),
    ] = None,
    trials: Annotated[int | None, Parameter(help="How many there are to be; default: 20.")] = None,
    jobs: Annotated[int, Parameter(help="Trainings at a time; one alone is the same every time.")] = 1,
    prune: Annotated[bool, Parameter(help="End trials that are below the median of earlier ones.")] = True,
    to: Annotated[Path | None, Parameter(help="The folder; default: a new one in train.out.")] = None,
    launcher: Annotated[str, Parameter(help="local, ray or slurm.")] = "local",
    cores: Annotated[int | None, Parameter(help="Cores that local trainings share; default: all.")] = None,
    threads: Annotated[int | None, Parameter(help="Threads of each training; default: its share of the cores.")] = None,
    slurm: Annotated[str, Parameter(help="For Slurm: partition=gpu,timeout-min=600.")] = "",
    json: Json = False,
) -> int:
    """Searches over fields of a configuration, by accuracy on held-out training data.

    Everything else is as in `onward train`, a recipe and flags included. The folder of a sweep goes on where it was cut
    short; --trials may then be more.
    """
    if several():
        raise ConfigError("onward sweep starts its trainings itself; start it without torchrun")
    for flag, number in (("--jobs", jobs), ("--threads", threads)):
        if number is not None and number < 1:
            raise ConfigError(f"{flag}: {number} was given; expected a whole number at least 1")
    installed()
    begun = _begun(tokens, over, to)
    if begun is None:
        plan = planned(tokens, over or (), TRIALS if trials is None else trials, prune)
    else:
        plan = _more(begun.plan(), trials)
    out = begun.path if begun else to or Path(plan.base.train.out)
    runs = launcher_called(launcher, cores, out / "slurm", slurm)  # before a folder is made that stays empty
    folder = begun or (_new(to) if to else SweepFolder.create(out, plan))
    code, told = carry_out(plan, folder, runs, console(json), jobs, threads or max(1, (cores or available()) // jobs))
    emit(json, told)
    return code


def carry_out(
    plan: Plan, folder: SweepFolder, launcher: Launcher, out: Console, jobs: int, threads: int
) -> tuple[int, Mapping[str, Any]]:
    """Runs what is missing, writes and shows what has come of it; returns the exit code and the record."""
    interrupted = False
    with folder.held():
        folder.begin(plan)
        try:
            with as_ctrl_c():
                search(plan, folder, launcher, _teller(out), jobs, threads)
        except KeyboardInterrupt:
            interrupted = True
        found = swept(plan, folder)
        write(found, folder)
    _show(out, found, folder)
    if interrupted:
        out.print(f"Go on with: onward sweep {folder.path}", soft_wrap=True)
    return INTERRUPTED if interrupted else FAILED if found.best is None else 0, record(found, folder)


def _begun(tokens: Sequence[str], over: Sequence[str] | None, to: Path | None) -> SweepFolder | None:
    """The sweep that goes on: its folder named in a recipe's place."""
    path = Path(tokens[0]) if tokens and not tokens[0].startswith("-") else None
    if path is None or not path.is_dir():
        return None
    given = [*tokens[1:], *(["--over"] if over else []), *(["--to"] if to else [])]
    if given:
        raise ConfigError(f"{path} goes on as it was begun; {given[0]} was given besides, which would change it")
    return SweepFolder.open(path)


def _new(path: Path) -> SweepFolder:
    """The folder that ``--to`` names."""
    if (path / PLAN).is_file():
        raise ConfigError(f"--to {path}: a sweep is there already; go on with `onward sweep {path}`, or name another")
    path.mkdir(parents=True, exist_ok=True)
    return SweepFolder(path)


def _more(plan: Plan, trials: int | None) -> Plan:
    if trials is None:
        return plan
    if trials < plan.trials:
        raise ConfigError(f"--trials {trials} was given; this sweep was begun with {plan.trials}, and can only grow")
    return replace(plan, trials=trials)


def _teller(out: Console) -> OnTrial:
    def tell(trial: Trial, ended: int, trials: int) -> None:
        accuracy = "" if trial.accuracy is None else f"{trial.accuracy:.2f} % held out, "
        came = trial.problem or f"{accuracy}{settings(trial.values)}"
        mark = f" ({trial.state})" if trial.state != "finished" else ""
        out.print(escape(f"{ended} of {trials}: trial {trial.place}{mark}: {came}"), soft_wrap=True)

    return tell


def _show(out: Console, found: Swept, folder: SweepFolder) -> None:
    out.print(_table(found))
    if found.best is not None:
        tested = "" if found.test_accuracy is None else f"; test accuracy {found.test_accuracy:.2f} %"
        out.print(
            f"The best is trial {found.best.place}, chosen by {found.best.accuracy:.2f} % on held-out data{tested}. "
            f"Train it again: onward train {folder.path / BEST}",
            soft_wrap=True,
        )
    out.print(f"The page is {folder.path / PAGE}", soft_wrap=True)


def _table(found: Swept) -> Table:
    """The best trials."""
    fields = [axis.field for axis in found.plan.axes]
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("trial", "held-out accuracy (%)", *fields, "epochs"):
        table.add_column(name, justify="right")
    table.add_column("state")
    for trial in found.ranked[:SHOWN]:
        accuracy = "" if trial.accuracy is None else f"{trial.accuracy:.2f}"
        values = (escape(shown(trial.values.get(field, ""))) for field in fields)
        table.add_row(str(trial.place), accuracy, *values, str(len(trial.accuracies)), trial.state)
    return table
