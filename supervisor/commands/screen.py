"""How verbs speak: aligned columns in a pipe, a table on a terminal, remarks on stderr, and nothing that a program could have coloured.

Imports only what every command has loaded already; rich comes in on a terminal alone, and is missed by nobody where it is not installed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

COLOURS = {  # of a state: the only thing that is coloured
    "ready": "green",
    "starting": "yellow",
    "waiting": "yellow",
    "suspect": "red",
    "failed": "red",
    "crash-loop": "red",
    "stopped": "bright_black",
    "resting": "bright_black",
    "held": "yellow",
    "retiring": "yellow",
    "killing": "red",
    "ok": "green",
    "limited": "yellow",
    "missing": "red",
}


def safe(text: object) -> str:
    """The text on one line with nothing in it that a terminal would obey: control and format characters are spelled out."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _spelled(c) for c in text)


def _spelled(character: str) -> str:
    return (
        character.encode("unicode_escape").decode() if character.isascii() or ord(character) > 0xFF else f"\\x{ord(character):02x}"
    )


def say(text: str = "") -> None:
    """One line of the answer, on stdout. The caller has made what came from others safe."""
    sys.stdout.write(text + "\n")


def remark(text: str) -> None:
    """One line beside the answer, on stderr."""
    sys.stdout.flush()
    sys.stderr.write(safe(text) + "\n")
    sys.stderr.flush()


def say_json(value: Any) -> None:
    """One object, for scripts."""
    say(json.dumps(value, ensure_ascii=False))


def colourful() -> bool:
    """Whether stdout is a terminal that may be coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], state: int) -> None:
    """Rows of cells under their heads. `state`: the column that is coloured by its word."""
    shown = [[safe(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty() or not _rich_table(head, shown, state):
        _plain_table(head, shown)


def _plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        say("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]], state: int) -> bool:
    """Draw it with rich; False where rich is not installed."""
    try:
        from rich.console import Console  # 77 ms: on a terminal alone
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for name in head:
        drawn.add_column(name, overflow="fold", no_wrap=name != head[-1])
    for row in rows:
        cells = [Text(cell) for cell in row]
        cells[state].stylize(COLOURS.get(row[state].split(" ")[0], ""))
        drawn.add_row(*cells)
    Console(no_color=not colourful(), highlight=False).print(drawn)
    return True


def spell(seconds: float) -> str:
    """A duration for people: "0.6 s", "62 s", "12 min", "3.5 h", "4 d"."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.0f} d"


def spell_bytes(count: int) -> str:
    """An amount of memory for people: "40 MiB"."""
    if count < 1024 * 1024:
        return f"{count / 1024:.0f} KiB"
    return f"{count / 1024**2:.0f} MiB" if count < 10 * 1024**3 else f"{count / 1024**3:.1f} GiB"


def clock_time(at: str) -> str:
    """The time of day, here, of an RFC 3339 instant: "10:02:11.31". What is no such instant is given back."""
    from datetime import datetime  # only where instants are shown: `status` starts without

    try:
        return datetime.fromisoformat(at).astimezone().strftime("%H:%M:%S.%f")[:-4]
    except ValueError:
        return at
