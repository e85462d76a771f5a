"""Settings: what an operator wrote, typed, with defaults and "auto" decided. `None` where a duration may be written means "off"."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum


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
    age_s: float | None = None
    keep: int = 10
    compress: bool = True
    timestamps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSettings:
    probation_s: float = 600.0
    rollback: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class SorrySettings:
    after_s: float | None = None  # off, where no held socket is known to speak HTTP
    page: str = ""  # an HTML file, absolute; "" is the built-in page
    retry_s: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSettings:
    """One `[program.NAME]`. Only `launch` makes a new build when it changes; the rest is taken up where it stands."""

    name: str
    launch: LaunchSettings
    runbook: str = ""
    drill: bool = False  # `reviver drill` may start another one of it, with faults
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
    sorry: SorrySettings = SorrySettings()


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
    """Texts are `string.Template`s: $program, $lasted (how long), $affected (how long nobody was served, in all)."""

    notify: tuple[str, ...] = ()
    after_s: float = 120.0
    begin: str = "$program is not available ($lasted so far). We are working on it, and will tell you when that changes."
    back: str = "$program is available again, after $affected without. We keep an eye on it until we are sure."
    again: str = "$program is not available again. We are working on it, and will tell you when that changes."
    over: str = "$program works normally again. It was not available for $affected in all, within $lasted."
    stopped: str = "$program has been switched off on purpose. It had not been available for $affected before."


NO_STAKEHOLDERS = StakeholderSettings()


class Weekday(IntEnum):
    """As `time.struct_time` counts them."""

    MON = 0
    TUE = 1
    WED = 2
    THU = 3
    FRI = 4
    SAT = 5
    SUN = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceSettings:
    """A window in which alerts are muted, by the host's clock and time zone; it may last over midnight.

    days      on which it begins; none is each day
    minute    of the day at which it begins
    programs  these only; none is all
    """

    days: tuple[Weekday, ...] = ()
    minute: int = 0
    lasts_s: float = 3600.0
    programs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """How messages are sent, whoever gets them."""

    secret_file: str = ""  # absolute; with what stands in it webhooks are signed
    rehearse_s: float | None = None  # between two rehearsals of all channels


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonSettings:
    runtime_dir: str
    state_dir: str
    log_dir: str
    group: str = ""
    keep_s: float | None = 90 * 86400.0
    ping: str = ""  # an http:// or https:// address that is asked each minute, so that somebody outside notices our silence


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A whole configuration. `path` is the file it came from, "" for none."""

    path: str
    daemon: DaemonSettings
    programs: tuple[ProgramSettings, ...] = ()
    escalation: tuple[EscalationStep, ...] = ()
    stakeholders: StakeholderSettings = StakeholderSettings()
    alerts: AlertSettings = AlertSettings()
    maintenance: tuple[MaintenanceSettings, ...] = ()
    unused: tuple[str, ...] = ()  # sentences: keys that were accepted and have no effect yet
