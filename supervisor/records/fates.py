"""How messages to people fared, in words: for `incident` and for the postmortem. Pure.

A message is told (written down), then handed to its channel, at the first try or a later one, alone or with others in one; or it waits,
or it was given up. The values are those of `records.incidents`; times are RFC 3339, and who calls says how they and durations are
shown: nothing is imported, so that a command which needs this starts as quickly as before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

PUBLIC_STEP = -2  # that of `policy.customers`
AT_ONCE_S = 0.05  # what is shorter would be spelled "0.0 s"
Letter = dict[str, Any]
Spell = Callable[[float], str]


def lines(found: dict[str, Any], spell: Spell) -> Iterator[tuple[str, str]]:
    """When (RFC 3339) and what, of each message of an incident: that a channel did not take it at first, and what became of it."""
    said = {fact["text"] for fact in found["facts"]}  # it stands in a line above already; so does what another channel was told
    for letter in sorted(found["told"], key=lambda letter: letter["handed"] or letter["time"]):
        channel, text = _name(letter), letter["text"]
        about = f"of {letter['key'].partition('.')[0]}"
        what = about if text in said else text
        said.add(text)
        if letter["failed"] is not None:
            yield letter["failed"], f"{channel} does not take the message {about}: {letter['problem']}"
        if letter["handed"] is None:
            yield letter["time"], f"{channel} ({letter['state']}{_tries(letter)}): {what}"
        else:
            yield letter["handed"], f"{channel}, {_after(letter, spell)}{_how(letter)}: {what}"


def channels(found: dict[str, Any], spell: Spell, shown: Callable[[str], str]) -> list[str]:
    """A line for each channel: when it had the first message, and what is not delivered.

    spell  seconds, for people
    shown  a time, for people
    """
    letters: dict[str, list[Letter]] = {}
    for letter in found["told"]:
        letters.setdefault(_name(letter), []).append(letter)
    return [f"{channel} {_channel(each, spell, shown)}" for channel, each in letters.items()]


def _name(letter: Letter) -> str:
    return f"{letter['channel']}{' (stakeholders)' if letter['step'] == PUBLIC_STEP else ''}"


def _channel(letters: list[Letter], spell: Spell, shown: Callable[[str], str]) -> str:
    first = next((letter for letter in letters if letter["handed"] is not None), None)
    said = "has nothing yet" if first is None else f"at {shown(first['handed'])}, {_after(first, spell)}"
    missing = [letter for letter in letters if letter["state"] != "delivered"]
    if not missing:
        return said
    states = ", ".join(dict.fromkeys(letter["state"] for letter in missing))
    why = next((f": {letter['problem']}" for letter in reversed(missing) if letter["problem"]), "")
    return f"{said} ({len(missing)} of {len(letters)} {states}{why})"


def _after(letter: Letter, spell: Spell) -> str:
    return "at once" if letter["after_s"] < AT_ONCE_S else f"{spell(letter['after_s'])} after the fact"


def _how(letter: Letter) -> str:
    """After how many tries, and with how many others."""
    tried = f", at try {letter['tries']}" if letter["tries"] > 1 else ""
    return tried + (f", in one message with {letter['with']} more" if letter["with"] else "")


def _tries(letter: Letter) -> str:
    return f" after {letter['tries']} {'try' if letter['tries'] == 1 else 'tries'}" if letter["tries"] else ""
