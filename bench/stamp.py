"""A program of 145 bytes of machine code that notes the instant of its first instruction, and that of its last.

An interpreter or a shell as the child would hide what is measured behind a start-up a thousand times longer, and a compiler is not
on every machine: so the ELF file is put together here, byte by byte. `stamp NOTES FIFO` appends CLOCK_MONOTONIC to NOTES, waits
until the FIFO gives a byte, appends CLOCK_MONOTONIC again, and exits with 1. x86-64 only.
"""

from __future__ import annotations

import os
import platform
import struct
import time
from pathlib import Path

from bench.ground import STEP_S, GroundError

_LOAD_ADDRESS = 0x400000  # where the linker puts static programs as well
_HEADERS_BYTES = 64 + 56  # the ELF header, and one program header
_STAMP = struct.Struct("=qq")  # struct timespec

_CODE = bytes.fromhex(
    "488b6c2410"  # mov rbp, [rsp+16]      argv[1]: the notes
    "4c8b642418"  # mov r12, [rsp+24]      argv[2]: the fifo
    "4883ec20"  #   sub rsp, 32
    "b8e4000000 bf01000000 4889e6 0f05"  # clock_gettime(CLOCK_MONOTONIC, rsp)
    "b802000000 4889ef be41040000 ba80010000 0f05"  # open(notes, O_WRONLY | O_CREAT | O_APPEND, 0600)
    "4189c5"  #     mov r13d, eax
    "89c7 b801000000 4889e6 ba10000000 0f05"  # write(notes, rsp, 16)
    "b802000000 4c89e7 31f6 0f05"  # open(fifo, O_RDONLY)
    "89c7 31c0 4889e6 ba01000000 0f05"  # read(fifo, rsp, 1)
    "b8e4000000 bf01000000 4889e6 0f05"  # clock_gettime(CLOCK_MONOTONIC, rsp)
    "4489ef b801000000 4889e6 ba10000000 0f05"  # write(notes, rsp, 16)
    "b8e7000000 bf01000000 0f05"  # exit_group(1)
)


def write_program(path: Path) -> None:
    """Write the executable. Raises GroundError on another processor."""
    if platform.machine() != "x86_64":
        raise GroundError(f"this bench's child is machine code for x86-64, and this is {platform.machine()}")
    size = _HEADERS_BYTES + len(_CODE)
    entry = _LOAD_ADDRESS + _HEADERS_BYTES
    header = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bit, little endian, version 1
    header += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size, 0x1000)
    path.write_bytes(header + segment + _CODE)
    path.chmod(0o755)


class Stamped:
    """The program's command line, and what it noted."""

    def __init__(self, where: Path, name: str) -> None:
        self.program = where / f"stamp-{name}"
        self.notes = where / f"notes-{name}"
        self._fifo = where / f"fifo-{name}"
        write_program(self.program)
        os.mkfifo(self._fifo)
        self._writer = os.open(self._fifo, os.O_RDWR | os.O_CLOEXEC)

    @property
    def command(self) -> list[str]:
        return [str(self.program), str(self.notes), str(self._fifo)]

    def end(self) -> None:
        """Let the running one go."""
        os.write(self._writer, b"x")

    def instants_ns(self) -> list[int]:
        """All that was noted: first instruction, last, first, last ..."""
        raw = self.notes.read_bytes() if self.notes.exists() else b""
        return [seconds * 1_000_000_000 + ns for seconds, ns in _STAMP.iter_unpack(raw[: len(raw) // 16 * 16])]

    def await_notes(self, count: int, limit_s: float) -> None:
        """Wait until so many instants are noted."""
        deadline = time.monotonic() + limit_s
        while len(self.instants_ns()) < count:
            if time.monotonic() > deadline:
                raise GroundError(f"{self.program.name} was not started again within {limit_s:g} s")
            time.sleep(STEP_S / 4)

    def close(self) -> None:
        os.close(self._writer)
