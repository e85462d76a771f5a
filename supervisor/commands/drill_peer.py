"""What a program depends on, in a drill: a port of loopback that passes everything on to the real one, until it falls silent.

A process of its own. Silent, it takes connections and bytes as before and gives nothing back, as a host that hangs does; speaking again, it
ends what was silent, and passes new connections on. It ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import IO, Self

from supervisor.commands.drill_shadow import HOST
from supervisor.control.client import Refusal
from supervisor.control.messages import REFUSED

CONNECT_S = 5.0
PART_BYTES = 65536
STOP_S = 5.0
ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[\w.-]+):(?P<port>\d{1,5})(?!\d)")


class Peer:
    """`with Peer(variable, value) as peer:` `peer.value` is what the program is given in the place of `value`."""

    def __init__(self, variable: str, value: str) -> None:
        """value: of the environment, with HOST:PORT in it. Raises Refusal."""
        found = ADDRESS.search(value.rpartition("@")[2])  # a password may look like an address
        if found is None:
            raise Refusal(REFUSED, f"{variable} names no peer: a drill needs HOST:PORT in it, to stand between")
        self._value, self._address = value, found
        self._command = [sys.executable, "-P", "-m", "supervisor.commands.drill_peer", found["host"].strip("[]"), found["port"]]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline() or 0)
        if not self.port:
            raise Refusal(REFUSED, "the drill's peer could not listen on a port of loopback")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            self._input.close()
        try:
            self._process.wait(STOP_S)
        finally:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()

    @property
    def _input(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def value(self) -> str:
        head, at, tail = self._value.rpartition("@")
        return f"{head}{at}{tail[: self._address.start()]}{HOST}:{self.port}{tail[self._address.end() :]}"

    def say(self, word: str) -> None:
        """`silent` or `speak`."""
        self._input.write(f"{word}\n".encode())
        self._input.flush()


def value_of(variable: str, own: Mapping[str, str]) -> str:
    """What a program finds in it: from its settings, else from the environment of whoever drills. Raises Refusal."""
    value = own.get(variable, os.environ.get(variable))
    if value is None:
        raise Refusal(REFUSED, f"{variable} is in no env or env_file of the program, and not in your environment either")
    return value


class _Between:
    """Passes on, or is silent."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._speaks = asyncio.Event()
        self._speaks.set()
        self._held: set[asyncio.StreamWriter] = set()

    def hear(self, word: str) -> None:
        if word == "silent":
            self._speaks.clear()
        elif word == "speak":
            self._speaks.set()
            for writer in tuple(self._held):
                writer.transport.abort()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if not self._speaks.is_set():
                await self._swallow(reader, writer)
                return
            async with asyncio.timeout(CONNECT_S):
                theirs, to_them = await asyncio.open_connection(self._host, self._port)
            try:
                await asyncio.gather(self._pass_on(reader, to_them, writer), self._pass_on(theirs, writer, writer))
            finally:
                to_them.transport.abort()
        except (OSError, TimeoutError):
            pass  # the real one is not there: the program sees a connection that ends
        finally:
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, to: asyncio.StreamWriter, ours: asyncio.StreamWriter) -> None:
        while part := await reader.read(PART_BYTES):
            if not self._speaks.is_set():
                await self._swallow(reader, ours)
                return
            to.write(part)
            await to.drain()
        if to.can_write_eof():
            to.write_eof()

    async def _swallow(self, reader: asyncio.StreamReader, ours: asyncio.StreamWriter) -> None:
        """Until the program ends the connection, or the peer speaks again."""
        self._held.add(ours)
        try:
            while await reader.read(PART_BYTES):
                pass
            await self._speaks.wait()
        finally:
            self._held.discard(ours)


async def _stand(host: str, port: int) -> None:
    between = _Between(host, port)
    server = await asyncio.start_server(between.take, HOST, 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    told = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
    while line := await told.readline():
        between.hear(line.decode().strip())
    server.close()


if __name__ == "__main__":
    asyncio.run(_stand(sys.argv[1], int(sys.argv[2])))
