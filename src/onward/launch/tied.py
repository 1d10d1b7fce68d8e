"""``python -m onward.launch.tied ARGUMENTS`` is ``onward ARGUMENTS`` for as long as standard input stays open.

A launcher holds the other end. When it ends, however it ends, so does the job, which is then free to go on elsewhere
from its last checkpoint.
"""

from __future__ import annotations

import os
import sys
from threading import Thread

ORPHANED = 1


def end_with_input() -> None:
    """Waits for the end of standard input, then ends this process at once."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(ORPHANED)


def main() -> int:
    """Runs the command."""
    Thread(target=end_with_input, daemon=True).start()
    from onward.cli import main as command

    return command()


if __name__ == "__main__":
    sys.exit(main())
