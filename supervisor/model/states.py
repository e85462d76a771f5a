"""States: what `step` returns and the handover keeps, from a verdict on one instance to the whole fleet."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from supervisor.model.settings import (
    NO_STAKEHOLDERS,
    EscalationStep,
    LaunchSettings,
    ProgramSettings,
    Severity,
    StakeholderSettings,
)


class InstanceId(NamedTuple):
    """One start of a program, numbered for ever upwards and never reused; written `store:7`."""

    program: str
    number: int

    def __str__(self) -> str:
        return f"{self.program}:{self.number}"

    @classmethod
    def parse(cls, text: str) -> InstanceId:
        """The id written as `store:7`. Raises ValueError when it is not of that form."""
        program, _, number = text.rpartition(":")
        if not program or not number.isdecimal():
            raise ValueError(f"{text!r} is not an instance: write it like store:7")
        return cls(program, int(number))


class Kind(StrEnum):
    HEALTHY = "healthy"
    STARTING = "starting"
    BUSY = "busy"
    OVERLOADED = "overloaded"
    STARVED = "starved"
    SUSPECT = "suspect"
    SPINNING = "hung (spinning)"
    LOCKED = "hung (locked)"  # every thread is parked on a lock
    BLOCKED = "hung (blocked)"
    STOPPED = "stopped"
    UNINTERRUPTIBLE = "uninterruptible"
    LEAKING = "leaking"
    UNKNOWN = "unknown"


class Scope(StrEnum):
    REQUEST = "request"
    WORKER = "worker"
    INSTANCE = "instance"
    HOST = "host"


class Nature(StrEnum):
    """What an instance that does not answer is doing: it decides which patience holds."""

    NONE = "none"
    SPINNING = "spinning"
    LOCKED = "locked"
    BLOCKED = "blocked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the diagnosis concludes. `because` is one sentence with numbers; `since` the instant from which it holds.

    HEALTHY, BUSY and OVERLOADED say that something moves. SUSPECT, SPINNING, LOCKED, BLOCKED and STOPPED say that somebody waits
    and nothing moved; the hung kinds are given once that has lasted for `certain` or `blocked`. Policy alone decides what follows.
    """

    kind: Kind
    because: str
    since: float
    scope: Scope = Scope.INSTANCE
    nature: Nature = Nature.NONE


@dataclass(frozen=True, slots=True)
class Build:
    """One way to run a program: what is launched, from which directory (resolved once), as which release."""

    number: int
    release: str
    launch: LaunchSettings
    directory: str


class Preflight(StrEnum):
    NEEDED = "needed"
    ASKED = "asked"
    PASSED = "passed"


class State(StrEnum):
    STARTING = "starting"
    READY = "ready"
    SUSPECT = "suspect"
    RETIRING = "retiring"
    KILLING = "killing"


@dataclass(frozen=True, slots=True)
class Known:
    """A cause that this program met before. Instants may lie before this boot, and are negative then."""

    key: str
    where: str  # for people: "store/coupons.py:41 apply()"
    release: str  # the release under which it was met first
    first: float
    proven: tuple[float, ...] = ()  # when a hang by it was proven, within the days that are remembered
    passed: int = 0  # how often it ended by itself: then it is long work, not a loop


@dataclass(frozen=True, slots=True)
class Outside:
    """Somebody else for whom the instances wait, so that killing them cures nothing."""

    peer: str  # "10.0.0.5:5432"
    since: float
    tried: float | None = None  # when one was last killed for it


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker that hangs in an instance that serves, as the newest look saw it."""

    pid: int
    start_ticks: int
    seen: float
    moved: float
    verdict: Verdict
    fresh: bool = True  # that look came in this very step
    tries: int = 0
    tried: float | None = None


class Blame(StrEnum):
    """Why an instance is killed, and so what its exit costs."""

    NOBODY = "nobody"  # it was asked to go: its exit is no failure
    HANG = "hang"  # counts in the budget, costs no delay
    START = "start"  # it never became ready: counts, with backoff
    EXIT = "exit"  # its leader ended by itself; the failure is written down already


@dataclass(frozen=True, kw_only=True)
class Instance:
    """One start. Instants are those of facts, never deadlines."""

    id: InstanceId
    build: int
    state: State
    since: float  # when it entered this state
    spawned: float
    relief: bool = False  # started because a suspect was not counted; for people only
    pid: int | None = None
    start_ticks: int | None = None  # field 22 of /proc/PID/stat: with the boot id, an identity
    opened: bool = False  # its gate was opened: it runs
    ready: float | None = None  # first answered
    start_s: float = 60.0  # the time it has to become ready, from its spawn: promised then, longer when it asks for more
    seen: float | None = None  # `at` of the newest look
    moved: float | None = None  # the last instant at which something is known to have moved
    excused: float | None = None  # patience counts from here: host sick, uninterruptible, continued
    verdict: Verdict | None = None
    fresh: bool = False  # the newest look came in this very step: only such a look kills what serves
    look_asked: float | None = None
    suspected: float | None = None  # when it became suspect last
    evidence: str | None = None  # what was taken of it, in one line; None: nothing yet
    evidence_asked: bool = False
    cause: str = ""  # the key of the cause that the evidence named
    where: str = ""  # its place, for people
    peer: str = ""  # for whom all of it waits
    room: bool = True  # the host has memory for another one like it
    demoted: bool = False  # it gets less of the processors while its relief boots
    workers: tuple[Worker, ...] = ()  # those that hang while the others serve
    workers_killed: tuple[float, ...] = ()
    reported: bool = False  # people were told of this suspicion
    replace: bool = False  # an operator wants another in its place
    pressed: float | None = (
        None  # since when the grace counts while it retires: a stop, a shutdown, --now, a successor that needs it gone
    )
    asked: float | None = None  # when its stop signal was sent
    continued: bool = False  # SIGCONT was sent
    tries: int = 0  # SIGKILLs sent
    tried: float | None = None
    blame: Blame = Blame.NOBODY
    why: str = ""  # why it retires or is killed, for people


class Wanted(StrEnum):
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that people may have to know. `key` is told once per incident."""

    key: str  # "hang", "crash", "crash-loop", ...
    severity: Severity
    text: str  # one sentence that is true
    instance: str = ""  # "store:7"
    at: float = 0.0  # when it joined the incident


