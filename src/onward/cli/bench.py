"""``onward bench``: the benchmarks of the source checkout."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import onward
from onward.cli.output import Json, console, emit
from onward.core.errors import ConfigError
from onward.data.npz import npz_keys
from onward.report import bars
from onward.train.folder import environment

ROOT = Path(onward.__file__).parents[2]


@Parameter(name="*")
@dataclass(frozen=True)
class Session:
    """Who is timed on what, and how."""

    workload: Annotated[str, Parameter(help="Names with commas: event, conv, conv-bn, static, or memory.")] = (
        "event,conv,conv-bn,static"
    )
    rule: Annotated[str | None, Parameter(help="Rules, with commas; default: opzo,ottt,sltt,sltt-k,dfa,bptt.")] = None
    precision: Annotated[str, Parameter(help="f32 or bf16, for everybody.")] = "f32"
    rounds: Annotated[int, Parameter(help="Turns of each contender.")] = 5
    updates: Annotated[int, Parameter(help="Updates in a turn.")] = 3
    threads: Annotated[int | None, Parameter(help="Threads of each contender; default: torch's.")] = None
    recordings: Annotated[
        Path | None, Parameter(help="N-MNIST recordings; default: nmnist-small.npz in ONWARD_DATA, else simulated.")
    ] = None
    peers: Annotated[Path, Parameter(help="The peers' environment.", show_default=False)] = ROOT / ".venv-peers"
    figure: Annotated[Path, Parameter(help="Where the picture of the ratios goes.")] = Path("runs/bench.svg")

    def check(self) -> None:
        """Raises `ConfigError` for numbers that nothing can be measured with."""
        for name in ("rounds", "updates", "threads"):
            given = getattr(self, name)
            if given is not None and given < 1:
                raise ConfigError(f"--{name}: {given} was given; expected a whole number at least 1")


def bench(
    *,
    session: Session = Session(),
    check: Annotated[bool, Parameter(negative="", help="Only check that all compute the same.")] = False,
    start_up: Annotated[bool, Parameter(negative="", help="Measure start-up times instead.")] = False,
    memory: Annotated[bool, Parameter(negative="", help="Measure memory over time steps instead.")] = False,
    kernel: Annotated[bool, Parameter(negative="", help="Measure each kernel instead.")] = False,
    json: Json = False,
) -> None:
    """Times Onward and, where `make peers` installed them, other libraries, turn by turn in one session.

    Every contender first shows on a few samples that it computes the same. What is compared and what each column
    means: docs/reference/benchmarks.md.
    """
    check_checkout(ROOT)
    session.check()
    out = console(json)
    if start_up:
        found = _start_up(out)
    elif kernel:
        found = _kernels(out)
    elif memory or session.workload == "memory":
        found = _memory(out, session)
    else:
        found = _suite(out, session, check_only=check)
    emit(json, {**found, "environment": environment()})


def check_checkout(root: Path) -> None:
    """Makes the package ``benchmarks`` importable; raises `ConfigError` where there is none beside the sources."""
    if not (root / "benchmarks" / "suite.py").is_file():
        raise ConfigError("benchmarks come with the source checkout: clone the repository and run `make bench` there")
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"{text!r} was given; expected names with commas between")
    return names


def _start_up(out: Console) -> dict[str, Any]:
    found = import_module("benchmarks.start_up").measure()
    for what, seconds in found.items():
        out.print(f"{what:52}{seconds:6.2f} s")
    return {"start_up": found}


def _kernels(out: Console) -> dict[str, Any]:
    return {"kernels": import_module("benchmarks.kernels").run(lambda line: out.print(escape(line)))}


def _memory(out: Console, session: Session) -> dict[str, Any]:
    measure = import_module("benchmarks.memory")
    rules = _names(session.rule) if session.rule else measure.RULES
    return {"memory": measure.report(rules, peers=session.peers, threads=session.threads, say=_speaker(out))}


def _suite(out: Console, session: Session, *, check_only: bool) -> dict[str, Any]:
    suite = import_module("benchmarks.suite")
    results = suite.run(_plan(session, check_only), _speaker(out))
    if results.rows:
        out.print(_table([*results.rows, *results.peers]))
    for row in results.rows:
        if row["noise"]:
            out.print(f"{row['workload']} {row['rule']}: {escape(row['noise'])}", soft_wrap=True)
    drawn = _draw(session.figure, suite.labels(results.rows))
    if drawn:
        out.print(f"The picture is {drawn}", soft_wrap=True)
    return {**asdict(results), "figure": drawn}


def _plan(session: Session, check_only: bool) -> Any:
    suite, work = import_module("benchmarks.suite"), import_module("benchmarks.workloads")
    import_module("benchmarks.ours").check_precision(session.precision)
    recordings = work.recordings_file(session.recordings)
    if recordings is not None:
        npz_keys(recordings)  # a wrong file is refused now, and not after minutes of measuring
    known = work.workloads(recordings)
    return suite.Plan(
        [work.named(name, known) for name in _names(session.workload)],
        suite.our_rules(_names(session.rule) if session.rule else list(suite.RULES)),
        session.precision,
        session.rounds,
        session.updates,
        threads=session.threads,
        peers=session.peers,
        check_only=check_only,
    )


def _speaker(out: Console) -> Any:
    return lambda line: out.print(escape(line), soft_wrap=True)


def _draw(figure: Path, ratios: dict[str, float]) -> str | None:
    if not ratios:
        return None
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_text(bars(ratios, "Speed against the fastest peer", "ratio of samples/s; the line is the peer", 1.0))
    return str(figure)


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("workload")
    table.add_column("contender", no_wrap=True)
    for name in ("samples/s", "ratio", "peak MiB", "roofline"):
        table.add_column(name, justify="right")
    for row in sorted(rows, key=lambda row: row["workload"]):
        ratio = row.get("ratio_vs_fastest_peer")
        table.add_row(
            row["workload"],
            row["contender"],
            f"{row['samples_per_second']:,.0f}",
            f"{ratio:.2f}" if ratio else "",
            f"{row['peak_bytes'] / 2**20:,.1f}",
            f"{row['roofline_fraction']:.0%}",
        )
    return table
