"""How policy speaks: durations for people, lines of the story, and facts that people may have to know."""

from __future__ import annotations

from supervisor.model import Build, Fact, Instance, Note, Program, Severity
from supervisor.policy.values import replace

REFRAINED_KEPT = 50  # keys of what a hold kept from being done: a long hold over a sick program says some of it again


def spell(seconds: float) -> str:
    """A duration for people, in two significant places: "0.6 s", "62 s", "12 min", "3.5 h"."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def note(program: Program, name: str, text: str, instance: Instance | None = None) -> Program:
    """The program with one more line of its story, about the instance or the program itself."""
    subject = program.settings.name if instance is None else str(instance.id)
    return replace(program, notes=(*program.notes, Note(subject, name, text)))


def fact(program: Program, key: str, severity: Severity, text: str, instance: Instance | None = None) -> Program:
    """The program with one more fact that people may have to know, about the instance or the program itself."""
    return replace(program, facts=(*program.facts, Fact(key, severity, text, "" if instance is None else str(instance.id))))


def told(program: Program, key: str) -> bool:
    """Whether people know this in the incident that is open, or are about to be told."""
    return any(fact.key == key for fact in program.facts) or (program.incident is not None and key in program.incident.told)


def refrained(program: Program, key: str, text: str, instance: Instance | None = None) -> Program:
    """The program with a line that says what is not done because of its hold; once for each key."""
    hold = program.hold
    if hold is None or key in hold.refrained:
        return program
    program = replace(program, hold=replace(hold, refrained=(*hold.refrained, key)[-REFRAINED_KEPT:]))
    return note(program, "program.refrained", f"{text}; not done: held by {hold.by} ({hold.reason})", instance)


def enumerated(names: list[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def release_of(build: Build) -> str:
    """What is put behind a build or an instance of it: " (release 4f2a91c)", or nothing where no release is known."""
    return f" (release {build.release})" if build.release else ""


def ordinal(number: int) -> str:
    """1 -> "1st", 2 -> "2nd", 11 -> "11th"."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def plainly(seconds: float) -> str:
    """A duration in plain words: "less than a minute", "12 minutes", "1 hour and 5 minutes"."""
    minutes = round(seconds / 60)
    if minutes < 1:
        return "less than a minute"
    hours, rest = divmod(minutes, 60)
    parts = [f"{count} {unit}" + ("" if count == 1 else "s") for count, unit in ((hours, "hour"), (rest, "minute")) if count]
    return " and ".join(parts)
