"""The command ``onward``: dispatch, and errors in words. Commands are imported when they run."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError
from cyclopts.exceptions import UnknownCommandError

from onward._version import __version__
from onward.core.errors import OnwardError, UnknownName

USER_ERROR, INTERRUPTED = 2, 130

app = App(
    name="onward",
    version=__version__,
    help="Trains spiking neural networks forward in time. Start with: onward train",
)
app.command("onward.cli.train:train", name="train", help="Train a network and test it.", help_flags=[])
app.command("onward.cli.evaluate:evaluate", name="eval", help="Test a trained network, on its own or other data.")
app.command(
    "onward.cli.compare:compare",
    name="compare",
    help="Train several learning rules and show them side by side.",
)
app.command(
    "onward.cli.rules:rules",
    name="rules",
    help="List every learning rule and every choice of the credit grid.",
)
app.command(
    "onward.cli.doctor:doctor",
    name="doctor",
    help="Show what this machine has: versions, kernels, data, caches.",
)
app.command(
    "onward.cli.bench:bench",
    name="bench",
    help="Measure speed and memory, beside other libraries where they are installed.",
)
_data = App(name="data", help="Data sets.")
_data.command("onward.cli.data:list_data", name="list", help="List the data sets and where they are.")
app.command(_data)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code: 0, 2 after an error of the user's, 130 after Ctrl-C."""
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except UnknownCommandError as error:
        return _refuse(UnknownName("command", error.unused_tokens[0] if error.unused_tokens else "", _commands(error)))
    except (OnwardError, CycloptsError) as error:
        return _refuse(error)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}" if error.filename else error)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return code or 0


def _refuse(error: Exception | str) -> int:
    print(f"onward: {error}", file=sys.stderr)
    return USER_ERROR


def _commands(error: UnknownCommandError) -> list[str]:
    chain = error.command_chain or ()
    here = app[chain[0]] if chain else app
    return [name for name in here if not name.startswith("-")]
