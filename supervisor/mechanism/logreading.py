"""What programs wrote, read back from their files in order, across rotations; for the command line.

Only reads. A rotation or a compression beside it costs no line and gives none twice. `Wanted` says which lines: the last so many, those
since an instant, those that match. Lines carry their own time where they say it (logtimes.py); those without belong to the one before
them, and where a whole file has none, it counts as a whole, by when it was last written.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import chain
from pathlib import Path

from supervisor.mechanism.logfiles import LINE_BYTES, log_path, rotated
from supervisor.mechanism.logtimes import written_wall

BLOCK_BYTES = 64 * 1024
POLL_S = 0.1  # how often a follower looks for more
ROTATIONS_LIMIT = 20  # tries to see the files in their order while they are rotated: each takes a fraction of a millisecond
UNDATED_LIMIT = 1000  # lines at a file's begin in which a time is looked for


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which lines are asked for. `lines`: of the past, the last so many of those that the others let through; None: all."""

    lines: int | None = None
    since_wall: float | None = None
    pattern: re.Pattern[bytes] | None = None


def tail(log_dir: str, program: str, wanted: Wanted) -> Iterator[bytes]:
    """What a program wrote, oldest first, from as many files as it takes. Blocks.

    Each piece is a line with its end; one longer than LINE_BYTES comes in pieces. Nothing for a program that never wrote.
    raises  OSError, for what may not be read
    """
    files = _open_past(log_path(log_dir, program), wanted)
    try:
        chosen = filter(_Sieve(wanted), chain.from_iterable(map(_pieces, files)))
        yield from chosen if wanted.lines is None else deque(chosen, maxlen=wanted.lines)
    finally:
        for file in files:
            file.close()


def follow(log_dir: str, program: str, wanted: Wanted) -> Iterator[bytes]:
    """`tail`, and then whatever is written, across rotations, for ever. Blocks. A line that stands open for a while comes in pieces.

    raises  OSError, for what may not be read
    """
    path = log_path(log_dir, program)
    files = deque(_open_past(path, wanted))
    sieve = _Sieve(wanted)
    past: deque[bytes] = deque(maxlen=wanted.lines)
    caught_up = False
    try:
        for piece in _growing(path, files):
            if not piece and not caught_up:
                caught_up = True
                yield from past
                past.clear()
            elif not piece:
                time.sleep(POLL_S)
            elif sieve(piece) and caught_up:
                yield piece
            elif sieve.open:
                past.append(piece)
    finally:
        for file in files:
            file.close()


class _Sieve:
    """Lets through the pieces of lines that are wanted. `open`: it let the last one through."""

    def __init__(self, wanted: Wanted) -> None:
        self.open = False
        self._wanted = wanted
        self._recent = True  # the last line that said when it was written was recent enough
        self._begins = True

    def __call__(self, piece: bytes) -> bool:
        if self._begins:
            since, pattern = self._wanted.since_wall, self._wanted.pattern
            if since is not None and (wall := written_wall(piece)) is not None:
                self._recent = wall >= since
            self.open = self._recent and (pattern is None or pattern.search(piece.rstrip(b"\r\n")) is not None)
        self._begins = piece.endswith(b"\n")
        return self.open


def _growing(path: Path, files: deque[BufferedIOBase]) -> Iterator[bytes]:
    """Pieces of `files` and of those that come after them, for ever; b"" whenever there is nothing more for now."""
    part, waited = b"", False
    while True:
        piece = _piece(files[0]) if files else b""
        part += piece
        if piece and not (part.endswith(b"\n") or len(part) >= LINE_BYTES):
            waited = False
            continue
        done = len(files) > 1  # there is a newer file: this one grows no more
        if part and (piece or waited or done):
            yield part
            part = b""
        if piece:
            continue
        if done:
            files.popleft().close()
        elif newer := _newer(path, files[0] if files else None):
            files.extend(newer)
        else:
            yield b""
            waited = True


def _pieces(file: BufferedIOBase) -> Iterator[bytes]:
    while piece := _piece(file):
        yield piece


def _open_past(path: Path, wanted: Wanted) -> list[BufferedIOBase]:
    """The files to be read, oldest first, each at its first byte to read. The last one is the one written now."""
    if wanted.lines is not None and wanted.since_wall is None and wanted.pattern is None:
        return _open_last(path, wanted.lines)
    files = []
    for index, file in enumerate(_open_all(path)):
        if index == 0 or wanted.since_wall is None or os.fstat(file.fileno()).st_mtime >= wanted.since_wall:
            files.append(file)
        else:
            file.close()
    if files and wanted.since_wall is not None:
        files[-1].seek(_skip_undated(files[-1], wanted.since_wall))
    return files[::-1]


