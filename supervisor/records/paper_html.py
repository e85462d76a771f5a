"""A document as one HTML file: no script, nothing from elsewhere, readable on paper and in the dark. Pure.

Whatever a text contains is escaped; beyond that the page itself forbids scripts, frames and every request, should a browser ever disagree.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from supervisor.records import drawing, plots
from supervisor.records.drawing import STATES
from supervisor.records.paper import Blank, Block, Code, Document, Items, Picture, Table, Text

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --pale: #57606a; --page: #fff; --edge: #d0d7de; --soft: #f6f8fa;
  --ask: #fff4d6; --askedge: #b08800;
  --running: #d8dee4; --starting: #b6d4fb; --ready: #a5e0b0; --suspect: #ffcf7d; --retiring: #d9c6f2; --killing: #ff9d94; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --pale: #9198a1; --page: #0d1117; --edge: #3d444d; --soft: #161b22;
  --ask: #332a0c; --askedge: #d4a72c;
  --running: #30363d; --starting: #1f4b85; --ready: #1d6331; --suspect: #7d5500; --retiring: #553a80; --killing: #92251e; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page);
  max-width: 62rem; margin: 0 auto; padding: 1.5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; padding-bottom: .2rem; border-bottom: 1px solid var(--edge); }
table { border-collapse: collapse; width: 100%; margin: .75rem 0; font-size: .9rem; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid var(--edge); }
th { overflow-wrap: normal; color: var(--pale); font-weight: 600; }
td:not(:last-child) { overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
.short { white-space: nowrap; }
td:empty { background: var(--ask); min-width: 5rem; border: 1px dashed var(--askedge); }
pre { background: var(--soft); border: 1px solid var(--edge); padding: .6rem .8rem;
  font: .85rem/1.45 ui-monospace, monospace; white-space: pre-wrap; }
.wide { overflow-x: auto; }
.blank { background: var(--ask); border: 1px dashed var(--askedge); padding: .6rem .8rem; margin: .75rem 0; }
.blank p { margin: 0 0 2rem; }
figure { margin: 1rem 0; }
figcaption { color: var(--pale); font-size: .9rem; }
figure ol { font-size: .85rem; columns: 18rem; padding-left: 1.5rem; }
svg { width: 100%; height: auto; font: 12px system-ui, sans-serif; }
svg text { fill: var(--ink); }
.axis { stroke: var(--edge); }
.frame { fill: none; stroke: var(--edge); }
polyline { stroke-width: 1.5; stroke-linejoin: round; }
.tick { text-anchor: middle; }
.name { text-anchor: end; }
.state { font-size: 11px; }
.mark line { stroke: var(--pale); stroke-dasharray: 2 3; }
.mark circle { fill: var(--page); stroke: var(--ink); }
.mark text { text-anchor: middle; font-size: 10px; }
.key { display: inline-block; width: .9em; height: .9em; margin: 0 .3em 0 .9em; vertical-align: -.1em; border: 1px solid var(--edge); }
@media print { body { max-width: none; padding: 0; } h2 { break-after: avoid; } figure, .blank, tr { break-inside: avoid; } }
"""
CURVES = ("#0969da", "#cf222e", "#1a7f37", "#9a6700", "#8250df", "#57606a")  # readable on white and on black
SHORT = ' class="short"'
SHORT_LIMIT = 16  # characters
FORBIDDEN = "default-src 'none'; style-src 'unsafe-inline'"


def html(document: Document) -> str:
    """The whole file."""
    title = escape(document.title)
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{FORBIDDEN}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title><style>{STYLE}{_colours()}</style>'
    )
    parts = [f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n<h1>{title}</h1>']
    for section in document.sections:
        parts.append(f"<section>\n<h2>{escape(section.title)}</h2>")
        parts += ["".join(_drawn(block)) for block in section.blocks]
        parts.append("</section>")
    return "\n".join([*parts, "</body></html>"]) + "\n"


def _colours() -> str:
    bars = [f".bar-{name} {{ fill: var(--{name}); background: var(--{name}); }}" for name in STATES]
    curves = [f".curve-{number} {{ fill: none; stroke: {colour}; background: {colour}; }}" for number, colour in enumerate(CURVES)]
    return "\n".join((*bars, *curves))


def _drawn(block: Block) -> Iterator[str]:
    match block:
        case Text(text):
            yield f"<p>{escape(text)}</p>"
        case Blank(question):
            yield f'<div class="blank"><p><strong>For people to fill in:</strong> {escape(question)}</p></div>'
        case Items(items):
            yield f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"
        case Table(head, rows):
            yield '<div class="wide"><table>'
            yield f"<thead><tr>{_cells('th', head)}</tr></thead><tbody>\n"
            yield from (f"<tr>{_cells('td', row)}</tr>\n" for row in rows)
            yield "</tbody></table></div>"
        case Code(lines):
            yield f"<pre>{escape(chr(10).join(lines))}</pre>"
        case Picture():
            yield from _figure(block)


def _cells(tag: str, cells: tuple[str, ...]) -> str:
    """A short one stays on one line, also where a browser would break it at a hyphen."""
    return "".join(f"<{tag}{SHORT if 0 < len(cell) <= SHORT_LIMIT else ''}>{escape(cell)}</{tag}>" for cell in cells)


def _figure(picture: Picture) -> Iterator[str]:
    chart, panels = picture.chart, picture.panels
    seen = {bar.state for row in chart.rows for bar in row.bars}
    yield f"<figure>{drawing.svg(chart)}<p>"
    yield from (f'<span class="key bar-{state}"></span>{state}' for state in STATES if state in seen)
    yield f"</p><ol>{''.join(f'<li>{mark.at:%H:%M:%S} {escape(mark.text)}</li>' for mark in chart.marks)}</ol>"
    if panels:
        yield f"{plots.svg(panels, chart)}<p>"
        names = dict.fromkeys(curve.instance for panel in panels for curve in panel.curves)
        yield from (f'<span class="key curve-{number}"></span>{escape(name)}' for number, name in enumerate(names))
        yield "</p>"
    more = f" {chart.left_out} more instances are left out." if chart.left_out else ""
    yield f"<figcaption>{escape(picture.caption)}{more}</figcaption></figure>"
