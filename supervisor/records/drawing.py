"""Which instance was in which state when, from the story of an incident, and the drawing of it as SVG. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import escape
from typing import Any

from supervisor.policy.words import spell

BECOMES = {  # an event of the story: the state that it begins; "" for its end
    "instance.started": "starting",
    "instance.adopted": "ready",
    "instance.ready": "ready",
    "instance.recovered": "ready",
    "instance.suspected": "suspect",
    "instance.retired": "retiring",
    "instance.condemned": "killing",
    "instance.killed": "",
    "instance.stopped": "",
    "instance.failed": "",
    "instance.ended": "",
}
BEFORE = "running"  # the state of an instance that is older than its first line of the story
UNBORN = "cannot be started"  # so begins the line of one that never lived
STATES = (BEFORE, "starting", "ready", "suspect", "retiring", "killing")
ROWS_LIMIT = 30  # instances that are drawn: a crash loop may have hundreds, and a page has some fifty lines
MARKS_LIMIT = 15
MARKED = {
    "incident.opened": "incident opened",
    "incident.reopened": "incident reopened",
    "incident.acknowledged": "acknowledged",
    "incident.closed": "incident over",
    "instance.killed": "killed",
    "instance.failed": "failed",
    "program.down": "nobody serves",
    "build.lost": "release given up",
    "release.switched": "release switched",
}
STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
SHOWN = timedelta(seconds=0.05)  # what is shorter would be said as 0.0 s
TICKS = 8  # on the axis, at most

WIDTH, LEFT, RIGHT = 960, 130, 80  # at the right: how an instance ended, behind its bar
ROW, BAR = 28, 18
TOP = 102  # above the first row: the marks, in LEVELS lines that keep close ones apart
LEVELS = 5  # a release that is taken back makes so many within a second
LETTER = 7.0  # the width of one, roughly
LABEL_LIMIT = 17  # characters left of a row


@dataclass(frozen=True, slots=True)
class Bar:
    state: str
    begin: datetime
    end: datetime


@dataclass(frozen=True, slots=True)
class Row:
    """One instance. `how` it ended, "" for one that did not."""

    instance: str
    bars: tuple[Bar, ...]
    how: str


@dataclass(frozen=True, slots=True)
class Mark:
    at: datetime
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """`left_out` instances have no row; times are in the zone in which they are shown."""

    begin: datetime
    end: datetime
    rows: tuple[Row, ...]
    marks: tuple[Mark, ...]
    left_out: int


def chart(
    program: str,
    story: Iterable[dict[str, Any]],
    here: Callable[[str], datetime],
    begin: datetime,
    end: datetime,
    lived: frozenset[str] = frozenset(),
) -> Chart | None:
    """The states of a program's instances, at least from `begin` to `end`; None where nothing is known of any.

    lived  instances that were there at the beginning: those of which the story tells nothing ran on
    """
    lines = [line for line in story if str(line["subject"]).partition(":")[0] == program]
    changes: dict[str, list[tuple[datetime, str, str]]] = {}
    for line in lines:
        name = _instance(program, line) if line["event"] in BECOMES else ""
        if name:
            how = UNBORN if line["text"].startswith(UNBORN) else line["event"].partition(".")[2]
            changes.setdefault(name, []).append((here(line["time"]), BECOMES[line["event"]], how))
    if not changes and not lived:
        return None
    begin = min([begin, *(here(line["time"]) for line in lines)])
    end = max([end, begin + timedelta(seconds=1), *(here(line["time"]) for line in lines)])
    names = sorted({*changes, *lived}, key=lambda name: (len(name), name))
    half = ROWS_LIMIT // 2
    shown = names if len(names) <= ROWS_LIMIT else names[:half] + names[-half:]
    rows = tuple(_row(name, changes.get(name, []), begin, end) for name in shown)
    return Chart(begin, end, rows, tuple(_marks(lines, here)), len(names) - len(shown))


def _instance(program: str, line: dict[str, Any]) -> str:
    """Whom a line is about: that of a start is about the program, and names the new instance first."""
    if line["event"] != "instance.started":
        return str(line["subject"])
    found = re.search(rf"(?<!\S){re.escape(program)}:\d+(?!\S)", line["text"][:200])
    return found[0] if found else ""


def _row(name: str, changes: list[tuple[datetime, str, str]], begin: datetime, end: datetime) -> Row:
    if not changes:
        return Row(name, (Bar(BEFORE, begin, end),), "")
    first, state, _ = changes[0]
    bars = [Bar(BEFORE, begin, first)] if state != "starting" and first > begin and changes[0][2] != UNBORN else []
    ends = [at for at, _, _ in changes[1:]] + [end]
    bars += [Bar(state, at, until) for (at, state, _), until in zip(changes, ends, strict=True) if state]
    return Row(name, tuple(bars), "" if changes[-1][1] else changes[-1][2])


def _marks(lines: Iterable[dict[str, Any]], here: Callable[[str], datetime]) -> Iterator[Mark]:
    found = [line for line in lines if line["event"] in MARKED]
    for line in found if len(found) <= MARKS_LIMIT else [*found[: MARKS_LIMIT - 1], found[-1]]:
        subject = f"{line['subject']} " if ":" in line["subject"] else ""
        yield Mark(here(line["time"]), f"{subject}{MARKED[line['event']]}")


def spans(chart: Chart) -> Iterator[str]:
    """The same in words, a line for each instance."""
    for row in chart.rows:
        said = [f"{bar.state} {spell((bar.end - bar.begin).total_seconds())}" for bar in row.bars if bar.end - bar.begin >= SHOWN]
        yield f"{row.instance}: {', '.join([*said, row.how] if row.how else said)}"
    if chart.left_out:
        yield f"{chart.left_out} more instances are left out"


def unready_s(chart: Chart, since: datetime) -> float:
    """For how long since then no instance was ready; 0.0 where some instances have no row, and nobody knows."""
    if chart.left_out:
        return 0.0
    lost_s, reached = 0.0, since
    for bar in sorted((bar for row in chart.rows for bar in row.bars if bar.state in (BEFORE, "ready")), key=lambda bar: bar.begin):
        lost_s += max((bar.begin - reached).total_seconds(), 0.0)
        reached = max(reached, bar.end)
    return lost_s + max((chart.end - reached).total_seconds(), 0.0)


def svg(chart: Chart) -> str:
    """An SVG element; its colours are classes, for the page's style to give: `bar-STATE`, `axis`, `mark`."""
    height = TOP + len(chart.rows) * ROW + 30
    body = [*_axis(chart, height), *_drawn_marks(chart, height)]
    for number, row in enumerate(chart.rows):
        body += _drawn_row(chart, row, TOP + number * ROW)
    said = f"states of {len(chart.rows)} instances over time"
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{said}">{"".join(body)}</svg>'


