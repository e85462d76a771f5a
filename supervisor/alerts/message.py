"""What is sent to people, and what a channel is: values alone, imported by every file of this room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from supervisor.model import Voice

SEVERITIES = ("info", "warning", "critical")


class ChannelError(Exception):
    """The message did not get through; one sentence without a secret.

    lasting  no further try can help: there is no such channel
    refused  the other side is there and takes this message not: others may be taken
    """

    def __init__(self, text: str, *, lasting: bool = False, refused: bool = False) -> None:
        super().__init__(text)
        self.lasting = lasting
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Message:
    """What people read. `id` is the same for each try of the same message on the same channel, and for no other."""

    id: str
    incident: int
    program: str
    key: str
    step: int
    severity: str
    text: str
    host: str
    since: str  # RFC 3339
    commands: tuple[str, ...]
    runbook: str
    voice: str = ""  # how it speaks: "needs you", "healed by itself", "public" ...; "" is about Reviver itself
    affected: str = ""  # one sentence each: who is affected, what was done so far, what comes next
    done: str = ""
    comes: str = ""
    members: tuple[str, ...] = ()  # the ids of those that it says in one


class Channel(Protocol):
    def send(self, message: Message, deadline_s: float) -> None:
        """Hand it over within `deadline_s` seconds. Returns once the other side has taken it; raises ChannelError."""
        ...


def group(messages: Sequence[Message], times: Sequence[str], id: str) -> Message:
    """One message that says all of these, oldest first, each with its time. It is as severe as the worst of them."""
    worst = max(messages, key=lambda message: SEVERITIES.index(message.severity))
    said = "\n\n".join(f"{time} {message.text}" for time, message in zip(times, messages, strict=True))
    text = f"{len(messages)} messages that could not be sent before:\n\n{said}"
    members = tuple(message.id for message in messages)
    return replace(worst, id=id, key="group", text=text, since=messages[0].since, members=members)


def title(message: Message) -> str:
    """One line for a subject."""
    if message.voice == Voice.PUBLIC:
        return message.program
    how = message.voice or message.severity
    return f"{how}: {message.program} on {message.host}" + (f", incident {message.incident}" if message.incident else "")


def page(message: Message) -> str:
    """The whole message as a page of text. Its last lines are there to be pasted."""
    if message.voice == Voice.PUBLIC:
        return message.text
    lines = [message.text, "", f"since:    {message.since}"]
    for name, text in (
        ("affected", message.affected),
        ("done", message.done),
        ("next", message.comes),
        ("runbook", message.runbook),
    ):
        if text:
            lines.append(f"{name + ':':<10}{text}")
    return "\n".join((*lines, "", *(f"  {command}" for command in message.commands))).rstrip()