@dataclass(frozen=True, slots=True)
class Note:
    """One line of the story: for the terminal, the log and the journal.

    subject  "store", or "store:7"
    name     `noun.past_verb`, stable: scripts filter on it
    text     what a tired person reads
    """

    subject: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """What an escalation step was told of an incident since nobody had acknowledged it."""

    step: EscalationStep
    at: float  # the last time
    told: tuple[str, ...]  # keys of facts


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """Somebody said that they are at it."""

    by: str  # "uid 1000"
    at: float
    broken: str = ""  # why people are told again


class Notice(StrEnum):
    """What stakeholders were told last."""

    BEGIN = "begin"  # customers are not served
    BACK = "back"  # they are served again; it is not over
    AGAIN = "again"  # and now they are not


@dataclass(frozen=True, slots=True)
class Impact:
    """What customers noticed of an incident, as far as it is known: how long nobody could serve them."""

    since: float | None = None  # since when nobody serves them; None: somebody does
    total_s: float = 0.0  # before that
    notice: Notice | None = None
    noticed: float = 0.0  # when stakeholders were told that


@dataclass(frozen=True, slots=True)
class Toll:
    """What customers noticed, as far as looks at the kernel could see it.

    looks      so many it was counted from; 0: nothing is known
    refused    attempts to connect that the kernel dropped because the accept queue was full: each try of a customer counts
    broken     requests that were taken and not answered when their process was killed or crashed
    waited     customers who waited for long
    longest_s  the longest wait that was seen
    trouble_s  for so long somebody waited for long
    unseen     what could not be seen, in words
    """

    looks: int = 0
    refused: int = 0
    broken: int = 0
    waited: int = 0
    longest_s: float = 0.0
    trouble_s: float = 0.0
    unseen: str = ""


@dataclass(frozen=True)
class Incident:
    """From the first bad fact to proven recovery."""

    number: int
    opened: float
    severity: Severity
    headline: Fact | None = None  # the worst fact, the first of its severity since nobody had acknowledged
    facts: tuple[Fact, ...] = ()  # all of them, one for each key
    round: float = 0.0  # since when people are told: its beginning, or when an acknowledgement was broken
    pages: tuple[Page, ...] = ()  # of this round
    sent: int = 0  # messages so far
    channels: tuple[str, ...] = ()  # everybody who was told that it began
    acknowledgements: tuple[Acknowledgement, ...] = ()  # the newest last; one that is not broken silences
    calm: float | None = None  # since when all is as it should be
    release: str = ""  # that ran when it began
    cause: str = ""  # where it hung, for people
    evidence: tuple[str, ...] = ()  # the instances of which some was taken
    impact: Impact = Impact()
    toll: Toll = Toll()

    @property
    def told(self) -> tuple[str, ...]:
        """Keys of the facts that it knows."""
        return tuple(fact.key for fact in self.facts)

    @property
    def acknowledged(self) -> Acknowledgement | None:
        """The one that holds."""
        return next((ack for ack in self.acknowledgements[-1:] if not ack.broken), None)


@dataclass(frozen=True, slots=True)
class Hold:
    """An operator wants Reviver to keep its hands off a program: it watches, records and tells, and heals nothing."""

    since: float
    until: float
    reason: str
    by: str  # "uid 1000"
    commanded: bool = False  # an operator's command is under way, and may start and stop instances
    refrained: tuple[str, ...] = ()  # what it would have done, and said so


@dataclass(frozen=True, slots=True)
class Trial:
    """A build that has to prove itself. `began` is when it was made."""

    build: int
    began: float
    failures: int = 0
    served: bool = False  # an instance of it was ready once
    lost: str = ""  # why it cannot be trusted any more, before it is given up
    deployed: bool = False  # it is another release, and so on probation; else other settings of the same one
    alone: float | None = None  # since when it serves and the old ones are gone: the probation counts from here


