"""What is sent to people, and what a channel is: values alone, imported by every file of this room."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from supervisor.model import Voice
from supervisor.policy.words import enumerated

SEVERITIES = ("info", "warning", "critical")
WELL = (Voice.OVER, Voice.HEALED)  # voices that say that it is well again
NAMED_LIMIT = 4  # programs or incidents that a line names; the rest is counted
GROUP_TEXT = 1600  # characters of the texts in a message that says several: a screen, with the times
LEAST_TEXT = 100  # of each of them
APART_LIMIT = 6  # texts with a blank line between them; more stand line by line
CLOCK = slice(len("2026-01-01T"), len("2026-01-01T00:00:00"))  # of an RFC 3339 time


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
    parts: tuple[Message, ...] = ()  # the messages that it says in one, whole

    @property
    def programs(self) -> list[str]:
        return list(dict.fromkeys(message.program for message in self.parts or (self,)))

    @property
    def incidents(self) -> list[int]:
        return list(dict.fromkeys(message.incident for message in self.parts or (self,) if message.incident))


class Channel(Protocol):
    def send(self, message: Message, deadline_s: float) -> None:
        """Hand it over within `deadline_s` seconds. Returns once the other side has taken it; raises ChannelError."""
        ...


def late(messages: Sequence[Message], times: Sequence[str], id: str, option: str) -> Message:
    """One message that says all of these, oldest first, each with its time: those that waited while a channel was down.

    option  what each command carries, `config.option`
    """
    return _group(messages, f"{len(messages)} messages that could not be sent before:", _said(messages, times), id, option)


def storm(messages: Sequence[Message], times: Sequence[str], id: str, option: str) -> Message:
    """The same of messages that came within moments of each other; what they share is not known."""
    if messages[0].voice == Voice.PUBLIC:
        return _group(messages, "", [message.text for message in messages], id, option)
    programs = list(dict.fromkeys(message.program for message in messages))
    head = f"{len(messages)} messages at once, about {some(programs)}"
    trouble = any(message.voice not in WELL for message in messages)
    shared = "; look for what they share: the host, a database, a deploy" if trouble and len(programs) > 1 else ""
    return _group(messages, f"{head}{shared}:", _said(messages, [f"{time[CLOCK]}Z" for time in times]), id, option)


def _said(messages: Sequence[Message], times: Sequence[str]) -> list[str]:
    limit = max(LEAST_TEXT, GROUP_TEXT // len(messages))
    return [
        f"{time} {message.text if len(message.text) <= limit else f'{message.text[:limit]} ...'}"
        for time, message in zip(times, messages, strict=True)
    ]


def _group(messages: Sequence[Message], head: str, said: Sequence[str], id: str, option: str) -> Message:
    """It speaks as the most urgent of them: trouble before an all-clear, then by severity."""
    urgent = max(messages, key=lambda message: (message.voice not in WELL, SEVERITIES.index(message.severity)))
    several = len({message.incident for message in messages}) > 1
    return replace(
        urgent,
        id=id,
        key="group",
        text=head + ("\n\n" if head else "") + ("\n\n" if len(said) <= APART_LIMIT else "\n").join(said),
        since=min(message.since for message in messages),
        runbook=urgent.runbook if len({message.runbook for message in messages}) == 1 else "",
        commands=_commands(messages, option) if several and urgent.voice != Voice.PUBLIC else urgent.commands,
        affected=_affected(messages) if several else urgent.affected,
        done="" if several else urgent.done,
        comes="" if several else urgent.comes,
        parts=tuple(messages),
    )


def _commands(messages: Sequence[Message], option: str) -> tuple[str, ...]:
    """For several incidents: those that somebody has to be at, by what was said of each last."""
    last = {message.incident: message for message in messages if message.incident}
    open_ones = [str(number) for number, message in last.items() if message.voice not in WELL]
    ack = (f"reviver ack {' '.join(open_ones)}{option}",) if open_ones else ()
    return (*ack, f"reviver incidents{option}", f"reviver status{option}")


def _affected(messages: Sequence[Message]) -> str:
    """Who is affected, by what was said of each program last: the first clause, once for all programs of which it holds."""
    last = {message.program: message.affected.partition(";")[0].partition(",")[0] for message in messages}
    whom: dict[str, list[str]] = {}
    for program, text in last.items():
        if text:
            whom.setdefault(text, []).append(program)
    return "; ".join(f"{some(programs)}: {text}" for text, programs in whom.items())


def some(names: list[str]) -> str:
    """Names in a sentence, the first ones only: "a, b, c, d and 6 more"."""
    rest = len(names) - NAMED_LIMIT
    return enumerated([*names[:NAMED_LIMIT], f"{rest} more"] if rest > 0 else names)


def title(message: Message) -> str:
    """One line for a subject."""
    about = some(message.programs)
    if message.voice == Voice.PUBLIC:
        return about
    numbers = [str(number) for number in message.incidents]
    which = f", incident{'s' if len(numbers) > 1 else ''} {some(numbers)}" if numbers else ""
    return f"{message.voice or message.severity}: {about} on {message.host}{which}"


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
