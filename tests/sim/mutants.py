"""Planted defects, the classics of this field: the simulation has to find each of them, else it proves nothing.

A mutant takes the real policy and gives a broken one. Most wrap `step` and distort what goes in or comes out, so that they do not
depend on how policy is written inside.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

from supervisor.model import (
    Act,
    Answered,
    Applied,
    Blame,
    Build,
    DeployAsked,
    Effect,
    EscalationStep,
    Event,
    EvidenceTaken,
    Exited,
    Fleet,
    Instance,
    InstanceId,
    Kill,
    Known,
    Look,
    Looked,
    MaintenanceChanged,
    Program,
    ProgramSettings,
    Promote,
    Remember,
    ShutdownAsked,
    Signal,
    SpawnFailed,
    State,
    StepAside,
    Switch,
    Tell,
    Wanted,
    Woke,
    WorkerLooked,
)
from tests.sim.invariants import SUSPICIOUS
from tests.sim.world import Memory, Policy, Written

Result = tuple[Fleet, tuple[Effect, ...], float | None]
Change = Callable[[ProgramSettings], ProgramSettings]


def _with_program(fleet: Fleet, program: Program) -> Fleet:
    return replace(fleet, programs={**fleet.programs, program.settings.name: program})


def _with_instance(fleet: Fleet, instance: Instance) -> Fleet:
    program = fleet.programs[instance.id.program]
    instances = tuple(instance if i.id == instance.id else i for i in program.instances)
    return _with_program(fleet, replace(program, instances=instances))


def backoff_without_a_timer(policy: Policy) -> Policy:
    """A program that waits for its next start is not woken."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        fleet, effects, _ = policy.step(fleet, event, now)
        wakes = {name: wake for name, wake in fleet.wakes.items() if fleet.programs[name].instances}
        return replace(fleet, wakes=wakes), effects, min(wakes.values(), default=None)

    return replace(policy, step=step)


