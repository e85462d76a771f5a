"""The stacks of a Java virtual machine, by its own attach mechanism: the one that jcmd and jstack use, without starting a JDK for it.

Makes a file that the JVM looks for, sends SIGQUIT, speaks over the unix socket that it then opens. Only to a process that has a handler for
SIGQUIT: without one (-Xrs) the signal would end it. A JVM that does not find the file prints the stacks to its own output instead.

Source: the attach protocol of HotSpot (version 1: zero-terminated words, the answer is a status line and text).
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
from pathlib import Path

from supervisor.mechanism.dump_kernel import catches, exe_name, maps
from supervisor.mechanism.dumping import DumpError, Snapshot, Snapshots, Stack
from supervisor.policy.cause import Frame, Frames

OPEN_S = 1.0  # for the JVM to open its socket, the first time
ANSWER_S = 1.0  # it answers at a safepoint: a JVM that does not come to one gives no stacks
ANSWER_BYTES = 8 << 20
STEP_S = 0.005
FRAMES_LIMIT = 100

_THREAD = re.compile(r'^"(.*)" .*\bnid=(0x[0-9a-f]+|\d+)', re.MULTILINE)
_CALL = re.compile(r"^\s+at (?:[^\s/(]*/(?!0x))*([^\s(]+)\(([^)]*)\)", re.MULTILINE)


class Jvm:
    """HotSpot's thread dump."""

    runtime = "java"

    def recognises(self, pid: int) -> bool:
        return exe_name(pid) == "java" or "/libjvm.so" in maps(pid)

    def snapshots(self, pid: int, until: float) -> Snapshots:
        path = _open(pid, until)
        while True:
            yield parsed(_ask(path, until))


def parsed(dump: str) -> Snapshot:
    """The stacks in a thread dump; threads without a frame (the collector's, the compiler's) are left out."""
    heads = list(_THREAD.finditer(dump))
    ends = [head.start() for head in heads[1:]] + [len(dump)]
    found = []
    for head, end in zip(heads, ends, strict=True):
        if frames := _frames(dump[head.end() : end]):
            found.append(Stack(int(head[2], 0), frames, head[1]))
    return tuple(found)


def _frames(text: str) -> Frames:
    calls = _CALL.findall(text)[:FRAMES_LIMIT]
    return tuple(Frame(_short(name), _file(name, place), _line(place)) for name, place in calls)


def _short(name: str) -> str:
    """The method with its class and package; lambdas and proxies keep their numbers out of it, which change with each start."""
    return re.sub(r"(\$\$Lambda|\$Proxy)\$?\d*(?:/0x[0-9a-f]+)?", r"\1", name)


def _file(name: str, place: str) -> str:
    """com.shop.Cart.total and Cart.java make com/shop/Cart.java."""
    source = place.rpartition("/")[2].partition(":")[0]
    package = name.split(".")[:-2]
    return "/".join((*package, source)) if source.endswith((".java", ".kt", ".scala", ".groovy", ".clj")) else ""


def _line(place: str) -> int:
    number = place.partition(":")[2]
    return int(number) if number.isdigit() else 0


def _open(pid: int, until: float) -> str:
    """The path of the JVM's socket as we can reach it. Raises DumpError."""
    inner = _inner_pid(pid)
    path = f"/proc/{pid}/root/tmp/.java_pid{inner}"
    if Path(path).is_socket():
        return path
    if not catches(pid, signal.SIGQUIT):
        raise DumpError("this JVM takes no requests for stacks (-Xrs)")
    wish = Path(f"/proc/{pid}/root/tmp/.attach_pid{inner}")
    try:
        about = os.stat(f"/proc/{pid}")
        os.close(os.open(wish, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        if about.st_uid != os.geteuid():
            os.chown(wish, about.st_uid, about.st_gid, follow_symlinks=False)
        os.kill(pid, signal.SIGQUIT)
        deadline = min(time.monotonic() + OPEN_S, until)
        while time.monotonic() < deadline:
            if Path(path).is_socket():
                return path
            time.sleep(STEP_S)
    except OSError as problem:
        raise DumpError(f"this JVM cannot be asked for its stacks: {problem}") from None
    finally:
        with contextlib.suppress(OSError):
            wish.unlink()
    raise DumpError("this JVM does not answer requests for its stacks")


def _ask(path: str, until: float) -> str:
    """A thread dump. Raises DumpError."""
    deadline = min(time.monotonic() + ANSWER_S, until)
    answer = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(path)
            connection.sendall(b"1\0threaddump\0\0\0\0")
            while (left_s := deadline - time.monotonic()) > 0 and len(answer) < ANSWER_BYTES:
                connection.settimeout(left_s)
                part = connection.recv(65536)
                if not part:
                    break
                answer += part
    except OSError as problem:
        raise DumpError(f"this JVM gives no stacks: {problem}") from None
    status, _, text = answer.decode(errors="replace").partition("\n")
    if status != "0":
        raise DumpError(f"this JVM refuses to give its stacks: {text.strip()[:200] or status}")
    return text


def _inner_pid(pid: int) -> int:
    """The pid that a process has in its own namespace, by which it names its files."""
    try:
        with open(f"/proc/{pid}/status") as file:
            for line in file:
                if line.startswith("NSpid:"):
                    return int(line.split()[-1])
    except OSError:
        pass
    return pid
