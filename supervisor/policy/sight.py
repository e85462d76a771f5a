"""What is known of one instance: facts in, a window and a verdict out. Pure, and the same live and in a replay.

The watcher tells it each thing that was seen, in order; so does whoever replays a recording. Nothing else enters a verdict: two
that were told the same conclude the same. It keeps half a minute of samples, and of everything else the newest.
"""

from __future__ import annotations

import math
from collections import deque
from typing import assert_never

from supervisor.model import HangSettings, Kind, Scope, Verdict
from supervisor.policy.answers import Answers
from supervisor.policy.diagnosis import diagnose
from supervisor.policy.facts import (
    Asked,
    Beaten,
    Blinded,
    Fact,
    Heard,
    HostSeen,
    Opened,
    Queued,
    Readied,
    Ruled,
    SocketsSeen,
    Stopping,
    Unasked,
    Unseen,
    WorkersSeen,
)
from supervisor.policy.owing import Owing, owed
from supervisor.policy.samples import Finding, Host, SocketSample, TreeSample, Window, moved_between
from supervisor.policy.threads import LASTING_S

SUSPICIOUS = frozenset({Kind.SUSPECT, Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED, Kind.STOPPED, Kind.STARVED, Kind.UNINTERRUPTIBLE})
SEEN_FOR_S = 10.0  # an older look at connections says nothing of now
HOST_FOR_S = 2.0  # the same of the host's load and stalls
STOPPING_S = 600.0  # STOPPING=1 excuses silence for as long as policy lets an instance retire
GIVEN_UP_LIMIT = 8  # the newest: what a server closes is closed soon after we left
TREES_LIMIT = 700  # samples of LASTING_S at 10 Hz, twice over

_UNRULED = Ruled(-math.inf, HangSettings(), math.inf, beats=False, asked=False, watched=False)


