"""How much of the gradient comes through time? What SLTT leaves out of back-propagation through time, by leak.

    python -m benchmarks.temporal_share recipes/nmnist-sim.toml [--taus 1.25 2 4 8] [--batches 20] [FLAGS]

For every membrane time constant tau a network is trained by back-propagation through time, then held. On fresh
mini-batches, with g the gradient of a layer's weights by BPTT and s the one by SLTT, which follows errors through the
layers of a step and never from one step to an earlier one,

    share = ||g - s|| / ||g||,      cos = <g, s> / (||g|| ||s||)

The claim of SLTT (Meng et al. 2023) is that the share is small. Means over mini-batches.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from benchmarks.gradient_variance import gradients, trained
from onward.train import Parts, assemble, parse_tokens


def held(recipe: Path, flags: Sequence[str], rule: str, weights: dict[str, Tensor]) -> Parts:
    """The recipe's network at ``weights``, under ``rule``."""
    parts, _ = assemble(parse_tokens([str(recipe), "--rule", rule, *flags]))
    parts.net.load_state_dict(weights)
    return parts


def shares(recipe: Path, flags: Sequence[str], batches: int) -> dict[str, tuple[float, float]]:
    """Share and cosine of every layer, at weights that BPTT has learned."""
    weights = trained(recipe, ["--rule", "bptt", *flags])
    whole, spatial = (held(recipe, flags, rule, weights) for rule in ("bptt", "sltt"))
    found: dict[str, list[tuple[float, float]]] = {}
    for number in range(batches):
        of_spatial = gradients(spatial, number)
        for name, g in gradients(whole, number).items():
            found.setdefault(name, []).append(_compared(g.flatten(), of_spatial[name].flatten()))
    return {name: (mean(share for share, _ in pairs), mean(cos for _, cos in pairs)) for name, pairs in found.items()}


def _compared(g: Tensor, s: Tensor) -> tuple[float, float]:
    return float((g - s).norm() / g.norm()), float(cosine_similarity(g, s, dim=0))


def main() -> None:
    """Prints the table, a line for each tau as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--taus", nargs="*", type=float, default=[1.25, 2.0, 4.0, 8.0])
    parser.add_argument("--batches", type=int, default=20)
    asked, flags = parser.parse_known_args()
    torch.set_num_threads(1)
    for place, tau in enumerate(asked.taus):
        found = shares(asked.recipe, ["--neuron.tau", str(tau), *flags], asked.batches)
        if place == 0:
            print(f"| tau | {' | '.join(found)} |\n|{'---|' * (len(found) + 1)}")
        cells = (f"{share:.3f}, cos {cos:.3f}" for share, cos in found.values())
        print(f"| {tau:g} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