def no_id_check(policy: Policy) -> Policy:
    """News of an instance that is gone is taken for news of the oldest that lives."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if isinstance(event, Exited | Looked | Answered):
            program = fleet.programs.get(event.id.program)
            living = [i.id for i in program.instances] if program is not None else []
            if living and event.id not in living:
                event = replace(event, id=min(living))
        return policy.step(fleet, event, now)

    return replace(policy, step=step)


def number_reused(policy: Policy) -> Policy:
    """A new supervisor counts from one again."""

    def reborn(record: Fleet, written: Written, unborn: Collection[InstanceId], memory: Memory) -> Fleet:
        after = policy.reborn(record, written, unborn, memory)
        return replace(after, numbers={}, programs={n: replace(p, started=0) for n, p in after.programs.items()})

    return replace(policy, reborn=reborn)


def trees_left_running(policy: Policy) -> Policy:
    """A new supervisor starts everything a second time beside what lives."""

    def reborn(record: Fleet, written: Written, unborn: Collection[InstanceId], memory: Memory) -> Fleet:
        return replace(policy.reborn(record, written, unborn, memory), programs={})

    return replace(policy, reborn=reborn)


def _deceived(policy: Policy, there: Change, back: Change) -> Policy:
    """Policy sees other settings than the operator wrote."""

    def changed(fleet: Fleet, change: Change) -> Fleet:
        programs = {name: replace(program, settings=change(program.settings)) for name, program in fleet.programs.items()}
        return replace(fleet, programs=programs)

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if isinstance(event, Applied):
            candidates = tuple(replace(c, settings=there(c.settings)) for c in event.programs)
            event = replace(event, programs=candidates)
        after, effects, wake = policy.step(changed(fleet, there), event, now)
        return changed(after, back), effects, wake

    return replace(policy, step=step)


def relief_budget_ignored(policy: Policy) -> Policy:
    """Relief after relief, as often as somebody is suspect."""

    def by(count: int) -> Change:
        return lambda s: replace(s, relief=replace(s.relief, budget=s.relief.budget + count))

    return _deceived(policy, by(1000), by(-1000))


def ceiling_ignored(policy: Policy) -> Policy:
    """One more than allowed may live."""

    def by(count: int) -> Change:
        return lambda s: replace(s, relief=replace(s.relief, extra=s.relief.extra + count))

    return _deceived(policy, by(1), by(-1))


def busy_one_killed(policy: Policy) -> Policy:
    """A suspect beside its relief is given no more patience than one that is alone."""

    def by(factor: float) -> Change:
        return lambda s: replace(s, hang=replace(s.hang, certain_s=s.hang.certain_s * factor))

    return _deceived(policy, by(0.25), by(4.0))


def booting_killed(policy: Policy) -> Policy:
    """A start has half the time it was promised."""

    def by(factor: float) -> Change:
        return lambda s: replace(s, health=replace(s.health, start_s=s.health.start_s * factor))

    return _deceived(policy, by(0.5), by(2.0))


def told_to_tell_heals(policy: Policy) -> Policy:
    """hang.act = "tell" is not heard."""
    mark_s = 2.0**20  # in the grace, so that the way back is known

    def there(s: ProgramSettings) -> ProgramSettings:
        return replace(s, grace_s=s.grace_s + mark_s, hang=replace(s.hang, act=Act.HEAL)) if s.hang.act is Act.TELL else s

    def back(s: ProgramSettings) -> ProgramSettings:
        return replace(s, grace_s=s.grace_s - mark_s, hang=replace(s.hang, act=Act.TELL)) if s.grace_s >= mark_s else s

    return _deceived(policy, there, back)


def both_retired(policy: Policy) -> Policy:
    """As soon as the new one is ready, all the others go."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        fleet, effects, wake = policy.step(fleet, event, now)
        if isinstance(event, Answered) and any(isinstance(effect, Signal) for effect in effects):
            program = fleet.programs[event.id.program]
            for other in program.instances:
                if other.state is State.READY and other.id != event.id:
                    gone = replace(other, state=State.RETIRING, since=now, asked=now, why="planted")
                    fleet = _with_instance(fleet, gone)
                    effects = (*effects, Signal(other.id, program.settings.stop))
        return fleet, effects, wake

    return replace(policy, step=step)


def rollback_loop(policy: Policy) -> Policy:
    """A build that was given up is tried again after a while."""
    lost: dict[str, tuple[float, Program]] = {}

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        after, effects, wake = policy.step(fleet, event, now)
        for name, program in after.programs.items():
            before = fleet.programs.get(name)
            if isinstance(event, Applied):
                lost.pop(name, None)
            elif before is not None and before.build.number > program.build.number:
                lost[name] = (now, before)
            elif name in lost and now - lost[name][0] > 3.0:
                after = _with_program(after, replace(program, build=lost.pop(name)[1].build, trial=None))
        return after, effects, wake

    return replace(policy, step=step)


def shutdown_waits_for_backoff(policy: Policy) -> Policy:
    """The end is not seen while a program waits for its next start."""

    def drained(fleet: Fleet) -> bool:
        waits = any(p.wanted is Wanted.UP and p.failed is not None and not p.instances for p in fleet.programs.values())
        return policy.drained(fleet) and not waits

    return replace(policy, drained=drained)


def shutdown_forgets_the_order(policy: Policy) -> Policy:
    """Everybody is asked to stop at once."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if not isinstance(event, ShutdownAsked):
            return policy.step(fleet, event, now)
        orders = {name: p.settings.after for name, p in fleet.programs.items()}
        after, effects, wake = policy.step(_without_order(fleet), event, now)
        for name, program in after.programs.items():
            after = _with_program(after, replace(program, settings=replace(program.settings, after=orders[name])))
        return replace(after, needed_by=fleet.needed_by), effects, wake

    return replace(policy, step=step)


def _without_order(fleet: Fleet) -> Fleet:
    for program in fleet.programs.values():
        fleet = _with_program(fleet, replace(program, settings=replace(program.settings, after=())))
    return replace(fleet, needed_by={})


def killed_once(policy: Policy) -> Policy:
    """SIGKILL is sent once, and then nothing any more."""
    killed: set[InstanceId] = set()

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        fleet, effects, wake = policy.step(fleet, event, now)
        kept = tuple(e for e in effects if not (isinstance(e, Kill) and e.id in killed))
        killed.update(e.id for e in kept if isinstance(e, Kill))
        return fleet, kept, wake

    return replace(policy, step=step)


def killed_without_a_timer(policy: Policy) -> Policy:
    """Nobody comes back to one that was killed."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        fleet, effects, _ = policy.step(fleet, event, now)
        dying = {name for name, p in fleet.programs.items() if any(i.state is State.KILLING for i in p.instances)}
        wakes = {name: wake for name, wake in fleet.wakes.items() if name not in dying}
        return replace(fleet, wakes=wakes), effects, min(wakes.values(), default=None)

    return replace(policy, step=step)


