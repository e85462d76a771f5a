"""One seed: faults, calm, convergence, quiet, shutdown. Says what broke, where, and the last lines of the story."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.model import Looked
from tests.sim.agenda import START
from tests.sim.mischief import LAST_COMMANDS_S, Calm, Mischief, not_converged
from tests.sim.plan import make_plan
from tests.sim.spelling import spell
from tests.sim.world import EFFECT, QUIET_S, QUIET_TURNS, Policy, World

LINES = 30
FAULTS_S = 120.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one world. `problem` is "" when every rule held."""

    seed: int
    problem: str
    story: tuple[str, ...]
    virtual_s: float
    turns: int
    spawns: int
    kills: int

    def __str__(self) -> str:
        if not self.problem:
            return f"seed {self.seed}: fine"
        return "\n".join((f"seed {self.seed}: {self.problem}", *self.story))


def run_seed(seed: int, faults_s: float = FAULTS_S, policy: Policy | None = None) -> Outcome:
    """Run the world of `seed`: `faults_s` virtual seconds of mischief, then calm."""
    world = World(make_plan(seed), policy or Policy())
    problem = _run(world, faults_s)
    lines = tuple(_telling(list(world.story))) if problem else ()
    return Outcome(seed, problem, lines[-LINES:], world.agenda.now - START, world.turns, world.ledger.spawns, world.ledger.kills)


def _run(world: World, faults_s: float) -> str:
    agenda = world.agenda

    def failed() -> bool:
        return bool(world.problem)

    Mischief(world)
    if agenda.run_until(agenda.now + faults_s, failed):
        return world.problem
    calm = Calm(world)
    end = agenda.now + calm.limit_s
    if agenda.run_until(agenda.now + LAST_COMMANDS_S, failed):
        return world.problem
    while agenda.now < end and not_converged(world):
        if agenda.run_until(agenda.now + 1.0, failed):
            return world.problem
    if problem := not_converged(world):
        return f"not converged {calm.limit_s:.0f} s after calm: {problem}"
    calm.over()
    return _quiet(world) or _shutdown(world)


def _telling(story: list[tuple[float, str, object]]) -> list[str]:
    """The story without the looks that changed nothing and say what the last one of the same instance said."""
    lines: list[str] = []
    last: dict[object, object] = {}
    for index, (at, kind, thing) in enumerate(story):
        if isinstance(thing, Looked):
            acted = index + 1 < len(story) and story[index + 1][1] == EFFECT
            same = last.get(thing.id) == thing.verdict.kind
            last[thing.id] = thing.verdict.kind
            if same and not acted:
                continue
        lines.append(f"{at - START:9.3f}  {kind} {spell(thing)}")
    return lines


def _quiet(world: World) -> str:
    """Nobody comes any more: the supervisor has nothing to do, but to forget."""
    remembered = sum(len(p.failures) + len(p.reliefs) for p in world.fleet.programs.values())
    before = world.turns
    world.agenda.run_until(world.agenda.now + QUIET_S, lambda: bool(world.problem))
    if world.problem:
        return world.problem
    if problem := not_converged(world):
        return f"it was calm, and is not any more: {problem}"
    woken = world.turns - before
    return f"{woken} turns within {QUIET_S:.0f} quiet seconds" if woken > QUIET_TURNS + remembered else ""


def _shutdown(world: World) -> str:
    world.shut_down()
    world.agenda.run_until(world.agenda.now + 10_000.0, lambda: bool(world.problem) or not world.up)
    return world.problem
