"""A seed becomes a world: programs with their settings, how their builds behave, and which mischief happens.

Pure. Settings are drawn small, so that a few virtual minutes hold whole stories. Each world knows only some kinds of mischief:
worlds that know all of them drown in noise and never meet the quiet combinations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from supervisor.model import (
    Act,
    EscalationStep,
    HangSettings,
    HealthSettings,
    LaunchSettings,
    ProgramSettings,
    ReleaseSettings,
    ReliefSettings,
    RestartSettings,
    RestartWhen,
    Retirement,
    Severity,
    SorrySettings,
)

NAMES = ("db", "store", "search", "mail", "extra")
MISCHIEF = (
    "crash",
    "leave",  # exit 0
    "freeze",  # state D
    "stop",  # state T
    "wedge",  # the whole instance spins or is locked
    "poison",
    "worker",  # one request that never comes back, and nobody sends it again: the others are served
    "report",
    "database",
    "memory",  # the host has none left for another instance
    "starve",
    "deaf",  # at boot
    "boot-crash",
    "exec",
    "blind",  # the watcher is silent for a while
    "looks",  # lost, late and doubled
    "tree",  # kills that miss, descendants that survive
    "operator",
    "release",  # bad builds
    "death",  # of the supervisor
)
LINKS = "links"  # where a directory is a symlink: deploys and rollbacks, and switches that fail or take long; drawn apart


PEOPLE = "people"  # who acknowledge, hold, and begin and end maintenance; drawn apart too

LINKED = 0.4  # of all programs
COUPON, REPORT = "spinning:coupons.py:apply", "spinning:reports.py:month"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a build does when it runs. Chances are between 0 and 1."""

    boot_s: float = 0.5
    boot_cpu: bool = True
    slots: int = 1
    workers: bool = False  # each slot is a process of its own, that can be killed alone
    graceful: bool = True
    probed: bool = True
    boot_crash: float = 0.0
    deaf: float = 0.0
    life_s: float | None = None  # it crashes so long after it became ready
    loops: float = 0.0  # chance of a request to loop for ever
    cause: str = COUPON  # where such a request loops
    exec_fails: bool = False
    preflight_fails: bool = False

    @property
    def hopeless(self) -> bool:
        """It can never serve for long."""
        return self.exec_fails or self.preflight_fails or self.boot_crash == 1.0 or self.deaf == 1.0 or self.life_s is not None


@dataclass(frozen=True, slots=True)
class ProgramPlan:
    settings: ProgramSettings
    directory: str
    behaviour: Behaviour
    arrivals_s: float  # mean time between customers
    work_s: float
    database: bool  # its requests need the database
    report: str = REPORT  # where its reports work: in some programs in the very function that can loop for ever, too
    linked: bool = False  # its directory is a symlink that names the release


@dataclass(frozen=True, slots=True)
class Plan:
    seed: int
    cores: int
    programs: tuple[ProgramPlan, ...]
    spares: tuple[ProgramPlan, ...]  # programs that an operator may add later
    mischief: frozenset[str]
    every_s: float  # mean time between two acts of mischief
    escalation: tuple[EscalationStep, ...]


def make_plan(seed: int) -> Plan:
    random = Random(seed)
    count = random.choice((1, 1, 1, 2, 2, 3))
    programs: list[ProgramPlan] = []
    for name in NAMES[:count]:
        programs.append(_program(random, name, tuple(p.settings.name for p in programs)))
    spare = _program(random, NAMES[-1], tuple(p.settings.name for p in programs))
    mischief = frozenset(kind for kind in MISCHIEF if random.random() < 0.35) or frozenset({"crash"})
    if any(program.linked for program in programs):
        mischief |= {LINKS}
    apart = Random(f"people of {seed}")
    if apart.random() < 0.4:
        mischief |= {PEOPLE}
    return Plan(
        seed=seed,
        cores=random.choice((2, 2, 4)),
        programs=tuple(programs),
        spares=(spare,),
        mischief=mischief,
        every_s=random.choice((3.0, 6.0, 12.0, 25.0)),
        escalation=(
            EscalationStep(notify=("log://first",)),
            EscalationStep(
                after_s=random.choice((5.0, 20.0)),
                notify=("log://second",),
                when=Severity.CRITICAL,
                repeat_s=apart.choice((None, 7.0, 30.0)),
            ),
        ),
    )


