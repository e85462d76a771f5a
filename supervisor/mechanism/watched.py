"""What the watcher knows of each program and each of its instances. Plain state of the loop's thread: it looks at nothing itself."""

from __future__ import annotations

import math

from supervisor.mechanism.asking import Asker
from supervisor.mechanism.listening import Listening
from supervisor.mechanism.vitals import Sampler
from supervisor.mechanism.workers import Workers
from supervisor.model import InstanceId, Kind, ProgramSettings, Scope, Verdict
from supervisor.policy.samples import Finding, SocketSample

SUSPICIOUS = frozenset({Kind.SUSPECT, Kind.SPINNING, Kind.LOCKED, Kind.BLOCKED, Kind.STOPPED, Kind.STARVED, Kind.UNINTERRUPTIBLE})
DENSE_FOR_S = 15.0  # something odd is looked at closely for so long; then it is decided, or lasting: 60 CPU s per hour at that rate


class WatchedInstance:
    """What is known of one instance."""

    def __init__(self, id: InstanceId, sampler: Sampler, asker: Asker, now: float) -> None:
        self.id = id
        self.sampler = sampler
        self.asker = asker
        self.workers = Workers()
        self.spawned = now
        self.ready: float | None = None
        self.moved = now
        self.beat: float | None = None
        self.speaks = False  # it has sent something to its NOTIFY_SOCKET
        self.says_ready: float | None = None
        self.said = ""
        self.stopping: float | None = None
        self.dense_since: float | None = None
        self.dense_until = -math.inf
        self.sampled = -math.inf
        self.next_ask = now
        self.next_find = now
        self.finding: Finding | None = None
        self.judged = -math.inf
        self.told: Kind | None = None
        self.told_scope = Scope.INSTANCE
        self.told_at = -math.inf
        self.hot = False
        self.room = True  # the host has the memory for another instance like it
        self.room_at = -math.inf
        self.waits: frozenset[int] = frozenset()  # processes in state D at the last sample

    @property
    def doubted(self) -> float | None:
        """Since when it was found silent, if it was and has not moved since."""
        if self.finding is None or self.finding.verdict.kind not in SUSPICIOUS:
            return None
        since = self.finding.since
        return since if since is not None and self.moved <= since else None

    def move(self, at: float) -> None:
        if at > self.moved:
            self.moved = at
            self.asker.absolve(at)

    def note(self, verdict: Verdict, now: float) -> None:
        """This verdict was told."""
        self.told, self.told_scope, self.told_at = verdict.kind, verdict.scope, now

    def densely(self, now: float, for_s: float = DENSE_FOR_S) -> None:
        """Something is odd: look closely for a while."""
        if self.dense_until <= now:
            self.dense_since = now
        self.dense_until = max(self.dense_until, now + for_s)


class WatchedProgram:
    """What its instances share."""

    def __init__(self, settings: ProgramSettings, listening: Listening, sockets: tuple[int, ...]) -> None:
        self.settings = settings
        self.listening = listening
        self.sockets = sockets
        self.instances: dict[InstanceId, WatchedInstance] = {}
        self.queued = 0  # looks in a row at which the queue was not empty
        self.emptied: float | None = None  # since when each look found it empty; None: the last one did not
        self.seen: SocketSample | None = None
        self.unseen = ""  # why its connections cannot be looked at
        self.look_s = 0.0  # what the last look at connections took
        self.due = math.inf
        self.armed = False  # the loop tells when somebody waits at a held socket: its queue need not be looked at

    @property
    def shared(self) -> bool:
        return len(self.instances) > 1

    @property
    def watched(self) -> bool:
        """Whether there is something that could tell of movement."""
        health = self.settings.health
        return bool(health.http or health.tcp or health.command or health.heartbeat) or self.listening.known
