"""What is seen of one instance, one value for each thing that was seen: what a verdict is made of, live or replayed. Pure values.

Facts are taken up in the order in which they became known (`sight`). A tree's sample is a fact by itself (`samples.TreeSample`).
Instants are CLOCK_MONOTONIC seconds; `at` is when the fact became known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from supervisor.model import HangSettings
from supervisor.policy.samples import Host, SocketSample, TreeSample


@dataclass(frozen=True, slots=True)
class Ruled:
    """By what it is judged from now on.

    every_s  between two questions, or two heartbeats
    beats    it sends heartbeats
    asked    there is a probe
    watched  there is something that could tell of movement: a probe, a heartbeat or a known port
    """

    at: float
    hang: HangSettings
    every_s: float
    beats: bool
    asked: bool
    watched: bool


@dataclass(frozen=True, slots=True)
class Readied:
    """It answered for the first time, or was seen to serve."""

    at: float


@dataclass(frozen=True, slots=True)
class Asked:
    """The first target was put its question. `patient`: the answer takes the time that it takes (a command), and is never overdue."""

    at: float
    patient: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """What a question came to.

    asked     when it was put
    answered  None: that is not known, or another instance took it (`other`)
    spoke     bytes came back, whatever they say
    doubted   another instance that began meanwhile may have answered
    first     of the target that says whether it moves; the others only tell that they are not well
    patient   as of Asked
    """

    at: float
    asked: float
    answered: bool | None
    text: str
    spoke: bool = False
    other: bool = False
    doubted: bool = False
    first: bool = True
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Unasked:
    """What was asked was given up: the questions are others now."""

    at: float


@dataclass(frozen=True, slots=True)
class Beaten:
    """It sent WATCHDOG=1."""

    at: float


@dataclass(frozen=True, slots=True)
class Stopping:
    """It sent STOPPING=1."""

    at: float


@dataclass(frozen=True, slots=True)
class Queued:
    """Whether somebody waits to be accepted; told when that changes."""

    at: float
    waits: bool


@dataclass(frozen=True, slots=True)
class SocketsSeen:
    """A look at the connections, in which a request that goes on waiting keeps its instant (samples.follow).

    pids  the instance's processes, when others live on the same sockets; None: it is alone
    """

    at: float
    sample: SocketSample
    pids: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Unseen:
    """Its connections are not known any more. `because`: why they cannot be looked at; "": they will be."""

    at: float
    because: str


@dataclass(frozen=True, slots=True)
class WorkerLook:
    """A worker that has owed an answer for long, as /proc shows it.

    free          one of its threads waits for connections, or for what comes next on one of its own
    siblings      processes of the same parent that take the same connections and owe no such answer
    sibling_free  one of those waits for connections
    """

    pid: int
    free: bool
    siblings: int
    sibling_free: bool


@dataclass(frozen=True, slots=True)
class WorkersSeen:
    """All workers that have owed an answer for long."""

    at: float
    workers: tuple[WorkerLook, ...]


@dataclass(frozen=True, slots=True)
class HostSeen:
    at: float
    host: Host


@dataclass(frozen=True, slots=True)
class Blinded:
    """We saw nothing until now, and conclude nothing until `until`: our own loop was late, or the machine was asleep."""

    at: float
    until: float
    because: str


@dataclass(frozen=True, slots=True)
class Answering:
    """What was known of the answers to probes: as of policy.answers.Answers. `asked`: the question that was under way."""

    failed: float | None = None
    text: str = ""
    ill: bool = False
    passed: int = 0
    asked: Asked | None = None
    usual_s: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Opened:
    """A recording begins in mid-life: what was known of the instance until now, but for the samples of its tree.

    rules    by what it is judged
    moved    the last instant at which something of it moved
    ready    when it first answered
    beat     its last heartbeat
    stopping when it said that it stops
    emptied  since when its accept queue is empty
    sockets  the newest look at its connections
    shared   others lived on the same sockets
    """

    at: float
    rules: Ruled
    moved: float
    ready: float | None = None
    beat: float | None = None
    stopping: float | None = None
    emptied: float | None = None
    sockets: SocketSample | None = None
    shared: bool = False
    answering: Answering = Answering()


Fact: TypeAlias = (
    Ruled
    | Readied
    | Asked
    | Heard
    | Unasked
    | Beaten
    | Stopping
    | Queued
    | SocketsSeen
    | Unseen
    | WorkersSeen
    | HostSeen
    | Blinded
    | TreeSample
    | Opened
)
