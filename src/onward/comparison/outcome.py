"""A comparison as files: ``comparison.html``, and the same numbers as JSON, CSV and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from onward._durable import write_whole
from onward.comparison.estimates import Difference, differences
from onward.comparison.folder import ComparisonFolder
from onward.comparison.rows import Plan
from onward.comparison.table import (
    Line,
    Run,
    as_csv,
    as_json,
    as_latex,
    cosine_of,
    lines,
    shown_measures,
    words,
)
from onward.launch import Outcome
from onward.report.bands import bands
from onward.report.figures import Point
from onward.report.page import Html, Section, figure, grid, joined, page, paragraph, table
from onward.train.schema import shown

TESTED = (
    "Differences are paired over the seeds that both rows have. Two p-values, each after Holm's correction for all "
    "pairs on this page: the paired t test, which takes differences to be normal, and the exact sign-flip test, which "
    "does not, and whose smallest value is 2 / 2^seeds. A difference counts as one where both are below 0.05."
)


@dataclass(frozen=True)
class Compared:
    """What a comparison came to.

    ``differs`` has the fields, other than the rule's, that are not the same for all rows: by label its value or name.
    """

    plan: Plan
    lines: tuple[Line, ...]
    differences: tuple[Difference, ...]
    differs: Mapping[str, Mapping[str, Any]]
    failed: tuple[Outcome, ...] = ()


def compared(plan: Plan, folder: ComparisonFolder, failed: Sequence[Outcome] = ()) -> Compared:
    """What the results in ``folder`` say."""
    told = lines(plan, folder.results(plan))
    tests = differences({line.label: line.accuracies for line in told if line.accuracies})
    return Compared(plan, tuple(told), tuple(tests), differing(plan), tuple(failed))


def write(found: Compared, folder: ComparisonFolder) -> None:
    """Writes the page and the tables into ``folder``."""
    contents = {
        "comparison.html": page_of(found),
        "comparison.csv": as_csv(found.lines),
        "comparison.tex": as_latex(found.lines),
    }
    for name, content in contents.items():
        write_whole(folder.path / name, content.encode())


def record(found: Compared, folder: ComparisonFolder) -> dict[str, Any]:
    """What ``comparison.json`` holds, and ``--json`` prints."""
    return {
        "folder": str(folder.path),
        "page": str(folder.path / "comparison.html"),
        "title": found.plan.title,
        "seeds": found.plan.seeds,
        "rows": as_json(found.lines),
        "runs": {line.label: [run.answer for run in line.runs] for line in found.lines},
        "differences": [asdict(difference) for difference in found.differences],
        "differs": found.differs,
        "failed": {outcome.name: outcome.problem for outcome in found.failed},
    }


def page_of(found: Compared) -> str:
    """The page: nothing outside it is needed to show it."""
    seeds = ", ".join(map(str, found.plan.seeds))
    lead = paragraph(
        f"{len(found.plan.rows)} rows, seeds {seeds}. Means with half of their 95 % interval (Student's t)."
    )
    return page(found.plan.title, list(_sections(found)), lead)


def _sections(found: Compared) -> Iterator[Section]:
    columns = shown_measures(found.lines)
    rows = [
        [line.label, len(line.seeds), *(words(line.measures.get(m.key), m.digits) for m in columns)]
        for line in found.lines
    ]
    yield Section("Results", joined(table(rows, ["row", "seeds", *(m.title for m in columns)]), *_warnings(found)))
    yield from _curves(found.lines)
    if found.differences:
        yield Section("Differences in test accuracy", table(_tests(found.differences), TESTS), TESTED)
    yield Section("Settings", _settings(found))


TESTS = ("pair", "seeds", "difference (points)", "p, t test", "p, sign flips", "what follows")


def _tests(found: Sequence[Difference]) -> Iterator[Sequence[Any]]:
    for d in found:
        yield f"{d.one} minus {d.other}", d.seeds, words(d.estimate, 2), _p(d.t), _p(d.signs), d.words


def _p(value: float | None) -> str:
    if value is None:
        return "none"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _warnings(found: Compared) -> Iterator[Html]:
    if any(len(line.seeds) < 2 for line in found.lines):
        yield paragraph("A single seed has no interval: it says little about half a point.", "warning")
    for outcome in found.failed:
        yield paragraph(f"{outcome.name}: {outcome.problem}", "warning")
    missing = {row.label for row in found.plan.rows} - {line.label for line in found.lines}
    if missing:
        yield paragraph(f"Without results so far: {', '.join(sorted(missing))}.", "warning")


def _curves(told: Sequence[Line]) -> Iterator[Section]:
    caption = "The mean over seeds; the band is from lowest to highest."
    pictures = [figure(picture, caption) for picture in learning_curves(told).values()]
    if pictures:
        yield Section("Learning curves", grid(pictures, 480))


def learning_curves(told: Sequence[Line]) -> dict[str, str]:
    """SVG by name: accuracy, training loss and cosine to BP's gradients over epochs, where metrics can be read."""
    judged = {line.get("judged_on") for told_line in told for run in told_line.runs for line in run.metrics}
    kinds: tuple[tuple[str, Callable[[Run], Iterator[Point]], str, str], ...] = (
        ("accuracy", _accuracies, "Accuracy", f"{'held-out' if 'validation' in judged else 'test'} accuracy (%)"),
        ("loss", _losses, "Training loss", "training loss"),
        ("alignment", _alignments, "Alignment", "cosine to BP's gradients"),
    )
    found = {}
    for name, read, title, label in kinds:
        series = _present({line.label: [list(read(run)) for run in line.runs] for line in told})
        if series:
            found[name] = bands(series, title, "epoch", label)
    return found


