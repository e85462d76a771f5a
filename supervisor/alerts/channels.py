"""How one message reaches one channel: `command:`, `webhook:`, `journal:`, and through apprise what it knows. Blocking, for a lane.

A channel is written as its kind, a colon, and where to. What a channel is given is what people may read: the words are escaped already,
and where a message goes (which may hold a token) is never repeated whole. Whatever goes wrong is a `ChannelError` with one sentence.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from supervisor.alerts.child import ending, hand_over
from supervisor.alerts.http import Endpoint
from supervisor.alerts.message import Channel, ChannelError, Message, page, title
from supervisor.readers import OTHER_CHANNELS

NOT_NOW = (408, 425, 429)  # of the 4xx those that ask for another try
SECRET_MARK = "whsec_"  # before a secret in base64 (standardwebhooks.com); without it the text itself is the key
MISSING, UNUSABLE = 69, 64  # exit codes of sysexits.h: apprise is not there; it does not understand the channel


def channel(target: str, log: Callable[[str], None], secret_file: str = "") -> Channel:
    """The channel that is written so. Raises ChannelError, lasting.

    secret_file  with whose content webhooks are signed; "" signs none
    """
    kind, _, rest = target.partition(":")
    match kind:
        case "command":
            return Command(rest)
        case "webhook":
            return Webhook(rest, secret_file)
        case "journal":
            return Journal(log)
        case _ if kind in OTHER_CHANNELS:
            return Apprise(target)
        case _:
            raise ChannelError(f"{named(target)} is no known way to tell people", lasting=True)


def named(target: str) -> str:
    """The channel for people: where it goes, without what may be a secret."""
    kind, _, rest = target.partition(":")
    match kind:
        case "command":
            return f"command:{rest.split(' ')[0]}"
        case "webhook":
            return f"webhook:{urlsplit(rest).netloc.rpartition('@')[2]}"
        case _:
            return f"{kind}:"


class Journal:
    """A line of the daemon's log."""

    def __init__(self, log: Callable[[str], None]) -> None:
        self._log = log

    def send(self, message: Message, deadline_s: float) -> None:
        self._log(f"incident {message.incident}, {message.severity}: {message.text}")


class Command:
    """A program of the operator's: the message as JSON on stdin, its fields as REVIVER_TEXT, REVIVER_SEVERITY ...; exit 0 is delivered."""

    def __init__(self, line: str) -> None:
        """line: split as a shell splits words; no shell runs. Raises ChannelError, lasting."""
        try:
            self._words = shlex.split(line)
        except ValueError as problem:
            raise ChannelError(f"command:{line} is no command: {problem}", lasting=True) from problem
        if not self._words:
            raise ChannelError("command: names no command", lasting=True)

    def send(self, message: Message, deadline_s: float) -> None:
        fields = {
            f"REVIVER_{name.upper()}": str(value) for name, value in asdict(message).items() if name not in ("commands", "parts")
        }
        code, said = hand_over(self._words, msgspec.json.encode(message), fields, deadline_s)
        if code:
            raise ChannelError(f"{self._words[0]} {ending(code)}" + (f": {said}" if said else ""))


class Webhook:
    """POST of the message as JSON; 200-299 is delivered. `Idempotency-Key` and `webhook-id` are the message's id.

    With a secret it is signed as standardwebhooks.com has it: HMAC-SHA256 over id, time and body, in `webhook-signature`.
    """

    def __init__(self, url: str, secret_file: str = "") -> None:
        """Raises ChannelError, lasting."""
        self._endpoint = Endpoint(url, "webhook")
        self._secret_file = secret_file

    def send(self, message: Message, deadline_s: float) -> None:
        body = msgspec.json.encode(message)
        headers = {"Content-Type": "application/json", "Idempotency-Key": message.id, "webhook-id": message.id}
        if self._secret_file:
            moment = f"{time.time():.0f}"
            signature = sign(_secret(self._secret_file), message.id, moment, body)
            headers |= {"webhook-timestamp": moment, "webhook-signature": signature}
        status = self._endpoint.ask("POST", headers, body, deadline_s)
        if not 200 <= status <= 299:
            moved = ", and redirects are not followed" if 300 <= status <= 399 else ""
            refused = 400 <= status <= 499 and status not in NOT_NOW
            raise ChannelError(f"{self._endpoint.host} answered {status}{moved}", refused=refused)


def sign(secret: bytes, id: str, moment: str, body: bytes) -> str:
    """The value of `webhook-signature`. moment: whole seconds since the epoch, so that an old message cannot be sent again."""
    digest = hmac.new(secret, b".".join((id.encode(), moment.encode(), body)), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _secret(path: str) -> bytes:
    """The key in the file, read for each message: a new one needs no restart. Raises ChannelError: nothing is sent unsigned."""
    try:
        text = Path(path).read_text().strip()
        key = base64.b64decode(text.removeprefix(SECRET_MARK), validate=True) if text.startswith(SECRET_MARK) else text.encode()
    except (OSError, UnicodeDecodeError, binascii.Error) as problem:
        why = getattr(problem, "strerror", None) or "it is no text, or no base64"
        raise ChannelError(f"cannot read the secret in {path}: {why}") from problem
    if not key:
        raise ChannelError(f"the secret in {path} is empty")
    return key


class Apprise:
    """Mail, chats and pagers, through the apprise library in a process of its own: it is too big for the daemon."""

    def __init__(self, target: str) -> None:
        self._target = target

    def send(self, message: Message, deadline_s: float) -> None:
        order = {"target": self._target, "id": message.id, "severity": message.severity, "voice": message.voice}
        order |= {"title": title(message), "body": page(message)}
        words = (sys.executable, "-P", "-m", "supervisor.alerts.apprise_child")
        code, said = hand_over(words, msgspec.json.encode(order), {}, deadline_s)
        if code:
            why = said or f"the process that runs apprise {ending(code)}"
            raise ChannelError(f"{named(self._target)} {why}", lasting=code in (MISSING, UNUSABLE))
