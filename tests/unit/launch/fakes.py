"""Jobs that take no time: a program that does what its arguments say."""

from __future__ import annotations

import sys

SCRIPT = """
import json, os, sys, time
said = {}
for word in sys.argv[1:]:
    what, _, value = word.partition("=")
    if what == "sleep": time.sleep(float(value))
    elif what == "until":
        while not os.path.exists(value): time.sleep(0.01)
    elif what == "touch": open(value, "a").close()
    elif what == "note": open(value, "a").write(f"{os.getpid()}\\n")
    elif what == "complain": print(value, file=sys.stderr)
    elif what == "exit": sys.exit(int(value))
    elif what == "print": print(value)
    elif what == "die": os.kill(os.getpid(), int(value))
    else: said[what.lstrip("-")] = value
print(json.dumps({**said, "threads": os.environ["OMP_NUM_THREADS"]}))
"""
PROGRAM = (sys.executable, "-S", "-c", SCRIPT)