def _program(random: Random, name: str, earlier: tuple[str, ...]) -> ProgramPlan:
    extra = random.choice((0, 1, 1, 1, 2))
    graceful = random.random() < 0.75
    start_s = random.choice((4.0, 8.0, 20.0))
    directory = f"/srv/{name}/r1"
    settings = ProgramSettings(
        name=name,
        launch=LaunchSettings(
            command=("serve", name),
            directory=f"/srv/{name}/current",
            sockets=("127.0.0.1:8000",) if extra else (),
            preflight=(("check",),) if random.random() < 0.4 else (),
        ),
        instances=random.choice((1, 1, 1, 2, 2, 3, 4)),
        after=tuple(other for other in earlier if random.random() < 0.5),
        grace_s=random.choice((1.0, 4.0, 10.0)),
        health=HealthSettings(http="/health", start_s=start_s),
        hang=HangSettings(
            certain_s=random.choice((3.0, 6.0, 10.0)),
            blocked_s=random.choice((None, 15.0, 30.0)),
            worker_s=random.choice((3.0, 6.0, 12.0)),
            act=Act.TELL if random.random() < 0.12 else Act.HEAL,
        ),
        relief=ReliefSettings(
            extra=extra, budget=random.choice((0, 1, 2, 5)), retire=Retirement.STOP if graceful else Retirement.WATCH
        ),
        restart=RestartSettings(
            when=random.choice((RestartWhen.ALWAYS,) * 6 + (RestartWhen.FAILURE, RestartWhen.NEVER)),
            limit_s=random.choice((2.0, 8.0, 30.0)),
            budget=random.choice((2, 3, 5)),
            window_s=random.choice((30.0, 120.0, 600.0)),
            healthy_s=random.choice((5.0, 15.0, 60.0)),
        ),
        release=ReleaseSettings(rollback=random.random() < 0.8),
    )
    slots = random.choice((1, 1, 2, 4, 4))
    behaviour = Behaviour(
        boot_s=random.choice((0.1, 0.5, 1.0, 2.5)),
        boot_cpu=random.random() < 0.6,
        slots=slots,
        workers=slots > 1 and random.random() < 0.8,
        graceful=graceful,
        probed=random.random() < 0.8,
    )
    if behaviour.workers and random.random() < 0.5:
        settings = replace(settings, server="gunicorn")
    linked = Random(f"{directory} {settings}").random() < LINKED
    if linked:
        probation_s = Random(f"probation of {settings}").choice((5.0, 30.0, 120.0))
        settings = replace(settings, release=replace(settings.release, probation_s=probation_s))
    if settings.launch.sockets:
        after_s = Random(f"page of {settings}").choice((None, 0.5, 3.0, 3.0))
        settings = replace(settings, sorry=SorrySettings(after_s=after_s))
    return ProgramPlan(
        settings,
        directory,
        behaviour,
        arrivals_s=random.choice((0.3, 0.6, 1.5)),
        work_s=random.choice((0.02, 0.08)),
        database=random.random() < 0.5,
        report=random.choice((REPORT, COUPON)),
        linked=linked,
    )


def bad_behaviour(random: Random, good: Behaviour, start_s: float, name: str) -> Behaviour:
    """A release that somebody should not have made. `name` tells its own loop from those of others."""
    match random.randrange(10):
        case 0:
            return replace(good, boot_crash=1.0)
        case 1:
            return replace(good, boot_crash=0.5)
        case 2:
            return replace(good, deaf=1.0)
        case 3:
            return replace(good, life_s=random.choice((0.3, 2.0, 10.0)))
        case 4:
            return replace(good, loops=0.3)
        case 5:
            return replace(good, exec_fails=True)
        case 6:
            return replace(good, preflight_fails=True)
        case 7 | 8:
            return replace(good, loops=0.03, cause=f"spinning:{name}.py:apply")  # rare enough to be trusted before it is seen
        case _:
            return replace(good, boot_s=start_s * random.choice((0.6, 1.3)), boot_cpu=False)
