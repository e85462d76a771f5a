"""`python -m bench [NAME] [--only WORD] [--json]`: run one measurement and say whether it keeps its budgets; without a name, list them.

Exit codes: 0 all budgets kept · 1 a budget missed, or it could not be measured · 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from bench import (
    cause,
    chaos,
    false_kills,
    find,
    hang,
    idle,
    logs,
    outbox,
    page,
    record,
    refused,
    release,
    restart,
    scale,
    sorry,
    status,
    tree,
    verdicts,
    watched,
    workers,
)
from bench.ground import GroundError, ground
from bench.report import Report

BENCHES: dict[str, Callable[[], Report]] = {
    "restart": restart.measure,
    "hang": hang.measure,
    "workers": workers.measure,
    "watched": watched.measure,
    "false-kills": false_kills.measure,
    "record": record.measure,
    "verdicts": verdicts.measure,
    "find": find.measure,
    "cause": cause.measure,
    "idle": idle.measure,
    "logs": logs.measure,
    "status": status.measure,
    "release": release.measure,
    "tree": tree.measure,
    "refused": refused.measure,
    "chaos": chaos.measure,
    "scale": scale.measure,
    "outbox": outbox.measure,
    "page": page.measure,
    "sorry": sorry.measure,
}
KILLED: dict[str, Callable[[int], Report]] = {"chaos": chaos.measure, "outbox": outbox.measure}
PARTS: dict[str, Callable[[str], Report]] = {"hang": hang.measure, "record": record.measure, "find": find.measure}


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
    parser.add_argument("--only", default="", metavar="WORD", help=f"{', '.join(PARTS)}: what has this word in its name alone")
    parser.add_argument("--kills", type=int, metavar="N", help=f"{', '.join(KILLED)}: so many times the supervisor is killed")
    chosen = parser.parse_args(arguments)
    if chosen.only and chosen.name not in PARTS:
        parser.error(f"--only belongs to {', '.join(PARTS)}")
    if chosen.kills is not None and chosen.name not in KILLED:
        parser.error(f"--kills belongs to {', '.join(KILLED)}")
    if chosen.name is None:
        print(names)
        return 0
    try:
        with ground():
            if chosen.kills is not None:
                report = KILLED[chosen.name](chosen.kills)
            else:
                report = PARTS[chosen.name](chosen.only) if chosen.only else BENCHES[chosen.name]()
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
