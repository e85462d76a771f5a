"""What the watcher knows of each program and each of its instances. Plain state of the loop's thread: it looks at nothing itself."""

from __future__ import annotations

import math
from collections.abc import Callable

from supervisor.mechanism.apologist import Answerer
from supervisor.mechanism.asking import Asker
from supervisor.mechanism.listening import Listening
from supervisor.mechanism.probes import Target
from supervisor.mechanism.tape import Tape
from supervisor.mechanism.vitals import Sampler
from supervisor.mechanism.workers import Workers
from supervisor.model import InstanceId, Kind, ProgramSettings, Scope, Verdict
from supervisor.policy.facts import Fact, Ruled, Unseen
from supervisor.policy.samples import SocketSample
from supervisor.policy.sight import Sight
from supervisor.policy.toll import Tally

DENSE_FOR_S = 15.0  # something odd is looked at closely for so long; then it is decided, or lasting: 60 CPU s per hour at that rate


class WatchedInstance:
    """What is known of one instance."""

    def __init__(
        self, id: InstanceId, sampler: Sampler, targets: tuple[Target, ...], heard: Callable[[], None], now: float, last: Tape
    ) -> None:
        """heard: called on the loop when a question has come to its end. last: keeps what was seen last."""
        self.id = id
        self.sampler = sampler
        self.sight = Sight(now)
        self.last = last
        self.died = False  # it did not finish what it had begun
        self.tape: Callable[[Fact], None] | None = None  # whoever wants to know each thing that is seen
        self.asker = Asker(targets, self.take, heard)
        self.workers = Workers()
        self.speaks = False  # it has sent something to its NOTIFY_SOCKET
        self.says_ready: float | None = None
        self.said = ""
        self.dense_since: float | None = None
        self.dense_until = -math.inf
        self.sampled = -math.inf
        self.next_ask = now
        self.next_find = now
        self.judged = -math.inf
        self.told: Kind | None = None
        self.told_scope = Scope.INSTANCE
        self.told_at = -math.inf
        self.hot = False
        self.room = True  # the host has the memory for another instance like it
        self.room_at = -math.inf
        self.waits: frozenset[int] = frozenset()  # processes in state D at the last sample
        self.queued: bool | None = None  # whether somebody waits to be accepted, as it was last told

    @property
    def spawned(self) -> float:
        return self.sight.spawned

    @property
    def ready(self) -> float | None:
        return self.sight.ready

    def take(self, fact: Fact) -> None:
        """One more thing is known of it."""
        self.last.take(fact, self.sight)
        self.sight.take(fact)
        if self.tape is not None:
            self.tape(fact)

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

    def __init__(self, settings: ProgramSettings, listening: Listening, sockets: tuple[int, ...], tally: Tally) -> None:
        self.settings = settings
        self.listening = listening
        self.sockets = sockets
        self.instances: dict[InstanceId, WatchedInstance] = {}
        self.answerer: Answerer | None = None  # who takes connections in its place
        self.queued = 0  # looks in a row at which the queue was not empty
        self.seen: SocketSample | None = None
        self.tally = tally
        self.tolled = -math.inf  # when what it counted was posted last
        self.look_s = 0.0  # what the last look at connections took
        self.due = math.inf
        self.armed = False  # the loop tells when somebody waits at a held socket: its queue need not be looked at

    def take(self, fact: Fact) -> None:
        """One more thing is known of each of its instances."""
        for instance in self.instances.values():
            instance.take(fact)

    def unsee(self, because: str, now: float) -> None:
        """Its connections are not known any more; because: why they cannot be looked at, "" when they will be."""
        self.seen = None
        self.take(Unseen(now, because))

    def rules(self, now: float) -> Ruled:
        """By what its instances are judged."""
        health = self.settings.health
        asked = bool(health.http or health.tcp or health.command)
        return Ruled(now, self.settings.hang, health.every_s, health.heartbeat, asked, self.watched)

    @property
    def shared(self) -> bool:
        """Whether a connection may be another's than the instance's in question."""
        return len(self.instances) > 1 or self.answerer is not None

    @property
    def lives_to_be_ready(self) -> bool:
        """Whether nothing else can tell that one is ready, unless it says so: there is nothing to look for before that."""
        health = self.settings.health
        return not (health.http or health.tcp or health.command or health.heartbeat or self.sockets)

    @property
    def watched(self) -> bool:
        """Whether there is something that could tell of movement."""
        health = self.settings.health
        return bool(health.http or health.tcp or health.command or health.heartbeat) or self.listening.known
