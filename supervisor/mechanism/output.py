"""The programs' output: out of their pipes into `<log_dir>/<program>.log`, without ever holding a program up.

One thread (a lane of its own that runs `_pump` until the end) waits for all pipes. Bytes are spliced into the file in the kernel, unseen.
Where the end of a line matters (a file that is to be rotated, another instance that waits for its turn in the same file, time stamps),
tee(2) shows what is in the pipe while it stays there, and then it is moved: so nothing is ever held in our memory that a death could
lose, and lines of two instances do not mix. Where an instance stops in mid-line and another goes on, a newline is put between.
In a flood we neither pause nor keep the pipe locked while its bytes are written, and compression waits until it is over.
A file that cannot be written costs output, never the program: what its pipe does not hold is dropped, counted, and said.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import termios
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from functools import partial

from supervisor.lanes import Lane
from supervisor.mechanism.logfiles import LINE_BYTES, LogFile, compress
from supervisor.model import InstanceId, OutputSettings

CHUNK_BYTES = 1024 * 1024  # moved for one source before the next one has its turn
PIPE_BYTES = (
    1024 * 1024
)  # what an unprivileged user may ask for (/proc/sys/fs/pipe-max-size); only for a pipe that was found half full
TAIL_BYTES = 4096  # remembered of what an instance wrote last: a traceback and some
TAILS_LIMIT = 200  # ended instances whose last words are remembered
RETRY_S = 0.5  # between tries to write a file that could not be written
HOLD_S = 0.2  # that another instance's open line may hold up this one's: its pipe holds what comes in the meantime
COMPRESSIONS_LIMIT = 64  # compressions that wait; the next rotation asks for all again
FLOOD_BYTES = 128 * 1024  # taken in one turn is a flood: its pipe is not kept locked while the file is written, and we do not pause
FLOOD_S = 0.002  # how long that holds: between two full pipes there may be a nearly empty one
PIECE_BYTES = 512 * 1024  # of a flood at once: half a pipe, so that its program fills one half while we write the other
CALM_S = 0.5  # after a flood: then its file gives back the room that was set aside, and what was rotated meanwhile is compressed
PACK_S = 10.0  # that compression waits at most, as a flood may go on for ever; until then `keep` bounds what lies about
PAUSE_S = 0.0002  # between two turns without a flood: a program that writes line by line would wake us for each
NOW, NEVER = 0.0, float("inf")  # when a source wants its next turn

_libc = ctypes.CDLL(None, use_errno=True)


class _Source:
    """An instance's pipe. Compared by identity."""

    def __init__(self, id: InstanceId, fd: int, sink: _Sink) -> None:
        self.id = id
        self.fd = fd
        self.sink = sink
        self.capacity: int = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        self.hung_up = False  # nobody can write to it any more
        self.held = 0.0  # until when it waits for another's open line; 0 when it does not
        self.tail = b""
        self.taken = 0  # bytes out of its pipe, ever
        self.flooded = 0.0  # when it last had much to say at once
        self.unseen = 0  # bytes spliced since `tail` was brought up to date: the last ones of the file


class _Sink:
    """A program's file, and who writes to it."""

    def __init__(self, file: LogFile) -> None:
        self.file = file
        self.sources: list[_Source] = []
        self.writer: _Source | None = None  # whose bytes are the last ones in the file, when it still lives
        self.adopting = (
            time.monotonic() + HOLD_S
        )  # until then one that an earlier life of ours left in mid-line may yet be attached
        self.unpacked = time.monotonic()  # since when files wait to be compressed, an earlier life's first; 0: none do
        self.problem = False  # it could not be written, and that was said
        self.retry = 0.0  # not tried before this instant
        self.patience = 0.0  # until then the pipes may hold what comes
        self.lost = 0  # bytes dropped since


