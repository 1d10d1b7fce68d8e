"""What the choices of rate-trained networks are worth on real data: thresholds, alpha and T; neurons and feedback.

    python -m benchmarks.rate_trainings [FOLDER] [--only latency sizes] [--epochs 2] [--root DIR]

*latency*: DSR, 784-200-10 on MNIST, firing level alpha 0.3, 0.5 and 1, thresholds trained and fixed at 2, for each T:
test error. *sizes*: Fashion-MNIST at T = 5, n neurons with feedback to themselves, n neurons without, and two layers of
n / 2, all normalised and trained by IDE: test accuracy. Trained for a few epochs each, one seed; draws both as figures.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from math import log2
from pathlib import Path

from onward.report import curves
from onward.train import parse_tokens, train

TIMES, SIZES = (2, 5, 10, 20), (25, 50, 100, 200, 400)
COMMON = ("--optim", "momentum", "--optim.lr", "0.05", "--data.normalise", "true", "--train.threads", "1")
IDE = ("--rule", "ide", "--neuron", "if", "--neuron.threshold", "2", "--model", "feedback")
DSR = ("--rule", "dsr", "--neuron", "dsr-if", "--neuron.threshold", "2")


def accuracy(flags: Sequence[str], epochs: int) -> float:
    """Test accuracy in percent after ``epochs``."""
    with tempfile.TemporaryDirectory() as folder:
        asked = [*flags, *COMMON, "--train.epochs", str(epochs), "--train.out", folder]
        found = train(parse_tokens(asked)).test_accuracy
    assert found is not None
    print(f"{' '.join(flags)}: {found:.2f}", flush=True)
    return found


def latency(epochs: int, root: Sequence[str]) -> tuple[str, str, str, dict[str, list[tuple[float, float]]]]:  # noqa: ARG001
    """Test error against T, by alpha and by whether thresholds are trained."""
    found = {}
    for alpha in ("0.3", "0.5", "1"):
        for learned in ("true", "false"):
            fixed = ("--data", "mnist", "--model.hidden", "200", *DSR, "--neuron.alpha", alpha)
            runs = {t: [*fixed, "--neuron.learn-threshold", learned, "--train.steps", str(t)] for t in TIMES}
            label = f"{alpha}, {'trained' if learned == 'true' else 'fixed'}"
            found[label] = [(log2(t), 100 - accuracy(flags, epochs)) for t, flags in runs.items()]
    return "DSR: alpha, thresholds trained or fixed", "log2 of the number of steps", "test error (%)", found


def sizes(epochs: int, root: Sequence[str]) -> tuple[str, str, str, dict[str, list[tuple[float, float]]]]:
    """Test accuracy against the number of neurons, by how they are wired."""
    data = ("--data", "fashion-mnist", *root, "--train.steps", "5")
    wirings = {
        "feedback, n": lambda n: ("--model.layers", str(n), "--model.back", str(n)),
        "no feedback, n": lambda n: ("--model.layers", str(n), "--model.back", "none"),
        "two layers of n / 2": lambda n: ("--model.layers", f"{n // 2}-{n // 2}", "--model.back", "none"),
    }
    found = {
        label: [(log2(n), accuracy((*data, *IDE, *wired(n)), epochs)) for n in SIZES]
        for label, wired in wirings.items()
    }
    return "Fashion-MNIST, T = 5: neurons and feedback", "log2 of the number of neurons", "test accuracy (%)", found


STUDIES = {"latency": latency, "sizes": sizes}


def main() -> None:
    """Trains, prints tables, draws figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/explanation"))
    parser.add_argument("--only", nargs="*", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--root", help="folder of Fashion-MNIST; default: ONWARD_DATA")
    asked = parser.parse_args()
    root = ("--data.root", asked.root) if asked.root else ()
    for name in asked.only:
        title, x, y, found = STUDIES[name](asked.epochs, root)
        (asked.folder / f"rates-{name}.svg").write_text(curves(found, title, x, y), encoding="utf-8")
        places = [f"{2**place:g}" for place, _ in next(iter(found.values()))]
        print(f"\n{title}\n| | {' | '.join(places)} |\n|{'---|' * (len(places) + 1)}")
        for label, points in found.items():
            print(f"| {label} | {' | '.join(f'{value:.2f}' for _, value in points)} |")


if __name__ == "__main__":
    main()
