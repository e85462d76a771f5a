"""The simulation in short: every rule holds in these worlds, and every planted defect is found in them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from tests.sim.mutants import MUTANTS, told_twice
from tests.sim.run import LINES, run_seed
from tests.sim.world import Policy

SEEDS = range(60)


@pytest.mark.parametrize("seed", SEEDS)
def test_world_of_a_seed_keeps_every_rule(seed: int) -> None:
    outcome = run_seed(seed)
    assert not outcome.problem, str(outcome)


@cache
def is_sound(seed: int) -> bool:
    """Whether the world of `seed` has nothing against the real policy."""
    return not run_seed(seed).problem


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_planted_defect_is_found(mutant: Callable[[Policy], Policy]) -> None:
    assert any(run_seed(seed, policy=mutant(Policy())).problem and is_sound(seed) for seed in SEEDS), "no world noticed it"


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
