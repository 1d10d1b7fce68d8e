"""Is the law of direct feedback right? Predicted cosines beside measured ones, layer by layer, over many networks.

    python -m benchmarks.feedback_law --data.root DIR [--depths 1 2 3 4 5 6] [--taus 1.25 2 4] [--widths 64 256]
        [--shortcuts 0 1] [--seeds 0 1 2] [--schedule two-pass] [--write] [--draw FOLDER]

Fully connected networks of LIF neurons on Fashion-MNIST, T = 4, with or without identity shortcuts of spikes around
every hidden layer but the first. Predicted from 512 training pictures, at initial weights and without training but in
the rows that say so:

    law             root of the share of the Jacobian's energy that its mean keeps (`onward.train.law`); no labels
    isotropic       the same for errors that need not sum to zero
    gates           root of the product, over the layers above, of the shares that their slopes keep (see `gates`)
    weights         of gradients of weights, from the law and labels (see `of_gradients`)
    awake           the law at weights scaled so that every layer is driven as far as the firing level (`awakened`)
    law, noise      law times the root of the split-half reliability that OPZO tells of its M
    after           the law at the weights that OPZO has learned
    after, noise    after, times the root of the reliability of M then

and measured on 512 test pictures, against back-propagation within each step, with the real errors:

    exact           at initial weights, M the mean Jacobian of the training pictures
    settled         at initial weights, M as OPZO estimates it from its noise on 6,000 pictures
    trained         after OPZO has learned from 6,000 pictures, its M and its weights

each of credit at spikes and of gradients of weights. R^2 = 1 - sum (measured - predicted)^2 / sum (measured - mean)^2
is about the prediction as it is; nothing is fitted. The last hidden layer is left out: there it is 1 by construction.
Without ``--seeds``, what ``--write`` has kept is shown again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date
from itertools import product
from math import prod, sqrt
from pathlib import Path
from statistics import mean

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from benchmarks.recipes import machine
from onward.core import GradSink, KeyedDraws, LearningRule, Network, Residual, run_sequence
from onward.core.credit_walk import CreditWalk
from onward.core.interpret import run_walk
from onward.core.objective import objectives
from onward.core.signal import Carry, dense
from onward.core.synapse import effective
from onward.credit.bp import BackPropagation
from onward.data import Batch, Dataset, Loader, Subset, load
from onward.models.initial import kaiming
from onward.models.layers import READOUT_GAIN
from onward.neurons import LIF
from onward.report.figures import scatter
from onward.rules import rules
from onward.train.law import awakened, context_of, expected_alignment, pulled, weights_of
from onward.train.observe import watched

RESULTS = Path(__file__).parent.parent / "recipes" / "feedback-law.json"
STEPS, PICTURES, LOOKED_AT, BATCH, RATE = 4, 6000, 512, 128, 1e-3
PREDICTED = ("law", "isotropic", "gates", "weights", "awake", "law, noise", "after", "after, noise")
MEASURED = tuple(f"{stage} {of}" for stage, of in product(("exact", "settled", "trained"), ("credit", "gradient")))
SHOWN = ("law", "exact credit", "law, noise", "settled credit", "awake", "trained credit", "trained gradient")
OBJECTIVE = objectives.build("per-step")


@dataclass(frozen=True)
class Shape:
    """A network, and the seed of its weights and pictures."""

    depth: int
    tau: float
    residual: bool
    width: int
    seed: int

    def build(self) -> Network:
        """The network, as the model ``mlp`` begins."""
        torch.manual_seed(self.seed)
        layers: list[nn.Module] = [nn.Linear(784, self.width), LIF(self.tau)]
        for _ in range(self.depth - 1):
            block = [nn.Linear(self.width, self.width), LIF(self.tau)]
            layers += [Residual(nn.Sequential(*block))] if self.residual else block
        net = Network(nn.Sequential(nn.Flatten(), *layers, nn.Linear(self.width, 10)))
        for node in net.synapses:
            kaiming(node.module)
        net.synapses[-1].module.get_parameter("weight").data.mul_(READOUT_GAIN)
        return net


@dataclass(frozen=True)
class Compared:
    """Cosines of one layer with back-propagation: of credit at spikes, and of the gradient of its weights."""

    credit: float
    gradient: float
    kappa: float


def compared(net: Network, feedback: Mapping[int, Tensor], batch: Batch) -> dict[str, Compared]:
    """Credit through ``feedback`` ``[n, m]`` beside that of back-propagation, by neuron; without noise."""
    walk = CreditWalk(net, Carry(), context_of(batch.x), lambda node: effective(node.module), BackPropagation())
    out = run_walk(walk, batch.x.read(0, STEPS))
    error = OBJECTIVE.errors(out.detach(), batch.y, STEPS, len(batch.y))
    spikes = [walk.record.spikes[node.index] for node in net.hidden]
    exact = torch.autograd.grad(out, spikes, error)
    found = {}
    for node, synapse, credit in zip(net.hidden, net.synapses, exact, strict=False):
        direct, pre = error @ feedback[node.index].to(error).T, dense(walk.record.pres[synapse.index]).flatten(2)
        slope = walk.record.firings[node.index].slope
        grads = [torch.einsum("kbn,kbi->ni", slope * g, pre) for g in (direct, credit)]
        found[node.name] = Compared(_cosine(direct, credit), _cosine(*grads), coherence(slope * direct, pre))
    return found


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a.double().flatten(), b.double().flatten(), dim=0))


def coherence(post: Tensor, pre: Tensor) -> float:
    """kappa = |sum_x d_x|^2 / sum_x |d_x|^2, d_x = sum_t post pre^T the gradient of a sample: 1 if samples have nothing
    in common (or say nothing), B if they all say the same.

    Of the gradient of a mini-batch, direct feedback brings sum_x d_x, and misses sum_x r_x. Where the r_x of samples
    have nothing in common, |sum_x r_x|^2 = sum_x |r_x|^2, and the tangent of the angle is that of credit over
    sqrt(kappa).
    """
    whole = torch.einsum("kbn,kbi->ni", post, pre).double().square().sum()
    grams = [torch.einsum("kbn,lbn->bkl", x.double(), x.double()) for x in (post, pre)]
    each = (grams[0] * grams[1]).sum()
    return float(whole / each) if each else 1.0


def gates(net: Network, batch: Batch, residual: bool) -> dict[str, float]:
    """The law if slopes of different layers and neurons know nothing of each other, and weights are random.

    Behind a layer with slopes psi the energy of the Jacobian is multiplied by mean E psi^2, that of its mean by
    mean (E psi)^2, both times g = |W|^2 / n; next to an identity shortcut they are added to 1. Cost: one forward pass.
    """
    means: dict[str, list[Tensor]] = {}
    for _ in watched(net, batch, STEPS, lambda node, firing: means.setdefault(node.name, []).append(firing.slope)):
        pass
    shares = []
    for place, node in enumerate(net.hidden):
        slopes, weight = (
            torch.cat(means[node.name]).flatten(0, 1),
            effective(net.synapses[place].module)["weight"].detach(),
        )
        gain = float(weight.detach().square().sum() / weight.shape[1])
        kept, whole = gain * float(slopes.mean(0).square().mean()), gain * float(slopes.square().mean())
        shares.append((kept + residual) / (whole + residual))
    return {node.name: sqrt(prod(shares[place + 1 :])) for place, node in enumerate(net.hidden)}


def mean_jacobian(net: Network, batch: Batch) -> dict[int, Tensor]:
    """E[J]^T ``[n, m]`` by neuron."""
    rows: dict[int, list[Tensor]] = {node.index: [] for node in net.hidden}
    for _, found in pulled(net, weights_of(net), net.hidden, batch.x, torch.eye(10), context_of(batch.x), STEPS):
        for index, credit in found.items():
            rows[index].append(credit.mean((0, 1)))
    return {index: torch.stack(columns, -1) for index, columns in rows.items()}


def learned(net: Network, loader: Loader, schedule: str, rate: float) -> LearningRule:
    """OPZO after an epoch of ``loader``; weights stay where the learning rate is 0."""
    spatial = {"name": "opzo", "schedule": schedule}
    rule = rules.build({"name": "online", "temporal": "ottt", "spatial": spatial, "local": "none"})
    draws, sink = KeyedDraws(loader.seed), GradSink(net)
    optimizer = torch.optim.Adam(net.parameters(), rate)
    for number, batch in enumerate(loader.epoch(0)):
        if number == 0:
            rule.bind(net, OBJECTIVE, batch.x, draws)
        run_sequence(net, rule, OBJECTIVE, batch.x, batch.y, sink, draws=draws, ids=batch.ids, sequence=number)
        sink.flush()
        optimizer.step()
        net.zero_grad(set_to_none=True)
    return rule


def rows(shape: Shape, train: Dataset, test: Dataset, schedule: str) -> list[dict]:
    """A row a hidden layer: what was predicted, and what was measured."""
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(shape.seed))
    loader = Loader(Subset(train, order[:PICTURES]), BATCH, STEPS, seed=shape.seed)
    seen, fresh = train.batch(order[-LOOKED_AT:], STEPS), test.batch(torch.arange(LOOKED_AT), STEPS)
    net = shape.build()
    found = {
        "law": expected_alignment(net, seen.x),
        "isotropic": expected_alignment(net, seen.x, torch.eye(10)),
        "gates": gates(net, seen, shape.residual),
        "awake": expected_alignment(net, seen.x, weights=awakened(net, seen.x)),
    }
    means = mean_jacobian(net, seen)
    kappas = {name: told.kappa for name, told in compared(net, means, seen).items()}
    found["weights"] = {name: of_gradients(cosine, kappas[name]) for name, cosine in found["law"].items()}
    found |= _measured("exact", compared(net, means, fresh))
    waiting = learned(net, loader, schedule, 0.0)
    found |= _measured("settled", compared(net, waiting.direct_feedback(), fresh))
    found["law, noise"] = _with_noise(found["law"], waiting)
    trained = learned(net, loader, schedule, RATE)
    found |= _measured("trained", compared(net, trained.direct_feedback(), fresh))
    found["after"] = expected_alignment(net, seen.x)
    found["after, noise"] = _with_noise(found["after"], trained)
    return [
        {**asdict(shape), "layer": layer, **{column: cells[name] for column, cells in found.items()}}
        for layer, name in enumerate(found["law"], 1)
    ]


def _measured(stage: str, found: Mapping[str, Compared]) -> dict[str, dict[str, float]]:
    return {
        f"{stage} credit": {name: told.credit for name, told in found.items()},
        f"{stage} gradient": {name: told.gradient for name, told in found.items()},
    }


def _with_noise(cosines: Mapping[str, float], rule: LearningRule) -> dict[str, float]:
    """The law for an M that is estimated: its cosine with the mean is the root of its reliability."""
    told = rule.metrics()
    return {name: cosine * sqrt(told[f"reliability/{name}"]) for name, cosine in cosines.items()}


def of_gradients(cosine: float, kappa: float) -> float:
    """The cosine of gradients of weights, from that of credit and the `coherence` of a mini-batch: the tangent of the
    angle is divided by sqrt(kappa).

    >>> round(of_gradients(0.5, 3.0), 3)
    0.707
    """
    return 1 / sqrt(1 + (1 / max(cosine, 1e-9) ** 2 - 1) / kappa)


def fit(rows: Iterable[Mapping], predicted: str, measured: str) -> float:
    """R^2 of a prediction as it is."""
    pairs = [(row[predicted], row[measured]) for row in rows]
    centre = mean(m for _, m in pairs)
    return 1 - sum((m - p) ** 2 for p, m in pairs) / sum((m - centre) ** 2 for _, m in pairs)


def inner(rows: Iterable[dict]) -> list[dict]:
    """Without the last hidden layer of every network."""
    return [row for row in rows if row["layer"] < row["depth"]]


def fits(rows: list[dict]) -> str:
    """R^2 of every prediction of every measurement."""
    lines = [f"| R^2 | {' | '.join(MEASURED)} |", f"|{'---|' * (1 + len(MEASURED))}"]
    lines += [f"| {p} | {' | '.join(f'{fit(rows, p, m):.3f}' for m in MEASURED)} |" for p in PREDICTED]
    return "\n".join(lines)


def table(rows: list[dict]) -> str:
    """The first hidden layer's numbers, means over seeds, by network."""
    keys = ("residual", "depth", "tau", "width")
    groups: dict[tuple, list[dict]] = {}
    for row in sorted(rows, key=lambda row: tuple(row[key] for key in keys)):
        if row["layer"] == 1:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)
    lines = [f"| first of layers, tau, width | seeds | {' | '.join(SHOWN)} |", f"|{'---|' * (2 + len(SHOWN))}"]
    for (residual, depth, tau, width), here in groups.items():
        shape = f"{depth}{' with shortcuts' if residual else ''}, {tau:g}, {width}"
        lines.append(
            f"| {shape} | {len(here)} | {' | '.join(f'{mean(r[name] for r in here):.2f}' for name in SHOWN)} |"
        )
    return "\n".join(lines)


