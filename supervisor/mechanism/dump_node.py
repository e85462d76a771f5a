"""The stack of node's main thread, by the inspector that node opens on SIGUSR1, and the requests in flight.

Sends SIGUSR1, talks to the inspector over loopback. While it is open, for some 0.2 s, any user of the host can run code in the process, and
a handler of the program's own for SIGUSR1 runs instead: so this is only for a process that is about to be killed. The inspector is closed
again, and the program goes on where it was.

Sources: the Chrome DevTools Protocol (Debugger, Runtime) and RFC 6455, of which a client needs little: text frames, masked, unfragmented.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import struct
import time
from base64 import b64encode
from typing import Any
from urllib.parse import unquote, urlsplit

from supervisor.mechanism.dump_kernel import catches, exe_name, sockets
from supervisor.mechanism.dumping import DumpError, Snapshots, Stack
from supervisor.mechanism.redaction import request_line
from supervisor.policy.cause import Frame, Frames

OPEN_S = 1.0  # for the inspector to listen: 6 ms in peace
STEP_S = 0.005
MESSAGE_BYTES = 8 << 20  # a list of call frames with the names of their scopes is some 100 kB
FRAMES_LIMIT = 100
ASKED_FRAMES = 30  # that are asked for the request they serve
CLOSE_S = 0.3

# A function's own variable `req`: node's http module has one beneath every handler that did not wait in between, and so have frameworks.
_REQUEST_HERE = "typeof req === 'object' && req && req.method && req.url ? req.method + ' ' + (req.originalUrl || req.url) : ''"
_REQUESTS = (
    "process._getActiveHandles().map(h => h._httpMessage && h._httpMessage.req).filter(Boolean)"
    ".map(r => r.method + ' ' + r.url).slice(0, 3).join('\\n')"
)
_CLOSE = "process._debugEnd()"
_TEXT, _CLOSING = 1, 8


class Node:
    """node's own inspector."""

    runtime = "node"

    def recognises(self, pid: int) -> bool:
        """By the name of its executable alone: SIGUSR1 ends whoever does not expect it."""
        return exe_name(pid) in ("node", "nodejs")

    def snapshots(self, pid: int, until: float) -> Snapshots:
        port = _open(pid, until)
        with contextlib.closing(_Inspector(port, until)) as inspector:
            request = ""
            while True:
                try:
                    frames = inspector.pause()
                    request = request or inspector.request(frames)
                    inspector.call("Debugger.resume")
                    stack = Stack(pid, inspector.stack(frames), request=request)
                except (KeyError, TypeError):
                    raise DumpError("this version of node answers in a form that is not known") from None
                yield (stack,)


def _open(pid: int, until: float) -> int:
    """The port on which the process's own inspector listens, opened if need be. Raises DumpError."""
    if not catches(pid, signal.SIGUSR1):
        raise DumpError("node's inspector is switched off in this process")
    before = _listening(pid)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGUSR1)
    deadline = min(time.monotonic() + OPEN_S, until)
    while time.monotonic() < deadline:
        new = _listening(pid) - before
        if new:
            return new.pop()
        time.sleep(STEP_S)
    raise DumpError("node's inspector did not open (its port is in use, or the program handles SIGUSR1 itself)")


def _listening(pid: int) -> set[int]:
    """Ports of loopback that the process itself listens on: what answers there is nobody else."""
    return {int(each.local.rpartition(":")[2]) for each in sockets(pid).values() if each.listens and each.local.startswith("127.")}


