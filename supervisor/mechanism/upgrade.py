"""Trying the code that the next supervisor would run, before this one gives way to it. Blocks: for a lane.

The trial is a process of its own: it imports all that a daemon imports, reads the configuration, and ends. So neither a package that was
installed by half nor a configuration that the new code refuses can take the place of a supervisor that works.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from supervisor.notify import OURS

TRY_S = 30.0  # importing takes less than a second, and a configuration on a slow disk some more
TRIAL_S = TRY_S + 5.0  # the same, behind what else is read at that moment
TRIAL = "--try"  # the word behind the configuration's path that asks a supervisor for this
WORDS_LIMIT = 300  # characters of its complaint that are told


class Unusable(Exception):
    """The code that is installed now is not fit to take over. The text says why."""


def try_new(config: str, environ: Mapping[str, str]) -> str:
    """The version of the code that is installed now, when it can be loaded and accepts this configuration. Raises Unusable."""
    command = [sys.executable, "-P", "-m", "supervisor", config, TRIAL]
    clean = {key: value for key, value in environ.items() if key not in OURS}
    try:
        done = subprocess.run(command, env=clean, stdin=subprocess.DEVNULL, capture_output=True, timeout=TRY_S, check=False)
    except subprocess.TimeoutExpired:
        raise Unusable(f"it did not load within {TRY_S:.0f} s") from None
    except OSError as problem:
        raise Unusable(f"cannot start {command[0]}: {(problem.strerror or str(problem)).lower()}") from None
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Unusable((said[-1].strip() if said else f"it ended with {done.returncode}")[:WORDS_LIMIT])
    return done.stdout.decode("utf-8", "replace").strip()
