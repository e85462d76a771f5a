"""The history of a program's releases: when each was deployed, by whom, and what became of it. Pure, and kept for months.

Only where a release has a name: settings alone, or a plain directory, have no history. What is under way is `builds`' matter.
"""

from __future__ import annotations

from supervisor.model import Build, Effect, Program, RecordRelease, Release, Standing
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World

KEPT = 20  # of one program: they travel in each handover, and nobody goes further back by name alone


def entered(program: Program, build: Build, by: str, now: float) -> Program:
    """The program with one more line: this release is to run, on trial. What was on trial so far is replaced."""
    name = build.release
    if not name:
        return program
    for tried in program.releases:
        if tried.standing is Standing.TRIED:
            program = _put(program, replace(tried, standing=Standing.REPLACED, why=f"{name} came before it was proven"))
    return _put(program, _line(program, build, by, now))


def failed(program: Program, build: Build, by: str, why: str, now: float) -> Program:
    """The program with a line of a release that failed before it was on trial."""
    return _put(program, replace(_line(program, build, by, now), standing=Standing.FAILED, why=why)) if build.release else program


def began(program: Program, now: float) -> Program:
    """The same at the program's first start in this life: the release that stood there last needs no second line."""
    last = newest(program, program.build)
    later = [each for each in program.releases if last is not None and each.number > last.number]
    known = last is not None and all(each.standing in (Standing.FAILED, Standing.ROLLED_BACK) for each in later)
    return program if known else entered(program, program.build, "start", now)


def became(program: Program, build: Build, standing: Standing, why: str = "") -> Program:
    """The program with the newest line of this build's release saying what became of it."""
    last = newest(program, build)
    return program if last is None else _put(program, replace(last, standing=standing, why=why))


def newest(program: Program, build: Build) -> Release | None:
    """The newest line about this build's release."""
    return find(program, build.directory, build.release)


def find(program: Program, directory: str, name: str) -> Release | None:
    """The newest line about a release."""
    return next((each for each in reversed(program.releases) if (each.directory, each.name) == (directory, name)), None)


def last_good(program: Program) -> Release | None:
    """The release to go back to: the newest that was trusted, stands in another directory, and was not given up since."""
    seen: set[tuple[str, str]] = {(program.build.directory, program.build.release)}
    for each in reversed(program.releases):
        known = (each.directory, each.name)
        if known not in seen and each.standing is Standing.GOOD:
            return each
        seen.add(known)
    return None


def record(program: Program, _: World, __: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Have what changed written down."""
    if not program.unrecorded:
        return program, ()
    changed = tuple(RecordRelease(program.settings.name, each) for each in program.releases if each.number in program.unrecorded)
    return replace(program, unrecorded=()), changed


def _line(program: Program, build: Build, by: str, now: float) -> Release:
    number = program.releases[-1].number + 1 if program.releases else 1
    return Release(number, build.release, build.directory, now, by)


def _put(program: Program, changed: Release) -> Program:
    if changed in program.releases:
        return program
    lines = {**{each.number: each for each in program.releases}, changed.number: changed}
    unrecorded = tuple(dict.fromkeys((*program.unrecorded, changed.number)))
    return replace(program, releases=tuple(lines.values())[-KEPT:], unrecorded=unrecorded)
