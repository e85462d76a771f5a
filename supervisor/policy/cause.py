"""Evidence -> cause: where a program loops or waits, as one name that is the same the next time.

Pure. Evidence comes in as values: each thread with what the kernel says of it and its stack at a few moments. A cause is the runtime,
the kind, and the place: the innermost function of the program's own code that stood on the stack at every moment. Its key holds no line
number and no release, so that it survives edits above it and is counted across releases; both stand beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from supervisor.model import Nature
from supervisor.policy.values import replace
from supervisor.servers import SERVERS

BUSY_RATIO = 0.7  # of the time a process's threads ran or wanted to: below it the process waits
INSTALLED = ("/site-packages/", "/dist-packages/", "/node_modules/")  # packages that somebody else wrote, or the program installed
STANDARD_FOLDERS = ("/lib/python", "/lib64/python")
STANDARD = (*STANDARD_FOLDERS, ".so", "<frozen ", "node:")  # runtimes' and systems' own files
JAVA = ("java.", "javax.", "jdk.", "sun.", "com.sun.", "jakarta.", "kotlin.", "scala.")  # Java's own packages, and
JAVA_SERVERS = ("org.apache.", "org.eclipse.", "org.springframework.", "io.netty.", "io.undertow.")  # those of its servers
SOURCES_ELSEWHERE = ("./", "../")  # where a distribution built its C library
SCRIPTS = (".py", ".js", ".mjs", ".cjs", ".jar", ".rb", ".sh")  # words of a command with a dot that name no package
MODULE_OPTIONS = ("-m", "-A", "--app")  # whose value names a module: Python's, celery's and flask's
SUMMARY_LIMIT = 300  # characters: it stands in messages to telephones
NAME_LIMIT = 200  # of a function, a file or an error
AFTERMATH_LINES = 10  # that a server writes after the traceback of what ends it
MEMORY = "killed by the kernel: out of memory"

Frames = tuple["Frame", ...]

_TRACEBACKS = ("Traceback (most recent call last):", "Current thread ", "Thread 0x")
_FATAL = "Fatal Python error"
_SERVERS = frozenset(module for server in SERVERS for module in server.modules)


@dataclass(frozen=True, slots=True)
class Frame:
    """One call on a stack. `file` is absolute where the runtime tells it so, "" where it is not known; `line` is 0 then."""

    function: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class Thread:
    """One thread of the tree over the time in which evidence was taken.

    busy      the share of that time in which it ran or waited for a processor
    locked    it sleeps on a lock (futex)
    peers     whom it waits for, as "10.0.0.5:5432"
    moments   its stack at each moment, innermost call first; () where no stack could be taken
    request   what it serves, with all values redacted: "GET /checkout?coupon=<redacted>"
    renewed   functions (file, name) whose variables were other objects at another moment, at the same line
    """

    pid: int
    tid: int
    name: str
    runtime: str
    busy: float
    locked: bool = False
    peers: tuple[str, ...] = ()
    moments: tuple[Frames, ...] = ()
    request: str = ""
    renewed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Code:
    """Where the program's own code is: beneath its directory (as written, and resolved), or in the packages that its command names.

    straight  lines (file, number) that are known to stand in no loop
    """

    directories: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    straight: frozenset[tuple[str, int]] = frozenset()


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a program does not answer. `key` counts it; all else is for people.

    peers    whom the thread waits for
    outside  the one peer for whom every thread that serves waits, else ""
    threads  how many do the same
    error    of one that ended: the exception, or how it ended in words; its nature is none then
    """

    key: str
    nature: Nature
    runtime: str
    file: str  # relative to the program's directory where it lies beneath
    function: str
    lines: tuple[int, ...]  # all that were seen in the function, in order
    path: str = ""  # the file as the runtime names it, to read it by
    release: str = ""
    request: str = ""
    peers: tuple[str, ...] = ()
    outside: str = ""
    threads: int = 1
    error: str = ""

    @property
    def where(self) -> str:
        """The place, for people: "store/coupons.py:41 apply()"."""
        at = f"{self.file}:{self.lines[0]}" if self.file and self.lines else self.file
        call = "" if self.function in ("", "<module>") else f"{self.function}()"
        return " ".join(part for part in (at, call) if part)


@dataclass(frozen=True, slots=True)
class _Spot:
    """The function that one thread is in, and how much that tells: 0 the program's own code, 1 nobody's library, 2 any."""

    thread: Thread
    frame: Frame
    lines: tuple[int, ...]
    rank: int


