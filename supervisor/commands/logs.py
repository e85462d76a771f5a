"""`reviver logs`: what a program wrote, read from its files; the daemon is asked only where they are.

In a pipe the bytes are the program's own. On a terminal nothing in them is obeyed: control characters are spelled out.
"""

from __future__ import annotations

import os
import re
import sys
import time
from datetime import datetime

from supervisor.commands.daemon import connect
from supervisor.commands.screen import remark, safe
from supervisor.control.client import Refusal, Unanswered
from supervisor.control.messages import NO_SUCH_PROGRAM, programs
from supervisor.mechanism import logreading
from supervisor.mechanism.logreading import Wanted
from supervisor.readers import duration_s

LINES = 20  # of the past, where nothing else says how much
USAGE = 2  # exit code


def logs(config: str | None, name: str, lines: int | None, since: str | None, grep: str | None, follow: bool) -> int:
    """Print what was written, and with `follow` what comes, across rotations."""
    asked = since is not None or grep is not None
    wanted = Wanted(LINES if lines is None and not asked else lines, _since_wall(since), _pattern(grep))
    log_dir = _log_dir(config, name)
    write = _write_safe if sys.stdout.isatty() else _write
    count = 0
    for piece in logreading.follow(log_dir, name, wanted) if follow else logreading.tail(log_dir, name, wanted):
        write(piece)
        count += 1
        if follow:
            sys.stdout.flush()
    if not count and asked:
        remark(f"no such line in {log_dir}/{name}.log and what was rotated of it")
    elif not count and lines != 0:
        remark(f'nothing in {log_dir}/{name}.log: it has written nothing yet, or its output.to is not "file"')
    return 0


def _since_wall(since: str | None) -> float | None:
    """Seconds since 1970, of "10m" (ago) or a time; one without a zone is this host's own."""
    if since is None:
        return None
    try:
        return time.time() - duration_s(since)
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(since).timestamp()
    except (ValueError, OverflowError):
        raise Refusal(
            USAGE, f"--since {since!r} is no time: write how long ago, e.g. 10m or 1h30m, or 2026-01-01T10:00:00Z"
        ) from None


def _pattern(grep: str | None) -> re.Pattern[bytes] | None:
    if grep is None:
        return None
    try:
        return re.compile(os.fsencode(grep))
    except (re.error, RecursionError, OverflowError) as problem:
        raise Refusal(
            USAGE, f"--grep {grep!r} is no regular expression: {problem}; write \\ before what is meant as it stands"
        ) from None


def _write(piece: bytes) -> None:
    sys.stdout.buffer.write(piece)


def _write_safe(piece: bytes) -> None:
    text = piece.decode(errors="replace")
    line = text.rstrip("\r\n")
    sys.stdout.write("\t".join(safe(part) for part in line.split("\t")) + ("\n" if text != line else ""))


def _log_dir(config: str | None, name: str) -> str:
    """Where the program's files are, by the daemon or, where none answers, by the configuration. Raises Refusal for no such program."""
    try:
        with connect(config) as daemon:
            daemon.call("status", {"names": [name]})
            return str(daemon.call("about", {})["log_dir"])
    except Unanswered:
        pass
    from supervisor.commands.configuration import load  # 100 ms that the usual way does not pay

    settings = load(config)
    if name not in [program.name for program in settings.programs]:
        raise Refusal(NO_SUCH_PROGRAM, f"there is no program {name!r}: {programs([program.name for program in settings.programs])}")
    return settings.daemon.log_dir
