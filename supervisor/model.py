"""The words of Reviver as frozen types: settings, states, events in, effects out.

Standard library only, no behaviour beyond spelling a value. Everything that passes between rooms is one of these values, so two
threads never share anything that changes. Instants are CLOCK_MONOTONIC seconds; wall time is for people and is named `*_wall`.
`None` where a duration may be written means "off". The handover and the journal store these values as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import NamedTuple


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


# --- settings: what an operator wrote, typed, with defaults and "auto" decided --------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits. rlimits are (soft = hard) numbers, None leaves Reviver's own; the last three need cgroups."""

    nofile: int | None = None
    core: int | None = None  # bytes
    memory_bytes: int | None = None
    cpu: float | None = None  # cores
    processes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchSettings:
    """What decides how an instance starts: a change of any of these is a new build, and moves the program."""

    command: tuple[str, ...]
    directory: str = "/"  # absolute; a symlink is resolved when the build is made
    env: tuple[tuple[str, str], ...] = ()  # env_file first, then env; added to Reviver's own
    user: str = ""
    group: str = ""
    umask: int = 0o022
    nice: int = 0
    limits: Limits = Limits()
    sockets: tuple[str, ...] = ()
    preflight: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthSettings:
    http: str = ""  # a path on the first held socket, or a whole http:// URL
    tcp: str = ""  # host:port
    command: tuple[str, ...] = ()
    heartbeat: bool = False
    every_s: float = 1.0
    timeout_s: float = 2.0
    start_s: float = 60.0


class Act(StrEnum):
    HEAL = "heal"
    TELL = "tell"


@dataclass(frozen=True, slots=True, kw_only=True)
class HangSettings:
    suspect_s: float = 1.0
    certain_s: float = 10.0
    blocked_s: float | None = 60.0
    worker_s: float = 30.0
    act: Act = Act.HEAL


class Retirement(StrEnum):
    """How a suspect goes once its relief answers."""

    STOP = "stop"
    WATCH = "watch"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliefSettings:
    extra: int = 0  # "auto" is decided by config from servers.py; `extra_because` is the sentence that says why
    extra_because: str = ""
    budget: int = 5
    retire: Retirement = Retirement.STOP
    spare: bool = False


class RestartWhen(StrEnum):
    ALWAYS = "always"
    FAILURE = "failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartSettings:
    when: RestartWhen = RestartWhen.ALWAYS
    first_s: float = 0.0
    limit_s: float = 30.0
    budget: int = 5
    window_s: float = 600.0
    healthy_s: float = 60.0


class OutputTo(StrEnum):
    FILE = "file"
    INHERIT = "inherit"
    NULL = "null"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    to: OutputTo = OutputTo.FILE
    rotate_bytes: int | None = 50 * 1024 * 1024
    keep: int = 10
    compress: bool = True
    timestamps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSettings:
    probation_s: float = 600.0
    rollback: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSettings:
    """One `[program.NAME]`. Only `launch` makes a new build when it changes; the rest is taken up where it stands."""

    name: str
    launch: LaunchSettings
    runbook: str = ""
    instances: int = 1
    manual: bool = False  # start = "manual"
    after: tuple[str, ...] = ()
    reload: str = "restart"  # or a signal's name without SIG
    stop: str = "TERM"
    grace_s: float = 10.0
    server: str = ""  # the name in servers.py that the command was recognised as; "" is unknown
    health: HealthSettings = HealthSettings()
    hang: HangSettings = HangSettings()
    relief: ReliefSettings = ReliefSettings()
    restart: RestartSettings = RestartSettings()
    output: OutputSettings = OutputSettings()
    release: ReleaseSettings = ReleaseSettings()


