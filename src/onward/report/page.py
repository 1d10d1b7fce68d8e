"""Pages that need nothing but themselves: one HTML file, no network, no script; light, dark, narrow and on paper.

Strings are text and are escaped; `Html` alone is taken as it is, and the functions here make it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from onward.report import palette


class Html(str):
    """Text that is markup already."""


@dataclass(frozen=True)
class Section:
    """A part of a page: ``body`` is `Html` as the functions below make it; ``caption`` says what one sees."""

    title: str
    body: str
    caption: str = ""


def html(value: Any) -> Html:
    """``value`` as markup: escaped unless it is `Html`.

    >>> html("a < b"), html(Html("<b>a</b>"))
    ('a &lt; b', '<b>a</b>')
    """
    return value if isinstance(value, Html) else Html(escape(str(value)))


def joined(*parts: Any) -> Html:
    """Several parts, one after the other."""
    return Html("\n".join(map(html, parts)))


def page(title: str, sections: Iterable[Section], lead: str = "", style: str = "") -> str:
    """A whole page: ``title``, ``lead`` below it, links to the ``sections``, and these; ``style`` is CSS of its own.

    >>> page("<script>", [Section("Numbers", table([["loss", 0.5]]))]).count("<script>")
    0
    """
    parts = list(sections)
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            # Whatever should get into a page, nothing of it runs, and nothing is fetched.
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">",
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>\n<style>{palette.style()}{STYLE}{style}</style>\n</head>\n<body>",
            f"<header>\n<h1>{escape(title)}</h1>\n{html(lead)}\n{_contents(parts)}\n</header>\n<main>",
            *map(_section, parts),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _contents(sections: Sequence[Section]) -> str:
    links = "".join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in sections)
    return f'<nav aria-label="Contents">{links}</nav>' if len(sections) > 1 else ""


def _section(section: Section) -> str:
    caption = f'<p class="caption">{html(section.caption)}</p>\n' if section.caption else ""
    head = f'<section id="{_anchor(section.title)}">\n<h2>{escape(section.title)}</h2>'
    return f"{head}\n{caption}{html(section.body)}\n</section>"


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def paragraph(content: Any, kind: str = "") -> Html:
    """A paragraph; of ``kind`` "caption" or "warning" it looks like one."""
    return Html(f'<p class="{kind}">{html(content)}</p>' if kind else f"<p>{html(content)}</p>")


def table(rows: Iterable[Sequence[Any]], header: Sequence[str] = ()) -> Html:
    """A table; numbers, with their unit, stand to the right. The first column names the row."""
    head = "".join(f'<th scope="col">{html(name)}</th>' for name in header)
    body = "".join(f"<tr>{''.join(map(_cell, range(len(row)), row))}</tr>" for row in rows)
    top = f"<thead><tr>{head}</tr></thead>" if header else ""
    return Html(f'<div class="scroll"><table>{top}<tbody>{body}</tbody></table></div>')


def _cell(place: int, value: Any) -> str:
    if place == 0:
        return f'<th scope="row">{html(value)}</th>'
    numeric = isinstance(value, (int, float)) or re.fullmatch(r"[-+]?\d\S*( \S{1,3})?", str(value))
    return f'<td class="number">{html(value)}</td>' if numeric else f"<td>{html(value)}</td>"


def facts(items: Mapping[str, tuple[Any, Any]]) -> Html:
    """Large numbers side by side: a name, the number, and the conditions that it holds under."""
    tiles = (
        f"<div><dt>{html(name)}</dt><dd>{html(number)}</dd><dd>{html(condition)}</dd></div>"
        for name, (number, condition) in items.items()
    )
    return Html(f'<dl class="facts">{"".join(tiles)}</dl>')


def figure(picture: str, caption: Any = "") -> Html:
    """An SVG picture (trusted: ours) with what one sees below it."""
    below = f"<figcaption>{html(caption)}</figcaption>" if caption else ""
    return Html(f"<figure>{picture}{below}</figure>")


def grid(parts: Iterable[str], least: int = 300) -> Html:
    """Parts side by side, as many in a row as fit when each is at least ``least`` pixels wide."""
    return Html(f'<div class="grid" style="--least:{least}px">{"".join(map(html, parts))}</div>')


STYLE = """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:1120px;padding:3rem 1.5rem 5rem;background:var(--ground);color:var(--c-ink);
font:16px/1.6 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
:root{color-scheme:light dark;--ground:#fafaf8}
h1{margin:0;font-size:2rem;line-height:1.2;font-weight:650;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{margin:0 0 .35rem;font-size:1.3rem;line-height:1.3;font-weight:650;letter-spacing:-.01em}
h3{margin:1.75rem 0 .6rem;font-size:1rem;font-weight:650}
p{margin:.5rem 0;max-width:72ch}
a{color:var(--c-0);text-underline-offset:.15em}
section{margin-top:3.25rem;padding-top:1.75rem;border-top:1px solid var(--c-grid)}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.1rem;margin-top:1.5rem;font-size:.9rem}
nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
.caption,figcaption{color:var(--c-mute)}
.caption{margin:0 0 1.25rem}
.warning{padding-left:.8rem;border-left:3px solid var(--c-1)}
.grid{display:grid;gap:1.25rem;margin:1.25rem 0;align-items:start;
grid-template-columns:repeat(auto-fill,minmax(min(100%,var(--least)),1fr))}
figure{margin:0;min-width:0;padding:1rem;background:var(--c-paper);border:1px solid var(--c-grid);border-radius:10px}
figcaption{margin-top:.6rem;font-size:.85rem;line-height:1.5}
svg{display:block;width:100%;height:auto;max-height:80vh}
.narrow{max-width:34rem;margin:1.25rem 0}
.facts{display:grid;gap:1.5rem 2rem;margin:2rem 0 0;grid-template-columns:repeat(auto-fill,minmax(10.5rem,1fr))}
.facts dt{font-size:.85rem;color:var(--c-mute)}
.facts dd{margin:0;font-size:.8rem;line-height:1.45;color:var(--c-mute)}
.facts dt+dd{font-size:1.55rem;line-height:1.3;font-weight:600;color:var(--c-ink);letter-spacing:-.01em;
font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.scroll{overflow-x:auto;margin:1rem 0}
table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem 1.25rem .35rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--c-grid)}
th{font-weight:500}
thead th{color:var(--c-mute);font-size:.85rem;white-space:nowrap}
td.number{text-align:right;white-space:nowrap}
td:last-child:not(.number){min-width:9rem}
pre{overflow-x:auto;margin:1rem 0;padding:1rem 1.25rem;background:var(--c-paper);border:1px solid var(--c-grid);
border-radius:10px}
pre,code{font:.85rem/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media screen and (prefers-color-scheme:dark){:root{--ground:#15171b}}
@media (max-width:480px){body{padding:1.75rem 1rem 3rem}h1{font-size:1.6rem}section{margin-top:2.25rem}
figure{padding:.7rem}.facts{gap:1.1rem 1.25rem;grid-template-columns:repeat(auto-fill,minmax(8.5rem,1fr))}
.facts dt+dd{font-size:1.3rem}}
@page{margin:14mm}
@media print{:root{--ground:#fff}body{max-width:none;padding:0;font-size:10pt}nav{display:none}
section{margin-top:1.5rem;padding-top:1rem}h2,h3,.caption{break-after:avoid}figure,tr,.facts div{break-inside:avoid}
pre{white-space:pre-wrap}.scroll{overflow:visible}}
"""
