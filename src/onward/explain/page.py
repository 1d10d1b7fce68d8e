"""The page of an explanation: the picture, which steps through itself without a script, and all that is said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from onward.explain.explanation import BESIDE, Explanation
from onward.explain.growth import BATCH, LAYERS, STEPS, WIDTH
from onward.explain.picture import picture
from onward.explain.trace import FOCUS
from onward.explain.wording import NAMES
from onward.report import panels
from onward.report.page import Html, Section, figure, grid, html, joined, page, paragraph, table

MEANING = {
    "backward": "how far errors travel backwards: not across a spike, within a step, or through time",
    "memory": "in the number of time steps",
    "per_step_error": "needs an error at every step while the sequence runs",
    "weight_transport": "errors travel through the transposed weights",
    "stochastic": "draws numbers",
    "perturbs": "outputs in training are not the network's own",
    "max_chunk": "the most steps that it can take at once",
    "updates": "when weights move",
    "rate": "learns from the mean output of a sequence alone",
    "from_loss": "tries weights out, and tells no synapse an error of its own",
    "recalls": "what is tried depends on the update before",
    "inner": "learns from what an objective asks of hidden layers, too",
}
LEGEND = Html(
    "Dots are neurons, filled where they fired. Grey: spikes, and dashed what membranes keep. "
    '<b class="credit-ink">Orange</b>: errors, and the credit that comes of them. '
    '<b class="update-ink">Blue</b>: what the synapse brings, and its change. '
)


def explanation_page(found: Explanation) -> str:
    """The page, as HTML that needs nothing but itself."""
    return page(f"How {found.name} assigns credit", _sections(found), joined(*_lead(found)), STYLE)


def _lead(found: Explanation) -> Iterator[Html]:
    yield paragraph(f"{found.meaning[0].upper()}{found.meaning[1:]}.")
    if found.cell:
        yield paragraph(f"Its cell of the credit grid: {found.cell}.", "caption")
    if found.untraced:
        yield paragraph(f"Not traced, so that this is what its traits claim: {found.untraced}", "warning")


def _sections(found: Explanation) -> Iterator[Section]:
    yield _walk(found)
    yield _update(found)
    yield Section("In words", _words(found))
    yield from _meetings(found)
    yield from _memory(found)
    yield from _reach(found)
    yield Section("Traits", table(_traits(found), ["trait", "value", "meaning"]), "What the rule claims of itself.")
    rows = [[source.of, source.paper, source.published, source.inferred] for source in found.sources]
    yield Section("Source", table(rows, ["of", "paper", "published", "inferred here"]))


def _walk(found: Explanation) -> Section:
    """The picture beside its four steps; which of them is seen is a choice among radio buttons."""
    pink = Html('<b class="local-ink">Pink</b>: readouts beside the output. ') if found.traced.heads else ""
    gold = Html('<b class="noise-ink">Yellow</b>: noise. ') if found.traits.perturbs or found.traits.from_loss else ""
    drawn = figure(picture(f"Credit under {found.name}", found.traits, found.traced), joined(LEGEND, pink, gold))
    steps = "".join(f"<li><b>{html(title)}</b> {html(said)}</li>" for title, said in found.told.walk)
    names = {"play": "Play", "all": "All", **{str(k): title for k, (title, _) in enumerate(found.told.walk, 1)}}
    buttons = "".join(
        f'<input type="radio" name="walk" id="walk-{key}"{" checked" if key == "play" else ""}>' for key in names
    )
    labels = "".join(f'<label for="walk-{key}">{html(name)}</label>' for key, name in names.items())
    body = Html(
        f'<div class="walk">{buttons}<div class="tabs">{labels}</div>'
        f'<div class="scene">{drawn}<ol>{steps}</ol></div></div>'
    )
    return Section("How credit reaches a layer", body, f"{_where(found)}.")


def _where(found: Explanation) -> str:
    step = "" if found.traced.whole else f" at step {found.traced.step + 1}"
    place = "All weights" if found.traced.time == "loss" else f"The weights into {NAMES[FOCUS]}{step}"
    return place if found.untraced else f"{place}, as traced in a network of three hidden layers of five neurons"


def _update(found: Explanation) -> Section:
    if not found.equations:
        return Section("The update", paragraph("The file of this rule states no equation."))
    parts = [joined(Html(f"<h3>{html(of)}</h3>"), Html(f"<pre>{html(lines)}</pre>")) for of, lines in found.equations]
    return Section("The update", joined(*parts), "As the files of the rule and of its parts state it.")


def _words(found: Explanation) -> Html:
    told = found.told
    matters = {"Local": told.local, "Transported": told.transported, "Memory": told.memory, "Needs": told.needs}
    items = (
        f"<dt>{html(matter)}</dt><dd>{''.join(f'<p>{html(_sentence(line))}</p>' for line in lines)}</dd>"
        for matter, lines in matters.items()
    )
    return Html(f'<dl class="words">{"".join(items)}</dl>')


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}."


def _reach(found: Explanation) -> Iterator[Section]:
    """What direct feedback can be expected to do in the network that was named."""
    if found.reach is None:
        return
    shown = table([[name, f"{cosine:.2f}"] for name, cosine in found.reach.cosines.items()], ["neuron", "cosine"])
    warning = [paragraph(found.reach.caution, "warning")] if found.reach.caution else []
    caption = (
        "The cosine with back-propagation's credit that the best direct feedback has in the network that was named, at "
        "its initial weights: the root of the share of the Jacobian's energy that its mean keeps."
    )
    yield Section("Expected alignment", joined(*warning, shown), caption)


def _meetings(found: Explanation) -> Iterator[Section]:
    """Which spikes met which errors in the layer that is shown."""
    pairs = found.traced.routes[FOCUS].pairs
    if found.untraced or found.traced.whole:
        return
    rows = {f"spike {step}": [100 * value for value in row] for step, row in enumerate(pairs, 1)}
    shades = panels.table_of_shades("", rows, "error of step")
    caption = (
        f"How much a spike of one step (down) and the error of another (across) change the weights into {NAMES[FOCUS]} "
        "together, in percent of the largest: the gradient at a neuron that spikes at that step alone."
    )
    yield Section("Which spikes meet which errors", Html(f'<div class="narrow">{figure(shades)}</div>'), caption)


def _memory(found: Explanation) -> Iterator[Section]:
    if found.growth is None:
        return
    shown = {found.name: found.growth, BESIDE: found.beside}
    over = {"time steps": (STEPS, "steps"), "layers": (LAYERS, "layers")}
    charts = [
        figure(
            panels.lines(
                f"KiB over {of}",
                {name: [(a, getattr(one, part)[k] / 1024) for k, a in enumerate(at)] for name, one in shown.items()},
                of,
                bounds=(0.0,),
            )
        )
        for of, (at, part) in over.items()
    ]
    caption = (
        f"Beside weights and gradients, as planned for layers of {WIDTH} neurons and {BATCH} samples, a step at a time "
        f"where the rule can; {LAYERS[0]} layers over time, {STEPS[0]} steps over layers."
    )
    yield Section("Memory", grid(charts, 420), caption)


def _traits(found: Explanation) -> Iterator[list[str]]:
    for name, value in asdict(found.traits).items():
        yield [name.replace("_", " "), _shown(value), MEANING.get(name, "")]


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "any" if value is None else str(value)


_GROUPS = ("forward", "error", "credit", "update")
_DIM, _GONE = 0.45, 0.07


def _still(step: int) -> str:
    """What is seen of the picture at one step: it, what was before, dimmed, and of what comes a trace."""
    here = f"#walk-{step}:checked~.scene"
    before = "".join(f"{here} g.{group}{{opacity:{_DIM}}}" for group in _GROUPS[: step - 1])
    after = "".join(f"{here} g.{group}{{opacity:{_GONE}}}" for group in _GROUPS[step:])
    return f"{before}{after}{here} li:not(:nth-child({step})){{opacity:{_DIM}}}"


def _moving(step: int) -> str:
    """How a step appears when all of them are played, one after the other, in twelve seconds."""
    start, stop, group = 25 * (step - 1), 25 * step, _GROUPS[step - 1]
    picture = f"0%,{start}%{{opacity:{_GONE if step > 1 else 1}}}{start + 6}%,100%{{opacity:1}}"
    line = f"0%,{start}%{{opacity:{_DIM if step > 1 else 1}}}{min(start + 4, 100)}%,{stop - 2}%{{opacity:1}}"
    rest = f"{stop}%,97%{{opacity:{_DIM}}}100%{{opacity:1}}" if step < len(_GROUPS) else "100%{opacity:1}"
    here = "#walk-play:checked~.scene"
    return (
        f"@keyframes walk-{step}{{{picture}}}{here} g.{group}{{animation:walk-{step} 12s both}}"
        f"@keyframes line-{step}{{{line}{rest}}}{here} li:nth-child({step}){{animation:line-{step} 12s both}}"
    )


_PRESSED = "background:var(--c-ink);border-color:var(--c-ink);color:var(--ground)"
_CHOSEN = ",".join(f"#walk-{key}:checked~.tabs [for=walk-{key}]" for key in ("play", "all", 1, 2, 3, 4))
_FOCUSED = ",".join(f"#walk-{key}:focus-visible~.tabs [for=walk-{key}]" for key in ("play", "all", 1, 2, 3, 4))
STYLE = f"""
.walk{{position:relative}}
.walk>input{{position:absolute;opacity:0;pointer-events:none}}
.tabs{{display:flex;flex-wrap:wrap;gap:.4rem;margin:0 0 1rem}}
.tabs label{{padding:.3rem .9rem;border:1px solid var(--c-grid);border-radius:99px;background:var(--c-paper);
font-size:.9rem;cursor:pointer}}
.tabs label:hover{{border-color:var(--c-edge)}}
{_CHOSEN}{{{_PRESSED}}}
{_FOCUSED}{{outline:2px solid var(--c-0);outline-offset:2px}}
.scene{{display:grid;gap:1.25rem 2rem;align-items:start;grid-template-columns:minmax(0,3fr) minmax(15rem,2fr)}}
.scene ol{{margin:0;padding-left:1.3rem}}
.scene li{{margin:0 0 1rem;transition:opacity .3s}}
.scene li b{{display:block}}
.scene g{{transition:opacity .3s}}
.credit-ink{{color:var(--c-1)}}.update-ink{{color:var(--c-0)}}.local-ink{{color:var(--c-3)}}.noise-ink{{color:var(--c-4)}}
.words{{display:grid;gap:.25rem 1.5rem;grid-template-columns:minmax(6.5rem,auto) 1fr;margin:0}}
.words dt{{font-weight:600}}.words dd{{margin:0 0 .75rem}}.words p{{margin:0 0 .25rem}}
h3+pre{{margin-top:.4rem}}
@media screen{{{"".join(map(_still, range(1, 5)))}}}
@media screen and (prefers-reduced-motion:no-preference){{{"".join(map(_moving, range(1, 5)))}}}
@media (prefers-reduced-motion:reduce){{[for=walk-play]{{display:none}}
#walk-play:checked~.tabs [for=walk-all]{{{_PRESSED}}}.scene g,.scene li{{transition:none}}}}
@media (max-width:760px){{.scene{{grid-template-columns:minmax(0,1fr)}}}}
@media (max-width:480px){{.words{{grid-template-columns:1fr}}}}
@media print{{.tabs{{display:none}}.scene{{grid-template-columns:3fr 2fr}}}}
"""
