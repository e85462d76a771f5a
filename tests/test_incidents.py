"""Incidents on disk and as people read them: written whole, read without a daemon, and kept over deaths, reboots and hostile texts."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.commands import incidents as command
from supervisor.control.client import Client, Refusal
from supervisor.mechanism.maintenance import muted
from supervisor.model import (
    Acknowledgement,
    Exited,
    Fact,
    Impact,
    Incident,
    InstanceId,
    MaintenanceSettings,
    Note,
    RecordIncident,
    Severity,
    Tell,
    Weekday,
    Woke,
)
from supervisor.policy.customers import PUBLIC_STEP
from supervisor.policy.words import spell
from supervisor.records import fates
from supervisor.records.incidents import read_incident, read_incidents
from supervisor.records.journal import FATE, Journal, Letter
from supervisor.records.log import utc
from tests.control import running, settings
from tests.supervised import Supervised, python
from tests.test_journal import DEADLINE_S, Room, until


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "state")
    yield made
    made.close()


def incident(number: int = 3, ago_s: float = 50.0, **more: object) -> Incident:
    at = time.monotonic() - ago_s
    fact = Fact("crash", Severity.WARNING, "store:1 ended by itself: exit code 1", "store:1", at)
    return replace(Incident(number, at, Severity.WARNING, headline=fact, facts=(fact,), round=at, release="4f2a91c"), **more)


def put(journal: Journal, value: Incident, over: float | None = None) -> None:
    journal.happened(time.monotonic(), Woke(), (RecordIncident("store", value, over),))


def state(room: Room, number: int) -> str:
    return next(each["state"] for each in read_incidents(room.state_dir) if each["incident"] == number)


# --- on disk --------------------------------------------------------------------------------------------------------------------


def test_an_incident_is_read_back_with_its_story_and_who_was_told(room: Room) -> None:
    journal, now, wall = room.journal(), time.monotonic(), time.time()
    journal.note(wall - 500.0, now, Note("store:1", "instance.ready", "long before"))
    journal.note(wall - 70.0, now, Note("store:1", "instance.suspected", "led to it"))
    journal.note(wall - 40.0, now, Note("other", "instance.ready", "of another"))
    said = Acknowledgement("uid 1000", now - 10.0)
    put(journal, incident(acknowledgements=(said,), cause="store.py:41 apply()", impact=Impact(None, 12.0)))
    tell = Tell(3, "store", "crash", Severity.WARNING, "it crashed", ("webhook:https://host/secret",))
    letter = Letter(3, "crash", 0, "webhook:https://host/secret", wall - 49.0, b'{"text": "it crashed"}')
    journal.told(tell, wall - 49.0, (letter,)).result(DEADLINE_S)
    journal.tried(letter, wall - 48.5, "host answered 500")
    journal.tried(letter, wall - 47.5, "host did not answer")
    journal.settled(letter, wall - 46.5, "delivered")
    room.close()
    found = read_incident(room.state_dir, 3, lambda channel: channel.partition(":")[0])
    assert found is not None
    assert [line["text"] for line in found["story"]] == ["led to it"]
    (told,) = found["told"]
    assert (told["channel"], told["state"], told["text"]) == ("webhook", "delivered", "it crashed")
    assert (told["handed"], told["failed"], told["tries"]) == (utc(wall - 46.5), utc(wall - 48.5), 3)
    assert (told["problem"], told["with"]) == ("host did not answer", 0)
    assert told["after_s"] == pytest.approx(3.5, abs=0.3)  # after its fact, 50 s ago
    assert (found["state"], found["cause"], found["unserved_s"], found["release"]) == (
        "acknowledged",
        "store.py:41 apply()",
        12.0,
        "4f2a91c",
    )
    assert "secret" not in json.dumps(found)
    assert read_incident(room.state_dir, 4, str) is None


def test_a_message_that_was_sent_among_others_has_their_fate(room: Room) -> None:
    journal, wall = room.journal(), time.time()
    put(journal, incident())
    one, other = (Letter(number, "crash", 0, "command:/page", wall - 49.0, b'{"text": "it crashed"}') for number in (3, 4))
    group = Letter(4, "group-ab", 0, "command:/page", wall - 49.0, b'{"text": "2 messages", "parts": [{}, {}]}')
    journal.posted((one, other))
    journal.posted((group,), (other, one))
    journal.tried(group, wall - 46.0, "it is busy")
    journal.settled(group, wall - 45.0, "delivered")
    room.close()
    found = read_incident(room.state_dir, 3, str)
    assert found is not None
    (told,) = found["told"]
    assert (told["text"], told["state"], told["handed"], told["tries"], told["with"]) == (
        "it crashed",
        "delivered",
        utc(wall - 45.0),
        2,
        1,
    )
    found["told"].append(told | {"channel": "mailto:", "handed": None, "failed": None, "state": "waiting", "tries": 4})
    found["told"].append(told | {"step": PUBLIC_STEP, "text": "sorry", "after_s": 0.01, "tries": 1, "with": 0, "failed": None})
    assert [text for _, text in fates.lines(found, spell)] == [
        "mailto: (waiting after 4 tries): it crashed",
        "command:/page does not take the message of crash: it is busy",
        "command:/page, 5.0 s after the fact, at try 2, in one message with 1 more: of crash",
        "command:/page (stakeholders), at once: sorry",
    ]
    shown = fates.channels(found, spell, lambda at: "10:00:01")
    assert shown == [
        "command:/page at 10:00:01, 5.0 s after the fact",
        "mailto: has nothing yet (1 of 1 waiting: it is busy)",
        "command:/page (stakeholders) at 10:00:01, at once",
    ]


def test_what_an_older_version_wrote_down_is_read_and_gone_on_with(room: Room) -> None:
    journal = room.journal()
    put(journal, incident())
    letter = Letter(3, "crash", 0, "command:/page", time.time(), b'{"text": "it crashed"}')
    journal.posted((letter,))
    room.close()
    with contextlib.closing(sqlite3.connect(Path(room.state_dir) / "journal.db")) as base:
        for name in FATE:
            base.execute(f"ALTER TABLE outbox DROP COLUMN {name}")
        base.execute("PRAGMA user_version = 4")
    for later in (False, True):
        if later:
            room.journal().settled(letter, time.time(), "delivered")
            room.close()
        found = read_incident(room.state_dir, 3, str)
        assert found is not None
        (told,) = found["told"]
        assert (told["state"], told["tries"], told["handed"] is not None) == (
            ("delivered", 1, True) if later else ("waiting", 0, False)
        )


def test_the_states_of_an_incident(room: Room) -> None:
    journal, now = room.journal(), time.monotonic()
    said = Acknowledgement("uid 1000", now)
    for number, value, over in (
        (1, incident(1), now),
        (2, incident(2), None),
        (3, incident(3, acknowledgements=(said,)), None),
        (4, incident(4, acknowledgements=(replace(said, broken="it came back"),)), None),
        (5, incident(5, acknowledgements=(said,), calm=now), None),
    ):
        put(journal, value, over)
        assert number == value.number
    room.close()
    states = [(each["incident"], each["state"]) for each in read_incidents(room.state_dir)]
    assert states == [(5, "recovering"), (4, "open"), (3, "acknowledged"), (2, "open"), (1, "over")]
    assert [each["incident"] for each in read_incidents(room.state_dir, 2, "store")] == [5, 4]
    assert read_incidents(room.state_dir, 2, "other") == []


def test_the_next_boot_goes_on_with_what_was_not_over(room: Room) -> None:
    value = incident()
    journal = room.journal()
    put(journal, value)
    room.close()
    later = room.journal()
    (name,), (known,) = later.open_incidents().keys(), later.open_incidents().values()
    assert (name, known.number, known.headline and known.headline.text) == ("store", 3, value.headline and value.headline.text)
    assert abs(known.opened - value.opened) < 1.0
    later.abandoned(3, time.time())
    room.close()
    assert state(room, 3) == "over"
    assert room.journal().open_incidents() == {}


def test_incidents_that_are_over_are_kept_as_long_as_everything(room: Room) -> None:
    journal = room.journal()
    put(journal, incident(1, 9000.0), time.monotonic() - 8000.0)
    put(journal, incident(2, 9000.0))
    room.close()
    later = room.journal(keep_s=3600.0)
    later.note(time.time(), 11.0, Note("store", "program.down", "new"))
    until(lambda: [each["incident"] for each in read_incidents(room.state_dir)] == [2])


# --- the page -------------------------------------------------------------------------------------------------------------------


def test_a_hostile_program_cannot_write_on_the_page(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    evil = "\x1b[2J\u202e<script>\r\n" + "x" * 1_000_000
    fact = Fact("crash", Severity.CRITICAL, evil[:1000], "store:1", time.monotonic())
    journal = room.journal()
    put(journal, incident(facts=(fact,), headline=fact, cause=evil[:300], severity=Severity.CRITICAL))
    journal.note(time.time(), time.monotonic(), Note("store:1", "instance.failed", evil))
    room.close()
    path = tmp_path / "config.toml"
    path.write_text(f'[reviver]\nruntime_dir = "{tmp_path}"\nstate_dir = "{room.state_dir}"\n[program.store]\ncommand = "x"\n')
    assert command.incident(str(path), "3", 20, as_json=False) == 0
    shown = capsys.readouterr()
    assert "this is from the journal" in shown.err
    assert all(line.isprintable() and len(line) < 2000 for line in shown.out.splitlines())
    assert "reviver ack 3" in shown.out
    assert command.incidents(str(path), "", 20, as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["incidents"][0]["severity"] == "critical"
    with pytest.raises(Refusal, match="there is no incident 9"):
        command.incident(str(path), "9", 20, as_json=False)


# --- commands -------------------------------------------------------------------------------------------------------------------


def test_acknowledging_names_the_incident_or_the_only_one(tmp_path: Path) -> None:
    with running(tmp_path, settings("store"), settings("web")) as serving, Client(str(tmp_path)) as client:
        with pytest.raises(Refusal, match="none is open"):
            client.call("ack", {"incident": None})
        serving.post(Exited(InstanceId("store", 1), 3, words="exit code 3"))
        assert "incident 1 acknowledged" in client.call("ack", {"incident": None})["text"]
        assert "was acknowledged" in client.call("ack", {"incident": 1})["text"]
        with pytest.raises(Refusal, match="incident 7 is not open"):
            client.call("ack", {"incident": 7})
        assert any("acknowledged it" in sentence for sentence in client.call("explain", {"name": "store"})["why"])
        serving.post(Exited(InstanceId("web", 1), 3, words="exit code 3"))
        with pytest.raises(Refusal, match="open are 1, 2"):
            client.call("ack", {"incident": None})


def test_a_hold_is_shown_and_ended(tmp_path: Path) -> None:
    with running(tmp_path, settings("store")) as serving, Client(str(tmp_path)) as client:
        assert client.call("hold", {"name": "store", "lasts": "20m", "reason": "looking"})["until"]
        (program,) = client.call("status", {"names": []})["programs"]
        assert (program["state"], program["hold"]["reason"]) == ("held", "looking")
        serving.post(Exited(InstanceId("store", 1), 3))
        explained = client.call("explain", {"name": "store"})
        assert any("is held by uid" in sentence for sentence in explained["why"])
        assert "the hold ends in 20 min" in explained["next"][0]
        assert client.call("hold", {"name": "store", "end": True})["text"].startswith("no longer held")
        assert client.call("hold", {"name": "store", "end": True})["text"] == "is not held"
        assert client.call("status", {"names": []})["programs"][0]["hold"] is None


@pytest.mark.parametrize(
    ("lasts", "reason", "said"),
    [
        ("", "x", "is no duration"),
        ("20", "x", "is no duration"),
        ("0.5s", "x", "from 1s"),
        ("8d", "x", "7d"),
        ("20m", " ", "say why"),
    ],
)
def test_a_hold_needs_a_time_and_a_reason(tmp_path: Path, lasts: str, reason: str, said: str) -> None:
    with running(tmp_path, settings("store")), Client(str(tmp_path)) as client, pytest.raises(Refusal, match=said):
        client.call("hold", {"name": "store", "lasts": lasts, "reason": reason})


# --- maintenance windows --------------------------------------------------------------------------------------------------------


def wall(day: int, hour: int, minute: int = 0) -> float:
    """Of January 2026, here; the 3rd is a Saturday."""
    return time.mktime((2026, 1, day, hour, minute, 0, 0, 0, -1))


@pytest.mark.parametrize(
    ("now", "names"),
    [
        (wall(3, 23, 29), ()),
        (wall(3, 23, 30), ("db",)),
        (wall(4, 1, 29), ("db",)),
        (wall(4, 1, 30), ()),
        (wall(4, 23, 40), ()),
    ],
)
def test_a_window_opens_on_its_day_and_lasts_over_midnight(now: float, names: tuple[str, ...]) -> None:
    window = MaintenanceSettings(days=(Weekday.SAT,), minute=23 * 60 + 30, lasts_s=7200.0, programs=("db",))
    assert muted((window,), ("db", "store"), now)[0] == names


def test_the_clock_is_looked_at_when_a_window_begins_and_each_minute() -> None:
    window = MaintenanceSettings(minute=120)
    assert muted((window,), ("db",), wall(3, 1, 59) + 50.0) == ((), 10.0)
    assert muted((window,), ("db",), wall(3, 2)) == (("db",), 60.0)
    assert muted((), ("db",), wall(3, 2))[0] == ()


# --- over deaths ----------------------------------------------------------------------------------------------------------------

CRASHER = "import sys, time; time.sleep(0.1); sys.exit(3)"
WAITS = "restart.first = '1h'\nrestart.limit = '1h'"


def test_incident_acknowledgement_and_hold_survive_a_supervisor_that_is_killed_or_stopped(tmp_path: Path) -> None:
    pages = tmp_path / "pages"
    page = f'#!/bin/sh\necho "$REVIVER_KEY" >> {pages}\n'
    (tmp_path / "page").write_text(page)
    (tmp_path / "page").chmod(0o755)
    program = f'[program.app]\ncommand = {python(CRASHER)}\n{WAITS}\n[[escalation]]\nnotify = ["command:{tmp_path}/page"]\n'
    with Supervised(tmp_path, program) as first:
        first.until("incident.opened")
        first.wait_for(lambda: pages.exists() and pages.read_text() == "crash\n")
        assert first.ask("ack").returncode == 0
        assert first.ask("hold", "app", "1h", "--reason", "looking").returncode == 0
        first.signal(signal.SIGKILL)
        first.process.wait()
        with Supervised(tmp_path, program) as second:
            second.until("daemon.started")
            assert second.status("app")["state"] == "held"
            assert second.ask("hold", "app", "--end").returncode == 0
            second.until("program.released")
            found = json.loads(second.ask("incident", "1", "--json").stdout)
            assert (found["state"], found["over"]) == ("acknowledged", None)
            second.signal(signal.SIGTERM)
            second.rest()
        shown = second.ask("incidents")
        assert shown.returncode == 0
        assert "acknowledged" in shown.stdout
        with Supervised(tmp_path, program) as third:
            third.until("instance.failed")
            third.wait_for(lambda: third.call("incident", incident=1)["state"] == "acknowledged")
    assert pages.read_text() == "crash\n", "one page: nobody is told again"
