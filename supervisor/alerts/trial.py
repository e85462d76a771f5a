"""A test message through every channel at once, and what came back: for `reviver alerts test`, in the daemon or without one."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.alerts.channels import channel, named
from supervisor.alerts.message import ChannelError, Message
from supervisor.config import option
from supervisor.lanes import Lane, LaneError
from supervisor.model import Settings
from supervisor.records.log import utc

DEADLINE_S = 15.0  # of each channel: as long as one try of an alert
SLACK_S = 5.0  # behind it: a name server that does not answer has no deadline of its own


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one channel; `problem` is "" when the other side took the message."""

    channel: str
    problem: str
    took_s: float


async def try_channels(settings: Settings, log: Callable[[str], None]) -> list[Outcome]:
    """Send the test message through each configured channel once, all at the same time; never longer than DEADLINE_S + SLACK_S."""
    wall, host, secret_file = time.time(), socket.gethostname(), settings.alerts.secret_file
    on_call = [target for step in settings.escalation for target in step.notify]
    tried = []
    for number, target in enumerate(dict.fromkeys((*on_call, *settings.stakeholders.notify))):
        text = f"a test of Reviver on {host}: alerts reach you here. Nothing is wrong"
        id = f"{host}-test-{wall:.3f}-{number}"
        message = Message(
            id, 0, "reviver", "test", 0, "info", text, host, utc(wall), (f"reviver status{option(settings.path)}",), ""
        )
        tried.append(_try(Lane(f"trial-{number}", limit=1), target, message, log, secret_file))
    return list(await asyncio.gather(*tried))


async def _try(lane: Lane, target: str, message: Message, log: Callable[[str], None], secret_file: str) -> Outcome:
    began = time.monotonic()
    try:
        await lane.run(_send, target, message, log, secret_file, deadline_s=DEADLINE_S + SLACK_S)
        problem = ""
    except ChannelError as trouble:
        problem = str(trouble)
    except LaneError:
        problem = f"nothing came back within {DEADLINE_S + SLACK_S:g} s"
    finally:
        lane.close()
    return Outcome(named(target), problem, time.monotonic() - began)


def _send(target: str, message: Message, log: Callable[[str], None], secret_file: str) -> None:
    channel(target, log, secret_file).send(message, DEADLINE_S)
