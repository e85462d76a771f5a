"""1 GiB of lines through `reviver run`, rotated on the way, beside the same writer straight into a file, and supervisord.

The writer (lines.py) makes numbered lines of 100 bytes, 640 of them a write, as a program whose output is buffered. All take turns, so that
the machine's noise falls on them alike, and all files lie on one disk, synced before each turn, and get memory that was just in use. A
speed is that from the first write until the pipe is empty. Reviver compresses what it rotates as by default: when the flood is over, or
ten seconds later. Afterwards every byte in its files is compared.
"""

from __future__ import annotations

import gzip
import json
import mmap
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench import lines
from bench.ground import STEP_S, GroundError, Reviver, Service, folder
from bench.lines import LINE_BYTES, Lines
from bench.peers import Supervisord, version
from bench.report import Report, spread

ROUNDS = 5
LINES, STEP = 1024**3 // LINE_BYTES, 640  # of each turn; lines a write: 64 kB, as a buffer gives them
SINGLE_LINES = LINES // 32  # of each turn in which every line is a write by itself
WARM_BYTES = 1280 * 1024**2  # the lines of a turn, and some
ROTATE = "50MiB"
KEEP = 200  # more than there will be: every byte is looked at in the end
WRITTEN_LIMIT_S = 120.0
PACKED_LIMIT_S = 300.0  # for the compression of what a turn rotated: nothing else is measured beside it
SLOWER_MOST = 1 / 0.85  # the budget: at least 0.85 of the speed straight to a file


class Writer:
    """How a supervised writer is told what to write."""

    def __init__(self, where: Path, name: str) -> None:
        self._fifo, self._note = where / f"{name}.fifo", where / f"{name}.note"
        os.mkfifo(self._fifo)
        self._orders = os.open(self._fifo, os.O_RDWR | os.O_CLOEXEC)
        self.command = [sys.executable, lines.__file__, str(self._fifo)]
        self.written = 0

    def write(self, count: int, step: int) -> float:
        """Have it write so many lines; returns MB/s."""
        os.sync()
        _warm()
        os.write(self._orders, f"{count} {step} {self._note}\n".encode())
        self.written += count
        _await(self._note.exists, WRITTEN_LIMIT_S, f"the lines are not written after {WRITTEN_LIMIT_S:g} s")
        seconds = float(self._note.read_text())
        self._note.unlink()
        return count * LINE_BYTES / seconds / 1e6

    def close(self) -> None:
        os.close(self._orders)


def _warm() -> None:
    """Touch as much memory as a turn will fill: a virtual machine's host takes back what lies free, and then gives it a page at a time."""
    mmap.mmap(-1, WARM_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE).close()


def measure() -> Report:
    report = Report("logs")
    with folder() as where:
        direct, ours, theirs = (Writer(where, name) for name in ("direct", "reviver", "supervisord"))
        programs = (
            f'[program.lines]\ncommand = {json.dumps(ours.command)}\n[program.lines.output]\nrotate = "{ROTATE}"\nkeep = {KEEP}\n'
        )
        peer = (
            f"[program:lines]\ncommand={shlex.join(theirs.command)}\nredirect_stderr=true\nstdout_logfile={where}/peer/lines.log\n"
            f"stdout_logfile_maxbytes=50MB\nstdout_logfile_backups={KEEP}\n"
        )
        (where / "peer").mkdir()
        with (
            Service(direct.command, where / "direct.log", {}, where),
            Reviver(where, programs) as reviver,
            Supervisord(where / "peer", peer) as supervisord,
        ):
            reviver.await_ready()
            supervisord.await_running()

            def in_turns(count: int, step: int) -> list[tuple[float, ...]]:
                speeds = []
                for _ in range(ROUNDS):
                    speeds.append(tuple(writer.write(count, step) for writer in (direct, ours, theirs)))
                    _await(lambda: not _plain(where / "log"), PACKED_LIMIT_S, "what was rotated is not compressed")
                return speeds

            whole = in_turns(LINES, STEP)
            single = in_turns(SINGLE_LINES, 1)
        for writer in (direct, ours, theirs):
            writer.close()
        _tell(report, "1 GiB, 64 kB a write", whole)
        _tell(report, "32 MiB, a line a write", single)
        remark = f"of {ours.written * LINE_BYTES} in {len(_files(where / 'log'))} files"
        report.add(
            "reviver", "bytes lost, doubled or out of order", _wrong_bytes(_files(where / "log"), ours.written), "", 0, remark
        )
        report.add("reviver", "lines cut by a rotation", _cut(_files(where / "log")), "", most=0)
        report.add(f"supervisord {version()}", "lines cut by a rotation", _cut(_files(where / "peer")), "")
    return report


def _tell(report: Report, what: str, speeds: list[tuple[float, ...]]) -> None:
    """Speeds, and the medians of the ratios within each turn."""
    for index, who in enumerate(("straight to a file", "reviver", f"supervisord {version()}")):
        mine = [turn[index] for turn in speeds]
        report.add(who, what, statistics.median(mine), "MB/s", remark=spread(mine, "MB/s"))
    for index, who, most in ((1, "reviver", SLOWER_MOST), (2, f"supervisord {version()}", None)):
        slower = statistics.median(turn[0] / turn[index] for turn in speeds)
        report.add(who, f"{what}: straight is faster by", slower, "times", most, f"{1 / slower:.2f} of its speed")


def _wrong_bytes(files: list[Path], count: int) -> int:
    """How many bytes differ from `count` numbered lines, or lack, or are too many."""
    wanted, wrong = Lines(), 0
    for content in map(_content, files):
        at = 0
        while at < len(content) and wanted.next < count:
            block = wanted.take(min(count - wanted.next, -(-(len(content) - at) // LINE_BYTES)))
            found = content[at : at + len(block)]
            if found != block:
                wrong += sum(a != b for a, b in zip(found, block, strict=False)) + len(block) - len(found)
            at += len(block)
        wrong += max(len(content) - at, 0)
    return wrong + (count - wanted.next) * LINE_BYTES


def _cut(files: list[Path]) -> int:
    """Files that do not end with a line's end."""
    return sum(not content.endswith(b"\n") for content in map(_content, files))


def _content(path: Path) -> bytes:
    """All of a file: some 50 MiB."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def _files(folder: Path) -> list[Path]:
    """The files of the program `lines`, oldest first."""
    rotated = [path for path in folder.glob("lines.log.*") if path.name.split(".")[2].isdigit()]
    return [*sorted(rotated, key=lambda path: -int(path.name.split(".")[2])), folder / "lines.log"]


def _plain(folder: Path) -> list[Path]:
    """What is rotated, and not compressed yet."""
    return [path for path in _files(folder)[:-1] if path.suffix != ".gz"]


def _await(condition: Callable[[], bool], limit_s: float, problem: str) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise GroundError(problem)
        time.sleep(STEP_S)
