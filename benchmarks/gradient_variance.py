"""How noisy are gradients? Their variance by layer, for several rules at the same weights; writes a figure.

    python -m benchmarks.gradient_variance recipes/mnist-mlp.toml [FOLDER] [--rows BP DFA OPZO ZO] [--settle 500]

The network is trained by the recipe's first row for some epochs, and then held. Every row's rule looks at mini-batches
until its feedback has settled (for OPZO, M is an average over them). Then all rules see the same mini-batches, each
with noise of its own, and

    V^l = sum over weights of layer l of Var g / (number of weights)

Beside it stands V^l / (mean over weights of (E g)^2), which does not depend on how large a rule's gradients are. OPZO's
M estimates the Jacobian itself (`inverse_alpha`, `correct_start`), so that its gradients are as large as BP's. One pass
over the mini-batches a rule, memory of two gradients.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Sequence
from math import inf, log10
from pathlib import Path

import torch
from torch import Tensor, nn

from onward.core.graph import Node
from onward.report import curves
from onward.train import Parts, assemble, fit, parse_tokens

JACOBIAN = ("--rule.inverse-alpha", "true", "--rule.correct-start", "true")


class Spread:
    """A running mean and variance of gradients that come one by one, by Welford's recurrence."""

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, g: Tensor) -> None:
        """Takes in one gradient."""
        g = g.double()
        self.count += 1
        away = g - self.mean
        self.mean = self.mean + away / self.count
        self.squares = self.squares + away * (g - self.mean)

    @property
    def variance(self) -> float:
        """The mean over weights of their variances."""
        return float(self.squares.mean() / (self.count - 1))

    @property
    def relative(self) -> float:
        """The variance over the mean square of the mean, whose own noise is subtracted."""
        signal = float(self.mean.square().mean()) - self.variance / self.count
        return self.variance / signal if signal > 0 else inf


def trained(recipe: Path, flags: Sequence[str]) -> dict[str, Tensor]:
    """The weights that a recipe's row learns."""
    parts, config = assemble(parse_tokens([str(recipe), *flags]))
    fit(parts, config.train)
    return parts.net.state_dict()


def gradients(parts: Parts, number: int) -> dict[str, Tensor]:
    """Weight gradients by layer for mini-batch ``number`` of a stream that is the same for every rule."""
    epoch, place = divmod(number, len(parts.loader))
    parts.run(parts.loader.batch((1 + epoch, place)), number)
    parts.sink.flush()
    found = {node.name: _weight(node).grad for node in parts.net.synapses}
    parts.net.zero_grad(set_to_none=True)
    return {name: g for name, g in found.items() if g is not None}


def _weight(node: Node) -> nn.Parameter:
    """What the optimiser moves: the weights, or those that a standardised synapse makes its weights of."""
    known = dict(node.module.named_parameters())
    return known["weight"] if "weight" in known else known["parametrizations.weight.original"]


def spreads(
    recipe: Path, flags: Sequence[str], weights: dict[str, Tensor], settle: int, draws: int
) -> dict[str, Spread]:
    """A row's gradients by layer at ``weights``, for ``draws`` mini-batches after ``settle`` others."""
    config = parse_tokens([str(recipe), *flags])
    parts, _ = assemble(parse_tokens([str(recipe), *flags, *JACOBIAN]) if config.rule.name == "opzo" else config)
    parts.net.load_state_dict(weights)
    for number in range(settle):
        gradients(parts, number)
    found: dict[str, Spread] = {}
    for number in range(settle, settle + draws):
        for name, g in gradients(parts, number).items():
            found.setdefault(name, Spread()).add(g)
    return found


def table(found: dict[str, dict[str, Spread]]) -> str:
    """A line a row: variances by layer; in brackets how many times the first row's, and relative to the mean."""
    label, first = next(iter(found.items()))
    lines = [f"| variance (times {label}'s; relative) | {' | '.join(first)} |", f"|{'---|' * (len(first) + 1)}"]
    for label, layers in found.items():
        cells = (
            f"{own.variance:.2e} ({own.variance / first[name].variance:.3g}; {own.relative:.3g})"
            for name, own in layers.items()
        )
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def figure(title: str, found: dict[str, dict[str, Spread]]) -> str:
    """One line a row: the logarithm of the variance, layer by layer."""
    lines = {
        label: [(layer, log10(own.variance)) for layer, own in enumerate(layers.values(), 1) if own.variance > 0]
        for label, layers in found.items()
    }
    return curves(lines, f"{title.partition(':')[0]}: variance of gradients", "layer", "log10 of variance a weight")


def main() -> None:
    """Prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/explanation"))
    parser.add_argument("--rows", nargs="*", default=["BP", "DFA", "OPZO", "ZO"])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--settle", type=int, default=500)
    parser.add_argument("--draws", type=int, default=100)
    asked, flags = parser.parse_known_args()
    torch.set_num_threads(1)
    recipe = tomllib.loads(asked.recipe.read_text(encoding="utf-8"))["recipe"]
    rows = {row["label"]: [*row["flags"], *flags] for row in recipe["row"]}
    first = asked.rows[0]
    weights = trained(asked.recipe, [*rows[first], "--train.epochs", str(asked.epochs)])
    found = {label: spreads(asked.recipe, rows[label], weights, asked.settle, asked.draws) for label in asked.rows}
    print(table(found))
    drawn = figure(recipe["title"], found)
    (asked.folder / f"gradient-variance-{asked.recipe.stem}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