def _present(series: Mapping[str, list[list[Point]]]) -> dict[str, list[list[Point]]]:
    return {label: [run for run in runs if run] for label, runs in series.items() if any(runs)}


def _alignments(run: Run) -> Iterator[Point]:
    for epoch, line in enumerate(run.metrics, 1):
        cosine = cosine_of(line)
        if cosine is not None:
            yield epoch, cosine


def _accuracies(run: Run) -> Iterator[Point]:
    for epoch, line in enumerate(run.metrics, 1):
        if line.get("score") and line["score"].get("accuracy") is not None:
            yield epoch, line["score"]["accuracy"]


def _losses(run: Run) -> Iterator[Point]:
    for epoch, line in enumerate(run.metrics, 1):
        if line.get("loss") is not None:
            yield epoch, line["loss"]


def _settings(found: Compared) -> Html:
    """What is not the same for all rows, and the rest of the first row's."""
    labels = [row.label for row in found.plan.rows]
    unlike = [[field, *(shown(values[label]) for label in labels)] for field, values in found.differs.items()]
    rules = [["rule", *(row.config.rule.name for row in found.plan.rows)]]
    return joined(table([*rules, *unlike], ["field", *labels]), paragraph("Everything else is the same for all rows."))


def differing(plan: Plan) -> dict[str, dict[str, Any]]:
    """The fields, other than rule, seed and places, in which rows differ."""
    trees = [row.config.model_dump(exclude={"rule": True, "seed": True, "train": {"out"}}) for row in plan.rows]
    labels = [row.label for row in plan.rows]
    return {".".join(path): dict(zip(labels, values, strict=True)) for path, values in _unequal(trees, ())}


def _unequal(trees: Sequence[Mapping[str, Any]], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Fields in which the trees differ, and their values; of a choice its name, or its options where names agree."""
    for key in trees[0]:
        here, values = (*path, key), [tree.get(key) for tree in trees]
        names = [value.get("name") if isinstance(value, Mapping) else value for value in values]
        if any(name != names[0] for name in names):
            yield here, names
        elif isinstance(values[0], Mapping):
            yield from _unequal([value for value in values if isinstance(value, Mapping)], here)
