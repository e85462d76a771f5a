"""How one message leaves: a command, a webhook. Everything here blocks, with deadlines, and runs in the channel's own lane.

A new kind of channel is one more function, and one line in `SENDERS`.
"""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import ssl
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

COMMAND_S = 30.0  # a pager's command that takes longer hangs itself
WEBHOOK_S = 10.0  # for each step of a request
WORDS_LIMIT = 200  # characters of an answer that are told when it is no success
RETRIED_STATUSES = frozenset({408, 425, 429})  # of the 4xx: those that ask to come again


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What people are told, as it is given to a channel.

    id        the same for each try of the same message: a receiver that knows it already may drop it
    commands  what to type next, the most telling first
    """

    id: str
    incident: int
    key: str
    severity: str
    program: str
    text: str
    host: str
    began: str
    told: str
    commands: tuple[str, ...]
    runbook: str = ""


class UndeliveredError(Exception):
    """This try failed. `again`: another one may succeed."""

    def __init__(self, text: str, *, again: bool) -> None:
        super().__init__(text)
        self.again = again


def kind_of(channel: str) -> str:
    """What stands before the first colon: "command", "webhook"."""
    return channel.partition(":")[0]


def label(channel: str) -> str:
    """The channel's name for people, without what may be a secret in an address."""
    kind, _, rest = channel.partition(":")
    if kind != "webhook":
        return channel
    return f"webhook:{urlsplit(rest).scheme}://{urlsplit(rest).hostname}/..."


def send(channel: str, message: Message) -> None:
    """Hand the message over once. Raises UndeliveredError."""
    SENDERS[kind_of(channel)](channel.partition(":")[2], message)


def _command(command: str, message: Message) -> None:
    """Run it with the message as JSON on its standard input and its fields as REVIVER_* in its environment; exit 0 is delivered."""
    fields = {f"REVIVER_{name.upper()}": str(getattr(message, name)) for name in TOLD_FIELDS}
    try:
        process = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **fields, "REVIVER_COMMANDS": "\n".join(message.commands)},
            start_new_session=True,
        )
    except OSError as problem:
        raise UndeliveredError(f"{command} cannot be started: {problem.strerror}", again=True) from None
    try:
        output, _ = process.communicate(msgspec.json.encode(message), COMMAND_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise UndeliveredError(f"{command} had not ended after {COMMAND_S:g} s, and was killed", again=True) from None
    if process.returncode != 0:
        words = output.decode(errors="replace").strip()[-WORDS_LIMIT:]
        raise UndeliveredError(f"{command} ended with status {process.returncode}: {words or 'it said nothing'}", again=True)


def _webhook(url: str, message: Message) -> None:
    """POST the message as JSON; a status of 200-299 is delivered. Certificates are verified, redirects are not followed."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        connection = http.client.HTTPSConnection(host, parts.port, timeout=WEBHOOK_S, context=ssl.create_default_context())
    else:
        connection = http.client.HTTPConnection(host, parts.port, timeout=WEBHOOK_S)
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Content-Type": "application/json", "Idempotency-Key": message.id, "User-Agent": "reviver"}
    try:
        connection.request("POST", path, msgspec.json.encode(message), headers)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as problem:
        raise UndeliveredError(f"{host} cannot be reached: {problem or type(problem).__name__}", again=True) from None
    finally:
        connection.close()
    if not 200 <= status < 300:
        again = status >= 500 or status in RETRIED_STATUSES
        raise UndeliveredError(f"{host} answered {status}", again=again)


TOLD_FIELDS = ("id", "incident", "key", "severity", "program", "text", "host", "began", "told", "runbook")
SENDERS: dict[str, Callable[[str, Message], None]] = {"command": _command, "webhook": _webhook}
