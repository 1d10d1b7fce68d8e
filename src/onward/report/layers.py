"""What layers do: firing, dead and saturated neurons, membranes under the surrogate, and single samples."""

from __future__ import annotations

from collections.abc import Iterator

from onward.report import panels
from onward.report.page import Html, Section, figure, grid, html, joined, paragraph
from onward.report.record import Layer, Record, Sample
from onward.report.words import counted, percent

MOST_LAYERS = 12
"""Histograms on a page."""


def layers(record: Record) -> Section | None:
    """Firing over epochs, and the membranes of the last one."""
    seen = [(place, epoch.observed) for place, epoch in enumerate(record.epochs, 1) if epoch.observed.layers]
    if not seen:
        return None
    names = list(seen[-1][1].layers)
    pictures = [
        figure(panels.over_epochs(title, _series(seen, names, what), bounds=(0.0, 0.1)), caption)
        for title, what, caption in (
            ("spikes per neuron and step", "rate", "How busy each layer is."),
            ("dead neurons, share", "dead", "Neurons that fired for none of the samples, at no step."),
            ("saturated neurons, share", "saturated", "Neurons that fired at 95 % of all steps or more."),
        )
    ]
    last = seen[-1][1]
    kept = panels.thinned(names, MOST_LAYERS)
    histograms = [figure(picture) for name in kept if (picture := _histogram(name, last.layers[name]))]
    heading = Html("<h3>Membrane potentials and the surrogate slope</h3>")
    some = f" {len(kept)} of {len(names)} layers are shown." if len(kept) < len(names) else ""
    told = (
        "Bars: how often each membrane potential occurs after the last epoch, on a scale of their own. Line: the mean "
        "slope that stands in for the spike's derivative there. Neurons can learn where bars and line overlap; where "
        f"they do not, no credit passes.{some}"
    )
    caption = (
        f"On {counted(last.samples, 'sample')}, evenly spaced over the {record.epochs[-1].judged_on} data, after every "
        "epoch, without noise or dropout."
    )
    return Section("Layers", joined(grid(pictures), heading, paragraph(told, "caption"), grid(histograms)), caption)


def _series(seen: list, names: list[str], what: str) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for place, observed in seen:
        for name, layer in observed.layers.items():
            value = getattr(layer, what)
            if name in found and value is not None:
                found[name].append((place, value))
    return found


def _histogram(name: str, layer: Layer) -> str | None:
    if layer.low is None or layer.high is None or layer.low >= layer.high:
        return None
    level = layer.level if layer.level is not None and layer.low <= layer.level <= layer.high else None
    return panels.histogram(name, layer.low, layer.high, layer.counts, layer.slopes, level)


def samples(record: Record) -> Section | None:
    """A few samples on their way through the network."""
    if not record.samples:
        return None
    body = joined(*(part for sample in record.samples for part in _sample(sample)))
    caption = (
        "From the samples that layers are looked at on, after training. Dashes: spikes over time, one row a neuron, of "
        "those whose spikes vary most. Below: membrane potentials of two of these, in the colour of their row, before "
        "the reset, with a dot at each spike."
    )
    return Section("Single samples", body, caption)


def _sample(sample: Sample) -> Iterator[Html]:
    sure = percent(None if sample.certainty is None else 100 * sample.certainty, 1)
    taken = "recognised" if sample.label == sample.predicted else f"taken for {sample.predicted}"
    yield Html(f"<h3>{html(sample.why.capitalize())}: sample {sample.sample}</h3>")
    yield paragraph(f"Class {sample.label}, {taken}; the network is {sure} sure.", "caption")
    over_time = sample.input.kind == "time"
    title = "input over time" if over_time else "input, mean over time"
    seen = panels.pixels(title, sample.input.channels, over_time=over_time)
    pictures = [joined(Html(seen), Html(_outputs(sample)))]
    for layer in sample.layers:
        steps = max(1, min(sample.steps, max(map(len, layer.potentials), default=sample.steps)))
        title = f"{layer.name}: {len(layer.spikes)} of {layer.of:,} neurons"
        pictures.append(Html(panels.activity(title, steps, layer.spikes, layer.traced, layer.potentials, layer.level)))
    yield grid(map(figure, pictures))


def _outputs(sample: Sample) -> str:
    """The outputs over time: first the class, what it was taken for, and the strongest other."""
    final = {k: sum(row) for k, row in enumerate(sample.outputs) if row}
    first = [k for k in dict.fromkeys((sample.label, sample.predicted)) if k in final]
    order = [*first, *sorted(set(final) - set(first), key=lambda k: -final[k])][:20]
    series = {f"class {k}": [(t, v) for t, v in enumerate(sample.outputs[k])] for k in order}
    return panels.lines("outputs", series, "time step", names=False, height=190)
