"""`reviver run`: becomes the guard, or the daemon where systemd keeps it. A new program in the same process, so that nothing of the command
line stays in its memory.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from supervisor.notify import EXIT_WITH, under_systemd


def run(config: str | None, exit_with: str) -> NoReturn:
    """Never returns. The daemon reads the configuration itself and says what is wrong with it.

    exit_with  the program with which all ends, and whose exit code is ours; "" for none
    -P: modules are not looked for in the working directory, which may hold anything.
    """
    module = "supervisor" if under_systemd(os.environ) else "supervisor.guard"
    if exit_with:
        os.environ[EXIT_WITH] = exit_with
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *([config] if config else [])])
