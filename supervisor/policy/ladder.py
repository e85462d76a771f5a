"""How far to go for a cause that was proven before: the recovery actions from least to most disruptive.

    worker -> relief -> instance -> previous release -> people

The first three are climbed by what is seen now (a worker hangs, an instance is suspect, an instance is proven hung). The last two are
decided here, by memory: a restart cures a hang once, but not a loop that comes back.
"""

from __future__ import annotations

from enum import Enum, auto

from supervisor.model import Known, Program, Standing
from supervisor.policy import releases
from supervisor.policy.wanted import returnable

DAY_S = 86400.0
TWICE = 2  # within a day: it comes back, and a restart is no cure
THRICE = 3  # then nothing that Reviver can do cures it


class Rung(Enum):
    INSTANCE = auto()
    PREVIOUS = auto()
    PEOPLE = auto()


def rung(cause: Known, program: Program, release: str, now: float) -> Rung:
    """How far to go after `cause` was proven once more.

    release  of the instance that hung: going back helps only when the cause came with it, and it is the one that would go
    """
    times = sum(1 for at in cause.proven if now - at < DAY_S)
    if times < TWICE:
        return Rung.INSTANCE
    if times == TWICE and _came_with(cause, program, release):
        return Rung.PREVIOUS
    return Rung.PEOPLE if times >= THRICE else Rung.INSTANCE


def _came_with(cause: Known, program: Program, release: str) -> bool:
    before = program.previous
    if before is None or not program.settings.release.rollback or not release:
        return False
    last = releases.newest(program, before)
    failed = last is not None and last.standing is Standing.FAILED  # it was trusted once, and given up when it came back
    other = before.release not in ("", release) and returnable(before, program.build) and not failed
    return other and cause.release == release == program.build.release