class Severity(IntEnum):
    INFO = 0
    WARNING = 1
    CRITICAL = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class EscalationStep:
    after_s: float = 0.0
    notify: tuple[str, ...] = ()
    repeat_s: float | None = None
    when: Severity = Severity.WARNING
    programs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StakeholderSettings:
    notify: tuple[str, ...] = ()
    after_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    runtime_dir: str
    state_dir: str
    log_dir: str
    group: str = ""
    keep_s: float | None = 90 * 86400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole configuration. `path` is the file it came from, "" for none."""

    path: str
    daemon: DaemonSettings
    programs: tuple[ProgramSettings, ...] = ()
    escalation: tuple[EscalationStep, ...] = ()
    stakeholders: StakeholderSettings = StakeholderSettings()
    unused: tuple[str, ...] = ()  # sentences: keys that were accepted and have no effect yet


# --- verdicts -------------------------------------------------------------------------------------------------------------------


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


# --- states: what `step` returns and the handover keeps -------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True, kw_only=True)
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


@dataclass(frozen=True, slots=True)
class Incident:
    """From the first bad fact to proven recovery."""

    number: int
    opened: float
    severity: Severity
    told: tuple[str, ...] = ()  # keys of the facts told
    headline: Fact | None = None  # the worst fact, the first of its severity
    escalated: float = 0.0  # when it became that severe
    steps: tuple[int, ...] = ()  # the escalation steps that were told
    channels: tuple[str, ...] = ()  # everybody who was told that it began
    calm: float | None = None  # since when all is as it should be


@dataclass(frozen=True, slots=True)
class Trial:
    """A build that has to prove itself. `began` is when it was made."""

    build: int
    began: float
    failures: int = 0
    served: bool = False  # an instance of it was ready once
    lost: str = ""  # why it cannot be trusted any more, before it is given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """All that is remembered of one program, and all that a later supervisor needs of it."""

    settings: ProgramSettings
    build: Build
    preflight: Preflight = Preflight.PASSED
    preflight_asked: float | None = None
    good: Build | None = None  # the last build that was trusted
    previous: Build | None = None  # the one that was trusted before `good`
    trial: Trial | None = None
    retreat: str = ""  # why the previous build is to come back, before it does
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
    facts: tuple[Fact, ...] = ()  # not yet told
    incident: Incident | None = None
    notes: tuple[Note, ...] = ()  # not yet recorded


@dataclass(frozen=True, slots=True)
class Fleet:
    """The whole state. Programs stand in the configuration's order; `wakes` says when one wants to be settled again."""

    programs: dict[str, Program] = field(default_factory=dict)
    wakes: dict[str, float] = field(default_factory=dict)
    escalation: tuple[EscalationStep, ...] = ()
    draining: bool = False
    hurried: bool = False
    incidents: int = 0  # the highest number given
    numbers: dict[str, int] = field(default_factory=dict)  # the highest instance number of programs that are gone, or not here yet
    causes: dict[str, tuple[Known, ...]] = field(default_factory=dict)  # what is remembered of them
    wishes: dict[str, Wanted] = field(default_factory=dict)  # what an operator wanted of them, before the last supervisor died


# --- events: past participles ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process waits at its gate."""

    id: InstanceId
    pid: int
    start_ticks: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """No process came to be. `permanent`: the command cannot be executed; else the world was in the way (a busy port)."""

    id: InstanceId
    reason: str
    permanent: bool


@dataclass(frozen=True, slots=True)
class Exited:
    """The instance's own process ended. `status` is waitid's: an exit code, or minus a signal's number; None is unknown.

    left   processes of its tree that still live (they were sent SIGKILL once already)
    words  the ending in words for people: "exit code 3", "killed by SIGSEGV, core dumped"
    """

    id: InstanceId
    status: int | None
    left: int = 0
    words: str = ""


@dataclass(frozen=True, slots=True)
class Answered:
    """It became ready: it answered for the first time. `how` is for people: "GET /health answered 200"."""

    id: InstanceId
    how: str


@dataclass(frozen=True, slots=True)
class Extended:
    """It asked for more time to become ready: `start_s` seconds, counted from its spawn."""

    id: InstanceId
    start_s: float


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at a ready instance saw: at `at`, when something last moved at `since` (None: that is not known)."""

    id: InstanceId
    at: float
    since: float | None
    verdict: Verdict
    room: bool = True  # the host has memory for another instance like it


@dataclass(frozen=True, slots=True)
class WorkerLooked:
    """A worker of an instance that serves has done nothing since `since`, while somebody waits for it."""

    id: InstanceId
    pid: int
    start_ticks: int
    at: float
    since: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Spared:
    """The last look before a kill saw that it is no proof any more (it moved, or that cannot be said): no signal was sent."""

    look: Looked

    @property
    def id(self) -> InstanceId:
        return self.look.id


@dataclass(frozen=True, slots=True)
class EvidenceTaken:
    id: InstanceId
    summary: str  # one line for people; "" when nothing could be taken
    cause: str = ""  # the cause's key: the same one the next time; "" when none was found
    where: str = ""  # its place, for people: "store/coupons.py:41 apply()"
    peer: str = ""  # for whom all its threads wait, where that is one


@dataclass(frozen=True, slots=True)
class Preflighted:
    program: str
    build: int
    problem: str  # "" when it passed, else one sentence


@dataclass(frozen=True, slots=True)
class StartAsked:
    program: str


@dataclass(frozen=True, slots=True)
class StopAsked:
    program: str


@dataclass(frozen=True, slots=True)
class RestartAsked:
    program: str
    at_once: bool = False  # --now


@dataclass(frozen=True, slots=True)
class SignalAsked:
    program: str
    signal: str  # a name without SIG


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program of a new configuration with what the disk says of it now."""

    settings: ProgramSettings
    release: str
    directory: str  # resolved