def cause(threads: Sequence[Thread], code: Code, release: str = "") -> Cause | None:
    """What the threads of a tree that does not answer are doing. None when no stack was seen at all."""
    spots = [spot for thread in threads if (spot := _spot(thread, code)) is not None]
    if not spots:
        return None
    spinning = _hottest(threads, spots)
    if spinning is not None:
        return _name(spinning, Nature.SPINNING, code, release)
    told = min(spots, key=lambda spot: _doubt(spot, spots))
    if told.thread.locked:
        return replace(_name(told, Nature.LOCKED, code, release), threads=_company(told, spots))
    peers = told.thread.peers
    serving = [spot for spot in spots if spot.rank == told.rank and not _idles(spot)]
    outside = peers[0] if len(peers) == 1 and all(spot.thread.peers == peers for spot in serving) else ""
    waiting = _name(told, Nature.BLOCKED, code, release)
    if told.rank == 2 and outside:  # an event loop: what it waits for is all that tells one hang from another
        waiting = replace(waiting, key=f"{waiting.key}:{outside}")
    return replace(waiting, threads=_company(told, spots), peers=peers, outside=outside)


def crash(words: str, output: Sequence[str], code: Code, release: str = "", oom: bool = False) -> Cause:
    """Why a program ended, from what it wrote last.

    words   its ending for people: "exit code 3", "killed by SIGSEGV, core dumped"
    output  its last lines, without secrets
    oom     the kernel killed for memory meanwhile
    """
    if oom and "SIGKILL" in words:
        return Cause(f"crash:{MEMORY}", Nature.NONE, "", "", "", (), release=release, error=MEMORY)
    error, frames = traceback(output)
    error = _clean(error)
    if not frames or error.startswith(_FATAL) != words.startswith("killed"):  # else it was survived, and logged
        return Cause(f"crash:{words}", Nature.NONE, "", "", "", (), release=release, error=words)
    frame = min(frames, key=lambda each: _rank(each, code))
    function, file = _named(frame, code)
    key = f"python:crash:{file}:{function}:{error.partition(':')[0]}"
    return Cause(key, Nature.NONE, "python", file, function, (frame.line,), frame.file, release, error=error)


def traceback(output: Sequence[str]) -> tuple[str, Frames]:
    """The last Python traceback among the last lines: (the error, the calls innermost first); ("", ()) when there is none.

    Both kinds are read: an exception's, and faulthandler's after a fatal signal, which names the innermost call first. One that was
    followed by much else did not end the program.
    """
    last = max((at for at, line in enumerate(output) if line.startswith(_TRACEBACKS)), default=-1)
    if last < 0:
        return "", ()
    frames: list[Frame] = []
    rest = output[last + 1 :]
    for at, line in enumerate(rest):
        if frame := _traced(line):
            frames.append(frame)
        elif line and not line.startswith(" "):
            return (line, tuple(reversed(frames))) if len(rest) - at <= AFTERMATH_LINES else ("", ())
    fatal = next((line for line in reversed(output[:last]) if line.startswith(_FATAL)), "")
    return (fatal, tuple(frames)) if fatal else ("", ())


def summary(found: Cause) -> str:
    """The cause in one line for people."""
    if found.error:
        text = f"{found.error} in {found.where}" if found.where else found.error
        return _line(text, found)
    many = f"{found.threads} threads " if found.threads > 1 else ""
    verb = "" if found.threads > 1 else "s"
    match found.nature:
        case Nature.SPINNING:
            text = f"{many}loop{verb} in {found.where}"
        case Nature.LOCKED:
            text = f"{many}wait{verb} for a lock in {found.where}"
        case _:
            text = f"{many}wait{verb} in {found.where}" + (f" for {' or '.join(found.peers[:2])}" if found.peers else "")
    return _line(text, found)


def _line(text: str, found: Cause) -> str:
    release = f"release {found.release}" if found.release else ""
    return ", ".join(part for part in (text, found.request, release) if part)[:SUMMARY_LIMIT]


def packages(command: Sequence[str]) -> tuple[str, ...]:
    """The packages that a command names, as in `gunicorn store.wsgi:app` or `python -m store`; servers' own are none of the program's."""
    named = []
    for before, word in pairwise(("", *command)):
        module = word.partition(":")[0]
        package = module.partition(".")[0]
        dotted = ("." in module or ":" in word) and not module.endswith(SCRIPTS)
        if (
            (dotted or before in MODULE_OPTIONS)
            and all(part.isidentifier() for part in module.split("."))
            and package not in _SERVERS
        ):
            named.append(package)
    return tuple(dict.fromkeys(named))


def relative(file: str, code: Code) -> str:
    """A file as people and keys name it: beneath the program's directory, or within its package, wherever that is installed."""
    for directory in code.directories:
        if _beneath(file, directory):
            return file[len(directory.rstrip("/")) + 1 :]
    for folder in INSTALLED:
        if folder in file:
            return file.rpartition(folder)[2]
    for folder in STANDARD_FOLDERS:
        if folder in file:
            return file.rpartition(folder)[2].partition("/")[2]  # after the version's number
    return file


