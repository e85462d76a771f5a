"""A program's output on disk: `<log_dir>/<program>.log`, rotated to `.log.1 ... .log.N`, the older ones gzipped.

`LogFile` is the writer's side, for one thread; `compress` runs in a lane beside it; logreading.py reads. Every
step that moves a file is a rename, in an order in which a death in between loses no byte: at worst a number is left out, or a file stands
there both plain and gzipped, and the next rotation or compression puts that right.

The folder may belong to the program's user: what he puts there under our names (a link, a fifo) is neither written nor compressed, as we
may be root and he is not.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import glob
import gzip
import os
import re
import shutil
import stat
import threading
import time
from pathlib import Path

from supervisor.model import OutputSettings

MODE = 0o640  # output may hold what is not for everybody
HALF = ".gz.new"  # of a compression that goes on
LINE_BYTES = 1024 * 1024  # a longer line is given to readers in pieces, and may be cut by a rotation
AHEAD_BYTES = 4 * 1024 * 1024  # set aside at once: what a file of a flood may take on the disk beyond its size, for a moment
GZIP_LEVEL = 1  # a third of the time of the usual 6, for a tenth more bytes: the store needs the processor
LOWEST_PRIORITY = 19

NOTE = "user.reviver"  # the extended attribute with what is known of a file
STAMP_BYTES = len("2026-01-01T00:00:00.000Z ")
BARE_STAMP = re.compile(rb"(?:^|\n)(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z )\Z")

_FALLOC_FL_KEEP_SIZE = 1  # linux/falloc.h
_libc = ctypes.CDLL(None)
_names = threading.Lock()  # held while files are renamed: by a rotation, and by a compression that puts its result in place


class LogFile:
    """The file that is written now. For one thread; every method may raise OSError, and may be called again after that."""

    def __init__(self, log_dir: str, program: str, settings: OutputSettings) -> None:
        self.path = log_path(log_dir, program)
        self.program = program
        self.settings = settings
        self.position = 0  # where the next byte goes
        self.writer = 0  # the instance whose bytes are the last ones in it, also of an earlier life; 0: none that will go on
        self.marks = False  # whether marks are kept here
        self.marked = -1  # where the bytes begin that an earlier life may have left in the pipe as well; -1: none
        self.reserved = 0  # up to where the filesystem has set room aside; 0: nowhere
        self._began_wall = 0.0
        self._fd = -1
        self._identity = (0, 0)

    @property
    def room(self) -> int:
        """Bytes until it is to be rotated; never positive once it is."""
        room = self.settings.rotate_bytes - self.position if self.settings.rotate_bytes is not None else LINE_BYTES
        aged = self.settings.age_s is not None and self.position > 0 and time.time() >= self._began_wall + self.settings.age_s
        return min(room, 0) if aged else room

    def ready(self) -> bool:
        """Open it, or open it again where somebody removed, replaced or cut it. True when it is not what it was before."""
        if self._fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                now = os.lstat(self.path)
                if (now.st_dev, now.st_ino) == self._identity:
                    if now.st_size >= self.position:
                        return False
                    self._begin()
                    return True
            self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
        self._fd = _open_own(self.path, os.O_RDWR | os.O_CREAT)  # not O_APPEND: splice refuses it
        opened = os.fstat(self._fd)
        self._identity = (opened.st_dev, opened.st_ino)
        self._begin()
        return True

    def sign(self, writer: int) -> None:
        """Note in the file whose bytes come next: whoever goes on after a death of ours knows whose line stands open."""
        if writer != self.writer:
            self.writer = writer
            self._note()

    def _begin(self) -> None:
        """Learn what an earlier life left: where it ends, how old it is, who wrote last. A stamp whose line did not come goes."""
        self.position, self.reserved = os.lseek(self._fd, 0, os.SEEK_END), 0
        if self.settings.timestamps and (bare := BARE_STAMP.search(self.last(STAMP_BYTES + 1))):
            os.ftruncate(self._fd, self.position - len(bare[1]))
            self.position = os.lseek(self._fd, 0, os.SEEK_END)
        self._began_wall, self.writer, self.marked = _noted(self._fd) if self.position else (0.0, 0, -1)
        self._began_wall = self._began_wall or time.time()
        self._note()

    def mark(self, position: int) -> None:
        """Note that what is written from here on is taken out of the pipe only afterwards; -1: it is taken."""
        self.marked = position
        self._note()

    def _note(self) -> None:
        try:
            os.setxattr(self._fd, NOTE, b"%.3f %d %d" % (self._began_wall, self.writer, self.marked))
            self.marks = True
        except OSError:  # not every filesystem keeps such notes: then a line may be ended too early
            self.marks = False

    def reserve(self, count: int) -> None:
        """Have the filesystem set room aside for `count` bytes and more, at once: finding it block by block costs a flood a tenth.

        A wish only: where it is not granted (few filesystems cannot, a full disk) one writes as ever.
        """
        if self.position + count > self.reserved:
            self.reserved = self.position + AHEAD_BYTES
            _libc.fallocate(self._fd, _FALLOC_FL_KEEP_SIZE, ctypes.c_long(self.position), ctypes.c_long(AHEAD_BYTES))

    def trim(self) -> None:
        """Give back what was set aside and is not used."""
        with contextlib.suppress(OSError):
            if self.reserved > self.position == os.fstat(self._fd).st_size:  # else somebody has just cut it
                os.ftruncate(self._fd, self.position)
        self.reserved = 0

    def splice(self, source: int, count: int) -> int:
        """Move up to `count` bytes out of a pipe, in the kernel. Returns how many: 0 at its end; BlockingIOError when it is empty."""
        moved = os.splice(source, self._fd, count, flags=os.SPLICE_F_NONBLOCK)
        self.position += moved
        return moved

    def put(self, data: bytes) -> None:
        """Write all of it, or nothing."""
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError:
            os.ftruncate(self._fd, self.position)
            os.lseek(self._fd, self.position, os.SEEK_SET)
            raise
        self.position += len(data)

    def ends_line(self) -> bool:
        """Whether the next byte begins a line."""
        return self.position == 0 or os.pread(self._fd, 1, self.position - 1) == b"\n"

    def last(self, count: int) -> bytes:
        """The last bytes that were written, at most `count`; none while it could not be opened again."""
        if self._fd < 0:
            return b""
        start = max(self.position - count, 0)
        return os.pread(self._fd, self.position - start, start)

    def rotate(self) -> None:
        """Begin a new file: this one becomes .log.1, those before it one number higher, what is beyond `keep` goes."""
        with _names:
            held = rotated(self.path)
            gap = next(number for number in range(1, len(held) + 2) if number not in held)  # a death in between left one
            for number in sorted(held, reverse=True):
                for path in held[number]:
                    _move(self.path, path, number + 1 if number < gap else number, self.settings.keep)
            _move(self.path, self.path, 1, self.settings.keep)
        self.close()
        self.ready()

    def close(self) -> None:
        if self._fd >= 0:
            self.trim()
            os.close(self._fd)
            self._fd = -1


def compress(path: Path) -> None:
    """Gzip what was rotated of the log file `path`. For a lane: blocks for seconds, at the lowest priority, and never raises.

    What cannot be done (a full disk) stays plain until the next time; what a death left half done is done again.
    """
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
    with contextlib.suppress(OSError):
        for half in path.parent.glob(f"{glob.escape(path.name)}.*{HALF}"):
            half.unlink()
        for paths in rotated(path).values():
            for plain in paths:
                if plain.suffix != ".gz":
                    _compress(path, plain)


def _compress(path: Path, plain: Path) -> None:
    half = path.with_name(f"{path.name}.{time.monotonic_ns()}{HALF}")
    try:
        with open(_open_own(plain, os.O_RDONLY), "rb") as source, half.open("xb") as target:
            os.fchmod(target.fileno(), MODE)
            with gzip.GzipFile(filename="", mode="wb", fileobj=target, compresslevel=GZIP_LEVEL) as packed:
                shutil.copyfileobj(source, packed, LINE_BYTES)
            target.flush()
            os.fsync(target.fileno())  # it is about to be the only copy
            known = os.fstat(source.fileno())
            os.utime(target.fileno(), ns=(known.st_atime_ns, known.st_mtime_ns))
        with _names:  # a rotation may have given it another number meanwhile, or removed it
            for now in (paths for numbered in rotated(path).values() for paths in numbered):
                if now.lstat().st_ino == known.st_ino:
                    half.rename(f"{now}.gz")
                    now.unlink()
                    return
        half.unlink()
    except FileNotFoundError:  # it was rotated away before we came to it; the next one goes on
        half.unlink(missing_ok=True)
    except OSError:
        half.unlink(missing_ok=True)
        raise


def _noted(fd: int) -> tuple[float, int, int]:
    """When a file was begun, the number of the instance that wrote last, the mark; 0, 0, -1 where nobody knows."""
    try:
        began, writer, marked = os.getxattr(fd, NOTE).split()
        return float(began), int(writer), int(marked)
    except (OSError, ValueError):
        return 0.0, 0, -1


def _open_own(path: Path, flags: int) -> int:
    """Open a regular file that has this name and no other. Raises OSError, also for everything else that may stand there."""
    try:
        fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, MODE)
    except OSError as problem:
        if problem.errno in (errno.ELOOP, errno.ENXIO):  # a symlink; a socket, or a device that nobody serves
            raise _foreign(path) from None
        raise
    opened = os.fstat(fd)
    if stat.S_ISREG(opened.st_mode) and opened.st_nlink <= 1:  # 0: removed meanwhile, the next look tells
        return fd
    os.close(fd)
    raise _foreign(path)


def _foreign(path: Path) -> OSError:
    return OSError(errno.EPERM, "what stands there is a link or no plain file, and could lead elsewhere: remove it", str(path))


def log_path(log_dir: str, program: str) -> Path:
    """The file that is written now."""
    return Path(log_dir) / f"{program}.log"


def rotated(path: Path) -> dict[int, list[Path]]:
    """The rotated files by number: 1 is the newest. A number has two where a death left it both plain and gzipped."""
    pattern = re.compile(re.escape(path.name) + r"\.(\d+)(\.gz)?")
    held: dict[int, list[Path]] = {}
    for other in sorted(path.parent.iterdir()):
        if match := pattern.fullmatch(other.name):
            held.setdefault(int(match[1]), []).append(other)
    return dict(sorted(held.items()))


def _move(path: Path, old: Path, number: int, keep: int) -> None:
    if number > keep:
        old.unlink()
    else:
        old.rename(path.with_name(f"{path.name}.{number}{'.gz' if old.suffix == '.gz' else ''}"))
