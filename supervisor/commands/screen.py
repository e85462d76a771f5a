"""How verbs speak: aligned columns in a pipe, a table on a terminal, remarks on stderr, and nothing that a program could have coloured.

Imports only what every command has loaded already; rich comes in on a terminal alone, and is missed by nobody where it is not installed.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable, Sequence
from typing import Any

GAP = "  "  # between columns
FOLDED_WIDTH = 24  # the last column holds sentences: narrower they could not be read

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
    "open": "red",
    "acknowledged": "yellow",
    "recovering": "yellow",
    "over": "green",
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
    """One object, for scripts. On a terminal in ASCII: JSON itself leaves the control characters beyond it as they are."""
    say(json.dumps(value, ensure_ascii=sys.stdout.isatty()))


def colourful() -> bool:
    """Whether stdout is a terminal that may be coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], state: int, spared: Sequence[str] = ()) -> None:
    """Rows of cells under their heads. No cell is ever cut: half a pid is a lie.

    state   the column that is coloured by its word
    spared  heads that a narrow terminal does without, the most dispensable first
    """
    shown = [[safe(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty() or not _rich_table(head, shown, state, spared):
        _plain_table(head, shown)


def _widths(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(head, *rows, strict=True)]


def _plain_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    widths = _widths(head, rows)
    for row in (head, *rows):
        say(GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _rich_table(head: Sequence[str], rows: Sequence[Sequence[str]], state: int, spared: Sequence[str]) -> bool:
    """Draw it with rich, the last column folded; False where rich is not installed."""
    try:
        from rich.console import Console  # 77 ms: on a terminal alone
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    console = Console(no_color=not colourful(), highlight=False)
    widths = _widths(head, rows)
    widths[-1] = min(widths[-1], FOLDED_WIDTH)
    shown = _fitting(head, widths, spared, console.width)
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown:
        drawn.add_column(head[column], overflow="fold", no_wrap=column != len(head) - 1, min_width=widths[column])
    for row in rows:
        cells = [Text(row[column]) for column in shown]
        cells[shown.index(state)].stylize(COLOURS.get(row[state].split(" ")[0], ""))
        drawn.add_row(*cells)
    console.width = max(console.width, _width(widths[column] for column in shown))
    console.print(drawn)
    return True


def _fitting(head: Sequence[str], widths: Sequence[int], spared: Sequence[str], limit: int) -> list[int]:
    """The columns that are shown on a terminal `limit` wide; the terminal breaks the lines where even the last ones do not fit."""
    shown = list(range(len(head)))
    for name in spared:
        if _width(widths[column] for column in shown) <= limit:
            break
        shown.remove(head.index(name))
    return shown


def _width(widths: Iterable[int]) -> int:
    columns = list(widths)
    return sum(columns) + len(GAP) * (len(columns) - 1)


def typed(config: str | None) -> str:
    """What the next command needs to find the same configuration: as it was typed for this one, "" where it was not."""
    return f" --config {shlex.quote(config)}" if config else ""


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
    """The time of day, here, of an RFC 3339 instant: "10:02:11.31", with its day where that is not today. Else it is given back, safe."""
    from datetime import datetime  # only where instants are shown: `status` starts without

    try:
        instant = datetime.fromisoformat(at).astimezone()
    except ValueError:
        return safe(at)
    today = datetime.now().astimezone().date()
    return instant.strftime("%H:%M:%S.%f" if instant.date() == today else "%Y-%m-%d %H:%M:%S.%f")[:-4]