@dataclass(frozen=True, slots=True)
class Applied:
    """A configuration to take up: programs that are not in it go."""

    programs: tuple[Candidate, ...]
    escalation: tuple[EscalationStep, ...] = ()


@dataclass(frozen=True, slots=True)
class ShutdownAsked:
    """The daemon's own stop; asked a second time it hurries."""


@dataclass(frozen=True, slots=True)
class Woke:
    """An instant came that the last step asked to be woken at."""


Event = (
    Spawned
    | SpawnFailed
    | Exited
    | Answered
    | Extended
    | Looked
    | WorkerLooked
    | Spared
    | EvidenceTaken
    | Preflighted
    | StartAsked
    | StopAsked
    | RestartAsked
    | SignalAsked
    | Applied
    | ShutdownAsked
    | Woke
)

# --- effects: imperatives -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RunPreflight:
    """Run the build's preflight commands; answered by Preflighted."""

    program: str
    build: Build
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a process and keep it at its gate; answered by Spawned or SpawnFailed."""

    id: InstanceId
    build: Build
    heartbeat_s: float | None = None  # it has to send WATCHDOG=1 at least once in so many seconds


@dataclass(frozen=True, slots=True)
class Open:
    """Open the gate: its pid stands in the handover now. The answer is Answered, or Exited."""

    id: InstanceId


@dataclass(frozen=True, slots=True)
class Signal:
    """Send one signal to the instance's own process: its stop signal, CONT, or an operator's. Exited answers when it is gone."""

    id: InstanceId
    signal: str


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL to the whole tree, answered by Exited.

    unmoved_since   for a kill by a verdict: look once more first; if something moved later than this instant, do not kill and
                    answer with Spared. None kills in any case.
    """

    id: InstanceId
    unmoved_since: float | None = None


@dataclass(frozen=True, slots=True)
class KillWorker:
    """A signal to one worker alone; its siblings serve on. What it was is told by the next look."""

    id: InstanceId
    pid: int
    start_ticks: int
    signal: str


@dataclass(frozen=True, slots=True)
class Demote:
    """Give the instance less of the processors, so that its relief boots."""

    id: InstanceId


@dataclass(frozen=True, slots=True)
class Promote:
    """Give the instance its share of the processors back."""

    id: InstanceId


@dataclass(frozen=True, slots=True)
class Remember:
    """Keep this cause for days, over restarts of program, supervisor and host."""

    program: str
    known: Known


@dataclass(frozen=True, slots=True)
class Look:
    """Look at the instance now; answered by Looked."""

    id: InstanceId


@dataclass(frozen=True, slots=True)
class TakeEvidence:
    """Record what a suspect is doing; answered by EvidenceTaken."""

    id: InstanceId


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
class Tell:
    """A message for people, through the named channels (none: the log alone). Never sent twice for one (incident, key, step).

    began_wall  is not known to policy: records add it.
    """

    incident: int
    program: str
    key: str
    severity: Severity
    text: str
    channels: tuple[str, ...]
    step: int = 0


@dataclass(frozen=True, slots=True)
class Forget:
    """The program is gone from the configuration and nothing of it lives: close its sockets and drop its handover."""

    program: str


Effect = (
    RunPreflight
    | Spawn
    | Open
    | Signal
    | Kill
    | KillWorker
    | Demote
    | Promote
    | Look
    | TakeEvidence
    | Remember
    | Note
    | Tell
    | Forget
)
