"""Faults put into runs on purpose: processes killed at random moments, files damaged, disks that are full.

    python -m benchmarks.faults [--kills 300] [--flips 1000] [--json FILE]

Every run that was cut short is continued until it ends, and compared with one that was left alone: network, rule,
optimiser, metrics. Child processes are forked from a server that has imported everything, so that a kill costs little.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from onward.core.errors import OnwardError
from onward.train import Fitted, RunFolder, assemble, checkpoint, fit, memory, parse_tokens
from onward.train.resume import train_on

SETTINGS = [
    *("--model.hidden", "16", "12", "--train.batch-size", "8", "--train.steps", "4", "--train.threads", "1"),
    *("--train.epochs", "3", "--train.save-every", "4", "--train.validation", "0.1"),
]
TIMES = {"samples_per_second", "seconds"}
CUT_SHORT = 75
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["torch._dynamo", "torch.utils.data", "onward.train.resume"])


def tokens(folder: Path) -> list[str]:
    """A run of a second or so: 96 samples, three classes, told apart by their largest third."""
    file = folder / "thirds.npz"
    if not file.is_file():
        x = np.random.default_rng(0).random((96, 12), dtype=np.float32)
        np.savez(file, x=x, y=x.reshape(96, 3, 4).sum(-1).argmax(-1))
    return ["--data", str(file), *SETTINGS]


def _child(flags: list[str], most_bytes: int | None) -> None:
    """Trains, or goes on, in a process of its own; ``most_bytes`` is what a file may hold, as on a full disk."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(quiet, stream)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    memory.Allocations = memory.Off  # the meter takes longer than such a run
    try:
        train_on(parse_tokens(flags))
    except OnwardError:
        raise SystemExit(CUT_SHORT) from None


def start(flags: Sequence[str], out: Path, most_bytes: int | None = None) -> Any:
    """A process that trains in ``out`` or continues what is there."""
    process = _processes.Process(target=_child, args=([*flags, "--train.out", str(out)], most_bytes))
    process.start()
    return process


def result(out: Path) -> str:
    """A hash of all that the finished run in ``out`` came to: tensors, counters, metrics; nothing that a clock says."""
    (path,) = out.glob("*/DONE")
    folder = RunFolder(path.parent)
    newest = folder.newest(print)
    assert newest is not None
    found = sha256()
    for part in checkpoint.PARTS:
        found.update((newest / f"{part}.safetensors").read_bytes())
    found.update(json.dumps(_timeless([*folder.metrics()]), sort_keys=True).encode())
    return found.hexdigest()


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key not in TIMES}
    return list(map(_timeless, value)) if isinstance(value, list) else value


@dataclass
class Killed:
    """``kills`` processes killed in the course of ``runs`` runs; ``different`` runs did not end as one in one piece."""

    kills: int = 0
    runs: int = 0
    different: int = 0
    seconds: float = 0.0
    kills_by_run: list[int] = field(default_factory=list)


def kill(folder: Path, kills: int, seed: int = 0) -> Killed:
    """Kills (SIGKILL) processes at random moments and lets the next one go on, until ``kills`` were."""
    flags, dice, found, began = tokens(folder), random.Random(seed), Killed(), perf_counter()
    expected, _ = _undisturbed(flags, folder / "whole")
    _, duration = _undisturbed(flags, folder / "again")  # the first one started the server of processes
    while found.kills < kills:
        out, here = folder / f"run-{found.runs}", 0
        while True:
            process = start(flags, out)
            process.join(dice.uniform(0, 0.9 * duration) if found.kills < kills else None)
            if process.exitcode is not None:
                break
            process.kill()
            process.join()
            here, found.kills = here + 1, found.kills + 1
        if process.exitcode != 0 or result(out) != expected:
            found.different += 1
        found.runs += 1
        found.kills_by_run.append(here)
    found.seconds = perf_counter() - began
    return found


def _undisturbed(flags: Sequence[str], out: Path) -> tuple[str, float]:
    began = perf_counter()
    process = start(flags, out)
    process.join()
    assert process.exitcode == 0
    return result(out), perf_counter() - began