class Sight:
    """What is known of one instance.

    rules    by what it is judged
    moved    the last instant at which something of it moved
    ready    when it first answered; None: it is starting
    beat     its last heartbeat
    sockets  the newest look at its connections; None: there is none
    answers  of its probes
    owing    its workers that have owed an answer for long
    host     the newest look at the host
    finding  the newest verdict
    """

    def __init__(self, spawned: float) -> None:
        self.spawned = spawned
        self.rules = _UNRULED
        self.moved = spawned
        self.ready: float | None = None
        self.beat: float | None = None
        self.sockets: SocketSample | None = None
        self.answers = Answers()
        self.owing = Owing()
        self.host: HostSeen | None = None
        self.finding: Finding | None = None
        self._stopping: float | None = None
        self._emptied: float | None = None
        self._unseen = ""
        self._shared = False
        self._blinded: Blinded | None = None
        self._trees: deque[TreeSample] = deque(maxlen=TREES_LIMIT)
        self._given_up: deque[float] = deque(maxlen=GIVEN_UP_LIMIT)  # when our questions were put that had no answer

    def take(self, fact: Fact) -> None:
        """Take up one fact; they come in the order in which they became known."""
        match fact:
            case TreeSample():
                self._sampled(fact)
            case SocketsSeen():
                self._looked(fact)
            case Queued(at, waits):
                self._emptied = None if waits else at
            case Asked():
                self.answers.ask(fact)
            case Heard():
                if self.answers.hear(fact):
                    self._move(fact.at)
                elif not fact.answered:
                    self._given_up.append(fact.asked)
            case Unasked():
                self.answers.give_up()
            case Unseen(_, because):
                self.sockets, self._unseen = None, because
            case WorkersSeen():
                if self.sockets is not None:
                    self.owing.see(fact, self.sockets, self._emptied, self.moved)
            case HostSeen():
                self.host = fact
            case Readied(at):
                self.ready = at
                self.beat = at if self.beat is None else self.beat
                self.answers.settle()
                self._move(at)
            case Beaten(at):
                self.beat = at
                if self.rules.beats and not self.rules.asked:
                    self._move(at)
            case Stopping(at):
                self._stopping = at
            case Blinded(at):
                self._blinded = fact
                self._move(at)
                self.owing.move(at)
            case Ruled():
                self.rules = fact
            case Opened():
                self._open(fact)
            case _ as unreachable:
                assert_never(unreachable)

    def opening(self, at: float) -> Opened:
        """What is known at this instant, so that a recording may begin with it."""
        return Opened(
            at=at,
            rules=self.rules,
            moved=self.moved,
            ready=self.ready,
            beat=self.beat,
            stopping=self._stopping,
            emptied=self._emptied,
            sockets=self.sockets,
            shared=self._shared,
            answering=self.answers.known(),
        )

    def missing(self, now: float) -> float | None:
        """Since when an answer is overdue or missing; a heartbeat where nothing is asked."""
        if self.rules.beats and not self.rules.asked and self.beat is not None and now > self.beat + self.rules.every_s:
            return self.beat + self.rules.every_s
        return self.answers.missing()

    def judge(self, now: float) -> Finding:
        """The verdict on what is known, which is remembered: whoever was found silent stays in doubt until it moves."""
        if self._blinded is not None and now < self._blinded.until:
            self.finding = Finding(Verdict(Kind.UNKNOWN, self._blinded.because, now, Scope.HOST), None)
        else:
            self.finding = diagnose(self.window(now))
        return self.finding

    def window(self, now: float) -> Window:
        rules, ill, answer = self.rules, self.answers.ill, self.answers.text
        if rules.beats and rules.asked and self.beat is not None and now > self.beat + rules.every_s + rules.hang.suspect_s:
            ill, answer = True, f"no heartbeat for {now - self.beat:.1f} s, but it answers"
        return Window(
            now=now,
            hang=rules.hang,
            spawned=self.spawned,
            moved=self.moved,
            ready=self.ready,
            watched=rules.watched,
            asked=self.missing(now),
            passed=self.answers.passed,
            doubted=self._doubted(),
            shared=self._shared,
            answer=answer,
            ill=ill,
            stopping=self._stopping is not None and now - self._stopping < STOPPING_S,
            trees=tuple(tree for tree in self._trees if tree.at >= now - LASTING_S),
            sockets=self.sockets if self.sockets is not None and now - self.sockets.at <= SEEN_FOR_S else None,
            blind=self._unseen,
            host=self._host_at(now),
            workers=self.owing.seen,
        )

    def _host_at(self, now: float) -> Host | None:
        return self.host.host if self.host is not None and now - self.host.at <= HOST_FOR_S else None

    def _doubted(self) -> float | None:
        """Since when it was found silent, if it was and has not moved since."""
        if self.finding is None or self.finding.verdict.kind not in SUSPICIOUS:
            return None
        since = self.finding.since
        return since if since is not None and self.moved <= since else None

    def _move(self, at: float) -> None:
        if at > self.moved:
            self.moved = at
            self.answers.absolve(at)

    def _open(self, fact: Opened) -> None:
        self.rules, self.moved, self.ready, self.beat = fact.rules, fact.moved, fact.ready, fact.beat
        self._stopping, self._emptied = fact.stopping, fact.emptied
        self.sockets, self._shared = fact.sockets, fact.shared
        self.answers.resume(fact.answering)

    def _sampled(self, tree: TreeSample) -> None:
        self._trees.append(tree)
        while self._trees[0].at < tree.at - LASTING_S:
            self._trees.popleft()
        if self.owing and not self._owes(tree):
            self.owing.forget()

    def _owes(self, tree: TreeSample) -> bool:
        """Whether a process beneath its leader has owed an answer for long."""
        seen = self.sockets
        if seen is None or tree.at - seen.at > SEEN_FOR_S:
            return False
        return bool(owed(seen, {process.pid for process in tree.processes[1:]}))

    def _looked(self, fact: SocketsSeen) -> None:
        before, self.sockets = self.sockets, fact.sample
        self._unseen, self._shared = "", fact.pids is not None
        if before is None:
            return
        self.owing.follow(before, fact.sample)
        if moved_between(before, fact.sample, fact.pids, self._given_up):
            self._move(fact.at)
