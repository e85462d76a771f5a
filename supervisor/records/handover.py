"""What a later supervisor needs to go on: one file per program, written by the loop itself before the first effect that it must know of.

`<runtime_dir>/handover/<program>.json` holds the program's whole value, the instant of the turn that wrote it, and the boot it belongs to;
and the newest messages for people, which the journal may not have written yet. Written under another name and renamed, without fsync:
it has to survive the death of the supervisor, not of the host (another boot has no processes to adopt).
A write takes some 50 µs, and never raises: what went wrong comes back as a sentence.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from supervisor.model import Program, Tell

SUFFIX = ".json"
NEW = ".new"  # of a file that is being written: one writer, so one name


@dataclass(frozen=True, slots=True)
class Record:
    """What stands of one program: its value, when that was written (monotonic seconds), and what people were being told."""

    boot: str
    at: float
    program: Program
    told: tuple[Tell, ...] = ()


def _starts_first(program: Program) -> bool:
    return bool(program.instances) and all(instance.pid is None for instance in program.instances)


class Handover:
    """The folder of handover files. For one thread: the loop's."""

    def __init__(self, runtime_dir: str, boot_id: str, report: Callable[[str], None]) -> None:
        """report gets a sentence for each file that cannot be used. Raises OSError when the folder cannot be made."""
        self._path = Path(runtime_dir) / "handover"
        self._boot_id = boot_id
        self._report = report
        self._encoder = msgspec.json.Encoder()
        self._there: set[str] = set()  # the programs that have a file
        self._dir_fd = self._open()

    def write(self, program: Program, at: float, told: tuple[Tell, ...] = ()) -> str:
        """Let the program's file say this. Returns "", or the sentence that says why the file is not up to date.

        A first start gets its file with its pid: until then its process, which waits at its gate, ends with us, and there is nothing
        to go on with.
        """
        if program.settings.name not in self._there and not told and _starts_first(program):
            return ""
        name = program.settings.name + SUFFIX
        try:
            data = self._encoder.encode(Record(self._boot_id, at, program, told))
            try:
                self._replace(name, data)
            except FileNotFoundError:  # somebody emptied the runtime directory under us
                gone, self._dir_fd = self._dir_fd, self._open()
                os.close(gone)
                self._replace(name, data)
            self._there.add(program.settings.name)
        except UnicodeEncodeError:
            return f"cannot write {self._path / name}: its settings hold bytes that are not UTF-8"
        except OSError as problem:
            return f"cannot write {self._path / name}: {problem.strerror}; a new supervisor would not know what runs now"
        return ""

    def drop(self, name: str) -> None:
        """The program is gone: so is its file."""
        if name not in self._there:
            return
        self._there.remove(name)
        try:
            os.unlink(name + SUFFIX, dir_fd=self._dir_fd)
        except FileNotFoundError:
            return
        except OSError as problem:
            self._report(f"cannot remove {self._path / name}{SUFFIX}: {problem.strerror}")

    def read_all(self) -> tuple[Record, ...]:
        """What the last supervisor of this boot left, by name. Files that cannot be read are reported and skipped. Blocks."""
        decoder = msgspec.json.Decoder(Record)
        records = []
        for path in sorted(self._path.glob("*" + SUFFIX)):
            try:
                record = decoder.decode(path.read_bytes())
            except OSError as problem:
                self._report(f"cannot read {path}: {problem.strerror}; what runs of {path.stem} is not known")
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
                self._report(f"cannot use {path}: {problem}; what runs of {path.stem} is not known")
            else:
                if record.boot == self._boot_id:
                    records.append(record)
            self._there.add(path.stem)
        return tuple(records)

    def close(self) -> None:
        """Let go of the folder; the files stay."""
        os.close(self._dir_fd)

    def _open(self) -> int:
        self._path.mkdir(parents=True, exist_ok=True, mode=0o700)
        return os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _replace(self, name: str, data: bytes) -> None:
        new = name + NEW
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=self._dir_fd)
        try:
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written != len(data):  # a full disk takes a part; what stood under the name before is still whole
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.replace(new, name, src_dir_fd=self._dir_fd, dst_dir_fd=self._dir_fd)
