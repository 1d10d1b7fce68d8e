"""Compares Onward with golden vectors: ``python tests/golden/check.py DIR...``.

Reads every ``*.safetensors`` below the given folders (or given files), runs the implementation of the checkout that
this file stands in, and prints one row a case and a line of totals. Exit status 0 means that every tensor of every
case agrees; 1 a mismatch, an unreadable case, or no case at all.
"""

from __future__ import annotations

import sys
from pathlib import Path

_HERE = Path(__file__).resolve()

if __name__ == "__main__":
    sys.path[:0] = [str(_HERE.parents[1]), str(_HERE.parents[2] / "src")]
    from golden.report import main

    sys.exit(main(sys.argv[1:]))
