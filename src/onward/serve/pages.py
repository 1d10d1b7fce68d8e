"""The pages that the server makes itself."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from onward.report.page import Html, Section, html, joined, page, paragraph, table
from onward.serve.live import STYLE
from onward.serve.shelf import Found
from onward.train.folder import CONFIG

STILL = "default-src 'none'; style-src 'unsafe-inline'"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'self'; connect-src 'self'"
"""Our script alone runs, and talks to this server alone."""
CHARTS = {"tested": "Tested or held-out accuracy (%)", "loss": "Training loss"}


def overview(found: Mapping[str, Found]) -> str:
    """All runs, their curves, and the pages that were written."""
    runs = [one for one in found.values() if one.is_run]
    written = [_link("page", one.name, page=name) for one in found.values() for name in one.pages]
    sections = [
        Section("Curves", _charts(), "They grow while runs train."),
        Section("Runs", table(map(_row, runs), ("run", "state", "epochs", "test accuracy")) if runs else _none()),
        Section("Pages", joined(*map(paragraph, written))),
    ]
    return _live("Runs", [section for section in sections if section.body])


def run(one: Found) -> str:
    """One run: its curves, what it came to, its configuration, and its pages."""
    facts = [(name, value) for name, value in one.summary.items() if isinstance(value, (str, int, float))]
    config = (one.path / CONFIG).read_text(encoding="utf-8", errors="replace")
    sections = [
        Section("Curves", _charts(), "They grow while the run trains."),
        Section("What it came to", table(facts, ("", "")) if facts else paragraph(one.state)),
        Section("Pages", joined(*(paragraph(_link("page", one.name, page=name)) for name in one.pages))),
        Section("Configuration", Html(f"<pre>{html(config)}</pre>")),
    ]
    return _live(
        one.name, [section for section in sections if section.body], paragraph(Html('<a href="/">All runs</a>'))
    )


def _row(one: Found) -> tuple[Html, str, str, str]:
    summary = one.summary
    accuracy = summary.get("test_accuracy")
    shown = f"{accuracy:.2f} %" if isinstance(accuracy, (int, float)) else ""
    return _link("run", one.name, shown=one.label), one.state, str(summary.get("epochs", "")), shown


def _none() -> Html:
    return paragraph("No runs here yet. Train one: onward train")


def _link(kind: str, name: str, page: str = "", shown: str = "") -> Html:
    """A link whose address is made of ``name``, and its text of that, or of what is ``shown``."""
    query = f"name={quote(name, safe='')}" + (f"&page={quote(page, safe='')}" if page else "")
    return Html(f'<a href="/{kind}?{html(query)}">{html(shown or name)}{html(f", {page}" if page else "")}</a>')


def _charts() -> Html:
    figures = [
        f'<figure data-chart="{key}"><svg viewBox="0 0 720 360" font-size="13" role="img" aria-label="{title}"></svg>'
        f"<figcaption>{title}</figcaption></figure>"
        for key, title in CHARTS.items()
    ]
    return Html(f'<div class="grid" style="--least:420px">{"".join(figures)}</div><ul data-legend></ul>')


def _live(title: str, sections: list[Section], lead: str = "") -> str:
    """A page on which our script runs."""
    still = page(title, sections, lead)
    moving = still.replace(STILL, POLICY, 1).replace("</style>", f"{STYLE}</style>", 1)
    return moving.replace("</main>", '</main>\n<script src="/live.js" defer></script>', 1)