def timer_kills(policy: Policy) -> Policy:
    """When a suspect's time has come it is killed, without looking whether it still hangs."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        fleet, effects, wake = policy.step(fleet, event, now)
        if isinstance(event, Woke):
            for look in [e for e in effects if isinstance(e, Look)]:
                instance = next(i for i in fleet.programs[look.id.program].instances if i.id == look.id)
                if instance.state is State.SUSPECT:
                    dying = replace(instance, state=State.KILLING, since=now, blame=Blame.HANG, tries=1, tried=now, why="planted")
                    fleet = _with_instance(fleet, dying)
                    effects = (*(e for e in effects if e is not look), Kill(look.id))
        return fleet, effects, wake

    return replace(policy, step=step)


def old_looks_believed(policy: Policy) -> Policy:
    """A look that was long on its way counts as if it were new."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        return policy.step(fleet, replace(event, at=now) if isinstance(event, Looked) else event, now)

    return replace(policy, step=step)


def told_twice(policy: Policy) -> Policy:
    """A message is sent again with the next one."""
    last: list[Tell] = []

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        fleet, effects, wake = policy.step(fleet, event, now)
        told = [effect for effect in effects if isinstance(effect, Tell)]
        if told:
            effects = (*effects, *last)
            last[:] = told[:1]
        return fleet, effects, wake

    return replace(policy, step=step)


def started_twice(policy: Policy) -> Policy:
    """A start that failed is also tried again at once: the retry in place beside the backoff."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if isinstance(event, Exited | SpawnFailed) and event.id.program in fleet.programs:
            program = fleet.programs[event.id.program]
            fleet = _with_program(fleet, replace(program, failed=None))
            after, effects, wake = policy.step(fleet, event, now)
            heard = after.programs.get(event.id.program)
            if heard is not None and heard.failed is not None:
                hasty = _with_program(after, replace(heard, failed=None, crash_loop=False))
                after, more, wake = policy.step(replace(hasty, wakes={event.id.program: now}), Woke(), now)
                effects = (*effects, *more)
            return after, effects, wake
        return policy.step(fleet, event, now)

    return replace(policy, step=step)


def _misled(policy: Policy, change: Callable[[Known], Known]) -> Policy:
    """When a suspect is looked at, policy remembers other things of causes than happened. Nothing of that is written down."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if not isinstance(event, Looked | EvidenceTaken) or event.id.program not in fleet.programs:
            return policy.step(fleet, event, now)
        program = fleet.programs[event.id.program]
        moves = isinstance(event, Looked) and event.verdict.kind not in SUSPICIOUS
        if moves or not any(i.id == event.id and i.suspected for i in program.instances):
            return policy.step(fleet, event, now)
        true = {change(known): known for known in program.causes}
        after, effects, wake = policy.step(_with_program(fleet, replace(program, causes=tuple(true))), event, now)
        told = after.programs[program.settings.name]
        causes = tuple(true.get(known, known) for known in told.causes)
        return _with_program(after, replace(told, causes=causes)), effects, wake

    return replace(policy, step=step)


def unproven_poison_killed(policy: Policy) -> Policy:
    """Any loop that holds all is killed after three seconds, also one that nobody ever proved: two long reports die."""
    return _misled(policy, lambda known: known if known.passed else replace(known, proven=known.proven or (0.0,)))


