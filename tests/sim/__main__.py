"""`python -m tests.sim --seeds N --hours H [--seed S]`: many worlds, or one with its story."""

from __future__ import annotations

import argparse
import sys
import time

from tests.sim.run import FAULTS_S, Outcome, run_seed


def main() -> int:
    """Returns 0 when every rule held in every world, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, help="how many worlds; 100, or the one that `--seed` names")
    parser.add_argument("--hours", type=float, default=FAULTS_S / 3600, help="of mischief in each world, virtual")
    parser.add_argument("--seed", type=int, help="this world alone, or the first of `--seeds`")
    args = parser.parse_args()
    first, count = (args.seed, args.seeds or 1) if args.seed is not None else (0, args.seeds or 100)
    began = time.monotonic()
    outcomes: list[Outcome] = []
    for seed in range(first, first + count):
        print(f"\rseed {seed}", end="", file=sys.stderr, flush=True)
        outcome = run_seed(seed, args.hours * 3600)
        outcomes.append(outcome)
        if outcome.problem:
            print(f"{outcome}\n")
    print("\r", end="", file=sys.stderr)
    bad = [o.seed for o in outcomes if o.problem]
    print(
        f"{len(outcomes)} worlds, {sum(o.virtual_s for o in outcomes) / 3600:.1f} virtual hours, {sum(o.turns for o in outcomes)} turns, "
        f"{sum(o.spawns for o in outcomes)} starts, {sum(o.kills for o in outcomes)} kills, {time.monotonic() - began:.1f} s; "
        + (f"failed: {bad}" if bad else "every rule held")
    )
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
