"""The simulation in short: every rule holds in these worlds, and every planted defect is found in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from supervisor.model import Act
from tests.sim import mutants
from tests.sim.mutants import MUTANTS, told_twice
from tests.sim.plan import COUPON, LINKS, PEOPLE, Plan, make_plan
from tests.sim.run import LINES, run_seed
from tests.sim.world import Policy

plan = cache(make_plan)
world = cache(run_seed)  # with the real policy
SEEDS = range(40)
# A planted defect is looked for in the worlds where it can show itself; in small ones first, which are played in less time.
MORE_SEEDS = sorted(range(200), key=lambda seed: len(plan(seed).programs))
NEEDS: dict[Callable[[Policy], Policy], Callable[[Plan], bool]] = {
    mutants.told_to_tell_heals: lambda plan: any(p.settings.hang.act is Act.TELL for p in plan.programs),
    mutants.shutdown_forgets_the_order: lambda plan: "operator" in plan.mischief and len(plan.programs) > 1,
    mutants.second_kill_for_a_peer: lambda plan: "database" in plan.mischief and any(p.database for p in plan.programs),
    mutants.worker_killed_by_an_old_look: lambda plan: {"worker", "looks"} <= plan.mischief and _workers(plan),
    mutants.worker_killed_too_early: lambda plan: "worker" in plan.mischief and _workers(plan),
    mutants.unproven_poison_killed: lambda plan: bool({"poison", "wedge"} & plan.mischief),
    mutants.passed_ignored: lambda plan: {"poison", "report"} <= plan.mischief and any(p.report == COUPON for p in plan.programs),
    mutants.room_ignored: lambda plan: "memory" in plan.mischief,
    mutants.retreat_to_a_lost_build: lambda plan: "release" in plan.mischief,
    mutants.rollback_loop: lambda plan: "release" in plan.mischief,
    mutants.failed_release_applied: lambda plan: {LINKS, "operator"} <= plan.mischief,
    mutants.link_left_behind: lambda plan: LINKS in plan.mischief,
    mutants.link_before_the_preflight: lambda plan: LINKS in plan.mischief,
    mutants.trusted_too_early: lambda plan: LINKS in plan.mischief,
    mutants.old_looks_believed: lambda plan: "looks" in plan.mischief,
    mutants.hold_does_not_hold: lambda plan: PEOPLE in plan.mischief,
    mutants.hold_forgotten: lambda plan: {PEOPLE, "death"} <= plan.mischief,
    mutants.hold_without_an_end: lambda plan: PEOPLE in plan.mischief,
    mutants.acknowledgement_lost: lambda plan: {PEOPLE, "death"} <= plan.mischief,
    mutants.acknowledgement_for_ever: lambda plan: PEOPLE in plan.mischief,
    mutants.repeats_forgotten: lambda plan: plan.escalation[1].repeat_s is not None,
    mutants.maintenance_without_an_end: lambda plan: PEOPLE in plan.mischief,
}


def _workers(plan: Plan) -> bool:
    return any(p.behaviour.workers for p in plan.programs)


@pytest.mark.parametrize("seed", SEEDS)
def test_world_of_a_seed_keeps_every_rule(seed: int) -> None:
    outcome = world(seed)
    assert not outcome.problem, str(outcome)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_planted_defect_is_found(mutant: Callable[[Policy], Policy]) -> None:
    needs = NEEDS.get(mutant)
    worlds = (seed for seed in MORE_SEEDS if needs is None or needs(plan(seed)))
    assert any(run_seed(seed, policy=mutant(Policy())).problem and not world(seed).problem for seed in worlds), (
        "no world noticed it"
    )


def test_failing_world_says_its_seed_and_the_end_of_its_story() -> None:
    outcome = run_seed(0, policy=told_twice(Policy()))
    again = run_seed(0, policy=told_twice(Policy()))
    assert outcome.problem
    assert str(outcome).startswith("seed 0: ")
    assert 0 < len(outcome.story) <= LINES
    assert "  ->" in "".join(outcome.story)
    assert outcome == again, "the same seed gave another world"


def test_same_seed_is_the_same_world() -> None:
    assert run_seed(7) == run_seed(7)
