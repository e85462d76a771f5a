"""Waiting for somebody else: when all instances wait for the same peer, that is not theirs, and killing them cures nothing.

The peer is told once. While it lasts nobody is suspected of it any more: no relief, and one kill each `TRY_AGAIN_S`, because a
connection that died without a word is cured by that.
"""

from __future__ import annotations

from supervisor.model import Effect, Instance, Outside, Program, Severity, State
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World, excused
from supervisor.policy.words import fact, note, spell, told

TRY_AGAIN_S = 300.0


def outside(program: Program, _: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """See whether all wait for the same peer, and whether they still do."""
    now, peer = program.outside, _shared(program)
    if now is not None:
        serving = _serving(program)
        waiting = bool(serving) and all(i.state is State.SUSPECT and i.peer == now.peer for i in serving)
        if waiting or (now.tried is not None and not clock.due(now.tried + TRY_AGAIN_S)):
            return _tell(program, now, clock), ()
        name = f"not all wait for {now.peer} any more, after {spell(clock.now - now.since)}"
        return replace(note(program, "program.reconnected", name), outside=None), ()
    if not peer:
        return program, ()
    return _tell(program, Outside(peer, clock.now), clock), ()


def may_kill(program: Program, instance: Instance, clock: Clock) -> bool:
    """Whether this one may be killed although it waits for somebody else."""
    now = program.outside
    if now is None or instance.peer != now.peer:
        return True
    return clock.due((now.since if now.tried is None else now.tried) + TRY_AGAIN_S)


def killed(program: Program, instance: Instance, now: float) -> Program:
    """One that waited for a peer was killed: the next ones are not, for a while."""
    if not instance.peer:
        return program
    since = program.outside.since if program.outside is not None and program.outside.peer == instance.peer else now
    return replace(program, outside=Outside(instance.peer, since, now))


def spared(program: Program, instance: Instance) -> Program:
    """One that was to be killed for its peer was not: nothing was tried by that."""
    now = program.outside
    if now is None or now.tried != instance.since or now.peer != instance.peer:
        return program
    return replace(program, outside=None if now.since == now.tried else replace(now, tried=None))


def _tell(program: Program, now: Outside, clock: Clock) -> Program:
    waiting = [i for i in program.instances if excused(program, i)]
    program = replace(program, outside=now)
    if not waiting or told(program, "waiting"):
        return program
    who = f"{len(waiting)} of {len(program.instances)} instances wait"
    text = f"{program.settings.name}: {who} for {now.peer}, since {spell(clock.now - now.since)}; killing them would cure nothing"
    return fact(note(program, "program.waits_outside", text), "waiting", Severity.CRITICAL, text)


def _serving(program: Program) -> list[Instance]:
    """Those that serve, or should."""
    return [i for i in program.instances if i.state in (State.READY, State.SUSPECT)]


def _shared(program: Program) -> str:
    """The one peer that two or more instances wait for, when all that should serve do; "" otherwise."""
    serving = _serving(program)
    peers = {i.peer for i in serving if i.state is State.SUSPECT}
    stuck = len(serving) >= 2 and all(i.state is State.SUSPECT for i in serving)
    return peers.pop() if stuck and len(peers) == 1 else ""
