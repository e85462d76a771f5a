"""The postmortem of an incident: what it says, what it owns not to know, and that no hostile program can write on it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from bench.verdicts import CORPUS
from bench.verdicts import read as read_case
from supervisor.commands import postmortem as command
from supervisor.control.client import Refusal
from supervisor.model import Acknowledgement, Fact, Fleet, Impact, Note, Severity, Toll
from supervisor.policy.replay import outcome
from supervisor.records.drawing import ROWS_LIMIT, Chart, chart, spans, svg, unready_s
from supervisor.records.incidents import read_incident
from supervisor.records.paper import markdown, plain
from supervisor.records.paper_html import html
from supervisor.records.postmortem import TIMELINE_LIMIT, Found, Played, evidence, write
from supervisor.records.recordings import Head, Kept
from supervisor.records.together import together
from tests.test_incidents import incident, put
from tests.test_journal import Room

SECTIONS = (
    "Summary",
    "Impact",
    "Timeline",
    "Root cause",
    "Resolution",
    "What worked, and what did not",
    "What would have caught it earlier",
    "Follow-ups",
    "What this is written from",
)
EVIL = "\x1b[2J\u202e</pre></td><script>alert(1)</script><img src=x onerror=alert(1)> `````\n# heading | cell\r\n" + "x" * 1_000_000
TAGS = {"html", "head", "meta", "title", "style", "body", "h1", "h2", "section", "p", "strong", "div", "ul", "ol", "li", "pre"}
TABLES = {"table", "thead", "tbody", "tr", "th", "td"}
DRAWN = {"figure", "figcaption", "svg", "g", "line", "text", "circle", "rect", "polyline", "span"}
PAGE_LIMIT = 400_000  # characters: a browser shows it at once


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "state")
    yield made
    made.close()


class Parsed(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def record(room: Room, number: int = 3) -> dict[str, Any]:
    room.close()
    found = read_incident(room.state_dir, number, str)
    assert found is not None
    return found


def hung(room: Room, **more: object) -> dict[str, Any]:
    """A hang as the journal tells it: noticed 30 s ago, relieved, killed and over."""
    journal, now, wall = room.journal(), time.monotonic(), time.time()
    fact = Fact("hang", Severity.WARNING, "store:1 is suspect: no answer for 1.0 s", "store:1", now - 29.0)
    for ago_s, subject, name, text in (
        (30.0, "store:1", "instance.suspected", "suspect: no answer for 1.0 s"),
        (29.9, "store", "instance.started", "relief store:2 started beside store:1, pid 4242"),
        (28.0, "store:2", "instance.ready", "ready after 1.9 s"),
        (28.0, "store:1", "instance.retired", "asked to stop (SIGTERM)"),
        (27.0, "store:1", "evidence.taken", "loops in shop.py:36 apply()"),
        (20.0, "store:1", "instance.killed", "killed: hung"),
        (0.5, "store", "incident.closed", "incident 3 over, healed by itself"),
    ):
        journal.note(wall - ago_s, now - ago_s, Note(subject, name, text))
    values: dict[str, Any] = {"facts": (fact,), "headline": fact, "cause": "shop.py:36 apply()", **more}
    put(journal, incident(ago_s=29.0, **values), now)
    return record(room)


def kept(name: str = "sync-spin-allocate.recording", incident: int = 3) -> Kept:
    recording = read_case(CORPUS / name).recording
    began = outcome(recording).suspected
    assert began is not None
    head = Head(
        incident=incident,
        program="store",
        number=1,
        began=began,
        ended="it was gone",
        fleet=Fleet(),
        wall_s=time.time() - 30.0 - began,
        boot="",
        version="0",
    )
    return Kept(head, recording)


def test_two_incidents_are_one_document_with_each_line_once(room: Room) -> None:
    first = {**hung(room), "incident": 3}
    later = (datetime.now(UTC) + timedelta(seconds=60)).isoformat()
    more = {"time": later, "subject": "store", "event": "incident.closed", "text": "incident 4 over"}
    again = {**first, "incident": 4, "opened": later, "over": later, "severity": "critical", "cause": "shop.py:37 apply()"}
    again = {**again, "story": [*first["story"], more], "noticed": {**first["noticed"], "broken": 1, "longest_s": 30.0}}
    record = together([Found(again), Found(first)]).record
    assert (record["incident"], record["severity"], record["opened"]) == ("3 and 4", "critical", first["opened"])
    assert record["story"] == [*first["story"], more]
    assert record["cause"] == "shop.py:36 apply()", "the same function, in the line in which it was met first"
    assert (record["noticed"]["broken"], record["noticed"]["longest_s"]) == (first["noticed"]["broken"] + 1, 30.0)
    text = markdown(write(Found(record)))
    assert text.startswith("# Postmortem of incidents 3 and 4: store")
    assert "Incident 4 over." in text
    assert "reviver replay 3 and 4" not in text


def test_crash_says_how_it_died_and_asks_for_a_spare_and_not_for_relief(room: Room) -> None:
    found = hung(room, cause="")
    at = found["story"][0]["time"]
    dead = {"time": at, "subject": "store:1", "event": "instance.failed", "text": "ended by itself: exit code 1"}
    shown = {"time": at, "subject": "store", "event": "page.shown", "text": "nothing has been ready for 3.0 s"}
    text = markdown(write(Found({**found, "story": [dead, shown, dead], "unserved_s": 3.0})))
    assert "2 instances died unasked; of the last the story says: ended by itself: exit code 1." in text
    assert "got the apology" in text
    assert "relief.spare" in text
    assert "let a second instance" not in text


def test_drill_says_so_and_asks_nobody_to_acknowledge(room: Room) -> None:
    played = Played("D1", "a hang, in a shadow", ("result", "what"), (("ok", "<b>found</b>"),))
    document = write(Found(hung(room), played=played))
    text = markdown(document)
    assert text.startswith("# DRILL: Postmortem of incident 3")
    assert "| ok | \\<b\\>found\\</b\\> |" in text
    assert "acknowledge it" not in text
    assert "<b>found" not in html(document)


# --- what it says ---------------------------------------------------------------------------------------------------------------


def test_it_has_all_sections_and_its_figures_in_order(room: Room) -> None:
    found = Found(
        hung(room, toll=Toll(looks=300, broken=1, waited=4, longest_s=30.3, trouble_s=29.3, unseen="waits on unix sockets"))
    )
    said = markdown(write(found))
    assert tuple(re.findall(r"^## (.*)$", said, re.MULTILINE)) == SECTIONS
    assert "| broken | 1 |" in said
    assert "- waits on unix sockets" in said
    assert "| customers | an instance was ready all the time since it was opened;" in said, "one may have been that is not named"
    assert "- store:2 was ready 2.0 s after the first bad sign" in said
    assert "loops in shop.py:36 apply()" in said
    assert "- store:1: running 20 s, suspect 2.0 s, retiring 8.0 s, killed" in said
    assert "- after 10 s: killed: store:1: killed: hung" in said
    assert "| mend shop.py:36 apply() |  |  |" in said
    assert said.count("For people to fill in") == 7


def test_times_are_the_operators(room: Room) -> None:
    found = Found(hung(room), zone=ZoneInfo("America/Los_Angeles"))
    opened = found.began
    assert opened.utcoffset() in (timedelta(hours=-8), timedelta(hours=-7))
    said = markdown(write(found))
    assert f"| {opened:%H:%M:%S}.{opened.microsecond // 100_000} | 0.0\u00a0s | store:1 | suspect" in said
    assert re.search(r"Times are P[SD]T, UTC-0[78]:00\.", said)


def test_what_nobody_looked_at_is_not_called_good(room: Room) -> None:
    said = markdown(write(Found(hung(room, cause="", toll=Toll()))))
    assert "That is no sign that they noticed nothing" in said
    assert "refused |" not in said
    assert "no attempt to connect" not in said
    assert "No cause was found" in said
    assert "no cause was found" in said
    assert "nobody was told" in said
    assert "Not answered: no recording" in said
    assert "are not drawn" in said


def test_one_that_goes_on_says_so_first(room: Room) -> None:
    said_by = Acknowledgement("uid 1000", time.monotonic() - 10.0)
    put(room.journal(), incident(acknowledgements=(said_by,), impact=Impact(time.monotonic() - 5.0, 3.0)))
    said = markdown(write(Found(record(room))))
    assert said.index("This incident is not over (it is acknowledged)") < said.index("| severity")
    assert "Nobody is served as this is written." in said
    assert "uid 1000 acknowledged it after 40 s" in said


def test_evidence_shows_the_lines_of_source_and_who_changed_them(room: Room) -> None:
    file = {
        "instance": "store:1",
        "taken_wall": time.time() - 27.0,
        "summary": "loops in shop.py:36 apply()",
        "cause": {"nature": "spinning", "file": "shop.py", "function": "apply", "request": "GET /checkout?coupon=<redacted>"},
        "lines": [{"number": 36, "text": "while total > floor:", "commit": "4f2a91c of 2026-01-01: Coupons"}],
        "last_output": ["Booting worker"],
        "kernel": [],
    }
    known = evidence(json.dumps(file).encode())
    assert known is not None
    assert (evidence(b"\xff no evidence"), evidence(b"[]"), evidence(b'{"instance": "store:1"')) == (None, None, None)
    document = write(Found(hung(room), (known,)))
    said = markdown(document)
    assert "    36  while total > floor:" in said
    assert "- 4f2a91c of 2026-01-01: Coupons" in said
    assert r"add a test that sends GET /checkout?coupon=\<redacted\>" in said
    assert "while total &gt; floor:" in html(document)


def test_a_recording_is_drawn_and_answers_what_would_have_found_it_earlier(room: Room) -> None:
    document = write(Found(hung(room), recorded=(kept(),)))
    said = markdown(document)
    assert re.search(r"^- store:1, as it was set: suspected at [\d:]+, proven hung at [\d:]+$", said, re.MULTILINE)
    assert re.search(r"^- with certain = 5 s: proven \d\.\d s earlier$", said, re.MULTILINE)
    assert "reviver replay 3" in said
    assert re.search(r"^- processors in use, store:1: at most [\d.]+ cores", said, re.MULTILINE)
    page = Parsed(html(document))
    assert "polyline" in page.tags
    assert "oldest request that had no answer" in page.text


# --- drawing --------------------------------------------------------------------------------------------------------------------

ZERO = datetime(2026, 1, 3, 23, 59, 30, tzinfo=UTC)


def drawn(*lines: tuple[float, str, str, str], end_s: float = 60.0) -> Chart:
    story = [
        {"time": (ZERO + timedelta(seconds=at)).isoformat(), "subject": subject, "event": f"instance.{event}", "text": text}
        for at, subject, event, text in lines
    ]
    found = chart("store", story, datetime.fromisoformat, ZERO, ZERO + timedelta(seconds=end_s))
    assert found is not None
    return found


def test_a_crash_loop_draws_no_more_instances_than_a_page_has_room_for() -> None:
    lines = [(number / 10, f"store:{number}", "failed", "crashed") for number in range(1, 301)]
    found = drawn(*lines)
    assert (len(found.rows), found.left_out) == (ROWS_LIMIT, 300 - ROWS_LIMIT)
    assert (found.rows[0].instance, found.rows[-1].instance) == ("store:1", "store:300")
    assert list(spans(found))[-1] == f"{300 - ROWS_LIMIT} more instances are left out"
    assert svg(found).count('class="name"') == ROWS_LIMIT


def test_who_could_not_be_started_never_ran_and_who_was_there_before_did() -> None:
    found = drawn(
        (5.0, "store:1", "failed", "cannot be started: no such file"),
        (6.0, "store:2", "failed", "ended by itself: exit code 3"),
        (7.0, "other:1", "ready", "of another program"),
    )
    assert list(spans(found)) == ["store:1: cannot be started", "store:2: running 6.0 s, failed"]
    assert unready_s(found, ZERO) == 54.0


def test_who_went_on_as_ever_is_ready_though_the_story_does_not_name_it() -> None:
    story = [
        {"time": (ZERO + timedelta(seconds=5)).isoformat(), "subject": "store:1", "event": "instance.suspected", "text": "suspect"}
    ]
    found = chart("store", story, datetime.fromisoformat, ZERO, ZERO + timedelta(seconds=60), frozenset({"store:1", "store:2"}))
    assert found is not None
    assert list(spans(found)) == ["store:1: running 5.0 s, suspect 55 s", "store:2: running 60 s"]
    assert unready_s(found, ZERO) == 0.0


def test_the_time_in_which_nobody_was_ready_is_between_them() -> None:
    found = drawn(
        (10.0, "store:1", "suspected", "suspect"),
        (10.1, "store", "started", "relief store:2 started beside store:1, pid 1"),
        (12.0, "store:2", "ready", "ready"),
        (20.0, "store:1", "recovered", "answers again"),
        (30.0, "store:2", "retired", "asked to stop"),
    )
    assert unready_s(found, ZERO + timedelta(seconds=10)) == 2.0
    assert unready_s(found, ZERO + timedelta(seconds=11)) == 1.0


def test_it_can_be_drawn_over_midnight() -> None:
    assert "00:00:00" in svg(drawn((1.0, "store:1", "ready", "ready")))


# --- hostile programs -----------------------------------------------------------------------------------------------------------


def hostile(room: Room) -> Found:
    fact = Fact("hang", Severity.CRITICAL, EVIL[:2000], "store:1", time.monotonic())
    journal = room.journal()
    toll = Toll(looks=1, refused=1, unseen=EVIL[:2000])
    put(journal, incident(facts=(fact,), headline=fact, cause=EVIL[:2000], release=EVIL[:500], toll=toll, evidence=("store:1",)))
    for _ in range(10):
        journal.note(time.time(), time.monotonic(), Note("store:1", "instance.failed", EVIL))
    for number in range(400):
        journal.note(time.time(), time.monotonic(), Note(f"store:{number}", "instance.killed", EVIL[:500]))
    lines = [{"number": number, "text": EVIL, "commit": EVIL} for number in range(12)]
    cause = dict.fromkeys(("nature", "file", "function", "request", "release", "error"), EVIL)
    file = {
        "instance": EVIL,
        "taken_wall": 1.0,
        "summary": EVIL,
        "ended": EVIL,
        "cause": cause,
        "lines": lines,
        "last_output": [*[EVIL] * 40, "`````"],
    }
    known = evidence(json.dumps(file).encode())
    assert known is not None
    return Found(record(room), (known,), (EVIL,))


def harmless(text: str) -> bool:
    """No control character in it but ends of lines; the no-break space of "0.4 s" is ours."""
    return all(line.isprintable() for line in text.replace("\N{NO-BREAK SPACE}", " ").split("\n"))


def test_a_hostile_program_cannot_write_on_the_page(room: Room) -> None:
    page = html(write(hostile(room)))
    parsed = Parsed(page)
    assert parsed.tags <= TAGS | TABLES | DRAWN
    assert not [name for name in parsed.attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert "default-src 'none'" in page
    assert "<script>alert(1)</script>" in parsed.text, "it is shown, and not obeyed"
    assert harmless(page)
    assert len(page) < PAGE_LIMIT


def test_a_hostile_program_cannot_write_in_the_markdown(room: Room) -> None:
    said = markdown(write(hostile(room)))
    assert len(said) < PAGE_LIMIT
    lines = said.splitlines()
    assert harmless(said)
    assert all(len(line) < 4000 for line in lines)
    assert tuple(line[3:] for line in lines if line.startswith("## ")) == SECTIONS
    outside = re.sub(r"^(`{3,})text\n.*?^\1`*$", "", said, flags=re.MULTILINE | re.DOTALL)
    assert outside != said
    assert not re.search(r"(?<!\\)[<>`]", re.sub(r"^> ?", "", outside, flags=re.MULTILINE))
    for row in (line for line in outside.splitlines() if line.startswith("| store:1 ")):
        assert len(re.findall(r"(?<!\\)\|", row)) == 5


def test_a_long_story_keeps_its_beginning_and_its_end(room: Room) -> None:
    journal = room.journal()
    put(journal, incident())
    for number in range(TIMELINE_LIMIT + 50):
        journal.note(time.time(), time.monotonic(), Note("store:1", "instance.ready", f"line {number}."))
    said = markdown(write(Found(record(room))))
    assert "line 0." in said
    assert f"line {TIMELINE_LIMIT + 49}." in said
    assert "50 lines are left out" in said


def test_a_text_is_cut_with_a_word() -> None:
    assert plain("a\x00b") == r"a\x00b"
    assert plain("x" * 500, 10) == f"{'x' * 10} ... (500 characters in all)"


# --- the command ----------------------------------------------------------------------------------------------------------------


def configured(room: Room, tmp_path: Path) -> str:
    path = tmp_path / "config.toml"
    path.write_text(f'[reviver]\nruntime_dir = "{tmp_path}"\nstate_dir = "{room.state_dir}"\n[program.store]\ncommand = "x"\n')
    return str(path)


def test_the_command_prints_markdown_and_writes_a_page_once(room: Room, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hung(room, evidence=("store:1",))
    folder = Path(room.state_dir, "evidence")
    folder.mkdir()
    for name in ("store:1", "store:11", "store-1:1"):
        file = {"instance": name, "taken_wall": time.time(), "summary": f"of {name}!"}
        (folder / f"{name.replace(':', '-')}-17.json").write_text(json.dumps(file))
    config, page = configured(room, tmp_path), tmp_path / "page.html"
    assert command.postmortem(config, ["3"], None) == 0
    said = capsys.readouterr().out
    assert said.startswith("# Postmortem of incident 3: store")
    assert "of store:1!" in said
    assert "of store:11!" not in said
    assert "of store-1:1!" not in said
    assert command.postmortem(config, ["3"], str(page)) == 0
    assert "for people" in capsys.readouterr().err
    written = page.read_text()
    assert written.startswith("<!DOCTYPE html>")
    with pytest.raises(Refusal, match="people may have written into it"):
        command.postmortem(config, ["3"], str(page))
    assert page.read_text() == written
    with pytest.raises(Refusal, match="there is no incident 9"):
        command.postmortem(config, ["9"], None)


def test_evidence_that_is_gone_is_missed(room: Room, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hung(room, evidence=("store:1",))
    config = configured(room, tmp_path)
    command.postmortem(config, ["3"], None)
    assert "The evidence could not be read (No such file or directory)" in capsys.readouterr().out
    Path(room.state_dir, "evidence").mkdir()
    command.postmortem(config, ["3"], None)
    assert "The evidence is not there any more" in capsys.readouterr().out
