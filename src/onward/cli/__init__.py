"""The command ``onward``: dispatch, and errors in words. Commands are imported when they run."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cyclopts import App, CycloptsError

from onward._version import __version__
from onward.cli.refusals import in_words
from onward.core.errors import OnwardError

USER_ERROR, INTERRUPTED = 2, 130
EXIT_CODES = {
    0: "done",
    1: "a check of the doctor's failed, or a training of a comparison",
    USER_ERROR: "something has to be mended first: a flag, a file, a budget",
    INTERRUPTED: "cut short by Ctrl-C or SIGTERM; what was done is kept",
}
"""What `main` returns, and what it means."""


def examples(*lines: str) -> str:
    """What a command's help ends with."""
    return "\n\n".join(("For example:", *lines))


app = App(
    name="onward",
    version=__version__,
    help="Trains spiking neural networks forward in time. Start with: onward train",
    help_epilogue="\n".join(("Exit codes:", "", *(f"- {code}: {meaning}" for code, meaning in EXIT_CODES.items()))),
)
app.command("onward.cli.train:train", name="train", help="Train a network and test it.", help_flags=[])
app.command(
    "onward.cli.resume:resume",
    name="resume",
    help="Continue a run that was cut short, as if nothing had happened.\n\n"
    "Flags change its settings, as in `onward train`; that, other versions of programs, or other data need --force.",
    usage="Usage: onward resume RUN [--force] [--log tensorboard] [--FIELD VALUE ...] [--json]",
    help_epilogue=examples("onward resume runs/RUN", "onward resume runs/RUN --train.epochs 20"),
)
app.command(
    "onward.cli.meta_train:train",
    name="meta-train",
    help="Train a learned optimiser on fresh networks, for `onward train --optim lstm`.",
    help_flags=[],
)
app.command(
    "onward.cli.integer:integer",
    name="integer",
    help="Train a network in whole numbers alone, one sample at a time: int8 weights, int16 feedback, no float.\n\n"
    "Integer OPZO is no rule of `onward train`: its network, updates and learning rates (powers of two, halved after "
    "every epoch) are its own. It learns still samples with dense layers. Shows accuracies, operations and energy.",
    usage="Usage: onward integer [--data NAME] [--data.root DIR] [--hidden N ...] [--epochs N] [--limit N] "
    "[--seed N] [--out FILE.safetensors] [--json]",
    help_epilogue=examples("onward integer --hidden 256", "onward integer --hidden 256 256 --out network.safetensors"),
)
app.command(
    "onward.cli.evaluate:evaluate",
    name="eval",
    help="Test a trained network on its own or other data: a run's folder, or a file that `onward pack` or "
    "`onward export nir` wrote.\n\n"
    "Flags such as --data.root or --data.bin-us say how the data is read, as in `onward train`. With --members every "
    "time step is tested by itself too: a spiking network is an ensemble of its steps. With --neurobench the metrics "
    "of NeuroBench are written as metrics.json.",
    usage="Usage: onward eval RUN|FILE [--data NAME|FILE.npz] [--data.FIELD VALUE ...] [--members] [--neurobench] "
    "[--json]",
    help_epilogue=examples("onward eval runs/RUN", "onward eval runs/RUN --data recordings.npz --members"),
)
app.command(
    "onward.cli.pack:pack",
    name="pack",
    help="Write a trained network with one bit for every binary weight.\n\n"
    "Shows what each layer takes: bytes, and operations in a time step were every input active.",
    usage="Usage: onward pack RUN [--to FILE] [--json]",
    help_epilogue=examples("onward pack runs/RUN --to network.safetensors"),
)
app.command(
    "onward.cli.energy:energy",
    name="energy",
    help="Count a trained network's operations on data, and what energy they take.\n\n"
    "Beside it stands the same network without spikes, and what training takes by back-propagation, DFA and OPZO. "
    "Flags such as --data.root say how the data is read, as in `onward train`.",
    usage="Usage: onward energy RUN [--samples N] [--technology NAME] [--mac PJ] [--ac PJ] [--word PJ] [--traffic] "
    "[--data NAME|FILE.npz] [--json]",
    help_epilogue=examples("onward energy runs/RUN", "onward energy runs/RUN --technology 45nm-int8 --samples 200"),
)
app.command(
    "onward.cli.report:report",
    name="report",
    help="Draw what a run recorded on one page of HTML, report.html in its folder.",
    usage="Usage: onward report RUN [--json]",
    help_epilogue=examples("onward report runs/RUN"),
)
app.command(
    "onward.cli.compare:compare",
    name="compare",
    help="Train learning rules, or the rows of a recipe, with several seeds, and show them side by side.\n\n"
    "Everything else is as in `onward train`, a recipe and flags included; without them, two epochs of MNIST. "
    "Flags such as --rule.rho are options of the rule that the recipe or --rule names (opzo), for that rule alone. A "
    "rule that brings a network, neuron or objective of its own gets it unless recipe or flags say otherwise. Named "
    "again by its folder, a comparison goes on where it was cut short.",
    usage="Usage: onward compare [RECIPE.toml | FOLDER] [--rules NAME,NAME] [--datasets NAME,NAME] [--seeds 0,1,2] "
    "[--row LABEL] [--launcher local|ray|slurm] [--FIELD VALUE ...] [--json]",
    help_epilogue=examples(
        "onward compare --rules bp,dfa,opzo --seeds 0,1,2",
        "onward compare --rules bptt,sltt --datasets mnist,fashion-mnist --train.epochs 5",
    ),
)
app.command(
    "onward.cli.sweep:sweep",
    name="sweep",
    help="Search over fields of a configuration, by accuracy on held-out training data.\n\n"
    "Everything else is as in `onward train`, a recipe and flags included. Trials below the median of earlier ones are "
    "ended early. Named again by its folder, a sweep goes on where it was cut short, with more --trials where wanted. "
    "Needs the extra `sweep`.",
    usage="Usage: onward sweep [RECIPE.toml | FOLDER] --over FIELD=LO..HI[:log] | FIELD=A,B,C ... [--trials N] "
    "[--jobs N] [--no-prune] [--launcher local|ray|slurm] [--FIELD VALUE ...] [--json]",
    help_epilogue=examples(
        "onward sweep --train.epochs 3 --over optim.lr=1e-4..1e-1:log --over model.hidden=400,800 --trials 20",
    ),
)
app.command(
    "onward.cli.reproduce:reproduce",
    name="reproduce",
    help="Train a published result again, and say whether it came out; --list shows what there is.",
    usage="Usage: onward reproduce NAME [--recorded] [--row LABEL] [--seed N] [--launcher local|ray|slurm] [--json]",
    help_epilogue=examples("onward reproduce --list", "onward reproduce mnist-mlp --recorded"),
)
app.command(
    "onward.cli.serve:serve",
    name="serve",
    help="Show all runs in a browser, with curves that grow while they train; to this machine alone.",
    usage="Usage: onward serve [RUNS] [--port N] [--json]",
    help_epilogue=examples("onward serve", "onward serve runs --port 0"),
)
app.command(
    "onward.cli.rules:rules",
    name="rules",
    help="List every learning rule and every choice of the credit grid, or those called NAME.\n\n"
    "What a rule brings for other parts of the configuration is shown as flags; flags of yours win over it.",
    usage="Usage: onward rules [NAME ...] [--cite] [--json]",
    help_epilogue=examples("onward rules opzo", "onward rules opzo dfa --cite > sources.bib"),
)
app.command(
    "onward.cli.explain:explain",
    name="explain",
    help="Show how a learning rule assigns credit: equations, what is local, what travels, memory, and a picture.\n\n"
    "The rule is tried on a network of three hidden layers and four time steps. NAME is a rule or a choice of the "
    "credit grid (`onward rules` lists them), and flags are those of `onward train`. Where flags name a model or data, "
    "rules of direct feedback say how near they can come to back-propagation there.",
    usage="Usage: onward explain [NAME] [--FIELD VALUE ...] [--out FILE.html] [--json]",
    help_epilogue=examples(
        "onward explain opzo --out opzo.html",
        "onward explain online --rule.temporal sltt --rule.spatial dfa --rule.local ll",
        'onward explain opzo --data fashion-mnist --model.hidden "[256,256,256,256]"',
    ),
)
app.command(
    "onward.cli.doctor:doctor",
    name="doctor",
    help="Show what this machine has (versions, kernels, data, disk space), and try what training needs.\n\n"
    "The exit status is 1 where something that was tried does not work.",
    help_epilogue=examples("onward doctor", "onward doctor --no-check --json"),
)
app.command(
    "onward.cli.memplan:memplan",
    name="memplan",
    help="Predict how much memory training takes, and what fits a budget.\n\n"
    "Everything else is as in `onward train`, a recipe and flags included. One training step is measured too, unless "
    "--no-check is given or the prediction is beyond the budget.",
    usage="Usage: onward memplan [RECIPE.toml] [--FIELD VALUE ...] [--budget SIZE] [--no-check] [--json]",
    help_epilogue=examples("onward memplan --rule bptt --budget 64MiB"),
)
app.command(
    "onward.cli.bench:bench",
    name="bench",
    help="Measure speed and memory, beside other libraries where they are installed.",
    help_epilogue=examples("onward bench --workload static --rule opzo,bptt", "onward bench --memory"),
)
app.command(
    "onward.cli.completion:completion",
    name="completion",
    help="Print what makes a shell complete commands, flags, and names of rules, choices and data sets.",
    usage="Usage: onward completion bash|zsh|fish [--json]",
    help_epilogue=examples("onward completion bash > ~/.local/share/bash-completion/completions/onward"),
)
_data = App(name="data", help="Data sets.", help_epilogue=examples("onward data list", "onward data get fashion-mnist"))
_data.command(
    "onward.cli.data:list_data",
    name="list",
    help="List the data sets and where they are.",
    help_epilogue=examples("onward data list"),
)
_data.command(
    "onward.cli.data:get",
    name="get",
    help="Fetch a data set and verify it.\n\n"
    "Files that are there as they must be are not fetched again; a transfer that was cut goes on where it ended.",
    help_epilogue=examples("onward data get fashion-mnist", "onward data get shd --to data"),
)
app.command(_data)
_export = App(
    name="export",
    help="Write trained networks for other programs.",
    help_epilogue=examples("onward export nir runs/RUN --out network.nir"),
)
_export.command(
    "onward.cli.exchange:export_nir",
    name="nir",
    help="Write a trained network as a NIR graph, which other simulators and chips read.\n\n"
    "The file is read back, and every spike is compared. What NIR cannot say is refused, or written as a note with "
    "--lossy-ok.",
    usage="Usage: onward export nir RUN [--out FILE.nir] [--dt SECONDS] [--lossy-ok] [--json]",
    help_epilogue=examples("onward export nir runs/RUN --out network.nir"),
)
_export.command(
    "onward.cli.export_torch:export_torch",
    name="torch",
    help="Write a step of a trained network as a program of torch.export, which runs in torch without Onward.\n\n"
    "Every spike is compared before the file is left, and the file is read back.",
    usage="Usage: onward export torch RUN [--out FILE.pt2] [--json]",
    help_epilogue=examples("onward export torch runs/RUN --out network.pt2"),
)
_export.command(
    "onward.cli.export_torch:export_onnx",
    name="onnx",
    help="Write a step of a trained network as an ONNX file, and compare it in ONNX Runtime.",
    usage="Usage: onward export onnx RUN [--out FILE.onnx] [--json]",
    help_epilogue=examples("onward export onnx runs/RUN --out network.onnx"),
)
app.command(_export)
_import = App(
    name="import",
    help="Use networks of other programs.",
    help_epilogue=examples("onward import nir network.nir --steps 100"),
)
_import.command(
    "onward.cli.exchange:import_nir",
    name="nir",
    help="Make a network of a NIR graph, and write it as a file that `onward eval` tests.",
    usage="Usage: onward import nir FILE [--out FILE.nir] [--dt SECONDS] [--steps N] [--json]",
    help_epilogue=examples("onward import nir network.nir --steps 100"),
)
app.command(_import)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code.

    `EXIT_CODES` says what each means.
    """
    tokens = list(sys.argv[1:] if argv is None else argv)
    try:
        with plain_warnings():
            code = app(tokens, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _refuse(in_words(error))
    except OnwardError as error:
        return _refuse(error)
    except OSError as error:
        return _refuse(f"{error.filename}: {error.strerror}" if error.filename else error)
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _refuse(
            "there is not enough memory; use a smaller model, --train.batch-size or --train.chunk "
            f"({str(error).strip().splitlines()[0]})"
        )
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return code or 0


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Shows warnings as a line for people, without file and source."""

    def show(message: Warning | str, *_: object) -> None:
        print(f"onward: warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def _is_out_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Also for torch's own errors: of class OutOfMemoryError on CUDA, a plain RuntimeError on the CPU."""
    said = ("allocate memory", "out of memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def _refuse(error: Exception | str) -> int:
    print(f"onward: {error}", file=sys.stderr)
    return USER_ERROR
