"""Effects: what policy wants done. Imperatives; where one is answered by an event, it says by which. A Note (states) is one too."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from supervisor.model.settings import Severity
from supervisor.model.states import Build, Incident, InstanceId, Known, Note, Release


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
class Switch:
    """Let the symlink `link` name this directory, without a moment in which it names nothing; answered by Switched."""

    program: str
    link: str
    directory: str


@dataclass(frozen=True, slots=True)
class RecordRelease:
    """Keep this line of the program's releases: a new one, or what became of one that is kept already."""

    program: str
    release: Release


@dataclass(frozen=True, slots=True)
class Look:
    """Look at the instance now; answered by Looked."""

    id: InstanceId


@dataclass(frozen=True, slots=True)
class TakeEvidence:
    """Record what a suspect is doing; answered by EvidenceTaken."""

    id: InstanceId


@dataclass(frozen=True, slots=True)
class RecordIncident:
    """Keep the incident as it is now. `over`: when it ended; None while it is open."""

    program: str
    incident: Incident
    over: float | None = None


class Voice(StrEnum):
    """How a message speaks."""

    NEEDS_YOU = "needs you"
    HEALING = "Reviver is healing it"
    HEALED = "healed by itself"
    OVER = "over"
    PUBLIC = "public"  # for stakeholders: plain words, no commands


@dataclass(frozen=True, slots=True)
class Apologize:
    """Nothing of the program serves: take what waits at its held sockets, and answer 503."""

    program: str


@dataclass(frozen=True, slots=True)
class StepAside:
    """Apologize no longer: the queue belongs to the program again, at once."""

    program: str


@dataclass(frozen=True, slots=True)
class Tell:
    """A message for people, through the named channels (none: the log alone). Never sent twice for one (incident, key, step).

    affected, done, comes  a sentence each: who is affected, what was done so far, what comes next
    """

    incident: int
    program: str
    key: str
    severity: Severity
    text: str
    channels: tuple[str, ...]
    step: int = 0
    voice: Voice = Voice.HEALING
    affected: str = ""
    done: str = ""
    comes: str = ""


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
    | Apologize
    | StepAside
    | Switch
    | RecordRelease
    | Look
    | TakeEvidence
    | Remember
    | RecordIncident
    | Note
    | Tell
    | Forget
)