class _Inspector:
    """A session with the inspector. Everything raises DumpError once `until` has passed or the other side does not do as it should."""

    def __init__(self, port: int, until: float) -> None:
        self._until = until
        self._sent = 0
        self._scripts: dict[str, str] = {}
        self._paused: list[list[dict[str, Any]]] = []
        self._connect(port, _target(port, until))
        self.call("Debugger.enable")

    def pause(self) -> list[dict[str, Any]]:
        """Pause the program: its call frames, innermost first."""
        self.call("Debugger.pause")
        while not self._paused:
            self._note(self._receive())
        return self._paused.pop()[:FRAMES_LIMIT]

    def request(self, frames: list[dict[str, Any]]) -> str:
        """What the paused program serves; "" where that does not show."""
        options = {"silent": True, "returnByValue": True, "throwOnSideEffect": True}
        for frame in frames[:ASKED_FRAMES]:
            where = {"callFrameId": frame["callFrameId"], "expression": _REQUEST_HERE, **options}
            if told := _value(self.call("Debugger.evaluateOnCallFrame", **where)):
                return _hidden(told)
        told = _value(self.call("Runtime.evaluate", expression=_REQUESTS, silent=True, returnByValue=True))
        return " or ".join(_hidden(line) for line in told.splitlines())

    def stack(self, frames: list[dict[str, Any]]) -> Frames:
        return tuple(self._frame(frame) for frame in frames)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Ask for one thing and wait for its answer; what else comes meanwhile is noted."""
        number = self._send(method, parameters)
        while True:
            message = self._receive()
            if message.get("id") == number:
                return dict(message.get("result", {}))
            self._note(message)

    def close(self) -> None:
        """Switch the inspector off. node waits for our end of the connection before it goes on."""
        self._until = time.monotonic() + CLOSE_S
        with contextlib.suppress(DumpError):
            self._send("Debugger.disable", {})
            self._send("Runtime.evaluate", {"expression": _CLOSE})
            while self._receive():
                pass
        self._file.close()
        self._socket.close()

    def _connect(self, port: int, path: str) -> None:
        self._socket = _dial(port, self._until)
        self._file = self._socket.makefile("rb")
        key = b64encode(secrets.token_bytes(16)).decode()
        ask = (
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        try:
            self._socket.sendall(ask.encode())
            status = self._file.readline(1000)
            while self._file.readline(1000).strip():
                pass
        except OSError as problem:
            raise DumpError(f"node's inspector does not talk: {problem}") from None
        if b" 101 " not in status:
            raise DumpError("node's inspector refused the session")

    def _frame(self, frame: dict[str, Any]) -> Frame:
        place = frame["location"]
        url = frame.get("url") or self._scripts.get(place["scriptId"], "")
        file = unquote(urlsplit(url).path) if url.startswith("file:") else url
        return Frame(frame["functionName"] or "(anonymous)", file, place["lineNumber"] + 1)

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Debugger.scriptParsed":
            self._scripts[parameters["scriptId"]] = parameters["url"]
        elif message.get("method") == "Debugger.paused":
            self._paused.append(parameters["callFrames"])

    def _send(self, method: str, parameters: dict[str, Any]) -> int:
        self._sent += 1
        body = json.dumps({"id": self._sent, "method": method, "params": parameters}).encode()
        length = bytes([0x80 | len(body)]) if len(body) < 126 else b"\xfe" + struct.pack("!H", len(body))
        mask = secrets.token_bytes(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(body))
        try:
            self._socket.settimeout(self._left_s())
            self._socket.sendall(bytes([0x80 | _TEXT]) + length + mask + masked)
        except OSError as problem:
            raise DumpError(f"node's inspector does not listen: {problem}") from None
        return self._sent

    def _receive(self) -> dict[str, Any]:
        try:
            while True:
                self._socket.settimeout(self._left_s())
                head = self._read(2)
                size = head[1] & 0x7F
                if size == 126:
                    (size,) = struct.unpack("!H", self._read(2))
                elif size == 127:
                    (size,) = struct.unpack("!Q", self._read(8))
                if size > MESSAGE_BYTES or head[0] & 0x0F == _CLOSING:
                    raise DumpError("node's inspector ended the session")
                body = self._read(size)
                if head[0] & 0x0F == _TEXT:
                    return dict(json.loads(body))
        except TimeoutError:
            raise DumpError("node does not pause: it waits outside of its program's code") from None
        except (OSError, ValueError) as problem:
            raise DumpError(f"node's inspector does not answer: {problem}") from None

    def _read(self, count: int) -> bytes:
        data = self._file.read(count)
        if len(data) < count:
            raise DumpError("node's inspector ended the session")
        return data

    def _left_s(self) -> float:
        left_s = self._until - time.monotonic()
        if left_s <= 0:
            raise DumpError("node does not pause: it waits outside of its program's code")
        return left_s


def _target(port: int, until: float) -> str:
    """The path of the inspector's only target. Raises DumpError."""
    try:
        with _dial(port, until) as connection:
            connection.sendall(f"GET /json/list HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
            answer = b""
            while b"webSocketDebuggerUrl" not in answer or b"]" not in answer:
                part = connection.recv(65536)
                if not part or len(answer) > MESSAGE_BYTES:
                    break
                answer += part
        (target, *_) = json.loads(answer.partition(b"\r\n\r\n")[2])
        return str(urlsplit(target["webSocketDebuggerUrl"]).path)
    except (OSError, ValueError, KeyError, TypeError) as problem:
        raise DumpError(f"node's inspector names no target: {problem}") from None


def _dial(port: int, until: float) -> socket.socket:
    try:
        return socket.create_connection(("127.0.0.1", port), max(STEP_S, until - time.monotonic()))
    except OSError as problem:
        raise DumpError(f"node's inspector cannot be reached: {problem}") from None


def _value(result: dict[str, Any]) -> str:
    value = result.get("result", {}).get("value", "")
    return value if isinstance(value, str) else ""


def _hidden(request: str) -> str:
    method, _, url = request.partition(" ")
    path, _, query = url.partition("?")
    return request_line(method[:20], path, query)
