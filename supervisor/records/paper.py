"""A document for people, as values, and its Markdown. Pure.

Whoever makes a block may put in it whatever a hostile program wrote: `plain` makes one bounded line of it, and the writers (here and in
`paper_html`) escape what their language would obey. Nothing else of a document needs trust.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from supervisor.records.drawing import Chart, spans
from supervisor.records.log import escaped
from supervisor.records.plots import Panel, highs

TEXT_LIMIT = 400  # characters of one text: five lines of a page
_OBEYED = re.compile(
    r"[\\`*<>\[\]|~&$]|(?<!\w)_|_(?!\w)"
)  # by Markdown, anywhere in a line; an underscore within a word is left alone
_BEGINNING = re.compile(r"^(\d{1,9})([.)])|^([-+#=:])")  # of a list, a heading, a table, a definition


def plain(text: str, limit: int = TEXT_LIMIT) -> str:
    """One line that every writer can take: control characters spelled out, and cut, with a word where it was longer."""
    cut = text if len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters in all)"
    return escaped(cut)


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Blank:
    """Something only people know: a question, and room for the answer."""

    question: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list."""

    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells. An empty cell is for people."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines that are shown as they are: source, output."""

    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing, and what it shows in a sentence."""

    caption: str
    chart: Chart
    panels: tuple[Panel, ...] = ()


Block = Text | Blank | Items | Table | Code | Picture


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Document:
    title: str
    sections: tuple[Section, ...]


def markdown(document: Document) -> str:
    """The document in CommonMark with GitHub's tables."""
    parts = [f"# {_said(document.title)}"]
    for section in document.sections:
        parts.append(f"## {_said(section.title)}")
        parts += ["\n".join(_lines(block)) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _lines(block: Block) -> Iterator[str]:
    match block:
        case Text(text):
            yield _said(text)
        case Blank(question):
            yield f"> **For people to fill in:** {_said(question)}"
            yield ">"
            yield "> ......"
        case Items(items):
            yield from (f"- {_said(item)}" for item in items)
        case Table(head, rows):
            yield _row(head)
            yield _row("---" for _ in head)
            yield from (_row(map(_escaped, row)) for row in rows)
        case Code(lines):
            fence = "`" * max(3, 1 + max((len(run) for line in lines for run in re.findall("`+", line)), default=0))
            yield f"{fence}text"
            yield from lines
            yield fence
        case Picture(caption, chart, panels):
            yield _said(caption)
            yield ""
            yield from (f"- {_said(said)}" for said in (*spans(chart), *highs(panels)))


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _said(text: str) -> str:
    """The text, at the beginning of a line, with nothing in it that Markdown would obey."""
    return _BEGINNING.sub(r"\1\\\2\3", _escaped(text))


def _escaped(text: str) -> str:
    return _OBEYED.sub(r"\\\g<0>", text)
