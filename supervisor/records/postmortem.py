"""The postmortem of one incident: what its record and its evidence say, in order, with blanks for what only people know. Pure.

It claims nothing that is not recorded, and says of what was not seen that it was not. Every text of the record may come from a hostile
program: all of them go through `plain`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cached_property
from typing import Any

import msgspec

from supervisor.policy.words import spell
from supervisor.records import fates
from supervisor.records.drawing import Chart, chart, unready_s
from supervisor.records.earlier import earlier
from supervisor.records.paper import Blank, Block, Code, Document, Items, Picture, Section, Table, Text, plain
from supervisor.records.plots import panels
from supervisor.records.recordings import Kept

TIMELINE_LIMIT = 150  # lines: three pages; the first and the last ones are kept
OUTPUT_LIMIT = 12  # last lines of a program's output
LINE_LIMIT = 200  # characters of a line of source or output
REPLAYS_LIMIT = 5  # recordings that are replayed: each takes some tenths of a second
EVIDENCE_LIMIT = 5  # instances whose evidence is shown: those of one incident died of the same cause
SIGNS = (
    "instance.suspected",
    "instance.condemned",
    "instance.failed",
    "instance.leaking",
    "program.crash_looped",
    "cause.recurred",
)
DONE = {  # events of the story that are deeds: why they are worth a line of the resolution
    "instance.started": "started",
    "instance.retired": "taken out of service",
    "instance.killed": "killed",
    "instance.continued": "continued",
    "worker.killed": "a worker killed",
    "build.lost": "the release given up",
    "release.switched": "the release switched",
    "page.shown": "an apology shown to customers",
}
DEEDS_LIMIT = 30
CALM_S = 20.0  # before the first bad sign that is drawn, to compare with
MINUTES_S, HOUR_S = 100, 3600
SEEN_S = 0.05  # what is shorter is shown as 0.0 s
SEEN = ", and what was seen of those that were in trouble"
UNRECORDED = "Latency, queue and processor are not drawn: no recording of what was seen is left."
ALWAYS = "an instance was ready all the time since it was opened"
MINUS, UNBROKEN = "\N{MINUS SIGN}", "\N{NO-BREAK SPACE}"


class Place(msgspec.Struct):
    """Where it hung or crashed, of an evidence file."""

    nature: str = ""
    file: str = ""
    function: str = ""
    request: str = ""
    release: str = ""
    error: str = ""


class Line(msgspec.Struct):
    number: int
    text: str
    commit: str = ""


class Evidence(msgspec.Struct):
    """What of an evidence file a postmortem shows."""

    instance: str
    taken_wall: float
    summary: str = ""
    ended: str = ""
    cause: Place | None = None
    lines: list[Line] = []
    last_output: list[str] = []


@dataclass(frozen=True, slots=True)
class Played:
    """That it was a drill.

    id    as it is typed
    what  was brought about, and where
    head  of the score card, whose `rows` say what was measured
    """

    id: str
    what: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Found:
    """What the postmortem is written from.

    record    as `records.incidents.read_incident` gives it
    evidence  of its instances, oldest first
    problems  why some could not be read, a sentence each
    recorded  what was seen of its instances around a bad verdict, oldest first
    zone      in which times are shown; None: the one of this host
    played    None: it was no drill
    """

    record: dict[str, Any]
    evidence: tuple[Evidence, ...] = ()
    problems: tuple[str, ...] = ()
    recorded: tuple[Kept, ...] = ()
    zone: tzinfo | None = None
    now: datetime = field(default_factory=lambda: datetime.now().astimezone())
    played: Played | None = None

    def here(self, at: str) -> datetime:
        return datetime.fromisoformat(at).astimezone(self.zone)

    def at_wall(self, wall: float) -> datetime:
        return datetime.fromtimestamp(wall, UTC).astimezone(self.zone)

    @property
    def program(self) -> str:
        return plain(self.record["program"])

    @property
    def opened(self) -> datetime:
        return self.here(self.record["opened"])

    @property
    def over(self) -> datetime | None:
        return self.here(self.record["over"]) if self.record["over"] else None

    @cached_property
    def began(self) -> datetime:
        """The first bad sign, or, where the story has none before it, the opening."""
        signs = [self.here(line["time"]) for line in self.record["story"] if line["event"] in SIGNS]
        return min([*signs, self.opened])

    @cached_property
    def chart(self) -> Chart | None:
        begin, end = self.began - timedelta(seconds=CALM_S), self.over or self.now.astimezone(self.zone)
        return chart(self.record["program"], self.record["story"], self.here, begin, end, self.lived())

    def lived(self) -> frozenset[str]:
        """Instances that lived when the first recording begins: the story has no line of one that goes on as ever."""
        programs = [kept.head.fleet.programs.get(kept.head.program) for kept in self.recorded[:1]]
        return frozenset(str(each.id) for program in programs if program is not None for each in program.instances)

    def after(self, *events: str) -> dict[str, Any] | None:
        """The first of these events since the first bad sign."""
        began = self.began
        return next((line for line in self.record["story"] if line["event"] in events and self.here(line["time"]) >= began), None)

    def all(self, event: str) -> list[dict[str, Any]]:
        """Each of these events since the first bad sign."""
        return [line for line in self.record["story"] if line["event"] == event and self.here(line["time"]) >= self.began]

    def since_began(self, at: str) -> str:
        return spell((self.here(at) - self.began).total_seconds())


def write(found: Found) -> Document:
    """The whole of it. Its sections are those that a company writes by hand afterwards."""
    record = found.record
    word = "incidents" if " and " in str(record["incident"]) else "incident"
    title = f"Postmortem of {word} {record['incident']}: {found.program}, {found.opened:%Y-%m-%d}"
    played = found.played
    return Document(
        title if played is None else f"DRILL: {title}",
        (
            *((Section("This was a drill", tuple(_drill(played))),) if played is not None else ()),
            Section("Summary", tuple(_summary(found))),
            Section("Impact", tuple(_impact(found))),
            Section("Timeline", tuple(_timeline(found))),
            Section("Root cause", tuple(_cause(found))),
            Section("Resolution", tuple(_resolution(found))),
            Section("What worked, and what did not", tuple(_worked(found))),
            Section("What would have caught it earlier", tuple(_earlier(found))),
            Section("Follow-ups", tuple(_follow_ups(found))),
            Section("What this is written from", tuple(_sources(found))),
        ),
    )


def _drill(played: Played) -> Iterator[Block]:
    yield Text(
        f"Drill {played.id}: {played.what}. It was brought about on purpose, and all that this document says is of the drill: its "
        "customers were a load, its messages went to files, and what the operator runs was not touched."
    )
    yield Table(played.head, played.rows)


def _summary(found: Found) -> Iterator[Block]:
    record, over = found.record, found.over
    if over is None:
        yield Text(
            f"This incident is not over (it is {record['state']}): what follows is what is known so far, and not the end of it."
        )
    lasted = spell(((over or found.now) - found.began).total_seconds())
    end = f"It was proven over at {over:%H:%M:%S}, {lasted} later." if over else f"That is {lasted} ago."
    yield Text(f"At {found.began:%H:%M:%S} on {found.began:%Y-%m-%d} {found.program} got into trouble. {end}")
    yield Text(f"What was wrong: {plain(record['what']) or 'that is not recorded'}.")
    yield Table(
        ("what", "as recorded"),
        (
            ("severity", record["severity"]),
            ("cause", plain(record["cause"] or "not found")),
            ("release", plain(record["release"] or "none is known: its directory is neither a symlink nor a git checkout")),
            ("customers", f"{_unserved(found)}; {plain(record['noticed']['text'])}"),
            ("acknowledged by", plain(record["acknowledged_by"] or "nobody")),
        ),
    )
    yield Blank("in two sentences for somebody who was not there: what did customers want to do, and what did they get?")


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _unserved(found: Found) -> str:
    """By the record, and where all instances are known by the story: that sees the moment between a suspicion and the relief too."""
    record, drawn = found.record, found.chart
    if record["unserved_since"]:
        return "nobody is served as this is written"
    known = drawn is not None and found.lived() and not record["story_left_out"]
    unserved_s = max(record["unserved_s"], unready_s(drawn, found.began) if drawn is not None and known else 0.0)
    return f"no instance was ready for {spell(unserved_s)}" if unserved_s >= SEEN_S else ALWAYS


def _impact(found: Found) -> Iterator[Block]:
    noticed = found.record["noticed"]
    yield Text(_sentence(_unserved(found)))
    if not found.record["unserved_s"] and _unserved(found) != ALWAYS:
        yield Text(
            "That is counted from the first bad sign; messages count from the opening of the incident, and say that one was ready."
        )
    if noticed["looks"]:
        yield Table(
            ("what customers noticed", "count", "how it is known"),
            (
                (
                    "refused",
                    str(noticed["refused"]),
                    "attempts to connect that the kernel dropped; one customer may have tried often",
                ),
                ("broken", str(noticed["broken"]), "requests that were taken, and whose process died before it answered"),
                ("waited long", str(noticed["waited"]), "customers who were seen waiting for over a second"),
                ("longest wait", spell(noticed["longest_s"]), "of one customer, as far as it was seen"),
                ("trouble", spell(noticed["trouble_s"]), "for so long somebody was waiting for over a second"),
            ),
        )
        looks = _counted(noticed["looks"], "look", "looks")
        yield Text(f"It was counted from {looks} at the kernel's tables of connections.")
    else:
        yield Text(
            "Nothing is known of what customers noticed: no connection could be looked at. That is no sign that they noticed nothing."
        )
    unseen = [plain(noticed["unseen"])] if noticed["unseen"] else []
    if found.after("page.shown") is not None:
        unseen.append("how many customers got the apology, with status 503, while nothing could serve: each of them was answered")
    yield Text("What this cannot see:")
    yield Items(
        (
            *unseen,
            "customers who came and went between two looks, a tenth of a second apart while something was odd",
            "answers that came in time and were wrong, and pages that were slow behind a proxy or a cache",
            "customers who gave up, or never came back",
        )
    )
    yield Blank("who called, what was lost (orders, money, trust), who has to be told, and by whom?")


def _timeline(found: Found) -> Iterator[Block]:
    record = found.record
    yield Text(f"Times are {_zone(found)}. The second column counts from the first bad sign.")
    if found.chart is not None:
        shown = panels(found.recorded, found.at_wall)
        caption = f"The states of the instances{SEEN}." if shown else f"The states of the instances. {UNRECORDED}"
        yield Picture(caption, found.chart, shown)
    lines = sorted(_lines(found), key=lambda line: line[0])
    head, tail = lines, lines[:0]
    if len(lines) > TIMELINE_LIMIT:
        head, tail = lines[: TIMELINE_LIMIT // 2], lines[-TIMELINE_LIMIT // 2 :]
    rows = [_row(found, *line) for line in head]
    if tail:
        rows.append(("...", "", "", f"{len(lines) - TIMELINE_LIMIT} lines are left out; reviver incident --json has them"))
    rows += [_row(found, *line) for line in tail]
    if record["story_left_out"]:
        yield Text(f"{record['story_left_out']} earlier lines were left out: reviver events has what is kept.")
    yield Table(("time", "after", "who", "what"), tuple(rows))
    yield Blank("what people saw, thought and did, with times: who called whom, what was tried, what misled them?")


def _zone(found: Found) -> str:
    """Of the beginning, and of the end where the clock was changed meanwhile."""
    instants = (found.began, found.over or found.began)
    return ", then ".join(dict.fromkeys(f"{at:%Z}, UTC{at.isoformat()[-6:]}" if at.utcoffset() else "UTC" for at in instants))


def _lines(found: Found) -> Iterator[tuple[datetime, str, str]]:
    for line in found.record["story"]:
        yield found.here(line["time"]), plain(line["subject"]), plain(line["text"])
    for at, text in fates.lines(found.record, spell):
        yield found.here(at), "told", plain(text)


def _row(found: Found, at: datetime, who: str, what: str) -> tuple[str, ...]:
    after_s = (at - found.began).total_seconds()
    after = f"{MINUS if after_s < 0 else ''}{_lapse(abs(after_s))}".replace(" ", UNBROKEN)
    return f"{at:%H:%M:%S}.{at.microsecond // 100_000}", after, who, what


def _lapse(seconds: float) -> str:
    """To the second also where `spell` rounds to minutes: many lines stand in one."""
    whole = round(seconds)
    return spell(seconds) if not MINUTES_S <= whole < HOUR_S else f"{whole // 60} min {whole % 60:02d} s"


def _cause(found: Found) -> Iterator[Block]:
    record = found.record
    if record["cause"]:
        yield Text(f"By what was seen: {plain(record['cause'])}.")
    else:
        yield Text("No cause was found: what is known is what the evidence says.")
    ended = found.all("instance.failed")
    if ended:
        count, last = _counted(len(ended), "instance", "instances"), ended[-1]
        yield Text(f"{count} died unasked; of the last the story says: {plain(last['text']).rstrip('.')}.")
    for each in found.evidence[:EVIDENCE_LIMIT]:
        yield from _shown(found, each)
    if len(found.evidence) > EVIDENCE_LIMIT:
        yield Text(f"The evidence of {len(found.evidence) - EVIDENCE_LIMIT} more is in state_dir/evidence.")
    for problem in found.problems:
        yield Text(plain(problem))
    if not record["evidence"]:
        yield Text("No evidence was taken.")
    yield Blank(
        "why could it happen, why did it get so far, and why did no review and no test stop it? Ask why until the answer is no person."
    )


def _shown(found: Found, each: Evidence) -> Iterator[Block]:
    at = found.at_wall(each.taken_wall)
    ended = f" It ended: {plain(each.ended)}." if each.ended else ""
    yield Text(f"{plain(each.instance)}, at {at:%H:%M:%S}: {plain(each.summary) or 'nothing was found'}.{ended}")
    place = each.cause
    if place is not None:
        known = (
            ("what it did", place.nature),
            ("function", place.function),
            ("file", place.file),
            ("request", place.request),
            ("release", place.release),
            ("error", place.error),
        )
        yield Table(("cause", "as seen"), tuple((label, plain(value)) for label, value in known if value))
    if each.lines:
        yield Text("The lines it was seen in, as they are in the file:")
        yield Code(tuple(f"{line.number:>6}  {plain(line.text, LINE_LIMIT)}" for line in each.lines))
        commits = dict.fromkeys(plain(line.commit, LINE_LIMIT) for line in each.lines if line.commit)
        if commits:
            yield Text("They were changed last by:")
            yield Items(tuple(commits))
    if each.last_output:
        yield Text("The last lines of its output:")
        yield Code(tuple(plain(line, LINE_LIMIT) for line in each.last_output[-OUTPUT_LIMIT:]))


def _resolution(found: Found) -> Iterator[Block]:
    deeds = [line for line in found.record["story"] if line["event"] in DONE and found.here(line["time"]) >= found.began]
    if deeds:
        yield Text("Reviver did by itself, or when it was asked to:")
        yield Items(
            tuple(
                f"after {found.since_began(line['time'])}: {DONE[line['event']]}: {plain(line['subject'])}: {plain(line['text'])}"
                for line in deeds[:DEEDS_LIMIT]
            )
        )
        if len(deeds) > DEEDS_LIMIT:
            yield Text(f"and {len(deeds) - DEEDS_LIMIT} deeds more.")
    else:
        yield Text("Reviver did nothing that the record tells of.")
    for line in found.all("incident.closed"):
        yield Text(_sentence(plain(line["text"])))
    if found.over is None:
        yield Text("It is not over.")
    yield Blank("what did people do to end it, and is the cause gone, or only its effect?")


def _worked(found: Found) -> Iterator[Block]:
    good, bad = tuple(_good(found)), tuple(_bad(found))
    yield Text("What worked:")
    yield Items(good or ("nothing that the record shows",))
    yield Text("What did not:")
    yield Items(bad or ("nothing that the record shows",))
    yield Blank("where were we lucky, what took people longer than it should, what was missing (access, a runbook, a graph)?")


def _good(found: Found) -> Iterator[str]:
    record = found.record
    ready = found.after("instance.ready", "instance.recovered")
    if ready is not None:
        yield f"{plain(ready['subject'])} was ready {found.since_began(ready['time'])} after the first bad sign"
    if _unserved(found) == ALWAYS:
        yield ALWAYS
    taken = found.after("evidence.taken")
    if taken is not None:
        yield f"what {plain(taken['subject'])} was doing was known after {found.since_began(taken['time'])}: {plain(taken['text'])}"
    told = min((each for each in record["told"] if each["handed"]), key=lambda each: each["handed"], default=None)
    if told is not None:
        how = f"took the first message {found.since_began(told['handed'])} after the first bad sign"
        yield plain(f"{told['channel']} {how}")
    same = found.after("cause.recurred")
    if same is not None:
        yield f"it was recognised when it came again, after {found.since_began(same['time'])}: {plain(same['text'])}"
    lost = found.after("build.lost")
    if lost is not None:
        yield f"after {found.since_began(lost['time'])}: {plain(lost['text'])}"
    for each in record["acknowledgements"][:1]:
        yield f"{plain(each['by'])} acknowledged it after {found.since_began(each['time'])}"
    if record["noticed"]["looks"] and not record["noticed"]["refused"]:
        yield "no attempt to connect was seen refused"


def _bad(found: Found) -> Iterator[str]:
    record, noticed = found.record, found.record["noticed"]
    if _unserved(found) != ALWAYS:
        yield _unserved(found)
    if noticed["refused"]:
        yield f"{_counted(noticed['refused'], 'attempt', 'attempts')} to connect refused"
    if noticed["broken"]:
        yield f"{_counted(noticed['broken'], 'request', 'requests')} broken"
    if noticed["waited"]:
        waited = _counted(noticed["waited"], "customer", "customers")
        yield f"{waited} waited for over a second, the longest for {spell(noticed['longest_s'])}"
    if not record["cause"]:
        yield "no cause was found"
    undelivered = dict.fromkeys(
        f"{plain(each['channel'])} ({each['state']})" for each in record["told"] if each["state"] != "delivered"
    )
    if undelivered:
        yield f"messages that did not arrive as this is written: {', '.join(undelivered)}"
    late = dict.fromkeys(each["channel"] for each in record["told"] if each["handed"] and each["failed"])
    if late:
        yield plain(f"messages arrived only after tries that failed: {', '.join(late)}")
    if not record["told"]:
        yield "nobody was told: no escalation step takes it"
    elif not record["acknowledgements"] and found.played is None:
        yield "nobody acknowledged it"
    back = [line for line in record["story"] if line["event"] == "incident.reopened"]
    if back:
        yield f"it came back {_counted(len(back), 'time', 'times')} while it was thought to recover"


def _earlier(found: Found) -> Iterator[Block]:
    if found.recorded:
        yield Text(
            "By replay: what was seen then, through today's diagnosis, with the limits it had, and with each at half and at twice."
        )
        for kept in found.recorded[:REPLAYS_LIMIT]:
            yield Items(tuple(map(plain, earlier(kept, found.at_wall))))
        if len(found.recorded) > REPLAYS_LIMIT:
            yield Text(f"{len(found.recorded) - REPLAYS_LIMIT} more recordings are left out.")
        yield Text("A proof kills at once only what serves alone: beside another instance it has three times as long.")
        which = str(found.record["incident"]).partition(" and ")[0]
        yield Text(
            f"Other settings can be tried with reviver replay {which} --config OTHER.toml, and with --days 30 in the place of "
            "the number on all recordings of a month."
        )
    else:
        yield Text(
            "Not answered: no recording of what was seen around a bad verdict is left, and without one there is nothing to replay."
        )
    yield Blank("which review, test, alert or setting would have stopped it, or shown it sooner?")


def _follow_ups(found: Found) -> Iterator[Block]:
    head = ("action", "owner", "until")
    yield Text("Corrective, so that this does not come again:")
    yield Table(head, tuple((action, "", "") for action in (*_corrective(found), "")))
    yield Text("Preventive, so that its like is caught before customers notice:")
    yield Table(head, tuple((action, "", "") for action in (*_preventive(found), "")))


def _corrective(found: Found) -> Iterator[str]:
    record = found.record
    place = next((each.cause for each in found.evidence if each.cause is not None), None)
    if record["cause"]:
        yield f"mend {plain(record['cause'])}"
    else:
        yield "find the cause: reproduce it, and look at it then (reviver diagnose PID)"
    if place is not None and place.request:
        yield f"add a test that sends {plain(place.request)} with the value that did it, and fails today"
    if any(line["event"] in ("build.lost", "release.refused") for line in record["story"]):
        yield "withdraw the release that was given up, and say so to whoever deploys"
    if record["unserved_s"] or record["unserved_since"]:
        yield from _beside(found)


def _beside(found: Found) -> Iterator[str]:
    """What would have served meanwhile."""
    relieved = any(line["text"].startswith("relief ") for line in found.all("instance.started"))
    if found.all("instance.suspected") and not relieved:
        yield "let a second instance run beside the first: reviver check says what keeps it from that"
    elif found.all("instance.failed"):
        yield 'decide whether a spare stands by (relief.spare = "live"): it serves on when one dies, unless it dies of the same'


def _preventive(found: Found) -> Iterator[str]:
    yield "code review and tests: search for the same pattern elsewhere; a preflight that would have refused this release"
    yield "monitoring: decide whether it was found and told soon enough, and by which setting it would have been sooner"
    yield "maintenance: what of libraries, limits or data has to be brought up to date?"
    if found.played is None and not found.record["acknowledgements"]:
        yield "response plan: nobody acknowledged it; check the escalation steps, and try them (reviver alerts test)"
    else:
        yield "response plan: bring the runbook up to date with what was learned"
    yield "training: let the team practise this incident" if found.played is None else "training: play the drill again afterwards"


def _sources(found: Found) -> Iterator[Block]:
    record = found.record
    counts = (
        _counted(len(record["story"]), "line of the story", "lines of the story"),
        _counted(len(record["told"]), "message", "messages"),
        _counted(len(found.evidence), "evidence file", "evidence files"),
        _counted(len(found.recorded), "recording", "recordings"),
    )
    at = found.now.astimezone(found.zone)
    yield Text(f"Written at {at:%H:%M:%S} on {at:%Y-%m-%d} from {', '.join(counts)}. What is for people is marked.")


def evidence(text: bytes) -> Evidence | None:
    """What an evidence file says; None: that cannot be read, being cut off or of another version."""
    try:
        return msgspec.json.decode(text, type=Evidence)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
