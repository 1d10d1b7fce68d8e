"""How near the rule's gradients are to back-propagation's, where a run compared them."""

from __future__ import annotations

from collections.abc import Iterator

from onward.report import panels
from onward.report.page import Html, Section, figure, grid, html, joined, paragraph
from onward.report.record import Credit, Record
from onward.report.words import counted, duration

NAMES = {
    "bp": (
        "Against back-propagation within each step",
        "the same rule with errors through transposed weights",
    ),
    "bptt": ("Against back-propagation through time", "the whole surrogate gradient of the loss"),
}
MEASURES = (
    ("cosine", "cosine", "Of single gradients: 1 is the same direction, 0 a right angle.", False),
    ("settled", "cosine of the mean", "Of the mean of all draws: what noise alone took away is back.", False),
    ("ratio", "norm ratio", "The rule's length over the reference's.", True),
    ("bias", "bias", "Distance of the mean from the reference, over the reference's length.", False),
    ("deviation", "spread", "Standard deviation from draw to draw, over the reference's length.", True),
)
"""Name in the record, title, what one sees, and whether its axis is logarithmic."""


def credit(record: Record) -> Section | None:
    """Cosine, length, bias and spread of gradients by layer over training; alignment of feedback."""
    seen = [(place, e.observed.credit) for place, e in enumerate(record.epochs, 1) if e.observed.credit]
    if not seen:
        return None
    last = seen[-1][1]
    parts = [*_feedback(seen)]
    for reference in last.gradients:
        title, meaning = NAMES.get(reference, (f"Against {reference}", ""))
        parts.append(Html(f"<h3>{html(title)}</h3>"))
        parts.append(paragraph(f"The reference is {meaning}.", "caption") if meaning else Html(""))
        parts.append(grid(_measures(seen, reference)))
    parts += [paragraph(f"Not compared with {name}: {why}", "caption") for name, why in last.missing.items()]
    samples = record.epochs[seen[-1][0] - 1].observed.samples
    cost = duration(sum(found.seconds for _, found in seen))
    caption = (
        f"Gradients of the same {counted(samples, 'sample')} by the rule ({counted(last.draws, 'draw')} of its noise) "
        f"and by exact references, on copies, so that training takes no notice. It cost {cost} in all. Feedback with a "
        "scale of its own, such as OPZO's, gives small ratios and a bias near 1; optimisers such as Adam undo the "
        "scale, not the angle."
    )
    return Section("Credit", joined(*parts), caption)


def _feedback(seen: list[tuple[int, Credit]]) -> Iterator[Html]:
    series: dict[str, list[tuple[float, float]]] = {}
    for place, found in seen:
        for name, value in found.feedback.items():
            if value is not None:
                series.setdefault(name, []).append((place, value))
    if series:
        yield Html("<h3>Feedback and Jacobian</h3>")
        told = (
            "Cosine between each layer's feedback matrix and the transposed Jacobian of the outputs, within a step, "
            "averaged over samples and steps. Fixed random feedback stays near 0 unless the weights come to meet it."
        )
        yield paragraph(told, "caption")
        yield grid([figure(panels.over_epochs("alignment of feedback", series, bounds=(0.0, 1.0)))])


def _measures(seen: list[tuple[int, Credit]], reference: str) -> Iterator[Html]:
    for key, title, meaning, logarithmic in MEASURES:
        series: dict[str, list[tuple[float, float]]] = {}
        for place, found in seen:
            for layer, measures in found.gradients.get(reference, {}).items():
                value = measures.get(key)
                if value is not None:
                    series.setdefault(layer, []).append((place, value))
        bounds = () if logarithmic else (0.0, 1.0)
        yield figure(panels.over_epochs(title, series, bounds=bounds, logarithmic=logarithmic), meaning)
