"""Depth table: accuracy and cosine to back-propagation over 1 to 6 hidden layers without residuals.

    python -m benchmarks.depth --data.root DIR [--depths 1 2 3 4 5 6] [--rules ottt opzo dfa] [--seeds 0 1 2] [--write]

Fashion-MNIST, hidden layers of 256, T = 4, two epochs. The cosine is between the weight gradient of each hidden layer
and that of OTTT with back-propagation on the same trained weights and the same 512 images, averaged over layers; it is
a diagnostic, not a measure of quality (a chain of mirrors can have a high cosine and a lower accuracy).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import onward
from benchmarks.recipes import machine
from onward.train import Parts, assemble, fit, parse_tokens

RESULTS = Path(__file__).parent.parent / "recipes" / "depth.json"
COMMON = ["--data", "fashion-mnist", "--train.steps", "4", "--train.epochs", "2", "--train.eval-every", "2"]


@dataclass(frozen=True)
class Point:
    """One trained network: test accuracy in percent, mean cosine of the hidden layers' gradients."""

    depth: int
    rule: str
    seed: int
    accuracy: float
    cosine: float


def gradients(parts: Parts, rule: onward.LearningRule) -> list[Tensor]:
    """Weight gradients of all hidden layers for one mini-batch of 512, by ``rule``."""
    batch = next(iter(onward.Loader(parts.loader.dataset, 512, parts.loader.steps, seed=1).epoch(0)))
    sink = onward.GradSink(parts.net)
    parts.net.zero_grad()
    onward.run_sequence(
        parts.net, rule, parts.objective, batch.x, batch.y, sink, draws=parts.draws, ids=batch.ids, sequence=1 << 40
    )
    sink.flush()
    found = [node.module.get_parameter("weight").grad for node in parts.net.synapses[:-1]]
    return [torch.zeros(1) if grad is None else grad.clone() for grad in found]


def measure(depth: int, name: str, seed: int, flags: list[str]) -> Point:
    """Trains one network and compares its last gradients with back-propagation's."""
    hidden = ["--model.hidden", json.dumps([256] * depth)]
    config = parse_tokens([*COMMON, *hidden, "--rule", name, "--seed", str(seed), *flags])
    parts, resolved = assemble(config)
    fitted = fit(parts, resolved.train)
    assert fitted.score is not None
    reference = onward.rules.build("ottt")
    reference.bind(parts.net, parts.objective, next(iter(parts.loader.epoch(0))).x, parts.draws)
    pairs = zip(gradients(parts, parts.rule), gradients(parts, reference), strict=True)
    cosine = mean(float(cosine_similarity(a.flatten(), b.flatten(), dim=0)) for a, b in pairs)
    return Point(depth, name, seed, fitted.score.accuracy, cosine)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depths", nargs="*", type=int, default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--rules", nargs="*", default=["ottt", "opzo", "dfa"])
    parser.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2])
    parser.add_argument("--write", action="store_true", help=f"keep the points in recipes/{RESULTS.name}")
    asked, flags = parser.parse_known_args()
    held = json.loads(RESULTS.read_text())["points"] if asked.write and RESULTS.exists() else []
    for depth in asked.depths:
        for name in asked.rules:
            for seed in asked.seeds:
                point = measure(depth, name, seed, flags)
                print(f"{point}", file=sys.stderr, flush=True)
                held = [p for p in held if (p["depth"], p["rule"], p["seed"]) != (depth, name, seed)] + [vars(point)]
                if asked.write:
                    RESULTS.write_text(
                        json.dumps({"machine": machine(), "date": date.today().isoformat(), "points": held}, indent=1)
                        + "\n"
                    )
    print(table(held))


def table(points: list[dict]) -> str:
    """Mean accuracy (and range), and mean cosine, by depth and rule."""
    names = list(dict.fromkeys(p["rule"] for p in points))
    lines = ["| hidden layers | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for depth in sorted({p["depth"] for p in points}):
        cells = []
        for name in names:
            here = [p for p in points if p["depth"] == depth and p["rule"] == name]
            if not here:
                cells.append("")
                continue
            found = [p["accuracy"] for p in here]
            cosine = mean(p["cosine"] for p in here)
            cells.append(f"{mean(found):.2f} ({min(found):.2f} to {max(found):.2f}), cos {cosine:.2f}")
        lines.append(f"| {depth} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
