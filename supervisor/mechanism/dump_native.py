"""The stacks of a compiled program, by eu-stack (elfutils) or else gdb: lines only where it was built with -g.

Starts the dumper, which stops the target meanwhile: eu-stack for some 10 ms, gdb for 0.3 s, so gdb only before a kill. Arguments, which
gdb prints, are dropped. Neither reads the program's folder for scripts, nor asks a server for symbols.
"""

from __future__ import annotations

import re
import shutil
import time
from dataclasses import dataclass

from supervisor.mechanism.dump_kernel import exe_name
from supervisor.mechanism.dumping import DumpError, Snapshot, Snapshots, Stack, run
from supervisor.policy.cause import Frame, Frames

LIMIT_S = 1.5  # for one dump: a large program's symbols take their time, and it stands still meanwhile
FRAMES_LIMIT = 64
GDB_MOMENTS = 2  # that many times 0.3 s leave time for the kill

_EU_THREAD = re.compile(r"^TID (\d+):", re.MULTILINE)
_EU_CALL = re.compile(
    r"^#\d+ +0x[0-9a-f]+(?: (?P<function>[^\n]*?))? - (?P<module>/[^\n]*)(?:\n +(?P<file>[^\n]*?):(?P<line>\d+)(?::\d+)?$)?",
    re.MULTILINE,
)
_GDB_THREAD = re.compile(r"^Thread \d+ \(.*?\bLWP (\d+)\b.*\):$", re.MULTILINE)
_GDB_CALL = re.compile(
    r"^#\d+ +(?:0x[0-9a-f]+ in )?(?P<function>[^\n(]+?) \(.*?\)(?: at (?P<file>\S+):(?P<line>\d+)| from (?P<module>\S+))?$",
    re.MULTILINE,
)
_GDB = ("-nx", "-batch", "-iex", "set auto-load off", "-iex", "set debuginfod enabled off", "-ex")


@dataclass(frozen=True, slots=True)
class Native:
    """Whatever no other taker knows, but node: its stacks are its virtual machine's own.

    patient  dumpers that may be used as well, because the process need not go on soon
    """

    patient: tuple[str, ...] = ()
    runtime: str = "native"

    def recognises(self, pid: int) -> bool:
        return exe_name(pid) not in ("", "node", "nodejs")

    def snapshots(self, pid: int, until: float) -> Snapshots:
        if tool := shutil.which("eu-stack"):
            command = (tool, "-s", "-m", "-n", str(FRAMES_LIMIT), "-p", str(pid))
            while True:
                yield parsed_eu_stack(_dump(command, pid, until))
        elif "gdb" in self.patient and (tool := shutil.which("gdb")):
            for _ in range(GDB_MOMENTS):
                yield parsed_gdb(_dump((tool, *_GDB, f"thread apply all bt {FRAMES_LIMIT}", "-p", str(pid)), pid, until))
        else:
            raise DumpError("eu-stack is not installed, so a compiled program's stacks are not read (its package is elfutils)")


def parsed_eu_stack(text: str) -> Snapshot:
    """The stacks that `eu-stack -s -m` prints."""
    return _parsed(text, _EU_THREAD, _EU_CALL)


def parsed_gdb(text: str) -> Snapshot:
    """The stacks that gdb's `thread apply all bt` prints."""
    return _parsed(text, _GDB_THREAD, _GDB_CALL)


def _dump(command: tuple[str, ...], pid: int, until: float) -> str:
    left_s = until - time.monotonic()
    if left_s <= 0:
        raise DumpError("there was no time left for a dump")
    return run(command, pid, min(LIMIT_S, left_s)).decode(errors="replace")


def _parsed(text: str, thread: re.Pattern[str], call: re.Pattern[str]) -> Snapshot:
    heads = list(thread.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    stacks = (Stack(int(head[1]), _frames(text[head.end() : end], call)) for head, end in zip(heads, ends, strict=True))
    return tuple(stack for stack in stacks if stack.frames)


def _frames(text: str, call: re.Pattern[str]) -> Frames:
    """Calls with a name. What lies in a shared library has the library for its file: its sources are nobody's here."""
    found = []
    for each in call.finditer(text):
        function, module = (each["function"] or "??").partition("@")[0], each["module"] or ""
        if function == "??":
            continue
        shared = ".so" in module
        file = module if shared else each["file"] or module
        found.append(Frame(function, file, 0 if shared else int(each["line"] or 0)))
    return tuple(found)
