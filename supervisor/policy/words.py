"""How policy speaks: durations for people, and lines of the story."""

from __future__ import annotations

from supervisor.model import Build, Instance, Note, Program
from supervisor.policy.values import replace


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
