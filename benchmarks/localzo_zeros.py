"""What the zeros of LocalZO's slopes save: gradients of a mini-batch with products that leave them out, and without.

    python -m benchmarks.localzo_zeros [--rounds 9] [--width 800] [--batch 128] [--law normal] [--rule sltt --rule ottt]

784-n-n-10 at its initial weights, T = 25, digits of MNIST, one draw a slope; ``share`` is that of slopes that are not
zero. Both ways take turns, and differ in nothing but what neurons say of their slopes (`Neuron.exact_zeros`). Drawing
is part of both; by the law ``rademacher`` it costs least.
"""

from __future__ import annotations

import argparse
from statistics import median
from time import perf_counter

import torch

from onward.core import GradSink, KeyedDraws, Network, Sequence, active, run_sequence
from onward.core.objective import objectives
from onward.data import load
from onward.kernels.host import keep_pages
from onward.models import models
from onward.neurons import neurons
from onward.rules import rules

DELTAS = (0.6, 0.3, 0.1, 0.05, 0.02)
STEPS = 25


class Learner:
    """One network, of which the same gradient is made again and again."""

    def __init__(self, rule: str, delta: float, law: str, width: int, x: Sequence, y: torch.Tensor):
        torch.manual_seed(0)
        options = {"name": "lif", "surrogate": {"name": "localzo", "delta": delta, "samples": 1, "law": law}}
        choice = {"name": "mlp", "hidden": [width, width]}
        self.net: Network = models.build(choice, x.features, 10, lambda: neurons.build(options))
        self.rule, self.objective, self.x, self.y = rules.build(rule), objectives.build("per-step"), x, y
        self.sink, self.draws = GradSink(self.net), KeyedDraws(0)
        self.rule.bind(self.net, self.objective, x, self.draws)

    def seconds(self, exact_zeros: bool) -> float:
        """What a gradient takes."""
        for node in self.net.neurons:
            node.module.surrogate.exact_zeros = exact_zeros  # type: ignore[union-attr]
        began = perf_counter()
        run_sequence(self.net, self.rule, self.objective, self.x, self.y, self.sink, draws=self.draws)
        self.sink.flush()
        took = perf_counter() - began
        self.net.zero_grad(set_to_none=True)
        return took


def compare(learner: Learner, rounds: int) -> tuple[float, float, float]:
    """The share of active slopes, and the median seconds with zeros left out and without."""
    turns = [(learner.seconds(True), learner.seconds(False)) for _ in range(rounds + 1)][1:]
    shares = active(learner.net).values()
    with_zeros, without = zip(*turns, strict=True)
    return sum(shares) / len(shares), median(with_zeros), median(without)


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--width", type=int, default=800)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--law", default="normal")
    parser.add_argument("--rule", action="append", help="may be given more than once; default: sltt and ottt")
    arguments = parser.parse_args()
    keep_pages()
    train, _ = load({"name": "mnist"})
    batch = train.batch(torch.arange(arguments.batch), STEPS)
    print("| rule | delta | share | zeros left out | dense | ratio |\n|---|---|---|---|---|---|")
    for rule in arguments.rule or ("sltt", "ottt"):
        for delta in DELTAS:
            learner = Learner(rule, delta, arguments.law, arguments.width, batch.x, batch.y)
            share, left_out, dense = compare(learner, arguments.rounds)
            times = f"{1e3 * left_out:.0f} ms | {1e3 * dense:.0f} ms | {dense / left_out:.2f}"
            print(f"| {rule} | {delta:g} | {share:.3f} | {times} |", flush=True)


if __name__ == "__main__":
    main()