def _skip_undated(file: BufferedIOBase, since_wall: float) -> int:
    """Where to begin in the oldest file: lines before the first that says when it was written are older than that; 0 when none says it."""
    if os.fstat(file.fileno()).st_mtime < since_wall:  # the current one, and nothing was written since
        return file.seek(0, os.SEEK_END)
    at = 0
    for _ in range(UNDATED_LIMIT):
        piece = _piece(file)
        if not piece:
            break
        if written_wall(piece) is not None:
            return at
        at += len(piece)
    return 0


def _open_last(path: Path, lines: int) -> list[BufferedIOBase]:
    """The files that hold the last lines, oldest first, each at the first byte to read. The last one is the one written now."""
    files: list[BufferedIOBase] = []
    for file in _open_all(path):
        if files and lines <= 0:
            file.close()
            continue
        start, found = _start_of_last(file, lines)
        file.seek(start)
        lines -= found
        files.append(file)
    return files[::-1]


def _newer(path: Path, file: BufferedIOBase | None) -> list[BufferedIOBase]:
    """What was begun after `file`, oldest first; none while it is the one written now."""
    try:
        current = path.stat()
    except FileNotFoundError:  # in the middle of a rotation, or removed
        return []
    if file is None:
        return [_open(path)]
    mine = os.fstat(file.fileno())
    if (current.st_dev, current.st_ino) == (mine.st_dev, mine.st_ino):
        if current.st_size < file.tell():  # somebody emptied it
            file.seek(0)
        return []
    others = _open_all(path)
    at = next((index for index, other in enumerate(others) if _identity(other) == _identity(file)), len(others))
    newer = others[:at]
    if at == len(others):
        gone = os.fstat(file.fileno()).st_nlink == 0  # gzipped meanwhile, it is another file now: go by time
        newer = [other for other in others if gone and os.fstat(other.fileno()).st_mtime_ns > mine.st_mtime_ns]
    for other in others:
        if other not in newer:
            other.close()
    return newer[::-1]


def _open_all(path: Path) -> list[BufferedIOBase]:
    """All files of a program, newest first, each once. Where one was rotated beside us they are opened anew: two rotations would let a
    newer one stand behind an older one."""
    files = _open_numbered(path)
    for _ in range(ROTATIONS_LIMIT):
        if not _rotated_since(path, files):
            break
        for file in files:
            file.close()
        files = _open_numbered(path)
    return files


def _rotated_since(path: Path, files: list[BufferedIOBase]) -> bool:
    """Whether the file written now is another than the newest of these."""
    try:
        now = os.stat(path)
    except FileNotFoundError:  # in the middle of a rotation, or removed
        return False
    return not files or _identity(files[0]) != (now.st_dev, now.st_ino)


def _open_numbered(path: Path) -> list[BufferedIOBase]:
    """The files as their numbers say now, each once. A rotation beside us only moves files to numbers that we come to later."""
    opened: dict[tuple[int, int], BufferedIOBase] = {}
    numbers = range(1, max(rotated(path), default=0) + 2) if path.parent.exists() else ()  # a gap may be filled by now
    others = (path.with_name(f"{path.name}.{number}{suffix}") for number in numbers for suffix in ("", ".gz"))
    plain: Path | None = None
    for candidate in (path, *others):
        if plain is not None and candidate.name == f"{plain.name}.gz":  # the same, just compressed: its plain one is about to go
            continue
        with contextlib.suppress(FileNotFoundError):
            file = _open(candidate)
            plain = candidate
            if opened.setdefault(_identity(file), file) is not file:
                file.close()
    return list(opened.values())


def _open(path: Path) -> BufferedIOBase:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _identity(file: BufferedIOBase) -> tuple[int, int]:
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino


def _piece(file: BufferedIOBase) -> bytes:
    """A line, or a part of one; b"" at the end, also of a gzip file that ends too early."""
    try:
        return file.readline(LINE_BYTES)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return b""


def _start_of_last(file: BufferedIOBase, lines: int) -> tuple[int, int]:
    """Where the last `lines` lines begin, and how many there are of them."""
    if isinstance(file, gzip.GzipFile):
        return _start_by_reading(file, lines)
    end = position = file.seek(0, os.SEEK_END)
    found = 0
    while position > 0 and lines > 0:
        begin = max(position - BLOCK_BYTES, 0)
        file.seek(begin)
        block = file.read(position - begin)
        at = len(block) - 1 if position == end and block.endswith(b"\n") else len(block)  # the last one ends a line and begins none
        while (at := block.rfind(b"\n", 0, at)) >= 0:
            found += 1
            if found == lines:
                return begin + at + 1, found
        position = begin
    return (0, found + 1) if end and lines > 0 else (end, 0)


def _start_by_reading(file: gzip.GzipFile, lines: int) -> tuple[int, int]:
    """The same where one can only read forward."""
    starts: deque[int] = deque(maxlen=max(lines, 0))
    position, whole = 0, True
    while piece := _piece(file):
        if whole:
            starts.append(position)
        position += len(piece)
        whole = piece.endswith(b"\n")
    return (starts[0], len(starts)) if starts else (position, 0)