def figures(rows: list[dict]) -> dict[str, str]:
    """The law at initial weights, and what it says of networks that were trained."""
    sides = {"no shortcuts": [r for r in rows if not r["residual"]], "shortcuts": [r for r in rows if r["residual"]]}
    return {
        name: scatter(
            {side: [(row[predicted], row[measured]) for row in here] for side, here in sides.items()},
            title,
            f"predicted: {predicted}",
            f"measured: {measured}",
        )
        for name, predicted, measured, title in (
            ("law", "law", "exact credit", "Cosine of direct credit, initial weights, M the mean Jacobian"),
            ("trained", "awake", "trained credit", "Cosine of direct credit after training, predicted before"),
        )
    }


def kept(path: Path) -> list[dict]:
    """The rows of earlier calls."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


def merged(held: list[dict], found: list[dict]) -> list[dict]:
    """``found``, and those of the rows ``held`` that are of other networks."""
    keys = list(Shape.__dataclass_fields__)
    new = {tuple(row[key] for key in keys) for row in found}
    return [row for row in held if tuple(row[key] for key in keys) not in new] + found


def written(rows: list[dict]) -> str:
    """One line a row, three decimals."""
    lines = ",\n".join(
        json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in row.items()})
        for row in rows
    )
    head = json.dumps({"machine": machine(), "date": date.today().isoformat()})
    return f'{head[:-1]}, "rows": [\n{lines}\n]}}\n'


def grown(held: list[dict], asked: argparse.Namespace) -> list[dict]:
    """``held``, and the rows of all networks that are asked for; written after each of them where that is asked."""
    train, test = load({"name": "fashion-mnist", "root": asked.root})
    for options in product(asked.depths, asked.taus, map(bool, asked.shortcuts), asked.widths, asked.seeds):
        shape = Shape(*options)
        held = merged(held, rows(shape, train, test, asked.schedule))
        print(shape, file=sys.stderr, flush=True)
        if asked.write:
            RESULTS.write_text(written(held), encoding="utf-8")
    return held


def main() -> None:
    """Prints both tables, and draws the figures where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data.root", dest="root")
    parser.add_argument("--depths", nargs="*", type=int, default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--taus", nargs="*", type=float, default=[1.25, 2.0, 4.0])
    parser.add_argument("--shortcuts", nargs="*", type=int, default=[0, 1])
    parser.add_argument("--widths", nargs="*", type=int, default=[64, 256])
    parser.add_argument("--seeds", nargs="*", type=int, default=[])
    parser.add_argument("--schedule", default="two-pass", help="of OPZO's noise; two-pass leaves M without bias")
    parser.add_argument("--write", action="store_true", help=f"keep the rows in recipes/{RESULTS.name}")
    parser.add_argument("--draw", type=Path, help="folder for the figures")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    held = kept(RESULTS) if asked.write or not asked.seeds else []
    held = grown(held, asked) if asked.seeds else held
    print(f"{table(held)}\n\n{fits(inner(held))}")
    for name, drawn in figures(inner(held)).items() if asked.draw else ():
        (asked.draw / f"feedback-{name}.svg").write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    main()