def _hottest(threads: Sequence[Thread], spots: Sequence[_Spot]) -> _Spot | None:
    """The spot of the thread that runs most, in a process that runs. Threads that share one lock to run share its time."""
    busy: dict[int, float] = {}
    for thread in threads:
        busy[thread.pid] = busy.get(thread.pid, 0.0) + thread.busy
    hot = [spot for spot in spots if busy[spot.thread.pid] >= BUSY_RATIO]
    return max(hot, key=lambda spot: (round(spot.thread.busy, 1), -spot.rank), default=None)


def _doubt(spot: _Spot, spots: Sequence[_Spot]) -> tuple[int, ...]:
    """How little a waiting thread tells: the one in the program's own code, serving a request, where most others are too, tells most."""
    return spot.rank, _idles(spot), not spot.thread.request, not spot.thread.peers, -_company(spot, spots)


def _idles(spot: _Spot) -> bool:
    """Whether it is a main program that waits for its servers."""
    return spot.frame.function == "<module>"


def _company(spot: _Spot, spots: Sequence[_Spot]) -> int:
    return sum(_call(other.frame) == _call(spot.frame) for other in spots)


def _spot(thread: Thread, code: Code) -> _Spot | None:
    """The innermost function common to all moments, the program's own before any other.

    A function that a loop calls over and over may stand on the stack at every moment too. It is not the loop when its line is in none, and
    its variables were other objects before: it was entered anew.
    """
    moments = [frames for frames in thread.moments if frames]
    if not moments:
        return None
    common = set.intersection(*({_call(frame) for frame in frames} for frames in moments))
    lasting = [frame for frame in moments[-1] if _call(frame) in common]
    if not lasting:
        return None
    rank = min(_rank(frame, code) for frame in lasting)
    spots = [_Spot(thread, frame, _lines_in(moments, frame), rank) for frame in lasting if _rank(frame, code) == rank]
    return next((spot for spot in spots if not _is_called_in_a_loop(spot, code)), spots[0])


def _is_called_in_a_loop(spot: _Spot, code: Code) -> bool:
    return _call(spot.frame) in spot.thread.renewed and all((spot.frame.file, line) in code.straight for line in spot.lines)


def _lines_in(moments: Sequence[Frames], frame: Frame) -> tuple[int, ...]:
    """All lines of a function that were seen, in order."""
    return tuple(sorted({line for frames in moments if (line := _line_in(frames, frame))}))


def _line_in(frames: Iterable[Frame], wanted: Frame) -> int:
    return next((frame.line for frame in frames if _call(frame) == _call(wanted)), 0)


def _call(frame: Frame) -> tuple[str, str]:
    return frame.file, frame.function


def _rank(frame: Frame, code: Code) -> int:
    if any(folder in frame.file for folder in INSTALLED):
        return 0 if relative(frame.file, code).partition("/")[0].removesuffix(".py") in code.packages else 2
    if any(sign in frame.file for sign in STANDARD) or frame.file.startswith(SOURCES_ELSEWHERE):
        return 2
    if frame.function == "<module>" and frame.file.rpartition("/")[0].endswith("/bin"):
        return 2  # a server's own command
    if frame.file.endswith(".java") and frame.function.startswith(JAVA + JAVA_SERVERS):
        return 2
    return 0 if any(_beneath(frame.file, directory) for directory in code.directories) else 1


def _named(frame: Frame, code: Code) -> tuple[str, str]:
    """(function, file) as people and keys name them."""
    return _clean(frame.function.replace(".<locals>", "")), _clean(relative(frame.file, code))


def _clean(text: str) -> str:
    """A name from a program's memory or output as it may stand on a terminal: printable, and not too long."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:NAME_LIMIT])


def _traced(line: str) -> Frame | None:
    """A call in a traceback: `  File "/srv/shop/cart.py", line 12, in total`."""
    if not line.startswith('  File "'):
        return None
    file, _, rest = line[8:].partition('", line ')
    number, _, function = rest.partition(" in ")
    number = number.rstrip(",")
    return Frame(function or "<module>", file, int(number)) if number.isdecimal() else None


def _beneath(file: str, directory: str) -> bool:
    return directory not in ("", "/") and file.startswith(directory.rstrip("/") + "/")


def _name(spot: _Spot, nature: Nature, code: Code, release: str) -> Cause:
    frame, thread = spot.frame, spot.thread
    function, file = _named(frame, code)
    key = f"{thread.runtime}:{nature}:{file}:{function}"
    return Cause(key, nature, thread.runtime, file, function, spot.lines, frame.file, release, thread.request)
