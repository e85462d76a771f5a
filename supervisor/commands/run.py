"""`reviver run`: becomes the daemon. A new program in the same process, so that nothing of the command line stays in its memory."""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def run(config: str | None) -> NoReturn:
    """Never returns. The daemon reads the configuration itself and says what is wrong with it.

    -P: modules are not looked for in the working directory, which may hold anything.
    """
    os.execv(sys.executable, [sys.executable, "-P", "-m", "supervisor", *([config] if config else [])])