def across(chart: Chart, at: datetime) -> float:
    """Where an instant stands on the drawing, from the left."""
    share = (at - chart.begin) / (chart.end - chart.begin)
    return round(LEFT + min(max(share, 0.0), 1.0) * (WIDTH - LEFT - RIGHT), 1)


def ticks(chart: Chart) -> Iterator[tuple[float, datetime]]:
    """Round instants, at most TICKS and one, and where they stand."""
    span_s = (chart.end - chart.begin).total_seconds()
    step_s = next((step for step in STEPS_S if span_s / step <= TICKS), math.ceil(span_s / TICKS))
    midnight = chart.begin.replace(hour=0, minute=0, second=0, microsecond=0)
    at = midnight + timedelta(seconds=math.ceil((chart.begin - midnight).total_seconds() / step_s) * step_s)
    while at <= chart.end:
        yield across(chart, at), at
        at += timedelta(seconds=step_s)


def _axis(chart: Chart, height: int) -> Iterator[str]:
    for x, at in ticks(chart):
        yield f'<line class="axis" x1="{x}" y1="{TOP - 6}" x2="{x}" y2="{height - 24}"/>'
        yield f'<text class="tick" x="{x}" y="{height - 8}">{at:%H:%M:%S}</text>'


def _drawn_marks(chart: Chart, height: int) -> Iterator[str]:
    for number, mark in enumerate(chart.marks):
        x, y = across(chart, mark.at), 14 + number % LEVELS * 18
        said = f"<title>{mark.at:%H:%M:%S} {escape(mark.text)}</title>"
        yield f'<g class="mark">{said}<line x1="{x}" y1="{y}" x2="{x}" y2="{height - 24}"/>'
        yield f'<circle cx="{x}" cy="{y}" r="8"/><text x="{x}" y="{y + 4}">{number + 1}</text></g>'


def _drawn_row(chart: Chart, row: Row, y: int) -> Iterator[str]:
    name = row.instance if len(row.instance) <= LABEL_LIMIT else f"{row.instance[:6]}...{row.instance[-8:]}"
    yield f'<text class="name" x="{LEFT - 8}" y="{y + 14}"><title>{escape(row.instance)}</title>{escape(name)}</text>'
    for bar in row.bars:
        x, width = across(chart, bar.begin), max(across(chart, bar.end) - across(chart, bar.begin), 1.0)
        said = f"{bar.state} from {bar.begin:%H:%M:%S} for {spell((bar.end - bar.begin).total_seconds())}"
        yield f'<g><title>{escape(row.instance)} {said}</title><rect class="bar-{bar.state}" '
        yield f'x="{x}" y="{y}" width="{width:.1f}" height="{BAR}"/>'
        if width > len(bar.state) * LETTER + 8:
            yield f'<text class="state" x="{x + 4}" y="{y + 13}">{bar.state}</text>'
        yield "</g>"
    if row.how and row.bars:
        x = across(chart, row.bars[-1].end)
        end = x + 3 + (len(row.how) + 2) * LETTER > WIDTH
        place = f'x="{WIDTH}" text-anchor="end"' if end else f'x="{x + 3}"'
        yield f'<text class="ended" {place} y="{y + 14}">&#x2715; {escape(row.how)}</text>'
