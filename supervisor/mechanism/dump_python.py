"""The stacks of Python processes, by py-spy, and the request in flight from the WSGI environ or ASGI scope among the locals.

Starts py-spy, reads /proc/PID/mem. py-spy pauses the target for some milliseconds; where a thread is stopped, traced or in
uninterruptible sleep it is asked not to (it would freeze the others until it is killed). Local variables carry secrets: nothing of them is
kept but the method, path and parameters' names of a request.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import sys
import time
from pathlib import Path
from typing import Any

from supervisor.mechanism.dump_kernel import exe_name, maps
from supervisor.mechanism.dumping import DumpError, Snapshots, Stack, run, states
from supervisor.mechanism.redaction import request_line
from supervisor.policy.cause import Frame

LIMIT_S = 1.0  # for one dump: warm it takes 10 to 30 ms
TRIES = 3  # of one moment: a stack that moves is read wrongly up to half the time
LOCALS = ("-l",) * 24  # one would cut a dict at 128 characters, and tells the objects' addresses as well
FRAMES_LIMIT = 200  # of one stack, innermost first: an endless recursion tells no more
QUERY_LIMIT_BYTES = 4096
_BYTES_SIZE_AT, _BYTES_DATA_AT = 16, 32  # of a bytes object in CPython's memory: ob_size, ob_sval

_WSGI = {
    "method": re.compile(r'"REQUEST_METHOD": "([A-Z]{1,20})"'),
    "path": re.compile(r'"PATH_INFO": "((?:[^"\\]|\\.)*)"'),
    "query": re.compile(r'"QUERY_STRING": "((?:[^"\\]|\\.)*)"'),
}
_ASGI = {
    "method": re.compile(r'"method": "([A-Z]{1,20})"'),
    "path": re.compile(r'"path": "((?:[^"\\]|\\.)*)"'),
    "query": re.compile(r'"query_string": (?:b?"((?:[^"\\]|\\.)*)"|<bytes at 0x([0-9a-f]+)>)'),
}


class Python:
    """py-spy, if it is installed."""

    runtime = "python"

    def recognises(self, pid: int) -> bool:
        """An interpreter by its name, or one that is embedded (uWSGI, mod_wsgi)."""
        return exe_name(pid).startswith("python") or "libpython" in maps(pid)

    def snapshots(self, pid: int, until: float) -> Snapshots:
        tool = _tool()
        options: tuple[str, ...] = LOCALS
        while True:
            try:
                stacks = tuple(_stack(pid, thread) for thread in _dump(tool, pid, options, until))
            except (KeyError, TypeError):
                raise DumpError("this version of py-spy answers in a form that is not known") from None
            yield stacks
            options = LOCALS[:1]


def _tool() -> str:
    """py-spy beside our own interpreter, else on the PATH. Raises DumpError."""
    beside = Path(sys.executable).with_name("py-spy")
    tool = str(beside) if beside.exists() else shutil.which("py-spy")
    if tool is None:
        raise DumpError("py-spy is not installed, so Python's stacks are not read (pip install py-spy)")
    return tool


def _dump(tool: str, pid: int, options: tuple[str, ...], until: float) -> list[dict[str, Any]]:
    """One dump as py-spy gives it: a list of threads. Raises DumpError when several tries failed."""
    problem = "there was no time left for a dump"
    for number in range(TRIES):
        left_s = until - time.monotonic()
        if left_s <= 0:
            break
        careful = ("--nonblocking",) if set(states(pid).values()) & set("DTt") else ()
        locals_ = options if number < TRIES - 1 else ()  # the last try reads as little as it can
        command = (tool, "dump", "--json", *locals_, *careful, "--pid", str(pid))
        try:
            threads = json.loads(run(command, pid, min(LIMIT_S, left_s)))
        except (DumpError, ValueError) as failed:
            problem = f"py-spy: {failed}"
            continue
        if isinstance(threads, list) and threads:
            return threads
        problem = "py-spy found no thread"
    raise DumpError(problem)


def _stack(pid: int, thread: dict[str, Any]) -> Stack:
    frames = thread["frames"][:FRAMES_LIMIT]
    calls = tuple(Frame(frame["name"], frame["filename"], frame["line"]) for frame in frames)
    objects = tuple(tuple(local["addr"] for local in frame.get("locals") or ()) for frame in frames)
    return Stack(thread["os_thread_id"] or pid, calls, thread["thread_name"] or "", _request(pid, frames), objects)


def _request(pid: int, frames: list[dict[str, Any]]) -> str:
    """What the thread serves, from the innermost frame that shows it; "" where none does."""
    for frame in frames:
        for local in frame.get("locals") or ():
            text = local.get("repr") or ""
            if found := _wsgi(text) or _asgi(pid, text):
                return found
    return ""


def _wsgi(text: str) -> str:
    method, path = _WSGI["method"].search(text), _WSGI["path"].search(text)
    if method is None or path is None:
        return ""
    query = _WSGI["query"].search(text)
    return request_line(method[1], path[1], query[1] if query else "")


def _asgi(pid: int, text: str) -> str:
    method, path = _ASGI["method"].search(text), _ASGI["path"].search(text)
    if method is None or path is None or '"type": "http"' not in text:
        return ""
    query = _ASGI["query"].search(text)
    if query is None:
        return request_line(method[1], path[1], "")
    return request_line(method[1], path[1], query[1] if query[2] is None else _bytes_at(pid, int(query[2], 16)))


def _bytes_at(pid: int, address: int) -> str:
    """A bytes object of the target, which py-spy shows by its address alone; "" when it cannot be read."""
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            memory.seek(address + _BYTES_SIZE_AT)
            (size,) = struct.unpack("=q", memory.read(8))
            if not 0 < size <= QUERY_LIMIT_BYTES:
                return ""
            memory.seek(address + _BYTES_DATA_AT)
            return memory.read(size).decode(errors="replace")
    except (OSError, OverflowError, struct.error):
        return ""
