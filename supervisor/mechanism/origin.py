"""Lines of source for people: their text, and the commit that last touched them where the file lies in a git checkout.

Reads the file, runs git. For a lane: bounded in time and size, and silent where nothing can be had.
"""

from __future__ import annotations

import ast
import os
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass

from supervisor.mechanism import tree
from supervisor.mechanism.dumping import DumpError, run
from supervisor.policy.cause import Cause

FILE_BYTES = 2 << 20  # of source that is read
LINES_LIMIT = 12
TEXT_LIMIT = 160  # characters of one line
BLAME_S = 0.6  # git blame of one file with a long history may take seconds
SLACK_S = 0.05  # a start is told in ticks of 10 ms, a change by a clock of 4 ms
PLACES_LIMIT = 200
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Line:
    """One line that was seen in the cause's function. `commit` is "4f2a91c, 2 days ago: ..." or ""."""

    number: int
    text: str
    commit: str = ""


def lines(cause: Cause, pid: int, until: float) -> list[Line]:
    """The lines of a cause with what is known of them.

    pid    a process of the instance: a file that was changed after it started is not what it runs, and gives no text
    until  the instant (monotonic) after which nothing more is begun
    """
    numbers = cause.lines[:LINES_LIMIT]
    texts = _texts(cause.path, pid)
    commits = _commits(cause.path, numbers, until) if texts else {}
    shown = _dedented([texts[number - 1] if 0 < number <= len(texts) else "" for number in numbers])
    return [Line(number, text, commits.get(number, "")) for number, text in zip(numbers, shown, strict=True)]


def straight(places: Iterable[tuple[str, int]], pid: int) -> frozenset[tuple[str, int]]:
    """Those of these lines (file, number) of Python that stand in no loop. What cannot be read or parsed is not known to.

    pid  as above
    """
    wanted = sorted(places)[:PLACES_LIMIT]
    loops = {path: _loops(path, pid) for path in dict.fromkeys(path for path, _ in wanted)}
    return frozenset((path, line) for path, line in wanted if (found := loops[path]) is not None and line not in found)


def _loops(path: str, pid: int) -> set[int] | None:
    """The lines within loops and comprehensions of a Python file; None when that is not known."""
    try:
        parsed = ast.parse("\n".join(_texts(path, pid))) if path.endswith(".py") else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # another version's grammar; a file made to break parsers
        return None
    if parsed is None or not parsed.body:
        return None
    spans = (each for each in ast.walk(parsed) if isinstance(each, _LOOPS))
    return {line for each in spans for line in range(each.lineno, (each.end_lineno or each.lineno) + 1)}


def _dedented(lines: list[str]) -> list[str]:
    """Without the indentation that all have: what stands within a loop still shows that it does."""
    texts = [line.expandtabs().rstrip() for line in lines]
    common = min((len(text) - len(text.lstrip()) for text in texts if text), default=0)
    return [text[common:][:TEXT_LIMIT] for text in texts]


def _texts(path: str, pid: int) -> list[str]:
    """The file's lines; [] when its whole path is not known, it cannot be read, is too long, or newer than the process."""
    started = _started_wall(pid)
    if not os.path.isabs(path):
        return []
    try:
        with open(path, "rb") as file:
            about = os.fstat(file.fileno())
            if started is None or about.st_mtime > started + SLACK_S or about.st_size > FILE_BYTES:
                return []
            return file.read(FILE_BYTES).decode(errors="replace").splitlines()
    except (OSError, ValueError):  # ValueError: a name with a zero in it
        return []


def _started_wall(pid: int) -> float | None:
    ticks = tree.start_ticks(pid)
    if ticks is None:
        return None
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / _TICKS


def _commits(path: str, numbers: tuple[int, ...], until: float) -> dict[int, str]:
    """The commit that last touched each line: {} outside a checkout, without git, or when it takes too long."""
    left_s = min(BLAME_S, until - time.monotonic())
    git = shutil.which("git")
    if git is None or left_s <= 0 or not numbers:
        return {}
    ranges = [word for number in numbers for word in ("-L", f"{number},{number}")]
    folder, name = os.path.split(path)
    command = (git, "--no-pager", "-c", "core.fsmonitor=false", "-C", folder, "blame", "--porcelain", *ranges, "--", name)
    try:
        told = run(command, os.getpid(), left_s, _owner(folder)).decode(errors="replace")
    except (DumpError, OSError):
        return {}
    return _blamed(told)


def _owner(folder: str) -> tuple[int, int] | None:
    """Whom git runs as where we are root: it trusts a checkout, and may run what its configuration says, for its owner alone."""
    about = os.stat(folder)
    return (about.st_uid, about.st_gid) if os.geteuid() == 0 and about.st_uid != 0 else None


def _blamed(told: str) -> dict[int, str]:
    """`git blame --porcelain`: a header "HASH OLD NEW [COUNT]" for each line, a commit's facts the first time it is named."""
    facts: dict[str, dict[str, str]] = {}
    owners: dict[int, str] = {}
    current = ""
    for line in told.splitlines():
        word, _, rest = line.partition(" ")
        if line.startswith("\t"):
            continue
        if len(word) >= 40 and all(letter in "0123456789abcdef" for letter in word):
            current = word
            owners[int(rest.split()[1])] = word
            facts.setdefault(word, {})
        elif current:
            facts[current][word] = rest
    return {number: _commit(commit, facts[commit]) for number, commit in owners.items()}


def _commit(commit: str, facts: dict[str, str]) -> str:
    if not commit.strip("0"):
        return "not committed yet"
    day = time.strftime("%Y-%m-%d", time.gmtime(int(facts.get("committer-time", "0"))))
    return f"{commit[:10]} of {day}: {facts.get('summary', '')}"[:TEXT_LIMIT]
