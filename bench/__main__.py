"""`python -m bench [NAME] [--only WORD] [--json]`: run one measurement and say whether it keeps its budgets; without a name, list them.

Exit codes: 0 all budgets kept · 1 a budget missed, or it could not be measured · 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench import cause, false_kills, hang, idle, restart, status, tree
from bench.ground import GroundError, ground
from bench.report import Report

BENCHES: dict[str, Callable[[], Report]] = {
    "restart": restart.measure,
    "hang": hang.measure,
    "false-kills": false_kills.measure,
    "cause": cause.measure,
    "idle": idle.measure,
    "status": status.measure,
    "tree": tree.measure,
}


def main(arguments: list[str]) -> int:
    width = max(map(len, BENCHES))
    names = "\n".join(f"  {name:<{width}}  {_about(bench)}" for name, bench in BENCHES.items())
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure Reviver beside its peers, on this machine, now.",
        epilog=f"benches:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=BENCHES, metavar="NAME", help="one of those below")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--only", default="", metavar="WORD", help="hang: the rows alone that have this word in their name")
    chosen = parser.parse_args(arguments)
    if chosen.only and chosen.name != "hang":
        parser.error("--only belongs to hang")
    if chosen.name is None:
        print(names)
        return 0
    try:
        with ground():
            report = hang.measure(chosen.only) if chosen.only else BENCHES[chosen.name]()
    except GroundError as problem:
        print(f"{chosen.name}: {problem}", file=sys.stderr)
        return 1
    print(report.as_json() if chosen.json else report.as_table())
    return 0 if report.kept else 1


def _about(bench: Callable[[], Report]) -> str:
    """The first sentence of the bench's own module."""
    return (sys.modules[bench.__module__].__doc__ or "").partition("\n")[0].rstrip(".")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
