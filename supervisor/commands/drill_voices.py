"""The operator's own channels in a drill, for `--tell`: each message of the shadow that one of them would get, marked DRILL, and sent on.

The shadow hands messages to files alone. What goes on from there has no commands to paste: they would reach the Reviver that the
operator runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from supervisor.alerts.channels import channel, named
from supervisor.alerts.message import ChannelError, Message
from supervisor.commands.drill_shadow import MARK, Shadow, toml
from supervisor.commands.screen import remark
from supervisor.model import EscalationStep, Settings

SEND_S = 15.0  # for one message: as long as one try of an alert
VOICE = "voice"


@dataclass(slots=True)
class Voices:
    """The channels that hear of it, in the order of their numbers, and which messages they have had."""

    targets: Sequence[str] = ()
    secret_file: str = ""
    _sent: set[str] = field(default_factory=set)

    def forward(self, shadow: Shadow) -> None:
        """Send what is new. What a channel does not take is said, and not tried again."""
        for number, target in enumerate(self.targets):
            for page in shadow.handed(f"{VOICE}{number}"):
                message = replace(msgspec.convert(page.message, Message), commands=())
                if f"{number} {message.id}" in self._sent:
                    continue
                self._sent.add(f"{number} {message.id}")
                self._send(target, replace(message, id=f"drill-{message.id}", text=f"{MARK.rstrip('-')}: {message.text}"))

    def _send(self, target: str, message: Message) -> None:
        try:
            channel(target, remark, self.secret_file).send(message, SEND_S)
            remark(f"told: {named(target)}")
        except ChannelError as problem:
            remark(f"not told: {named(target)}: {problem}")


def voices(settings: Settings, program: str, where: Path) -> tuple[Voices, str]:
    """The channels of the operator's steps that take the program, and the steps of the shadow that note for them.

    program  its name; "" is the bundled store, which steps for certain programs do not take
    """
    targets: list[str] = []
    steps = [step for step in settings.escalation if not step.programs or program in step.programs]
    written = "".join(_step(step, targets, where) for step in steps)
    if notify := settings.stakeholders.notify:
        written += (
            f"[stakeholders]\nafter = {_duration(settings.stakeholders.after_s)}\nnotify = {_notes(notify, targets, where)}\n"
        )
    return Voices(targets, settings.alerts.secret_file), written


def _step(step: EscalationStep, targets: list[str], where: Path) -> str:
    repeat = "" if step.repeat_s is None else f"repeat = {_duration(step.repeat_s)}\n"
    when = f"when = {toml(step.when.name.lower())}\n"
    return f"[[escalation]]\nafter = {_duration(step.after_s)}\n{repeat}{when}notify = {_notes(step.notify, targets, where)}\n"


def _notes(notify: Sequence[str], targets: list[str], where: Path) -> str:
    """A file in the place of each channel, which gets the next number."""
    numbers = range(len(targets), len(targets) + len(notify))
    targets += notify
    return toml([f"command:/bin/sh {where}/pager {where}/{VOICE}{number}" for number in numbers])


def _duration(seconds: float) -> str:
    return toml(f"{seconds * 1000:.0f}ms")
