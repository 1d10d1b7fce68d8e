"""A peer as a process: ``python benchmarks/peers/worker.py spikingjelly``, by the interpreter of .venv-peers."""

from __future__ import annotations

import sys
from importlib import import_module

from protocol import serve

if __name__ == "__main__":
    serve(import_module(f"with_{sys.argv[1]}").make)
