"""Recordings of what was seen around a bad verdict, and what other settings would have made of it."""

from __future__ import annotations

import json
import socket
import stat
from dataclasses import replace
from pathlib import Path

from bench.verdicts import CORPUS, read
from supervisor.mechanism.tape import BEFORE_S, CALM_S, PART_S, Ended, Taken, Tape
from supervisor.model import Fleet, HangSettings, InstanceId, Kind, Verdict
from supervisor.policy.facts import Beaten, Fact, Opened, Ruled
from supervisor.policy.replay import Recording, outcome, rules
from supervisor.policy.samples import Finding, ProcessSample, ThreadSample, TreeSample
from supervisor.policy.sight import Sight
from supervisor.records.recordings import read as read_recordings
from tests.supervised import Supervised, free_port, python

STORE = InstanceId("store", 1)
RULES = Ruled(0.0, HangSettings(), 1.0, beats=True, asked=False, watched=True)

HANGS = """
import socket, os
listener = socket.socket(fileno=3)
while True:
    taken, _ = listener.accept()
    path = taken.recv(4096).split()[1]
    if path == b"/spin":
        while True: pass
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
certain = "{certain}"
"""


class Seen:
    """A tape beside the sight that it is told of."""

    def __init__(self) -> None:
        self.sight, self.tape = Sight(0.0), Tape(STORE, Fleet)
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


def test_daemon_records_a_hang_and_replay_says_what_would_differ(tmp_path: Path) -> None:
    port = free_port()
    made = QUICK.format(command=python(HANGS), port=port, suspect="0.5s", certain="2s")
    with Supervised(tmp_path, made) as daemon:
        daemon.until("instance.ready")
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /spin HTTP/1.1\r\n\r\n")
            daemon.until("instance.condemned", subject="shop:1")
            folder = tmp_path / "state" / "recordings"
            daemon.wait_for(lambda: any(folder.glob("*.recording")))
        (path,) = folder.glob("*.recording")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        (kept,) = read_recordings(str(tmp_path / "state"))
        assert (str(kept.head.id), kept.head.ended) == ("shop:1", Ended.GONE)
        assert set(kept.head.fleet.programs) == {"shop"}
        daemon.write(QUICK.format(command=python(HANGS), port=port, suspect="0.5s", certain="50s"))
        said = json.loads(daemon.ask("replay", "--days", "1", "--json").stdout)
        print(json.dumps(said, indent=1), daemon.ask("replay", "--days", "1").stdout)
        (each,) = said["recordings"]
        assert each["as_recorded"]["proven"] is not None
        assert each["tried"]["proven"] is None