class Outputs:
    """Captures the output of all programs. Its methods may be called from any thread; only `last` and `close` block."""

    def __init__(self, log_dir: str, report: Callable[[str, str], None]) -> None:
        """report(program, text) gets sentences for people, in the pump's thread."""
        self._log_dir = log_dir
        self._report = report
        self._sinks: dict[str, _Sink] = {}
        self._sources: dict[int, _Source] = {}
        self._due: dict[_Source, float] = {}
        self._tails: dict[InstanceId, bytes] = {}
        self._commands: deque[Callable[[], None]] = deque()
        self._taken = 0  # bytes out of all pipes, ever
        self._flooded = 0.0  # when any source last had much to say at once
        self._closed = False
        self._stopping = False
        self._ringing = threading.Lock()  # the bell may not be closed while somebody rings it
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        self._glass = _Glass()
        self._compressing = Lane("gzip", limit=COMPRESSIONS_LIMIT)
        self._pumping = Lane("output", limit=1)
        self._pumping.put(self._pump)

    def attach(self, id: InstanceId, fd: int, settings: OutputSettings) -> None:
        """Capture what comes out of `fd`, the read end of the instance's pipe, until its end. The descriptor is ours from now on."""
        self._ask(partial(self._attach, id, fd, settings))

    def update(self, program: str, settings: OutputSettings) -> None:
        """Take up changed settings, from the next byte on."""
        self._ask(partial(self._update, program, settings))

    def last(self, id: InstanceId, deadline_s: float = 1.0) -> bytes:
        """The last TAIL_BYTES or less that the instance wrote, also after its end. Blocks (b"" after `deadline_s`): for a lane."""
        answer: Future[bytes] = Future()
        self._ask(lambda: answer.set_result(self._last(id)))
        try:
            return answer.result(deadline_s)
        except TimeoutError:
            return b""

    def close(self, deadline_s: float) -> bool:
        """Write what is in the pipes and close them. False when the disk did not take it in time. Blocks."""
        if not self._closed:
            self._ask(self._stop)
            self._closed = True
            self._compressing.close()  # what it has begun is begun anew the next time
        return self._pumping.drain(deadline_s)

    def _ask(self, command: Callable[[], None]) -> None:
        with self._ringing:
            self._commands.append(command)
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)

    # From here on: the pump's thread. Nothing that it touches is touched by another, but `_commands` and `_bell`.

    def _pump(self) -> None:
        while not self._stopping:
            self._turn()
        for sink in self._sinks.values():
            self._finish(sink)
        self._epoll.close()
        self._glass.close()
        with self._ringing:
            os.close(self._bell)
            self._bell = -1

    def _turn(self) -> None:
        wait = min(self._due.values(), default=NEVER) - time.monotonic()
        for fd, mask in self._epoll.poll(None if wait == NEVER else max(wait, 0.0)):
            if fd == self._bell:
                os.eventfd_read(self._bell)
            elif source := self._sources.get(fd):
                source.hung_up |= bool(mask & select.EPOLLHUP)
                self._due[source] = NOW
        while self._commands:
            self._commands.popleft()()
        now = time.monotonic()
        for source in [source for source, instant in self._due.items() if instant <= now]:
            self._due.pop(source, None)
            self._serve(source, now)
        if now >= self._flooded + FLOOD_S:
            time.sleep(PAUSE_S)

    def _stop(self) -> None:
        self._stopping = True

    def _attach(self, id: InstanceId, fd: int, settings: OutputSettings) -> None:
        sink = self._sinks.get(id.program)
        if sink is None:
            sink = self._sinks[id.program] = _Sink(LogFile(self._log_dir, id.program, settings))
        sink.file.settings = settings
        for other in sink.sources:
            self._recall(other)
        source = _Source(id, fd, sink)
        with contextlib.suppress(OSError):  # what it wrote last in an earlier life of ours; the first turn says what is wrong
            if sink.file.path.exists():
                sink.file.ready()
                source.tail = sink.file.last(TAIL_BYTES) if sink.file.writer == id.number else b""
        sink.sources.append(source)
        self._sources[fd] = source
        os.set_blocking(fd, False)
        self._epoll.register(fd, select.EPOLLIN | select.EPOLLET)  # edges: bytes that have to wait in the pipe do not wake us again
        self._due[source] = NOW

    def _update(self, program: str, settings: OutputSettings) -> None:
        if sink := self._sinks.get(program):
            sink.file.settings = settings

    def _last(self, id: InstanceId) -> bytes:
        for source in tuple(self._sources.values()):
            if source.id == id:
                self._empty(source)
                self._recall(source)
                return source.tail
        return self._tails.get(id, b"")

    def _finish(self, sink: _Sink) -> None:
        """Take what is in the pipes of a file, and close them: first the one whose open line the others wait for."""
        sink.retry = sink.patience = sink.adopting = 0.0  # one more try
        while sink.sources:
            for source in tuple(sink.sources):
                self._empty(source)
            if sink.sources:
                self._end(sink.writer or sink.sources[0])

    def _has(self, source: _Source) -> bool:
        """Whether it has not ended."""
        return self._sources.get(source.fd) is source

    def _empty(self, source: _Source) -> None:
        """Give turns to it, and to those whose open line it waits for, until what is in its pipe now is taken or nothing moves."""
        wanted = source.taken + _waiting(source.fd) if self._has(source) else 0
        before = -1
        while before < self._taken and source.taken < wanted and self._has(source):
            before = self._taken
            for each in tuple(source.sink.sources):
                self._serve(each, time.monotonic())

    def _serve(self, source: _Source, now: float) -> None:
        """Give it one turn, and write down when it wants the next."""
        try:
            due = self._move(source, now) if now >= source.sink.retry else self._spill(source, now)
        except BlockingIOError:  # its pipe is empty
            due = self._rest(source, now)
        if due < NEVER and self._has(source):
            self._due[source] = due

    def _rest(self, source: _Source, now: float) -> float:
        """Nothing is in its pipe. When it wants a turn all the same: to clear up after a flood."""
        sink = source.sink
        if not sink.file.reserved and not sink.unpacked:
            return NEVER
        if now < source.flooded + CALM_S:
            return source.flooded + CALM_S
        sink.file.trim()
        self._compress(sink)
        return NEVER

    def _move(self, source: _Source, now: float) -> float:
        """One turn: into the file, or past it when that cannot be written."""
        try:
            return self._write(source, now)
        except BlockingIOError:
            raise
        except OSError as problem:
            self._stall(source.sink, problem, now)
            return self._spill(source, now)

    def _write(self, source: _Source, now: float) -> float:
        """One turn of a source whose file can be written."""
        sink, file = source.sink, source.sink.file
        if file.ready():
            for other in sink.sources:
                other.unseen = 0
        if sink.writer is not None and sink.writer is not source:
            self._recall(sink.writer)
        # of its last writer the line may stand open, or the end of it in the pipe as well: its turn comes first
        behind = file.writer != source.id.number and (file.marked >= 0 or not file.ends_line())
        if (behind or file.room <= 0) and not self._glass.look(source.fd):
            return self._end(source)
        if behind:
            if self._holds(source, now):
                return source.held
            if not file.ends_line():
                file.put(b"\n")
        source.held = 0.0
        if file.marked >= 0:
            self._forget(source)
        if file.room <= 0 and (file.ends_line() or file.room < -LINE_BYTES):
            self._rotate(source, now)
        file.sign(source.id.number)
        before = file.position
        taken = self._transfer(source, now)
        if not taken:
            return self._end(source)
        self._moved(source, taken, file.position - before, now)
        return NOW

    def _transfer(self, source: _Source, now: float) -> int:
        """Move bytes from its pipe to the file; how many were taken, 0 at the pipe's end."""
        file = source.sink.file
        finishing = (file.room <= 0 or any(other.held for other in source.sink.sources)) and not file.ends_line()
        if not finishing and not file.settings.timestamps:
            count = min(CHUNK_BYTES, file.room)
            flooding = now < source.flooded + FLOOD_S
            return self._glass.copy(source.fd, file, count) if flooding and file.marks else file.splice(source.fd, count)
        data = self._glass.look(source.fd)
        count = data.find(b"\n", 0 if finishing else file.room - 1) + 1 or len(data)  # up to the line that fills the file
        if not file.settings.timestamps or not data:
            return file.splice(source.fd, count)
        return self._stamp(source, data[:count])

    def _forget(self, source: _Source) -> None:
        """Take out of the pipe what an earlier life wrote and did not come to take: it marked where in the file that begins."""
        file = source.sink.file
        doubled = file.last(file.position - file.marked) if file.writer == source.id.number else b""
        if doubled and self._glass.look(source.fd).startswith(doubled):
            self._glass.drop(source.fd, len(doubled))
        file.mark(-1)

    def _stamp(self, source: _Source, data: bytes) -> int:
        """Move `data`, the next bytes in its pipe, with the time before each line that begins in it; how many were taken.

        Line by line, so that a death at any instant leaves none twice: at worst a stamp alone, which the next life takes back.
        """
        file, taken = source.sink.file, 0
        begins = file.ends_line()
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z ").encode()
        try:
            while taken < len(data) and not (taken and file.room <= 0):
                if begins:
                    file.put(stamp)
                end = data.find(b"\n", taken) + 1 or len(data)
                while taken < end:
                    taken += file.splice(source.fd, end - taken)
                begins = True
        except OSError:
            if not taken:
                raise  # else the next turn meets it again
        return taken

    def _moved(self, source: _Source, taken: int, written: int, now: float) -> None:
        """Bytes of this source were taken, and as many or more were written."""
        sink = source.sink
        sink.writer = source
        source.unseen += written
        if taken >= FLOOD_BYTES:
            source.flooded = self._flooded = now
        self._took(source, taken)
        for other in sink.sources:
            if other.held:
                self._due[other] = NOW
        if taken * 2 >= source.capacity:
            self._widen(source)
        if sink.problem:
            self._report(sink.file.program, f"{sink.file.path} is written again; {_size(sink.lost)} of output was lost")
            sink.problem, sink.lost = False, 0

    def _took(self, source: _Source, count: int) -> None:
        source.taken += count
        self._taken += count

    def _holds(self, source: _Source, now: float) -> bool:
        """Whether it should wait for the end of another instance's line: for a moment, if that one lives."""
        source.held = source.held or now + HOLD_S
        sink = source.sink
        awaited = sink.writer is not None or (sink.file.writer and now < sink.adopting)
        return bool(awaited) and now < source.held

    def _crowded(self, source: _Source) -> bool:
        """Whether its pipe is half full and cannot be widened. Half: writes of half a page and a byte fill a page each."""
        return _waiting(source.fd) * 2 >= source.capacity and not self._widen(source)

    def _widen(self, source: _Source) -> bool:
        """Give a pipe more room, once. The kernel may refuse it (pipe-user-pages-soft)."""
        if source.capacity >= PIPE_BYTES:
            return False
        try:
            source.capacity = fcntl.fcntl(source.fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:
            return False
        return True

    def _stall(self, sink: _Sink, problem: OSError, now: float) -> None:
        """The file cannot be written."""
        sink.retry = now + RETRY_S
        if not sink.problem:
            why = f"cannot write {sink.file.path}: {problem.strerror}"
            self._report(sink.file.program, f"{why}; the program goes on, and its output is lost until that is mended")
            sink.problem, sink.patience = True, sink.retry

    def _spill(self, source: _Source, now: float) -> float:
        """One turn of a source whose file cannot be written: for a moment its pipe may hold the bytes, then they are dropped."""
        sink = source.sink
        if now < sink.patience and not source.hung_up and not self._crowded(source):
            return sink.retry
        dropped = os.read(source.fd, CHUNK_BYTES)
        if not dropped:
            return self._end(source)
        self._recall(source)
        source.tail = (source.tail + dropped)[-TAIL_BYTES:]
        self._took(source, len(dropped))
        sink.lost += len(dropped)
        sink.writer, sink.file.writer = None, 0  # what comes next does not go on with the file's last line
        return NOW

    def _end(self, source: _Source) -> float:
        """Everybody who could write to the pipe is gone, or we are going."""
        sink = source.sink
        self._recall(source)
        self._due.pop(source, None)
        del self._sources[source.fd]
        self._epoll.unregister(source.fd)
        os.close(source.fd)
        self._tails[source.id] = source.tail
        while len(self._tails) > TAILS_LIMIT:
            del self._tails[next(iter(self._tails))]
        sink.sources.remove(source)
        if sink.writer is source:
            sink.writer, sink.file.writer = None, 0
        for other in sink.sources:
            self._due[other] = NOW
        if not sink.sources:
            sink.file.close()
            self._compress(sink)
        return NEVER

    def _recall(self, source: _Source) -> None:
        """Bring its tail up to date with what was spliced unseen: those bytes are still the last of the file."""
        if source.unseen:
            source.tail = (source.tail + source.sink.file.last(min(source.unseen, TAIL_BYTES)))[-TAIL_BYTES:]
            source.unseen = 0

    def _rotate(self, source: _Source, now: float) -> None:
        sink = source.sink
        for each in sink.sources:
            self._recall(each)
        sink.file.rotate()
        sink.unpacked = sink.unpacked or now
        if now >= min(source.flooded + CALM_S, sink.unpacked + PACK_S):  # else it would compete with the flood for the processors
            self._compress(sink)

    def _compress(self, sink: _Sink) -> None:
        if sink.unpacked and sink.file.settings.compress:
            self._compressing.put(compress, sink.file.path)
        sink.unpacked = 0.0


class _Glass:
    """Looks into a pipe without taking anything out: tee(2) into a pipe of our own, which then has the same pages."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        try:
            self._capacity = fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # then it looks less far
            self._capacity = fcntl.fcntl(self._write, fcntl.F_GETPIPE_SZ)

    def look(self, fd: int) -> bytes:
        """The next bytes in the pipe; b"" at its end. Raises BlockingIOError when it is empty."""
        return _read(self._read, self._tee(fd, self._capacity))

    def _tee(self, fd: int, limit: int) -> int:
        count: int = _libc.tee(fd, self._write, limit, os.SPLICE_F_NONBLOCK)
        if count < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return count

    def copy(self, fd: int, file: LogFile, count: int) -> int:
        """Write up to `count` bytes of the pipe to the file, then take them out; how many, 0 at the pipe's end.

        splice(2) out of a pipe locks it until the file is written, and its program waits: two thirds of the speed. So what is written
        is the looking glass's second view of the same pages; the mark tells the next life, should we die before they are taken out.
        """
        taken = 0
        try:
            while taken < count:
                file.mark(file.position)
                seen = self._tee(fd, min(PIECE_BYTES, count - taken))
                if not seen:
                    break
                file.reserve(seen)
                taken += self._copy_seen(fd, file, seen)
        except OSError:
            if not taken:
                raise  # else the next turn meets it again
        finally:
            file.mark(-1)
        return taken

    def _copy_seen(self, fd: int, file: LogFile, seen: int) -> int:
        written = 0
        try:
            while written < seen:
                written += file.splice(self._read, seen - written)
        except OSError:
            self.drop(self._read, seen - written)
            if not written:
                raise
        self.drop(fd, written)
        return written

    def drop(self, fd: int, count: int) -> None:
        """Take `count` bytes that stand in a pipe out of it, unseen."""
        while count > 0:
            count -= os.splice(fd, self._null, count)

    def close(self) -> None:
        for fd in (self._read, self._write, self._null):
            os.close(fd)


def _read(fd: int, count: int) -> bytes:
    """`count` bytes that stand in a pipe. One read gives less of a pipe that its writer set to packets (O_DIRECT, pipe(2))."""
    data = b""
    while len(data) < count and (more := os.read(fd, count - len(data))):
        data += more
    return data


def _waiting(fd: int) -> int:
    """Bytes in a pipe."""
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, bytes(4)), "little")


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB" if count >= 1000 else f"{count} bytes"
