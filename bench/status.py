"""How long `reviver status` takes in a pipe, as a part of what `supervisorctl status` takes.

The two are run in turns, so that the machine's noise falls on both alike; each asks its own living daemon about one program.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Mapping

from bench.ground import BOOT_LIMIT_S, GroundError, Reviver, folder, surroundings
from bench.peers import Supervisord, version
from bench.report import Report, spread

ROUNDS = 40
RATIO_MOST = 0.65


def measure() -> Report:
    report = Report("status")
    with folder() as where:
        (where / "peer").mkdir()
        with (
            Reviver(where, '[program.sleeper]\ncommand = ["sleep", "3600"]\n') as reviver,
            Supervisord(where / "peer", "[program:sleeper]\ncommand=sleep 3600\n") as supervisord,
        ):
            reviver.await_ready()
            supervisord.await_running()
            ours, theirs = [], []
            for _ in range(ROUNDS):
                ours.append(_took_ms([reviver.command, "status"], reviver.environ))
                theirs.append(_took_ms(supervisord.status_command, surroundings({})))
    ratio = statistics.median(ours) / statistics.median(theirs)
    report.add("reviver status", "median", statistics.median(ours), "ms", remark=spread(ours, "ms"))
    report.add(f"supervisorctl {version()} status", "median", statistics.median(theirs), "ms", remark=spread(theirs, "ms"))
    report.add("reviver status", "part of supervisorctl's", ratio, "", most=RATIO_MOST)
    return report


def _took_ms(command: list[str], environ: Mapping[str, str]) -> float:
    began = time.monotonic()
    done = subprocess.run(command, env=environ, capture_output=True, timeout=BOOT_LIMIT_S, check=False)
    took_ms = (time.monotonic() - began) * 1000
    if done.returncode:
        raise GroundError(f"{' '.join(command)} failed with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    return took_ms
