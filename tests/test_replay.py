"""Recordings of what was seen around a bad verdict, and what other settings would have made of it."""

from __future__ import annotations

import json
import socket
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from bench.verdicts import CORPUS, read
from supervisor.commands.replay import replay as command
from supervisor.control.client import Refusal
from supervisor.mechanism import tape
from supervisor.mechanism.tape import BEFORE_S, CALM_S, LASTS_S, PART_S, Ended, Shelf, Taken, Tape
from supervisor.model import (
    Act,
    Answered,
    Applied,
    Candidate,
    Fleet,
    HangSettings,
    Incident,
    InstanceId,
    Kind,
    LaunchSettings,
    ProgramSettings,
    ReliefSettings,
    Retirement,
    Severity,
    Spawn,
    Spawned,
    Verdict,
    Woke,
)
from supervisor.policy.facts import Beaten, Fact, Opened, Ruled
from supervisor.policy.fleet import step
from supervisor.policy.replay import Recording, earlier, gained_s, outcome, rules
from supervisor.policy.rerun import Deed, Happened, What, differences, rerun
from supervisor.policy.samples import Finding, ProcessSample, ThreadSample, TreeSample
from supervisor.policy.sight import Sight
from supervisor.records import recordings
from supervisor.records.recordings import Head, Kept
from supervisor.records.recordings import read as read_recordings
from tests.supervised import Supervised, free_port, python

STORE = InstanceId("store", 1)
RULES = Ruled(0.0, HangSettings(), 1.0, beats=True, asked=False, watched=True)

HANGS = """
import socket, time
listener = socket.socket(fileno=3)
while True:
    taken, _ = listener.accept()
    path = taken.recv(4096).split()[1]
    if path == b"/sleep": time.sleep(1000)
    taken.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
    taken.close()
"""
QUICK = """
[program.shop]
command = {command}
sockets = ["127.0.0.1:{port}"]
[program.shop.health]
http = "/health"
every = "0.2s"
[program.shop.hang]
suspect = "{suspect}"
certain = "1s"
blocked = "{blocked}"
"""


class Seen:
    """A tape beside the sight that it is told of."""

    def __init__(self) -> None:
        self.sight, self.tape = Sight(0.0), Tape(STORE, Fleet, Shelf())
        self.take(RULES)

    def take(self, fact: Fact) -> None:
        self.tape.take(fact, self.sight)
        self.sight.take(fact)

    def beat(self, begin: int, end: int) -> None:
        for second in range(begin, end):
            self.take(Beaten(float(second)))

    def judge(self, now: float, kind: Kind) -> Taken | None:
        return self.tape.judged(Finding(Verdict(kind, "so", now), now), now, 0.0)


def test_tape_in_peace_keeps_a_minute_and_no_more() -> None:
    seen = Seen()
    seen.beat(1, 500)
    assert seen.judge(500.0, Kind.SUSPECT) is None
    taken = seen.tape.end(0.0)
    assert taken is not None
    first = taken.recording.facts[0]
    assert isinstance(first, Opened)
    assert BEFORE_S <= 500.0 - first.at <= BEFORE_S + PART_S
    assert first.rules == RULES
    assert first.beat == first.at - 1.0


def test_tape_ends_when_all_is_calm_and_begins_anew() -> None:
    seen = Seen()
    seen.beat(1, 100)
    assert seen.judge(100.0, Kind.SUSPECT) is None
    seen.beat(100, 200)
    assert seen.judge(200.0, Kind.SUSPECT) is None
    assert seen.judge(200.0 + CALM_S / 2, Kind.HEALTHY) is None
    taken = seen.judge(200.0 + CALM_S, Kind.HEALTHY)
    assert taken is not None
    assert (taken.ended, taken.began) == (Ended.CALM, 100.0)
    assert [fact.at for fact in taken.recording.facts[-100:]] == [float(second) for second in range(100, 200)]
    assert seen.tape.end(0.0) is None


def test_tape_knows_the_incident_that_was_over_before_it() -> None:
    """An instance that retires may hang on long after customers are served again."""
    fleets = [ready_fleet(ProgramSettings(name="store", launch=LaunchSettings(command=("serve",))), 0.0)]
    seen = Seen()
    seen.tape = Tape(STORE, lambda: fleets[-1], Shelf())
    seen.beat(1, 50)
    program = fleets[0].programs["store"]
    fleets.append(replace(fleets[0], programs={"store": replace(program, incident=Incident(4, 50.0, Severity.WARNING))}))
    assert seen.judge(50.0, Kind.SUSPECT) is None
    fleets.append(fleets[0])
    assert seen.judge(120.0, Kind.SUSPECT) is None
    taken = seen.judge(50.0 + LASTS_S + 1.0, Kind.SUSPECT)
    assert taken is not None
    assert (taken.incident, taken.ended, taken.fleet.programs) == (4, Ended.FULL, fleets[0].programs)