def passed_ignored(policy: Policy) -> Policy:
    """A loop that once ended by itself is still taken for an endless one."""
    return _misled(policy, lambda known: replace(known, passed=0))


def second_kill_for_a_peer(policy: Policy) -> Policy:
    """That one was killed for a peer keeps no other one that waits for it alive."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        program = fleet.programs.get(event.id.program) if isinstance(event, Looked) else None
        if program is None or program.outside is None:
            return policy.step(fleet, event, now)
        forgotten = replace(program.outside, tried=now - 300.0)
        after, effects, wake = policy.step(_with_program(fleet, replace(program, outside=forgotten)), event, now)
        told = after.programs[program.settings.name]
        outside = program.outside if told.outside == forgotten else told.outside
        return _with_program(after, replace(told, outside=outside)), effects, wake

    return replace(policy, step=step)


def worker_killed_by_an_old_look(policy: Policy) -> Policy:
    """A look at a worker that was long on its way counts as if it were new."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if isinstance(event, WorkerLooked):
            event = replace(event, at=now, since=event.since + now - event.at)
        return policy.step(fleet, event, now)

    return replace(policy, step=step)


def worker_killed_too_early(policy: Policy) -> Policy:
    """A worker is given no more patience than an instance."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if isinstance(event, WorkerLooked) and (known := fleet.programs.get(event.id.program)):
            hasty = replace(known.settings, hang=replace(known.settings.hang, worker_s=known.settings.hang.certain_s))
            after, effects, wake = policy.step(_with_program(fleet, replace(known, settings=hasty)), event, now)
            told = after.programs[event.id.program]
            return _with_program(after, replace(told, settings=known.settings)), effects, wake
        return policy.step(fleet, event, now)

    return replace(policy, step=step)


def room_ignored(policy: Policy) -> Policy:
    """A relief is started also where the host has no memory for it."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        return policy.step(fleet, replace(event, room=True) if isinstance(event, Looked) else event, now)

    return replace(policy, step=step)


def retreat_to_a_lost_build(policy: Policy) -> Policy:
    """Memory goes back to the build that it had given up, and so to and fro."""
    lost: dict[str, Program] = {}

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if isinstance(event, Applied):
            lost.clear()
        elif isinstance(event, Exited) and event.id.program in lost and event.id.program in fleet.programs:
            hung = any(i.id == event.id and i.blame is Blame.HANG for i in fleet.programs[event.id.program].instances)
            if hung:
                program, before = fleet.programs[event.id.program], lost.pop(event.id.program)
                fleet = _with_program(fleet, replace(program, previous=before.build, retreat="planted"))
        after, effects, wake = policy.step(fleet, event, now)
        for name, program in after.programs.items():
            known = fleet.programs.get(name)
            if known is not None and known.build.number > program.build.number and not isinstance(event, Applied):
                lost[name] = known
        return after, effects, wake

    return replace(policy, step=step)


def cause_counted_although_it_recovered(policy: Policy) -> Policy:
    """A suspicion counts as a proof, whatever became of it."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        after, effects, wake = policy.step(fleet, event, now)
        if isinstance(event, EvidenceTaken) and event.cause and event.id.program in after.programs:
            program = after.programs[event.id.program]
            causes = tuple(replace(k, proven=(*k.proven, now)) if k.key == event.cause else k for k in program.causes)
            after = _with_program(after, replace(program, causes=causes))
        return after, effects, wake

    return replace(policy, step=step)


def never_promoted(policy: Policy) -> Policy:
    """What was demoted for its relief stays so."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        after, effects, wake = policy.step(fleet, event, now)
        return after, tuple(effect for effect in effects if not isinstance(effect, Promote)), wake

    return replace(policy, step=step)


