"""`reviver drill may3`: the morning of May 3, 2023 again, in some minutes, under load, beside what happened then.

It prints Markdown, which is its transcript too. What it says of today was seen in the shadow's story, in the messages that were handed
over, and by its customers; what it says of 2023 is the company's own account.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from supervisor import __version__
from supervisor.alerts.message import Message, page
from supervisor.commands import drill_store
from supervisor.commands.drill_card import Expected, Seen, names_all, noticed, recovered
from supervisor.commands.drill_customers import RATE, Customers, answered, longest_gap_s
from supervisor.commands.drill_shadow import Line, Page, Shadow
from supervisor.commands.screen import remark, safe, spell

PROBATION_S = 3  # else the first loop alone would take the release back, and the morning would end there; 10 min at the default
SOON_S = 10.0  # to be found, relieved and told
PROVEN_S = 240.0  # to be proven hung beside its relief: 30 s, and minutes where others keep it from the processors
DEPLOY_S = 60.0
COUPON = "/checkout?coupon=LOOP"
NAMED = Expected((), ("apply_coupon", "store.py:", "/checkout", drill_store.LOOPING.name))
WHAT = "the morning of May 3, 2023: a release in which a request can loop for ever"
CARD_HEAD = ("result", "time in 2023", "what happened then", "what happened in this drill")
HEAD = CARD_HEAD[1:]


BAR = "&#124;"  # within a cell


@dataclass(frozen=True, slots=True)
class Scene:
    """One row: the time of day then, what happened then, what happened now, and whether that was as it should be."""

    at: str
    then: str
    now: str
    well: bool

    @property
    def marked(self) -> str:
        return self.now if self.well else f"**missing**: {self.now}"


def tables(where: Path, port: int) -> str:
    """The shadow's configuration: the release before serves, and stakeholders are told as soon as there is anything to tell."""
    release = f'probation = "{PROBATION_S}s"'
    public = f'[stakeholders]\nafter = "0s"\nnotify = ["command:/bin/sh {where}/pager {where}/public"]\n'
    return drill_store.tables(where, port, drill_store.BEFORE, release) + public


class Morning:
    """Plays it, scene by scene; each waits for what it needs, or says what did not come."""

    def __init__(self, shadow: Shadow, customers: Customers) -> None:
        self._shadow, self._customers = shadow, customers

    def play(self) -> Iterator[Scene]:
        yield self._before()
        yield from self._ten()
        yield from self._eleven()
        yield from self._fix()

    def _before(self) -> Scene:
        remark("before 10:00: the release with the loop is deployed")
        since = self._deploy(drill_store.LOOPING)
        trusted = self._shadow.await_event("build.trusted", since, DEPLOY_S)
        passed = self._shadow.told("preflight.passed", since)
        now = f"preflight passed {_after(passed, since)}; {self._alone(since)}; trusted {_after(trusted, since)}: nobody used that coupon"
        return Scene("before 10:00", "a change is released in which a request can loop for ever", now, trusted is not None)

    def _ten(self) -> Iterator[Scene]:
        remark("10:00: a customer asks for the coupon that loops")
        since = self._loop()
        found = self._shadow.await_event("instance.suspected", since, SOON_S)
        ready = self._shadow.await_event("instance.ready", since, SOON_S)
        then = "a request loops for ever, the server stops answering, and a customer reports it"
        now = f"found by itself {_after(found, since)}; another instance serves {_after(ready, since)}: the others are answered"
        yield Scene("10:00", then, now, found is not None and ready is not None)
        self._shadow.until(lambda: self._page(since) is not None, SOON_S)
        told = self._page(since)
        now = f"those on call have function, file, line, request and release {_handed(told, since)}"
        yield Scene("10:05", "support is told", now, told is not None)
        killed = self._or_over("instance.killed", since)
        now = f"proven hung and killed {_after(killed, since)}, its evidence kept; customers had been served by the other one since"
        yield Scene("10:30", "support finds the server down and restarts it by hand", now, killed is not None)
        self._calm(since)

    def _eleven(self) -> Iterator[Scene]:
        remark("11:00: somebody asks for it again")
        since = self._loop()
        same = self._shadow.await_event("cause.recurred", since, SOON_S)
        lost = self._or_over("build.lost", since)
        now = (
            f"known as the same loop {_after(same, since)}, and told so; the release is taken back by itself {_after(lost, since)}"
        )
        yield Scene("11:00", "it happens again", now, same is not None and lost is not None)
        where = _loops(self._shadow.story())
        yield Scene("11:15", "the faulty code is found", f"it stood in the first message: {where or 'not told'}", bool(where))
        self._calm(since)

    def _fix(self) -> Iterator[Scene]:
        remark("12:00: the fix is deployed")
        since = self._deploy(drill_store.FIXED)
        trusted = self._shadow.await_event("build.trusted", since, DEPLOY_S)
        mended = answered(self._shadow.port, COUPON, SOON_S)
        says = "that coupon is answered now" if mended else "that coupon is still not answered"
        then = "mended after several tries, and restarted"
        yield Scene("12:00", then, f"{self._alone(since)}, one instance after the other; {says}", trusted is not None and mended)
        over = recovered(self._seen(0.0))
        pages = self._shadow.pages()
        public = [each for each in pages if each.public]
        told = (
            f"stakeholders got {len(public)}"
            if public
            else "stakeholders were told nothing: each time another instance served before an incident was opened"
        )
        now = f"each incident ended with a proven recovery, and those on call had {len(pages) - len(public)} messages; {told}"
        yield Scene("1:30", "verified; stakeholders are told, after three and a half hours", now, over is not None)

    def _deploy(self, release: drill_store.Release) -> float:
        since = time.time()
        self._shadow.deploy(drill_store.make(self._shadow.folder, release))
        return since

    def _loop(self) -> float:
        since = time.time()
        self._customers.one_asks(COUPON)
        return since

    def _alone(self, since: float) -> str:
        return f"it serves alone {_after(self._shadow.told('build.on_probation', since), since)}"

    def _page(self, since: float) -> Page | None:
        return next((each for each in self._shadow.pages(since) if not each.public and names_all(NAMED, each)), None)

    def _or_over(self, event: str, since: float) -> Line | None:
        """The first line of an event, waited for until the incident is over: on a starved host it may end by the server's own grace."""
        told = self._shadow.told
        self._shadow.until(lambda: told(event, since) is not None or recovered(self._seen(since)) is not None, PROVEN_S)
        return told(event, since)

    def _calm(self, since: float) -> None:
        """Until the incident is over: what comes then is a new one."""
        self._shadow.until(lambda: recovered(self._seen(since)) is not None, PROVEN_S)

    def _seen(self, since: float) -> Seen:
        return Seen(since, self._shadow.story(since), (), ())