def test_tape_that_is_full_is_kept_once() -> None:
    seen = Seen()
    threads = tuple(ThreadSample(tid, "R", 1, 1) for tid in range(1000))
    seen.judge(1.0, Kind.SUSPECT)
    kept = []
    for second in range(1, 200):
        seen.take(TreeSample(float(second), (ProcessSample(1, 0, "R", 1.0, 1, threads),)))
        kept.append(seen.judge(float(second), Kind.SPINNING))
    assert [each.ended for each in kept if each is not None] == [Ended.FULL]
    assert seen.judge(300.0, Kind.HEALTHY) is None
    seen.beat(300, 310)
    assert seen.judge(310.0, Kind.SUSPECT) is None
    taken = seen.tape.end(0.0)
    assert taken is not None
    assert isinstance(taken.recording.facts[0], Opened)
    assert len(taken.recording.facts) == 11


def test_tapes_together_hold_no_more_than_their_shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is in trouble is kept as it is then; those in peace go on with less; what is gone leaves its room."""
    monkeypatch.setattr(tape, "SHELF_LIMIT", 250)
    shelf = Shelf()
    peaceful, troubled = Seen(), Seen()
    for seen in (peaceful, troubled):
        seen.tape = Tape(STORE, Fleet, shelf)
    peaceful.beat(0, 200)
    troubled.beat(0, 150)
    assert troubled.judge(150.0, Kind.SUSPECT) is None
    troubled.beat(150, 400)
    taken = troubled.judge(400.0, Kind.SUSPECT)
    assert taken is not None
    assert taken.ended is Ended.FULL
    assert shelf.weight < 100
    assert peaceful.tape.end(0.0) is None
    assert shelf.weight == 0


def test_recording_that_begins_in_mid_life_comes_to_the_same() -> None:
    """The facts from some second on, behind what was known then: the same suspicion and the same proof."""
    for case in [read(path) for path in sorted(CORPUS.glob("*spin*.recording"))[:4]]:
        whole = outcome(case.recording)
        sight, cut = Sight(case.recording.spawned), case.label.began - 1.0
        before = [fact for fact in case.recording.facts if fact.at < cut]
        for fact in before:
            sight.take(fact)
        late = Recording(case.recording.spawned, (sight.opening(cut), *case.recording.facts[len(before) :]))
        assert whole.suspected is not None
        assert outcome(late) == whole


def test_other_settings_are_tried_on_a_recording() -> None:
    path = next(path for path in sorted(CORPUS.glob("*.recording")) if outcome(read(path).recording).proven is not None)
    taken = read(path).recording
    before = outcome(taken)
    quick = outcome(taken, replace(rules(taken), certain_s=3.0, blocked_s=5.0))
    never = outcome(taken, replace(rules(taken), certain_s=500.0, blocked_s=None))
    assert before.proven is not None
    assert quick.proven is not None
    assert quick.proven < before.proven - 3.0
    assert (never.suspected, never.proven) == (before.suspected, None)


def test_a_proof_against_one_that_moved_later_is_seen_to_be_wrong() -> None:
    taken = read(CORPUS / "sync-report.recording").recording
    assert outcome(taken).proven is None
    hasty = outcome(taken, replace(rules(taken), suspect_s=0.5, certain_s=3.0))
    assert hasty.proven is not None
    assert hasty.alive is not None
    assert hasty.alive > hasty.proven


def test_what_would_have_caught_it_earlier_is_tried() -> None:
    taken = read(CORPUS / "gthread-spin-arithmetic.recording").recording
    before = outcome(taken)
    found = {each.words: gained_s(before, each.outcome) for each in earlier(taken)}
    assert "certain = 5 s" in found
    assert found["certain = 5 s"] > 2.0
    assert not any("= 2 s" in words or "= 20 s" in words for words in found)


def ready_fleet(settings: ProgramSettings, spawned: float) -> Fleet:
    fleet, effects, _ = step(Fleet(), Applied((Candidate(settings, "", "/"),)), spawned)
    (spawn,) = (effect for effect in effects if isinstance(effect, Spawn))
    fleet, _, _ = step(fleet, Spawned(spawn.id, 7, 1), spawned)
    return step(fleet, Answered(spawn.id, "it answers"), spawned)[0]


def rerun_of(taken: Recording, settings: ProgramSettings) -> dict[tuple[What, str], float]:
    fleet, nothing = ready_fleet(settings, taken.facts[0].at), Happened(taken.facts[-1].at, Woke(), ())
    return {(deed.what, deed.who): deed.at for deed in rerun(fleet, (nothing,), ((STORE, taken),), settings)}


def test_rules_are_run_again_with_other_settings() -> None:
    """A relief half a second earlier; without patience a kill, and none where there is only telling."""
    taken = read(CORPUS / "gthread-spin-arithmetic.recording").recording
    settings = ProgramSettings(
        name="store", launch=LaunchSettings(command=("serve",)), relief=ReliefSettings(extra=1, retire=Retirement.WATCH)
    )
    usual = rerun_of(taken, settings)
    quick = rerun_of(taken, replace(settings, hang=HangSettings(suspect_s=0.5, certain_s=2.0)))
    telling = rerun_of(taken, replace(settings, hang=HangSettings(suspect_s=0.5, certain_s=2.0, act=Act.TELL)))
    relief = (What.STARTED, "store:2")
    assert 0.2 < usual[relief] - quick[relief] < 1.0
    assert (What.KILLED, "store:1") not in usual
    assert (What.KILLED, "store:1") in quick
    assert (What.KILLED, "store:1") not in telling


def test_differences_after_the_first_are_guesses() -> None:
    was = (Deed(1.0, What.SUSPECTED, "store:1"), Deed(2.0, What.KILLED, "store:1"), Deed(3.0, What.STARTED, "store:2"))
    would = (Deed(1.1, What.SUSPECTED, "store:1"), Deed(3.5, What.STARTED, "store:2"))
    found = differences(was, would)
    assert [(each.what, each.was, each.would, each.guess) for each in found] == [
        (What.KILLED, 2.0, None, False),
        (What.STARTED, 3.0, 3.5, True),
    ]


def kept(number: int, wall: float) -> Kept:
    head = Head(incident=1, program="a-shop", number=number, began=wall, ended="", fleet=Fleet(), wall_s=0.0, boot="", version="")
    return Kept(head, Recording(0.0, (RULES,)))


def test_recordings_on_disk_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recordings, "FILES_LIMIT", 3)
    now = time.time()
    for number in range(5):
        recordings.write(str(tmp_path), kept(number, now + number), 3600.0)
    assert [each.head.number for each in recordings.read(str(tmp_path), incident=1)] == [2, 3, 4]
    assert list(recordings.read(str(tmp_path), incident=2)) == []
    (tmp_path / "recordings" / f"1-a-shop-9-{int(now)}000.recording").write_bytes(b"{}\nof another version")
    recordings.write(str(tmp_path), kept(5, now + 9000.0), 3600.0)
    assert [each.head.number for each in recordings.read(str(tmp_path), since_wall=now + 3.5)] == [4, 5]
    recordings.write(str(tmp_path), kept(6, now + 9001.0), -1000.0)
    assert [each.head.number for each in recordings.read(str(tmp_path))] == [5, 6]


def test_daemon_records_a_hang_and_replay_says_what_would_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    made = QUICK.format(command=python(HANGS), port=port, suspect="0.5s", blocked="2s")
    with Supervised(tmp_path, made) as daemon:
        daemon.until("instance.ready")
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /sleep HTTP/1.1\r\n\r\n")
            daemon.until("instance.condemned", subject="shop:1")
            folder = tmp_path / "state" / "recordings"
            daemon.wait_for(lambda: any(folder.glob("*.recording")))
        (path,) = folder.glob("*.recording")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        (kept,) = read_recordings(str(tmp_path / "state"))
        assert (str(kept.head.id), kept.head.ended) == ("shop:1", Ended.GONE)
        assert set(kept.head.fleet.programs) == {"shop"}
        daemon.until("instance.ready", subject="shop:2")
    assert command(str(daemon.config), "1", None, as_json=True) == 0
    same = json.loads(capsys.readouterr().out)
    assert (same["differences"], same["in_all"], same["unknown"]) == ([], [], [])
    assert same["seen"][0]["as_recorded"] == same["seen"][0]["tried"]

    daemon.write(QUICK.format(command=python(HANGS), port=port, suspect="0.5s", blocked="50s"))
    command(str(daemon.config), "1", None, as_json=False)
    page = capsys.readouterr().out
    assert "shop:1 would not have been killed" in page
    assert page.index("a guess") < page.index("shop:2 would not have been started")
    assert "1 kill less" in page
    assert "nobody knows" in page

    command(str(daemon.config), None, 1.0, as_json=True)
    (program,) = json.loads(capsys.readouterr().out)["programs"]
    found = {row["setting"]: row["hangs_found"] for row in program["settings"]}
    assert (found["as recorded"], found["as configured"]) == (1, 0)
    with pytest.raises(Refusal, match="there is no recording of incident 7"):
        command(str(daemon.config), "7", None, as_json=False)
