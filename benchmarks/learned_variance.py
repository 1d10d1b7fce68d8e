"""Does a learned optimiser quiet the noise of gradients? Variance of updates beside that of gradients; writes a figure.

    python -m benchmarks.learned_variance recipes/zo-snn-linear20.toml [FOLDER] [--rows LSTM Adam] [--after 0 50]

The network is trained for some mini-batches by the recipe's first row, and then held. Every optimiser of the recipe,
started from rest, sees the same gradients of 60 fresh mini-batches at these weights; what it would do last is its
update u. Over rounds with other mini-batches and other noise,

    relative variance = sum over parameters of Var u / ||mean u||^2        (of g, for the gradient itself)

A quiet optimiser has a small one. The mean is taken over the rounds, so that its own noise, 1 / rounds of the variance,
is subtracted.
"""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from math import isclose, log10
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from onward.optim import optimizers
from onward.report import curves
from onward.train import assemble, parse_tokens

WINDOW = 60


class Held:
    """A network at the weights it has after some training, and gradients of fresh mini-batches there."""

    def __init__(self, recipe: Path, flags: Sequence[str], after: int):
        self.parts, config = assemble(parse_tokens([str(recipe), *flags, "--train.epochs", "1"]))
        for number, batch in enumerate(islice(self.parts.batches(0), after)):
            self.parts.run(batch, number)
            self.parts.update()
        self.config, self.after = config, after

    def gradient(self, number: int) -> list[Tensor]:
        """The gradient of mini-batch ``number`` of other passes over the data, by parameter."""
        epoch, place = divmod(number, len(self.parts.loader))
        self.parts.run(self.parts.loader.batch((1 + epoch, place)), self.after + number)
        self.parts.sink.flush()
        found = [p.grad for p in self.parts.net.parameters() if p.grad is not None]
        self.parts.net.zero_grad(set_to_none=True)
        return found


def last_update(optimizer: Optimizer, weights: Sequence[Tensor], gradients: Sequence[Sequence[Tensor]]) -> Tensor:
    """What ``optimizer`` adds to ``weights`` after all ``gradients``, whose steps but the last one are taken back."""
    moving = [p for group in optimizer.param_groups for p in group["params"]]
    for found in gradients:
        for p, weight, g in zip(moving, weights, found, strict=True):
            p.data.copy_(weight)
            p.grad = g
        optimizer.step()
    return torch.cat([(p.detach() - weight).flatten() for p, weight in zip(moving, weights, strict=True)])


def relative_variance(samples: Sequence[Tensor]) -> float:
    """Of vectors that differ by chance; see the module's docstring."""
    rows = torch.stack(list(samples)).double()
    variance, mean = rows.var(0).sum(), rows.mean(0)
    return float(variance / (mean.square().sum() - variance / len(rows)).clamp_min(1e-30))


def compare(recipe: Path, rows: dict[str, Sequence[str]], after: int, rounds: int) -> dict[str, float]:
    """Relative variance of the gradient and of the updates of every row."""
    held = Held(recipe, next(iter(rows.values())), after)
    weights = [p.detach().clone() for p in held.parts.net.parameters()]
    choices = {label: parse_tokens([str(recipe), *flags]).optim for label, flags in rows.items()}
    updates: dict[str, list[Tensor]] = {"the gradient": [], **{label: [] for label in rows}}
    for turn in range(rounds):
        gradients = [held.gradient(turn * WINDOW + step) for step in range(WINDOW)]
        updates["the gradient"].append(torch.cat([g.flatten() for g in gradients[-1]]))
        for label, choice in choices.items():
            optimizer = optimizers.build(choice, [{"params": [nn.Parameter(w.clone()) for w in weights]}])
            updates[label].append(last_update(optimizer, weights, gradients))
    return {label: relative_variance(found) for label, found in updates.items()}


def _short(label: str) -> str:
    """A label for the figure: the learning rate is a factor of updates, and changes no relative variance."""
    return label.partition(" at ")[0].partition(", from")[0].removeprefix("its ")


def _as_gradient(label: str, found: Iterable[Mapping[str, float]]) -> bool:
    """Whether the updates of a row are as noisy as the gradient everywhere, as those of SGD are."""
    return all(isclose(values[label], values["the gradient"], rel_tol=1e-3) for values in found)


def main() -> None:
    """Prints the table and draws the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/explanation"))
    parser.add_argument("--after", type=int, nargs="*", default=[0, 50, 200, 1000])
    parser.add_argument("--rows", nargs="*", help="labels of the recipe's rows; default: all")
    parser.add_argument("--rounds", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order everywhere: trajectories part at the last bit
    table = tomllib.loads(asked.recipe.read_text(encoding="utf-8"))["recipe"]
    rows = {row["label"]: row["flags"] for row in table["row"] if asked.rows is None or row["label"] in asked.rows}
    found = {after: compare(asked.recipe, rows, after, asked.rounds) for after in asked.after}
    print(f"| after mini-batches | {' | '.join(map(str, found))} |\n|{'---|' * (len(found) + 1)}")
    for label in next(iter(found.values())):
        print(f"| {label} | {' | '.join(f'{values[label]:.3g}' for values in found.values())} |")
    lines = {
        _short(label): [(k, log10(values[label])) for k, values in enumerate(found.values())]
        for label in ["the gradient", *(label for label in rows if not _as_gradient(label, found.values()))]
    }
    places = ", ".join(f"{k}: after {after}" for k, after in enumerate(found))
    figure = curves(lines, f"{table['title']}: noise of updates", places, "log10 of relative variance")
    (asked.folder / f"learned-variance-{asked.recipe.stem.removeprefix('zo-snn-')}.svg").write_text(figure, "utf-8")


if __name__ == "__main__":
    main()
