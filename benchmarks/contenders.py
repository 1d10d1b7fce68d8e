"""Who takes part, and their processes.

Every contender is a process of its own that stays alive, so that turns can be interleaved. All of them, ours included,
run with the same number of threads and the allocator settings below, which help every one of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from typing import Any

import onward
from benchmarks.peers.protocol import Task
from onward.core.errors import OnwardError

ROOT = Path(__file__).parents[1]
PEERS_FOLDER = ROOT / ".venv-peers"
OURS = "onward"
ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "2147483647",
    "MALLOC_TOP_PAD_": "67108864",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


@dataclass(frozen=True)
class Entrant:
    """A library with a rule; ``mirror`` are the options that make Onward's neuron the one that this library has."""

    library: str
    rule: str
    options: dict[str, Any] = field(default_factory=dict)
    mirror: dict[str, Any] = field(default_factory=dict)
    remark: str = ""
    suffix: str = ""

    @property
    def label(self) -> str:
        """Library, rule and what else tells it from others."""
        return f"{self.library} {self.rule}{self.suffix}"


PEERS = (
    Entrant("spikingjelly", "bptt"),
    Entrant("spikingjelly", "ottt"),
    Entrant("spikingjelly", "sltt"),
    Entrant(
        "snntorch",
        "bptt",
        {"reset_delay": True},
        {"reset_scale": 2.0},
        "the threshold is subtracted one step late (the library's default)",
        " late reset",
    ),
    Entrant(
        "snntorch",
        "bptt",
        {"reset_delay": False},
        {"detach_reset": False},
        "gradients pass through the reset; a potential still above the threshold is reset once more before it may fire",
    ),
    Entrant("norse", "bptt", {}, {"detach_reset": False}, "gradients pass through the reset"),
)


class WorkerFailed(OnwardError):
    """A contender's process that ended or refused."""


class Worker:
    """A contender's process; use as a context."""

    def __init__(self, entrant: Entrant, command: list[str], environment: dict[str, str]):
        self.entrant = entrant
        self.log = TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            env={**os.environ, **environment},
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.log):
            with suppress(BrokenPipeError):
                if stream is not None:
                    stream.close()

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """The answer to an order; raises `WorkerFailed`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise WorkerFailed(f"{self.entrant.label}: {answer['error']}")
        return answer

    def build(self, task: Task, threads: int | None, precision: str, **options: Any) -> dict[str, Any]:
        """Builds network and data in the process; ``options`` on top of the entrant's."""
        asked = replace(
            task,
            rule=self.entrant.rule,
            options={**self.entrant.options, **options},
            threads=threads,
            precision=precision,
        )
        return self.ask("build", task=asdict(asked))

    def _last_words(self) -> str:
        self.process.wait()
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        return lines[-1] if lines else f"ended with code {self.process.returncode}"


def start(entrant: Entrant, peers: Path = PEERS_FOLDER) -> Worker:
    """The process of an entrant."""
    if entrant.library == OURS:
        return Worker(entrant, [sys.executable, "-m", "benchmarks.ours"], ours_environment())
    script = ROOT / "benchmarks" / "peers" / "worker.py"
    command = [str(interpreter(peers)), str(script), entrant.library]
    return Worker(entrant, command, {**ALLOCATOR, "PYTHONPATH": ""})


def ours_environment() -> dict[str, str]:
    """What a process of ours needs to find `onward` and `benchmarks`, and the allocator's settings."""
    found = [str(Path(onward.__file__).parents[1]), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**ALLOCATOR, "PYTHONPATH": os.pathsep.join(part for part in found if part)}


def interpreter(peers: Path) -> Path:
    """The interpreter of the peers' environment."""
    return peers / "bin" / "python"


def installed(peers: Path = PEERS_FOLDER) -> bool:
    """Whether the peers' environment is there."""
    return interpreter(peers).is_file()
