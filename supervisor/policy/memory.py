"""What is remembered of causes: that a loop was proven before, how often, under which release, and whether it ever ended by itself.

Every other supervisor forgets within minutes; here the same loop half an hour or three days later is known as the same. Only proof
counts: a suspect that answers again, or finishes its work after it was asked to go, makes its cause long work and no loop.
"""

from __future__ import annotations

from supervisor.model import Effect, Instance, Known, Program, Remember, Severity
from supervisor.policy import ladder
from supervisor.policy.clock import Clock
from supervisor.policy.ladder import Rung
from supervisor.policy.values import replace
from supervisor.policy.wanted import World
from supervisor.policy.words import fact, note, ordinal, spell

KEPT_S = 7 * 86400.0  # a slow loop of any shorter period is recognised
CAUSES_LIMIT = 100  # of one program: more different loops than that are no memory any more
PROOFS_LIMIT = 100  # of one cause: a loop each ten seconds for a week would be written down whole each time


def known(program: Program, instance: Instance) -> Known | None:
    """What is remembered of this instance's cause."""
    return next((each for each in program.causes if each.key == instance.cause), None) if instance.cause else None


def endless(program: Program, instance: Instance, now: float) -> bool:
    """Whether its cause was proven within the days that are remembered, and never ended by itself."""
    before = known(program, instance)
    return before is not None and any(now - at < KEPT_S for at in before.proven) and not before.passed


def met(program: Program, instance: Instance, release: str, now: float) -> Program:
    """The evidence of a suspect named its cause. A loop that was proven before is told as a recurrence at once."""
    if not instance.cause:
        return program
    before = known(program, instance)
    if before is None:
        before = Known(instance.cause, instance.where, release, now)
        program = _keep(program, before)
    if instance.suspected is None:  # it answered again before its cause was known
        return passed(program, instance)
    if not endless(program, instance, now):
        return program
    text = f"{instance.id}: the same as before, {before.where}: {_times(before, now)}"
    program = note(program, "cause.recurred", text, instance)
    return fact(program, "recurrence", Severity.CRITICAL, text, instance)


def proven(program: Program, instance: Instance, release: str, now: float) -> Program:
    """A hang by this cause is proven; it decides how far to go. Waiting for somebody else came with no release, and none cures it."""
    before = known(program, instance)
    if before is None:
        return program
    times = (*(at for at in before.proven if now - at < KEPT_S), now)
    after = replace(before, proven=times[-PROOFS_LIMIT:])
    program = _keep(program, after)
    if instance.peer:
        return program
    match ladder.rung(after, program, release, now):
        case Rung.PREVIOUS:
            return replace(program, retreat=f"{after.where} hung it {len(after.proven)} times, and came with this release")
        case Rung.PEOPLE:
            text = f"{program.settings.name} needs you: {after.where} hung it {spell(now - after.proven[0])} ago for the first time"
            text += f", and now for the {ordinal(len(after.proven))}; a restart does not cure it"
            return fact(program, "needs-you", Severity.CRITICAL, text, instance)
        case Rung.INSTANCE:
            return program


def passed(program: Program, instance: Instance) -> Program:
    """A suspect with this cause moved again by itself: what it did is long, not endless."""
    before = known(program, instance)
    return program if before is None else _keep(program, replace(before, passed=before.passed + 1))


def remember(program: Program, _: World, __: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Have what changed written down."""
    if not program.unsaved:
        return program, ()
    changed = tuple(Remember(program.settings.name, each) for each in program.causes if each.key in program.unsaved)
    return replace(program, unsaved=()), changed


def _keep(program: Program, changed: Known) -> Program:
    others = [each for each in program.causes if each.key != changed.key]
    unsaved = tuple(dict.fromkeys((*program.unsaved, changed.key)))
    return replace(program, causes=(*others[-CAUSES_LIMIT + 1 :], changed), unsaved=unsaved)


def _times(before: Known, now: float) -> str:
    """How often, since when: "the 3rd time in 2 h, met first under release 4f2a91c"."""
    times = [at for at in before.proven if now - at < KEPT_S]
    since = f"in {spell(now - times[0])}" if times else "after a long time"
    release = f", met first under release {before.release}" if before.release else ""
    return f"the {ordinal(len(times) + 1)} time {since}{release}"
