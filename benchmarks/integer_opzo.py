"""MNIST at batch 1: integer OPZO beside the same in float32, accuracies over seeds, operations and energy.

    python -m benchmarks.integer_opzo [--hidden 256] [--seeds 0 1 2] [--epochs 4] [--only floats]

Rates are halved after every epoch. Those of the float network were chosen on 10,000 training digits held out.
"""

from __future__ import annotations

import argparse
from statistics import mean
from time import process_time

import numpy as np
from numpy import ndarray

from benchmarks.float_opzo import FloatNetwork
from onward.data import load
from onward.integer import IntegerNetwork, Law
from onward.integer.cost import operations, random_bits
from onward.integer.network import FIRST_THRESHOLD, LATER_THRESHOLD, START
from onward.integer.train import accuracy, epochs, inputs

Labelled = tuple[ndarray, ndarray]
FLOAT_RATES = 2.0**-25, 2.0**-16


def integers(sizes: tuple[int, ...], train: Labelled, test: Labelled, count: int, seed: int) -> IntegerNetwork:
    net, began = IntegerNetwork(sizes, seed=seed), process_time()
    for epoch in epochs(net, *train, count, seed):
        print(
            f"integers, seed {seed}, epoch {epoch}: {accuracy(net, *test):.2%}, {process_time() - began:.0f} s",
            flush=True,
        )
    return net


def floats(sizes: tuple[int, ...], train: Labelled, test: Labelled, count: int, seed: int) -> float:
    thresholds = (FIRST_THRESHOLD, *[LATER_THRESHOLD] * (len(sizes) - 3))
    net, began = FloatNetwork(sizes, Law(), thresholds, FLOAT_RATES, START, seed), process_time()
    rng, right = np.random.default_rng(seed), 0.0
    for epoch in range(1, count + 1):
        order = rng.permutation(len(train[1]))
        net.learn(train[0][order], train[1][order])
        net.slower()
        right = net.right(*test) / len(test[1])
        print(f"floats, seed {seed}, epoch {epoch}: {right:.2%}, {process_time() - began:.0f} s", flush=True)
    return right


def costs(net: IntegerNetwork) -> str:
    rows = operations(net.law, net.sizes, net.counts, net.learned)
    lines = ["| a sample that is learned | operations | integers, nJ | float32, nJ | fetched, nJ | float32, nJ |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {row.name} | {row.number:,.0f} | " + " | ".join(f"{pj / 1e3:,.2f}" for pj in row.picojoules + row.fetched)
        + " |"
        for row in rows
    ]  # fmt: skip
    sums = [sum(pair) / 1e3 for pair in zip(*(row.picojoules + row.fetched for row in rows), strict=True)]
    bits = random_bits(net.law, net.sizes, net.counts, net.learned)
    lines += [f"| together | | {' | '.join(f'{nj:,.2f}' for nj in sums)} |", f"{bits:,.0f} random bits a sample"]
    return "\n".join(lines)


def told(name: str, accuracies: list[float]) -> str:
    return f"{name}: mean {mean(accuracies):.2%}, {min(accuracies):.2%} to {max(accuracies):.2%}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden", nargs="+", type=int, default=[256])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--data", default="mnist")
    parser.add_argument("--only", choices=["integers", "floats"])
    asked = parser.parse_args()
    split, law = load(asked.data), Law()
    train, test = inputs(split.train, law.levels), inputs(split.test, law.levels)
    sizes = (train[0].shape[1], *asked.hidden, split.train.classes)
    if asked.only != "floats":
        nets = [integers(sizes, train, test, asked.epochs, seed) for seed in asked.seeds]
        print(costs(nets[0]))
        print(told("integers", [accuracy(net, *test) for net in nets]), flush=True)
    if asked.only != "integers":
        train, test = inputs(split.train, 8), inputs(split.test, 8)
        print(told("floats", [floats(sizes, train, test, asked.epochs, seed) for seed in asked.seeds]))


if __name__ == "__main__":
    main()
