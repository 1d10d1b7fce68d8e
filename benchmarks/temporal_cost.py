"""What time costs: memory, seconds and multiplications of an update over T and K, by temporal credit.

    python -m benchmarks.temporal_cost recipes/fashion-conv5.toml [FOLDER] [--steps 2 4 8 16 32] [--keep 1 2 4]
        [--train.chunk 2]

The recipe's network learns one mini-batch again and again by back-propagation through time, OTTT, SLTT and SLTT-K.
Memory is what torch's allocator held at most beyond what it held before; a time is the median of turns taken one rule
after the other. Multiplications are those of a sample's backward pass: weight gradients and errors through layers at
every step that takes part, and through neurons from step to step where a rule goes back in time, counted for dense
products. Prints the tables, and draws memory and time over T.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.updates import Update, take_turns
from onward.energy.count import counted
from onward.energy.training import training_cost
from onward.report import curves
from onward.train import assemble, parse_tokens


@dataclass
class Contender:
    """One rule at one T, of whose steps ``taking_part`` take part in credit, and its peak in MiB."""

    update: Update
    taking_part: int
    mib: float = 0.0

    def multiplications(self) -> float:
        """Of a sample's backward pass, on paper."""
        parts = self.update.parts
        batch, steps = parts.loader.batch((0, 0)), parts.loader.steps
        cost = training_cost(parts.net, batch.x, counted(parts.net, [batch], steps, parts.chunk))
        errors = {one.rule: one.errors for one in cost.rules}["bptt" if self.update.label == "BPTT" else "bp"]
        return (cost.gradients + errors) * self.taking_part / steps


def contenders(recipe: Path, flags: Sequence[str], steps: int, keep: Sequence[int]) -> Iterator[Contender]:
    """All rules at T = ``steps``, at the same weights."""
    named = {"BPTT": ["bptt"], "OTTT": ["ottt"], "SLTT": ["sltt"]}
    named |= {f"SLTT-{k}": ["sltt-k", "--rule.temporal.k", str(k)] for k in keep if k < steps}
    for label, (rule, *options) in named.items():
        tokens = [str(recipe), "--rule", rule, *options, "--train.steps", str(steps), *flags]
        parts, _ = assemble(parse_tokens(tokens))
        yield Contender(Update(label, parts), int(label[5:]) if label.startswith("SLTT-") else steps)


def measured(recipe: Path, flags: Sequence[str], steps: int, keep: Sequence[int], turns: int) -> list[Contender]:
    """Every rule's peak, then turns of all, one after the other."""
    found = list(contenders(recipe, flags, steps, keep))
    for contender in found:
        contender.mib = contender.update.peak()
    take_turns([contender.update for contender in found], turns)
    return found


def table(title: str, by_steps: Mapping[int, Sequence[Contender]], cell: Callable[[Contender], str]) -> str:
    """A line for each T, a column for each rule that was tried at the largest."""
    labels = [contender.update.label for contender in by_steps[max(by_steps)]]
    lines = [f"| {title} | {' | '.join(labels)} |", f"|{'---|' * (len(labels) + 1)}"]
    for steps, found in by_steps.items():
        cells = {contender.update.label: cell(contender) for contender in found}
        lines.append(f"| T = {steps} | {' | '.join(cells.get(label, '') for label in labels)} |")
    return "\n".join(lines) + "\n"


def drawn(
    by_steps: Mapping[int, Sequence[Contender]], value: Callable[[Contender], float], title: str, unit: str
) -> str:
    """A value over T, one line for each rule."""
    series: dict[str, list[tuple[float, float]]] = {}
    for steps, found in by_steps.items():
        for contender in found:
            series.setdefault(contender.update.label, []).append((steps, value(contender)))
    return curves(series, title, "time steps T", unit)


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("docs/explanation"))
    parser.add_argument("--steps", type=int, nargs="*", default=[2, 4, 8, 16, 32])
    parser.add_argument("--keep", type=int, nargs="*", default=[1, 2, 4])
    parser.add_argument("--turns", type=int, default=9)
    asked, flags = parser.parse_known_args()
    torch.set_num_threads(1)
    by_steps = {t: measured(asked.recipe, flags, t, asked.keep, asked.turns) for t in asked.steps}
    print(table("peak memory, MiB", by_steps, lambda one: f"{one.mib:.1f}"))
    print(table("time of an update, ms", by_steps, lambda one: f"{one.update.milliseconds:.0f}"))
    print(
        table("backward multiplications a sample, millions", by_steps, lambda one: f"{one.multiplications() / 1e6:.2f}")
    )
    memory = drawn(by_steps, lambda one: one.mib, "Memory of an update", "MiB")
    seconds = drawn(by_steps, lambda one: one.update.milliseconds, "Time of an update", "ms")
    for name, picture in (("memory", memory), ("time", seconds)):
        (asked.folder / f"temporal-{name}-{asked.recipe.stem}.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
