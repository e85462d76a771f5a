"""`reviver logs`: what a program wrote, read from its files; the daemon is asked only where they are.

In a pipe the bytes are the program's own. On a terminal nothing in them is obeyed: control characters are spelled out.
"""

from __future__ import annotations

import sys

from supervisor.commands.daemon import connect
from supervisor.commands.screen import remark, safe
from supervisor.control.client import Refusal, Unanswered
from supervisor.control.messages import NO_SUCH_PROGRAM, programs
from supervisor.mechanism import logfiles


def logs(config: str | None, name: str, lines: int, follow: bool) -> int:
    """Print the last lines, and with `follow` what comes, across rotations."""
    log_dir = _log_dir(config, name)
    write = _write_safe if sys.stdout.isatty() else _write
    pieces = logfiles.follow(log_dir, name, lines) if follow else logfiles.tail(log_dir, name, lines)
    count = 0
    for piece in pieces:
        write(piece)
        count += 1
        if follow:
            sys.stdout.flush()
    if not count and lines:
        remark(f'nothing in {log_dir}/{name}.log: it has written nothing yet, or its output.to is not "file"')
    return 0


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
