"""From a process's exit to the first instruction of the next one, beside supervisord and a bare fork and exec.

Each life of the child is long enough to be forgiven the death before it, so that the restart is an immediate one. All take turns in
one loop, so that the machine's noise falls on them alike. Bare is the same child started by posix_spawn from this process: the
cheapest fork and exec there is. (os.fork would flatter us: copying this interpreter's page tables costs it some 2 ms.)
"""

from __future__ import annotations

import json
import os
import statistics
import time

from bench.ground import Reviver, folder
from bench.peers import Supervisord, version
from bench.report import Report, spread
from bench.stamp import Stamped

ROUNDS = 40
FORGIVEN_S = 1.0  # `healthy`, at its least: ready for this long, the next restart is immediate
READY_S = 1.0  # without a probe Reviver calls a program ready after living for 1 s; supervisord's startsecs is the same
RESTART_LIMIT_S = 20.0
OVER_BARE_MS = 1.5


def measure() -> Report:
    report = Report("restart")
    with folder() as where:
        ours, theirs, bare = (Stamped(where, name) for name in ("reviver", "supervisord", "bare"))
        programs = (
            f"[program.stamp]\ncommand = {json.dumps(ours.command)}\n"
            f'[program.stamp.restart]\nhealthy = "{FORGIVEN_S:g}s"\nbudget = 1000\n'
        )
        peer = f"[program:stamp]\ncommand={' '.join(theirs.command)}\nautorestart=true\n"
        (where / "peer").mkdir()
        with Reviver(where, programs) as reviver, Supervisord(where / "peer", peer) as supervisord:
            reviver.await_ready()
            supervisord.await_running()
            bare_ms = []
            for number in range(1, ROUNDS + 1):
                time.sleep(READY_S + FORGIVEN_S + 0.3)
                ours.end()
                ours.await_notes(2 * number + 1, RESTART_LIMIT_S)
                theirs.end()
                theirs.await_notes(2 * number + 1, RESTART_LIMIT_S)
                bare_ms.append(_bare_ms(bare, number))
        for stamped in (ours, theirs, bare):
            stamped.close()
        ours_ms, theirs_ms = _pauses_ms(ours), _pauses_ms(theirs)
    base_ms = statistics.median(bare_ms)
    over_ms = statistics.median(ours_ms) - base_ms
    report.add("bare posix_spawn", "call to first instruction", base_ms, "ms", remark=spread(bare_ms, "ms"))
    report.add("reviver", "exit to first instruction", statistics.median(ours_ms), "ms", remark=spread(ours_ms, "ms"))
    report.add("reviver", "the same over bare", over_ms, "ms", most=OVER_BARE_MS)
    report.add(
        f"supervisord {version()}", "exit to first instruction", statistics.median(theirs_ms), "ms", remark=spread(theirs_ms, "ms")
    )
    return report


def _pauses_ms(stamped: Stamped) -> list[float]:
    """From each last instruction to the next first one."""
    instants = stamped.instants_ns()
    return [(first - last) / 1e6 for last, first in zip(instants[1::2], instants[2::2], strict=False)]


def _bare_ms(stamped: Stamped, number: int) -> float:
    before_ns = time.monotonic_ns()
    pid = os.posix_spawn(stamped.program, stamped.command, os.environ)
    stamped.await_notes(2 * number - 1, RESTART_LIMIT_S)
    stamped.end()
    os.waitpid(pid, 0)
    return (stamped.instants_ns()[-2] - before_ns) / 1e6