def _after(line: Line | None, since: float) -> str:
    return "**not at all**" if line is None else f"after {spell(line['wall'] - since)}"


def _handed(told: Page | None, since: float) -> str:
    return "**not at all**" if told is None else f"after {spell(told.wall - since)}"


def _loops(story: Sequence[Line]) -> str:
    return next((line["text"] for line in story if line["event"] == "evidence.taken" and "apply_coupon" in line["text"]), "")


PAGE = """\
# The morning of May 3, again

Written by `reviver drill may3` (version {version}, {day}), which took {lasted}: the bundled store behind gunicorn
with one worker, {rate:g} new customers a second, and a Reviver of its own. Settings are the defaults but for these:

- `release.probation`: {probation} s. With the default, 10 min, the first loop alone takes the release back, and there is no 11:00.
- `restart.healthy`: {healthy} s. With the default, 60 s, what comes within a minute belongs to one incident; here there are more.
- `restart.limit`: {limit} s, `health.start`: {start} s, `stakeholders.after`: 0 s.

{table}

## What customers noticed

In 2023 nobody was served for four hours. In this drill: {noticed}.
The longest time in which none was answered was {gap}. The two who asked for the coupon that loops are not counted: their
requests could not be answered.

## What people were told

```
{told}
```

The first of them as it is read, whole:

```
{first}
```

## What was seen and done: {incidents} incidents

```
{story}
```"""


def transcript(scenes: Sequence[Scene], seen: Seen, where: Path) -> str:
    """The whole of it, in Markdown. `where` is the shadow's folder, which is not there any more."""

    def line(wall: float, who: str, text: str) -> str:
        return f"+{wall - seen.began_wall:5.1f} s  {who}: {safe(text.replace(str(where), 'DIR'))}"

    return PAGE.format(
        version=__version__,
        day=f"{datetime.fromtimestamp(seen.began_wall, UTC):%Y-%m-%d}",
        lasted=spell(time.time() - seen.began_wall),
        rate=RATE,
        probation=PROBATION_S,
        healthy=drill_store.HEALTHY_S,
        limit=drill_store.LIMIT_S,
        start=drill_store.START_S,
        table="\n".join(_markdown_table(HEAD, [(each.at, each.then, each.marked) for each in scenes])),
        noticed=noticed(seen.requests),
        gap=spell(longest_gap_s(seen.requests)),
        told="\n".join(line(p.wall, "stakeholders" if p.public else "on call", p.message["text"]) for p in seen.pages),
        first="\n".join(safe(text) for text in _whole(seen.pages).splitlines()),
        incidents=sum(each["event"] == "incident.opened" for each in seen.story),
        story="\n".join(line(each["wall"], each["subject"], each["text"]) for each in seen.story),
    )


def _whole(pages: Sequence[Page]) -> str:
    first = next((each for each in pages if not each.public), None)
    if first is None:
        return "none came"
    message = msgspec.convert(first.message, Message)
    commands = tuple(command.partition(" --config ")[0] for command in message.commands)  # the shadow's own file is gone by then
    return page(replace(message, commands=commands))


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', BAR) for cell in row)} |"
