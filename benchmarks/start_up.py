"""How long it takes until anything happens: imports and the first page of help."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

REPEATS = 5


def seconds(code: str) -> float:
    """Median wall-clock seconds of a fresh interpreter running ``code``."""
    times = []
    for _ in range(REPEATS):
        began = perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
        times.append(perf_counter() - began)
    return median(times)


def measure() -> dict[str, float]:
    """What importing the package adds to importing torch, and how long the first page of help takes; seconds."""
    bare, both = seconds("import torch"), seconds("import torch, onward; onward.Network, onward.rules.build")
    blank, help_page = seconds("pass"), seconds("from onward.cli import main; main(['--help'])")
    return {
        "import onward and its engine, above import torch": both - bare,
        "import onward alone, above an empty interpreter": seconds("import onward") - blank,
        "onward --help": help_page,
    }