@dataclass(frozen=True, slots=True)
class Proposal:
    """The build that is to be the next one under way: nothing moves before its preflight has passed and the link names it."""

    build: Build
    by: str
    back: bool = False  # an operator goes back from what runs


class Standing(StrEnum):
    """What became of a release."""

    TRIED = "on trial"
    GOOD = "good"
    FAILED = "failed"
    ROLLED_BACK = "rolled back"  # an operator went back from it
    REPLACED = "replaced"  # by another one, before it was proven


@dataclass(frozen=True, slots=True)
class Release:
    """One time that a release was made the one to run; `why` says why it failed, or who went back. `at` may lie before this boot."""

    number: int  # upwards, for each program
    name: str
    directory: str  # resolved
    at: float
    by: str  # "uid 1000", "apply" or "start"
    standing: Standing = Standing.TRIED
    why: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """The symlink by which operators name the release that runs."""

    path: str
    names: str  # the directory, resolved; "" while that is not known
    asked: float | None = None  # when its switching was asked for, before that is answered well
    problem: str = ""  # why it could not be switched the last time


@dataclass(frozen=True, kw_only=True)
class Program:
    """All that is remembered of one program, and all that a later supervisor needs of it."""

    settings: ProgramSettings
    build: Build
    proposed: Proposal | None = None
    preflight: Preflight = Preflight.PASSED  # of what is proposed, else of the build
    preflight_asked: float | None = None
    good: Build | None = None  # the last build that was trusted
    previous: Build | None = None  # the one that was trusted before `good`
    refused: Build | None = None  # the one that was given up last
    given: Build | None = None  # what the configuration and the disk said last, as a build without a number
    trial: Trial | None = None
    retreat: str = ""  # why the previous build is to come back, before it does
    link: Link | None = None  # where the directory is one
    releases: tuple[Release, ...] = ()  # the newest ones, oldest first
    unrecorded: tuple[int, ...] = ()  # numbers of those that changed and are not written down yet
    builds: int = 1  # the highest number given
    wanted: Wanted = Wanted.UP
    resting: int = 0  # instances that ended and are not started again
    removed: bool = False  # no longer in the configuration: goes when its instances are gone
    instances: tuple[Instance, ...] = ()
    started: int = 0  # the highest instance number given
    restarts: int = 0  # failures that another start makes good, or a relief has made good already
    ordered: bool = False  # the programs in `after` were ready, or waited for long enough
    waiting: float | None = None  # since when it waits for them
    failures: tuple[float, ...] = ()  # instants, within the window
    attempt: int = 0  # failures in a row without a healthy run between
    slow_starts: int = 0  # starts in a row that never became ready in time
    failed: float | None = None  # the last failure that costs a delay
    broken: str = ""  # why it cannot be executed at all
    crash_loop: bool = False
    reliefs: tuple[float, ...] = ()
    causes: tuple[Known, ...] = ()
    unsaved: tuple[str, ...] = ()  # keys of causes that changed and are not written down yet
    outside: Outside | None = None
    signals: tuple[str, ...] = ()  # asked by an operator, not yet sent
    unserved: float | None = None  # since when no instance is ready, while some are wanted
    silent: float | None = None  # since when no instance is ready, wanted or not
    apologizing: bool = False  # customers are answered in its place
    boot_s: float = 0.0  # what the newest instance that became ready took for it
    facts: tuple[Fact, ...] = ()  # not yet told
    toll: Toll = Toll()  # noticed by customers, and not yet taken up by an incident
    tolled: float | None = None  # when that was seen
    incident: Incident | None = None
    recorded: Incident | None = None  # the incident as it was written down last
    acked: str = ""  # who has just acknowledged it
    hold: Hold | None = None
    muted: bool = False  # a maintenance window is open
    unmuted: float | None = None  # when the last one was over
    notes: tuple[Note, ...] = ()  # not yet recorded


@dataclass(frozen=True)
class Fleet:
    """The whole state. Programs stand in the configuration's order; `wakes` says when one wants to be settled again."""

    programs: dict[str, Program] = field(default_factory=dict)
    wakes: dict[str, float] = field(default_factory=dict)
    escalation: tuple[EscalationStep, ...] = ()
    stakeholders: StakeholderSettings = NO_STAKEHOLDERS
    draining: bool = False
    hurried: bool = False
    changed: tuple[str, ...] = field(default=(), compare=False)  # the programs that the newest step changed, or took away
    needed_by: dict[str, tuple[str, ...]] = field(default_factory=dict)  # who has whom in `after`
    incidents: int = 0  # the highest number given
    numbers: dict[str, int] = field(default_factory=dict)  # the highest instance number of programs that are gone, or not here yet
    causes: dict[str, tuple[Known, ...]] = field(default_factory=dict)  # what is remembered of them
    releases: dict[str, tuple[Release, ...]] = field(default_factory=dict)  # which ones they had
    open: dict[str, Incident] = field(default_factory=dict)  # incidents that were not over when their supervisor ended