@dataclass
class Filled:
    """Runs whose disk was full after so many bytes of a file, and how many did not end as one in one piece after it."""

    runs: int = 0
    cut_short: int = 0
    different: int = 0


def fill(folder: Path, limits: Sequence[int] = (100, 1000, 2000)) -> Filled:
    """Lets every file end at a limit, as a full disk would; then goes on without one."""
    flags, found = tokens(folder), Filled()
    expected, _ = _undisturbed(flags, folder / "whole")
    for limit in limits:
        out = folder / f"full-{limit}"
        for most in (limit, None):
            process = start(flags, out, most)
            process.join()
            found.cut_short += process.exitcode == CUT_SHORT
        found.runs += 1
        found.different += process.exitcode != 0 or result(out) != expected
    return found


@dataclass
class Flipped:
    """``damages`` of a checkpoint's files: ``noticed``, and ``loaded`` nevertheless."""

    damages: int = 0
    noticed: int = 0
    loaded: int = 0


def flip(folder: Path, damages: int, seed: int = 0) -> Flipped:
    """Changes, cuts or removes one file of the newest checkpoint, and looks which one would be used."""
    dice, found = random.Random(seed), Flipped()
    _undisturbed(tokens(folder), folder / "whole")
    (path,) = (folder / "whole").glob("*/DONE")
    run = RunFolder(path.parent)
    newest = run.newest(print)
    assert newest is not None
    for _ in range(damages):
        with _damaged(dice.choice(sorted(newest.iterdir())), dice):
            told: list[str] = []
            used = run.newest(told.append)
        found.damages += 1
        found.noticed += used != newest
        found.loaded += used == newest
    return found


@contextmanager
def _damaged(path: Path, dice: random.Random) -> Iterator[None]:
    """The file with a bit changed, its end cut off, or gone; afterwards as it was."""
    content = path.read_bytes()
    changed, place = bytearray(content), dice.randrange(len(content))
    way = dice.choice(("flip", "cut", "remove"))
    if way == "flip":
        changed[place] ^= 1 << dice.randrange(8)
        path.write_bytes(changed)
    elif way == "cut":
        path.write_bytes(content[:place])
    else:
        path.unlink()
    try:
        yield
    finally:
        path.write_bytes(content)


@dataclass
class Overhead:
    """What checkpoints cost a run of the defaults: seconds in ``saves``, of ``seconds`` in all, and bytes of one."""

    saves: int = 0
    saving: float = 0.0
    seconds: float = 0.0
    bytes: int = 0
    parameters: int = 0


class _Timed(RunFolder):
    """A run folder that notes how long checkpoints take."""

    cost: Overhead

    def save(self, trained: checkpoint.Trained, fitted: Fitted, keep: int) -> Path:
        began = perf_counter()
        path = super().save(trained, fitted, keep)
        self.cost.saves, self.cost.saving = self.cost.saves + 1, self.cost.saving + perf_counter() - began
        self.cost.bytes = sum(file.stat().st_size for file in path.iterdir())
        return path


def overhead(folder: Path, flags: Sequence[str] = ()) -> Overhead:
    """Trains the default configuration, or what ``flags`` make of it, and sums the time that checkpoints took."""
    parts, resolved = assemble(parse_tokens([*flags, "--train.out", str(folder)]))
    run, began = _Timed.create(folder, "overhead"), perf_counter()
    assert isinstance(run, _Timed)
    run.cost = Overhead(parameters=sum(p.numel() for p in parts.net.parameters()))
    fit(parts, resolved.train, folder=run)
    run.cost.seconds = perf_counter() - began
    return run.cost


def main(argv: Sequence[str] | None = None) -> None:
    """Prints what was found; the numbers of docs/explanation/reliability.md."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--flips", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    found = {}
    for name, fault in (
        ("killed", lambda folder: kill(folder, given.kills)),
        ("disk full", fill),
        ("damaged", lambda folder: flip(folder, given.flips)),
        ("overhead", overhead),
    ):
        with TemporaryDirectory() as folder:
            found[name] = asdict(fault(Path(folder)))
        print(f"{name}: {found[name]}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
