"""``python -m benchmarks`` is ``onward bench``; see docs/reference/benchmarks.md."""

from __future__ import annotations

import sys

from onward.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["bench", *sys.argv[1:]]))
