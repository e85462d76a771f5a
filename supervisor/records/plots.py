"""What was seen around an incident, drawn over time: how long answers took, who queued, what the processors did. Pure.

From recordings: each is of one instance, from a minute before its verdict became bad.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from html import escape

from supervisor.policy.facts import Fact, Heard, SocketsSeen
from supervisor.policy.samples import TreeSample
from supervisor.policy.words import spell
from supervisor.records.drawing import LEFT, RIGHT, WIDTH, Chart, across, ticks
from supervisor.records.recordings import Kept

CURVES_LIMIT = 6  # instances in one panel: more cannot be told apart
HEIGHT, GAP = 90, 34
SPAN_S = 0.25  # the kernel counts a process's time in steps of 10 ms: over a shorter span it looks like more than there is
COLUMNS = 400  # of the drawing: of the points that fall into one, the highest is drawn


@dataclass(frozen=True, slots=True)
class Curve:
    instance: str
    points: tuple[tuple[datetime, float], ...]


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit`: "s", "cores", or "" for a count."""

    title: str
    unit: str
    curves: tuple[Curve, ...]

    @property
    def highest(self) -> float:
        return max(value for curve in self.curves for _, value in curve.points)


Points = Iterator[tuple[float, float]]


def panels(recorded: Iterable[Kept], here: Callable[[float], datetime]) -> tuple[Panel, ...]:
    """Those of which anything was seen. here: the instant of a wall time, in the zone in which it is shown."""
    kept = tuple(recorded)[:CURVES_LIMIT]
    found = []
    for title, unit, measure in MEASURES:
        curves = []
        for each in kept:
            points = tuple((here(at + each.head.wall_s), value) for at, value in measure(each.recording.facts))
            if points:
                curves.append(Curve(str(each.head.id), points))
        if curves:
            found.append(Panel(title, unit, tuple(curves)))
    return tuple(found)


def _answers(facts: Iterable[Fact]) -> Points:
    yield from ((fact.at, fact.at - fact.asked) for fact in facts if isinstance(fact, Heard) and fact.answered)


def _waits(facts: Iterable[Fact]) -> Points:
    for fact in facts:
        if isinstance(fact, SocketsSeen):
            yield fact.at, max((fact.at - client.since for client in fact.sample.clients if client.waiting), default=0.0)


def _queue(facts: Iterable[Fact]) -> Points:
    yield from ((fact.at, float(fact.sample.queue)) for fact in facts if isinstance(fact, SocketsSeen))


def _processor(facts: Iterable[Fact]) -> Points:
    """Of the processes that stand in two samples, SPAN_S apart: one that came or went would look like a leap."""
    before: TreeSample | None = None
    for fact in facts:
        if not isinstance(fact, TreeSample):
            continue
        if before is not None and fact.at - before.at < SPAN_S:
            continue
        if before is not None:
            used = {each.pid: each.cpu_s for each in before.processes}
            spent_s = sum(each.cpu_s - used[each.pid] for each in fact.processes if each.pid in used)
            yield fact.at, max(spent_s, 0.0) / (fact.at - before.at)
        before = fact


MEASURES: tuple[tuple[str, str, Callable[[Iterable[Fact]], Points]], ...] = (
    ("time until our question was answered", "s", _answers),
    ("oldest request that had no answer", "s", _waits),
    ("connections that nobody had accepted", "", _queue),
    ("processors in use", "cores", _processor),
)


def highs(shown: Iterable[Panel]) -> Iterator[str]:
    """The same in words: the highest point of each curve."""
    for panel in shown:
        for curve in panel.curves:
            at, value = max(curve.points, key=lambda point: point[1])
            yield f"{panel.title}, {curve.instance}: at most {_amount(panel, value)}, at {at:%H:%M:%S}"


def _amount(panel: Panel, value: float) -> str:
    if panel.unit == "s":
        return spell(value) if value >= 1.0 else f"{value * 1000:.0f} ms"
    return f"{value:.1f} {panel.unit}" if panel.unit else f"{value:.0f}"


def svg(shown: tuple[Panel, ...], chart: Chart) -> str:
    """An SVG element over the time of `chart`; the page's style gives the classes `curve-0` and up their colours."""
    height = len(shown) * (HEIGHT + GAP) + 8
    body = "".join("".join(_drawn(panel, chart, number * (HEIGHT + GAP) + GAP - 8)) for number, panel in enumerate(shown))
    said = "; ".join(panel.title for panel in shown)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(said)}">{body}</svg>'


def _drawn(panel: Panel, chart: Chart, y: int) -> Iterator[str]:
    highest = panel.highest
    yield f'<text x="{LEFT}" y="{y - 6}">{escape(panel.title)}</text>'
    yield f'<text class="name" x="{LEFT - 8}" y="{y + 10}">{_amount(panel, highest)}</text>'
    yield f'<text class="name" x="{LEFT - 8}" y="{y + HEIGHT}">0</text>'
    yield f'<rect class="frame" x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT}"/>'
    for x, _ in ticks(chart):
        yield f'<line class="axis" x1="{x}" y1="{y}" x2="{x}" y2="{y + HEIGHT}"/>'
    for number, curve in enumerate(panel.curves):
        points = " ".join(f"{x},{y + HEIGHT - value / (highest or 1.0) * HEIGHT:.1f}" for x, value in _thinned(curve, chart))
        said = f"<title>{escape(curve.instance)}</title>"
        yield f'<polyline class="curve-{number}" points="{points}">{said}</polyline>'


def _thinned(curve: Curve, chart: Chart) -> list[tuple[float, float]]:
    """At most one point for each column of the drawing, the highest; what is outside of it is not drawn."""
    columns: dict[int, tuple[float, float]] = {}
    for at, value in curve.points:
        if chart.begin <= at <= chart.end:
            x = across(chart, at)
            column = int((x - LEFT) / (WIDTH - LEFT - RIGHT) * COLUMNS)
            if column not in columns or value > columns[column][1]:
                columns[column] = (x, value)
    return [columns[column] for column in sorted(columns)]