def passing_not_kept(policy: Policy) -> Policy:
    """That a loop ended by itself is not written down, and forgotten with the supervisor."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        after, effects, wake = policy.step(fleet, event, now)
        kept = tuple(e for e in effects if not (isinstance(e, Remember) and e.known.passed))
        return after, kept, wake

    return replace(policy, step=step)


def failed_release_applied(policy: Policy) -> Policy:
    """An apply for whatever reason tries a release again that was given up behind its symlink."""
    lost: dict[str, Build] = {}

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        given = event
        if isinstance(event, Applied) and not event.begins:
            tries = tuple(
                replace(c, release=build.release, directory=build.directory)
                if c.linked and (build := lost.get(c.settings.name)) is not None
                else c
                for c in event.programs
            )
            given = replace(event, programs=tries)
        after, effects, wake = policy.step(fleet, given, now)
        for name, program in after.programs.items():
            known = fleet.programs.get(name)
            if isinstance(event, Applied | DeployAsked):
                lost.pop(name, None)
            elif known is not None and known.build.number > program.build.number:
                lost[name] = known.build
        return after, effects, wake

    return replace(policy, step=step)


def link_left_behind(policy: Policy) -> Policy:
    """The good release serves again, and the link goes on naming the one that failed."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        after, effects, wake = policy.step(fleet, event, now)
        kept = []
        for effect in effects:
            back = isinstance(effect, Switch) and after.programs[effect.program].proposed is None
            if isinstance(effect, Switch) and back:
                program = after.programs[effect.program]
                link = None if program.link is None else replace(program.link, names=effect.directory, asked=None)
                after = _with_program(after, replace(program, link=link))
            else:
                kept.append(effect)
        return after, tuple(kept), wake

    return replace(policy, step=step)


def link_before_the_preflight(policy: Policy) -> Policy:
    """The link is switched as soon as somebody asks for it."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        after, effects, wake = policy.step(fleet, event, now)
        program = after.programs.get(event.program) if isinstance(event, DeployAsked) else None
        if program is not None and program.link is not None and program.proposed is not None:
            effects = (*effects, Switch(program.settings.name, program.link.path, program.proposed.build.directory))
        return after, effects, wake

    return replace(policy, step=step)


def trusted_too_early(policy: Policy) -> Policy:
    """A release is trusted long before its probation is over."""

    def by(factor: float) -> Change:
        return lambda s: replace(s, release=replace(s.release, probation_s=s.release.probation_s * factor))

    return _deceived(policy, by(0.25), by(4.0))


def page_stays(policy: Policy) -> Policy:
    """The page is not taken away when an instance is ready."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        fleet, effects, wake = policy.step(fleet, event, now)
        return fleet, tuple(e for e in effects if not isinstance(e, StepAside)), wake

    return replace(policy, step=step)


def page_instead_of_waiting(policy: Policy) -> Policy:
    """Customers get the page at once, although a restart would serve them."""

    def by(factor: float) -> Change:
        return lambda s: replace(s, sorry=replace(s.sorry, after_s=s.sorry.after_s and s.sorry.after_s * factor))

    return _deceived(policy, by(0.125), by(8.0))


def hold_does_not_hold(policy: Policy) -> Policy:
    """Who holds a program is known and shown, and it is healed all the same."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if not isinstance(event, Looked | Exited) or event.id.program not in fleet.programs:
            return policy.step(fleet, event, now)
        held = fleet.programs[event.id.program]
        after, effects, wake = policy.step(_with_program(fleet, replace(held, hold=None)), event, now)
        if held.hold is None or held.hold.until <= now:
            return after, effects, wake
        after = _with_program(after, replace(after.programs[event.id.program], hold=held.hold))
        after, more, wake = policy.step(replace(after, wakes={**after.wakes, event.id.program: now}), Woke(), now)
        return after, (*effects, *more), wake

    return replace(policy, step=step)


def hold_forgotten(policy: Policy) -> Policy:
    """A new supervisor does not know that a program is held."""

    def reborn(record: Fleet, written: Written, unborn: Collection[InstanceId], memory: Memory) -> Fleet:
        after = policy.reborn(record, written, unborn, memory)
        return replace(after, programs={name: replace(p, hold=None) for name, p in after.programs.items()})

    return replace(policy, reborn=reborn)


def hold_without_an_end(policy: Policy) -> Policy:
    """Nobody is woken when a hold is over."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        fleet, effects, _ = policy.step(fleet, event, now)
        held = {name for name, p in fleet.programs.items() if p.hold is not None and fleet.wakes.get(name) == p.hold.until}
        wakes = {name: wake for name, wake in fleet.wakes.items() if name not in held}
        return replace(fleet, wakes=wakes), effects, min(wakes.values(), default=None)

    return replace(policy, step=step)


