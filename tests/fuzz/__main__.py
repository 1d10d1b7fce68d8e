"""``python -m tests.fuzz``: damaged inputs by the thousand; exit status 1 where one of them crashed a reader."""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
from pathlib import Path

from tests.fuzz.readers import READERS
from tests.fuzz.report import record, run, table


def main() -> int:
    """Parses the command line and runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument(
        "--inputs", type=int, default=5000, help="damaged inputs over all readers (default %(default)s)"
    )
    parser.add_argument("--reader", choices=READERS, action="append", help="this reader alone; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="decides all damage (default %(default)s)")
    parser.add_argument("--start", type=int, default=0, help="number of the first damaged input (default %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes what came of it")
    asked = parser.parse_args()
    faulthandler.enable()
    tallies = run(asked.reader or list(READERS), asked.seed, asked.start, asked.inputs)
    print(table(tallies))
    for tally in tallies:
        for crash in tally.crashed:
            print(f"{tally.reader}: {crash}", file=sys.stderr)
    if asked.json:
        asked.json.write_text(json.dumps(record(tallies, asked.seed), indent=1) + "\n")
    return int(any(tally.crashes for tally in tallies))


if __name__ == "__main__":
    sys.exit(main())
