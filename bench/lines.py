"""`python lines.py FIFO`: numbered lines of 100 bytes to stdout, as many and as fast as the FIFO says.

A line `COUNT STEP NOTE` in the FIFO asks for COUNT more lines, STEP lines a write. When the last byte has left the pipe (where stdout is
one), the seconds since the first write stand in the file NOTE. Ten thousand lines are ready; for the next ten thousand only the digits that
change are overwritten, so that making them costs hardly anything. Standard library only, and no import of ours: it is run by path.
"""

from __future__ import annotations

import fcntl
import os
import stat
import sys
import termios
import time
from pathlib import Path

LINE_BYTES = 100
READY_LINES = 10_000
STEP_S = 0.0005  # between two looks at the pipe


class Lines:
    """Numbered lines from 0 on, in blocks."""

    def __init__(self) -> None:
        self.next = 0
        self._block = bytearray(b"".join(b"%010d %s\n" % (number, b"x" * (LINE_BYTES - 12)) for number in range(READY_LINES)))
        self._shown = b"%010d" % 0

    def take(self, limit: int) -> memoryview:
        """The next lines, at most `limit`; good until the next call."""
        at = self.next % READY_LINES
        number = b"%010d" % (self.next - at)
        for place in range(len(number)):
            if number[place] != self._shown[place]:
                self._block[place::LINE_BYTES] = number[place : place + 1] * READY_LINES
        # the low digits are those of the place in the block, and stay
        self._shown = number
        count = min(limit, READY_LINES - at)
        self.next += count
        return memoryview(self._block)[at * LINE_BYTES : (at + count) * LINE_BYTES]


def main(fifo: str) -> None:
    lines = Lines()
    with open(fifo, encoding="utf-8") as asked:
        while order := asked.readline():
            count, step, note = order.split()
            seconds = _write(lines, int(count), int(step))
            fresh = Path(note).with_suffix(".new")
            fresh.write_text(str(seconds))
            fresh.rename(note)


def _write(lines: Lines, count: int, step: int) -> float:
    end = lines.next + count
    began = time.monotonic()
    while lines.next < end:
        data = lines.take(end - lines.next)
        for at in range(0, len(data), step * LINE_BYTES):
            _put(data[at : at + step * LINE_BYTES])
    while stat.S_ISFIFO(os.fstat(1).st_mode) and any(fcntl.ioctl(1, termios.FIONREAD, bytes(4))):
        time.sleep(STEP_S)
    return time.monotonic() - began


def _put(data: memoryview) -> None:
    while data:
        data = data[os.write(1, data) :]


if __name__ == "__main__":
    main(sys.argv[1])