def acknowledgement_lost(policy: Policy) -> Policy:
    """A new supervisor does not know that somebody is at it."""

    def reborn(record: Fleet, written: Written, unborn: Collection[InstanceId], memory: Memory) -> Fleet:
        after = policy.reborn(record, written, unborn, memory)
        programs = {
            name: replace(p, incident=None if p.incident is None else replace(p.incident, acknowledgements=()))
            for name, p in after.programs.items()
        }
        return replace(after, programs=programs)

    return replace(policy, reborn=reborn)


def acknowledgement_for_ever(policy: Policy) -> Policy:
    """What is acknowledged stays so, whatever comes."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        after, effects, wake = policy.step(fleet, event, now)
        for name, program in after.programs.items():
            known, before = program.incident, fleet.programs[name].incident if name in fleet.programs else None
            if known is not None and before is not None and before.acknowledged is not None and known.number == before.number:
                quiet = replace(known, acknowledgements=before.acknowledgements)
                after = _with_program(after, replace(program, incident=quiet, recorded=quiet))
                effects = tuple(e for e in effects if not (isinstance(e, Tell) and e.incident == known.number and e.step >= 0))
        return after, effects, wake

    return replace(policy, step=step)


def repeats_forgotten(policy: Policy) -> Policy:
    """A step that wants to be told again is told once."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        def once(steps: tuple[EscalationStep, ...]) -> tuple[EscalationStep, ...]:
            return tuple(replace(step, repeat_s=None) for step in steps)

        escalation = event.escalation if isinstance(event, Applied) else fleet.escalation
        given = replace(event, escalation=once(event.escalation)) if isinstance(event, Applied) else event
        after, effects, wake = policy.step(replace(fleet, escalation=once(fleet.escalation)), given, now)
        return replace(after, escalation=escalation), effects, wake

    return replace(policy, step=step)


def maintenance_without_an_end(policy: Policy) -> Policy:
    """What was missed while alerts were muted is never told."""

    def step(fleet: Fleet, event: Event, now: float) -> Result:
        if isinstance(event, MaintenanceChanged):
            muted = {name for name, program in fleet.programs.items() if program.muted}
            event = replace(event, programs=tuple(sorted({*event.programs, *muted})))
        return policy.step(fleet, event, now)

    return replace(policy, step=step)


MUTANTS: tuple[Callable[[Policy], Policy], ...] = (
    backoff_without_a_timer,
    no_id_check,
    number_reused,
    trees_left_running,
    relief_budget_ignored,
    ceiling_ignored,
    busy_one_killed,
    booting_killed,
    told_to_tell_heals,
    both_retired,
    rollback_loop,
    shutdown_waits_for_backoff,
    shutdown_forgets_the_order,
    killed_once,
    killed_without_a_timer,
    timer_kills,
    old_looks_believed,
    told_twice,
    started_twice,
    unproven_poison_killed,
    passed_ignored,
    second_kill_for_a_peer,
    worker_killed_by_an_old_look,
    worker_killed_too_early,
    room_ignored,
    retreat_to_a_lost_build,
    cause_counted_although_it_recovered,
    never_promoted,
    passing_not_kept,
    failed_release_applied,
    link_left_behind,
    link_before_the_preflight,
    trusted_too_early,
    page_stays,
    page_instead_of_waiting,
    hold_does_not_hold,
    hold_forgotten,
    hold_without_an_end,
    acknowledgement_lost,
    acknowledgement_for_ever,
    repeats_forgotten,
    maintenance_without_an_end,
)
