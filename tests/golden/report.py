"""From folders to rows: runs every case and says what came of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from golden.cases import Case, Unreadable, read
from golden.compare import Verdict, compare
from golden.methods import results
from golden.tables import NOT_COMPARED, TOLERANCES, looser
from onward.core.errors import OnwardError

_ROW = "{:<8} {:<28} {:>7}  {:<20} {:<34} {}"
_SHOWN = 5


@dataclass
class Row:
    """One case: its verdicts by precision, or why there are none."""

    name: str
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)
    unreadable: str = ""

    @property
    def compared(self) -> int:
        """How many stored tensors were compared."""
        return sum(len(verdict.compared) for verdict in self.verdicts.values())

    @property
    def state(self) -> str:
        """pass, mismatch or unreadable."""
        if self.unreadable:
            return "unreadable"
        return "pass" if all(verdict.passed for verdict in self.verdicts.values()) else "mismatch"

    def __str__(self) -> str:
        method, _, case = self.name.partition("/")
        errors = " ".join(f"{tag} {verdict.relative:.1e}" for tag, verdict in self.verdicts.items())
        allowed = ", ".join(str(TOLERANCES[tag]) for tag in self.verdicts)
        reason = f": {self.unreadable}" if self.unreadable else ""
        return _ROW.format(method, case, self.compared, errors or "-", allowed or "-", self.state + reason)

    def details(self) -> Iterator[str]:
        """What did not agree, and what was left out with the reason."""
        for tag, verdict in self.verdicts.items():
            faults = [f"{self.name} {tag}.{key} {fault}" for key, fault in sorted(verdict.faults.items())]
            yield from faults[:_SHOWN]
            if len(faults) > _SHOWN:
                yield f"{self.name} {tag}: and {len(faults) - _SHOWN} more"
            yield from (f"{self.name} {tag}.{key} left out: {why}" for key, why in verdict.left_out.items())


def check(path: Path) -> Row:
    """Reads and runs one case. Whatever goes wrong becomes a row, so that the others are still checked."""
    try:
        case = read(path)
    except Unreadable as error:
        return Row(f"{path.parent.name}/{path.stem}", unreadable=str(error))
    try:
        return Row(case.name, dict(_verdicts(case)))
    except (Unreadable, OnwardError) as error:
        return Row(case.name, unreadable=str(error))
    except Exception as error:  # a case of an unforeseen layout must not hide the rest
        return Row(case.name, unreadable=f"{type(error).__name__}: {' '.join(str(error).split())}")


def _verdicts(case: Case) -> Iterator[tuple[str, Verdict]]:
    zero = case.config.get("zero_gradient_params", [])
    for tag, trial in case.trials().items():
        left_out, allowed = NOT_COMPARED.get(case.method), looser(case.method, case.config)
        yield tag, compare(tag, trial.stored, results(trial), zero, left_out, allowed)


def files(folders: Iterable[str]) -> list[Path]:
    """Every case below the folders, and files given by themselves, in order."""
    found: list[Path] = []
    for folder in map(Path, folders):
        found += sorted(folder.rglob("*.safetensors")) if folder.is_dir() else [folder]
    return found


def main(arguments: Sequence[str]) -> int:
    """Prints a row a case and the totals; details of what went wrong go to standard error. Returns the exit status."""
    rows = []
    print(_ROW.format("method", "case", "tensors", "largest rel. error", "tolerance", "verdict"))
    for path in files(arguments):
        rows.append(check(path))
        print(rows[-1], flush=True)
        for line in rows[-1].details():
            print(line, file=sys.stderr, flush=True)
    counts = {state: sum(row.state == state for row in rows) for state in ("pass", "mismatch", "unreadable")}
    tensors = sum(row.compared for row in rows)
    said = ", ".join(f"{n} {state}" for state, n in counts.items())
    print(f"total: {len(rows)} cases, {tensors} tensors compared: {said}" if rows else "total: 0 cases found")
    return 0 if rows and counts["pass"] == len(rows) else 1
