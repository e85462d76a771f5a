"""Events: what happened. Past participles."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.model.settings import NO_STAKEHOLDERS, EscalationStep, ProgramSettings, StakeholderSettings
from supervisor.model.states import InstanceId, Toll, Verdict


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
class Noticed:
    """What customers of a program noticed since the last of these, in trouble."""

    program: str
    toll: Toll


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
    suspected: float | None = None  # of which suspicion it was taken


@dataclass(frozen=True, slots=True)
class Preflighted:
    program: str
    build: int
    problem: str  # "" when it passed, else one sentence


@dataclass(frozen=True, slots=True)
class DeployAsked:
    """An operator wants this release to run. `back`: because the one under way is no good."""

    program: str
    release: str
    directory: str  # resolved
    by: str  # "uid 1000"
    back: bool = False


@dataclass(frozen=True, slots=True)
class Switched:
    """The program's symlink names this directory; or it names what it named before, for this problem (one sentence)."""

    program: str
    directory: str
    problem: str = ""


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
class AckAsked:
    """Somebody is at it: this incident is told to nobody else, until something new and critical comes."""

    incident: int
    by: str  # "uid 1000"


@dataclass(frozen=True, slots=True)
class HoldAsked:
    """Reviver shall keep its hands off this program for so many seconds."""

    program: str
    for_s: float
    reason: str
    by: str


@dataclass(frozen=True, slots=True)
class HoldEndAsked:
    program: str
    by: str


@dataclass(frozen=True, slots=True)
class MaintenanceChanged:
    """The programs of which a maintenance window is open now: all that was so and is not named is over."""

    programs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A program of a new configuration with what the disk says of it now."""

    settings: ProgramSettings
    release: str
    directory: str  # resolved
    linked: bool = False  # the directory that the settings name is a symlink


@dataclass(frozen=True, slots=True)
class Applied:
    """A configuration to take up: programs that are not in it go. `begins`: by a supervisor that begins, nobody asked for it."""

    programs: tuple[Candidate, ...]
    escalation: tuple[EscalationStep, ...] = ()
    begins: bool = False
    stakeholders: StakeholderSettings = NO_STAKEHOLDERS


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
    | Noticed
    | WorkerLooked
    | Spared
    | EvidenceTaken
    | Preflighted
    | DeployAsked
    | Switched
    | StartAsked
    | StopAsked
    | RestartAsked
    | SignalAsked
    | AckAsked
    | HoldAsked
    | HoldEndAsked
    | MaintenanceChanged
    | Applied
    | ShutdownAsked
    | Woke
)
