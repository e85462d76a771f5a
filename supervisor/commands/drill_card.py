"""The score card of a drill: from what was seen to rows that say what was measured, what is good, and whether it was. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from supervisor.commands.drill_customers import Outcome, Request, longest_gap_s
from supervisor.commands.drill_shadow import Line, Page
from supervisor.commands.screen import spell

HEAD = ("result", "what", "good is", "measured")
SHOWN = 160  # characters of a sentence in a row


@dataclass(frozen=True, slots=True)
class Expected:
    """What a drill is held to. Seconds count from the fault.

    found    events of which one says that it was found
    named    what a message must hold for the cause to be named
    served   whether another instance has to become ready; not where the one that serves never goes
    told     whether anybody is told: a leak alone hurts nobody yet
    failing  requests that may fail, of those that did not bring the trouble; None: any number
    """

    found: tuple[str, ...]
    named: tuple[str, ...] = ()
    found_s: float = 5.0
    served: bool = True
    served_s: float = 10.0
    told: bool = True
    told_s: float = 10.0
    over_s: float = 60.0
    failing: int | None = 0
    gap_s: float = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What happened after the fault: the shadow's story, the messages, the customers. All instants are wall seconds."""

    began_wall: float
    story: Sequence[Line]
    pages: Sequence[Page]
    requests: Sequence[Request]

    def first(self, *events: str) -> Line | None:
        return next((line for line in self.story if line["event"] in events), None)


@dataclass(frozen=True, slots=True)
class Row:
    what: str
    measured: str
    good: str
    well: bool


def rows(expected: Expected, seen: Seen) -> list[Row]:
    """The card."""
    card = [_found(expected, seen)]
    if expected.served:
        card.append(_served(expected, seen))
    if expected.told:
        card += [*_told(expected, seen), _over(expected, seen)]
    return [*card, *_customers(expected, seen)]


def names_all(expected: Expected, page: Page) -> bool:
    """Whether the message holds all that it must."""
    return all(piece in page.message["text"] for piece in expected.named)


def recovered(seen: Seen) -> Line | None:
    """The end of the last incident; None while one is open, or where there was none."""
    last = [line for line in seen.story if line["event"] in ("incident.opened", "incident.reopened", "incident.closed")]
    return last[-1] if last and last[-1]["event"] == "incident.closed" else None


def _found(expected: Expected, seen: Seen) -> Row:
    return _line("found", seen, seen.first(*expected.found), expected.found_s)


def _served(expected: Expected, seen: Seen) -> Row:
    return _line("another serves", seen, seen.first("instance.ready"), expected.served_s)


def _over(expected: Expected, seen: Seen) -> Row:
    return _line("recovery proven", seen, recovered(seen), expected.over_s)


def _told(expected: Expected, seen: Seen) -> Iterator[Row]:
    pages = [page for page in seen.pages if not page.public]
    first, full = next(iter(pages), None), next((page for page in pages if names_all(expected, page)), None)
    pieces = ", ".join(expected.named)
    if first is None:
        yield Row("first message handed over", "not seen", f"within {spell(expected.told_s)}", False)
    else:
        yield _timed("first message handed over", seen, first.wall, expected.told_s, first.message["text"])
    if full is None:
        missing = [piece for piece in expected.named if not any(piece in page.message["text"] for page in pages)]
        yield Row("cause named in a message", f"not told: {', '.join(missing) or pieces}", pieces, False)
    else:
        yield _timed("cause named in a message", seen, full.wall, expected.told_s, pieces)


def _line(what: str, seen: Seen, line: Line | None, limit_s: float) -> Row:
    if line is None:
        return Row(what, "not seen", f"within {spell(limit_s)}", False)
    return _timed(what, seen, line["wall"], limit_s, f"{line['subject']} {line['text']}")


def _timed(what: str, seen: Seen, wall: float, limit_s: float, said: str) -> Row:
    took_s = max(wall - seen.began_wall, 0.0)
    return Row(what, f"{spell(took_s)}: {_short(said)}", f"within {spell(limit_s)}", took_s <= limit_s)


def _customers(expected: Expected, seen: Seen) -> Iterator[Row]:
    failing = sum(request.outcome is not Outcome.OK for request in seen.requests)
    many = "any" if expected.failing is None else f"at most {expected.failing} failed"
    well = bool(seen.requests) and (expected.failing is None or failing <= expected.failing)
    yield Row("customers", noticed(seen.requests), many, well)
    gap_s = longest_gap_s(seen.requests)
    yield Row("longest time without an answer", spell(gap_s), f"at most {spell(expected.gap_s)}", gap_s <= expected.gap_s)


def noticed(requests: Sequence[Request]) -> str:
    """What customers noticed, in words: "300 asked, all answered; the slowest after 1.2 s"."""
    if not requests:
        return "nobody asked"
    kinds = Counter(request.outcome for request in requests if request.outcome is not Outcome.OK)
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())) or "all answered"
    slowest = [request.took_s for request in requests if request.outcome is Outcome.OK]
    return f"{len(requests)} asked, {failed}" + (f"; the slowest after {spell(max(slowest))}" if slowest else "")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."
