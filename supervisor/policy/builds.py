"""Which build is under way: made by an apply, a deploy or a way back, tried, trusted or given up; and the symlink that names it.

A build that is another release is on probation once it serves alone; one that has only other settings is trusted at once then. What is
given up is never chosen again unasked. The link follows the build: forward only when the preflight has passed, and nothing of the new
release starts before; backward as soon as the old one is chosen again, and nobody waits for it.
"""

from __future__ import annotations

from supervisor.model import (
    Build,
    Candidate,
    DeployAsked,
    Effect,
    Fact,
    LaunchSettings,
    Link,
    Preflight,
    Preflighted,
    Program,
    Severity,
    Standing,
    State,
    Switch,
    Switched,
    Trial,
)
from supervisor.policy import releases
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World, returnable, stale, wanted, way_back
from supervisor.policy.words import note, release_of, spell

SWITCH_AGAIN_S = 10.0  # a switch that was not answered, or not well, is asked for again: a full disk is mended some time
UNDONE = "what it changed elsewhere (a database) stays changed"

# --- which one ------------------------------------------------------------------------------------------------------------------


def candidate(program: Program, candidate: Candidate, now: float) -> Program:
    """Take up what a configuration and the disk say. A link that nobody touched says nothing new: what is under way stays."""
    launch, place = candidate.settings.launch, (candidate.release, candidate.directory)
    link = program.link
    if not candidate.linked:
        program = replace(program, link=None)
    elif link is None or link.path != launch.directory:
        program = replace(program, link=Link(launch.directory, candidate.directory))
    elif link.names == candidate.directory:
        place = program.build.release, program.build.directory
    elif candidate.directory != program.build.directory:
        program = replace(program, link=Link(link.path, ""))  # somebody switched it; one of ours may be on its way
    return _choose(program, launch, *place, by="apply", now=now)


def deploy(program: Program, event: DeployAsked, now: float) -> Program:
    """An operator's command: it waits for no backoff, and may name what failed before."""
    text = f"release {event.release} is to run" + (" again" if event.back else "") + f", asked by {event.by}"
    program = note(program, "release.asked", text)
    if event.back:
        program = releases.became(program, program.build, Standing.ROLLED_BACK, f"by {event.by}")
    program = replace(program, resting=0, retreat="")
    return _choose(program, program.settings.launch, event.release, event.directory, by=event.by, now=now)


def _choose(program: Program, launch: LaunchSettings, release: str, directory: str, *, by: str, now: float) -> Program:
    """Make this the build under way: one that is known as it was, or a new one, on trial where another is trusted."""
    before, good = program.build, program.good
    for known in (before, good):
        if known is not None and (known.release, known.launch, known.directory) == (release, launch, directory):
            return choose(_returned(program, known, by), known)
    build = Build(program.builds + 1, release, launch, directory)
    text = f"build {build.number}{release_of(build)} takes the place of build {before.number}{release_of(before)}"
    program = note(program, "build.made", text)
    other = _other_release(before, build) or (good is not None and _other_release(good, build))
    if _other_release(before, build):
        program = releases.entered(program, build, by, now)
    preflight = Preflight.NEEDED if launch.preflight else Preflight.PASSED
    program = replace(choose(program, build), builds=build.number, preflight=preflight)
    return program if good is None else replace(program, trial=Trial(build.number, now, deployed=other))


def _other_release(one: Build, other: Build) -> bool:
    return (one.release, one.directory) != (other.release, other.directory)


def _returned(program: Program, known: Build, by: str) -> Program:
    """Somebody takes the last good build up again while another release is under way: that one is rolled back."""
    last = releases.newest(program, program.build)
    if known == program.build or not _other_release(known, program.build) or last is None or last.standing is not Standing.TRIED:
        return program
    return releases.became(program, program.build, Standing.ROLLED_BACK, f"by {by}")


def choose(program: Program, build: Build) -> Program:
    """Make `build` the one under way: what failed before says nothing of it."""
    if program.build == build:
        return replace(program, trial=program.trial if program.trial and program.trial.build == build.number else None)
    return replace(
        program,
        build=build,
        trial=None,
        preflight=Preflight.PASSED,
        failed=None,
        attempt=0,
        broken="",
        failures=(),
        crash_loop=False,
    )


# --- what became of it ----------------------------------------------------------------------------------------------------------


def preflighted(program: Program, event: Preflighted, now: float) -> Program:
    """Its preflight ended. One that fails was never started, so there is always a way back to what is trusted."""
    if event.build != program.build.number or program.preflight is not Preflight.ASKED:
        return program
    if not event.problem:
        return note(
            replace(program, preflight=Preflight.PASSED, broken=""), "preflight.passed", f"build {event.build} passed its preflight"
        )
    text = f"{program.settings.name} build {event.build}{release_of(program.build)} failed its preflight: {event.problem}"
    program = note(program, "preflight.failed", f"build {event.build} failed its preflight: {event.problem}")
    if program.good is not None and program.good != program.build:
        return _give_up(program, program.good, f"its preflight failed: {event.problem}")
    fact = Fact("preflight", Severity.CRITICAL, text)
    return replace(program, preflight=Preflight.NEEDED, failed=now, broken=event.problem, facts=(*program.facts, fact))


def switched(program: Program, event: Switched) -> Program:
    """The link names another directory now, or cannot be made to."""
    link, build, good = program.link, program.build, program.good
    if link is None:
        return program
    if not event.problem:
        if link.names != event.directory:
            program = note(program, "release.switched", f"{link.path} names {event.directory}")
        return replace(program, link=replace(link, names=event.directory, asked=None, problem=""))
    if event.directory != build.directory:
        return replace(program, link=replace(link, asked=None))
    program = replace(program, link=replace(link, problem=event.problem))
    if program.trial is not None and good is not None and good.directory == link.names:
        return _give_up(program, good, f"its link could not be switched: {event.problem}")
    if event.problem == link.problem:
        return program
    text = f"{link.path} does not name release {build.release or build.directory}, which is to run: {event.problem}"
    text += f"; it is tried again each {spell(SWITCH_AGAIN_S)}"
    program = note(program, "release.not_switched", text)
    return replace(program, facts=(*program.facts, Fact("link", Severity.CRITICAL, f"{program.settings.name}: {text}")))


def trial(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Trust the build under way once it has proven itself, or give it up and go back to the last good one."""
    if program.retreat:
        return _retreat(program), ()
    trying, good = program.trial, program.good
    if trying is not None and trying.lost and good is not None:
        return _give_up(program, good, trying.lost) if way_back(program) else _hold(program, trying, good, clock.now), ()
    up = wanted(program, world)
    fresh = sum(1 for i in program.instances if i.state is State.READY and not stale(program, i))
    if not up and trying is not None and trying.alone is not None:
        return replace(program, trial=replace(trying, alone=None)), ()
    if not up or good == program.build or fresh < up or len(program.instances) != fresh:
        return program, ()
    if trying is not None and trying.deployed:
        if trying.alone is None:
            trying = replace(trying, alone=clock.now)
            text = f"build {program.build.number}{release_of(program.build)} serves alone"
            text += f"; on probation for {spell(program.settings.release.probation_s)}"
            program = note(replace(program, trial=trying), "build.on_probation", text)
        if trying.alone is not None and not clock.due(trying.alone + program.settings.release.probation_s):
            return program, ()
    return _trust(program), ()


def _trust(program: Program) -> Program:
    build, good = program.build, program.good
    if good is not None:
        program = note(program, "build.trusted", f"build {build.number}{release_of(build)} serves: it is trusted")
    previous = program.previous
    if good is not None and good != build:
        line = releases.newest(program, good)
        previous = None if line is not None and line.standing is Standing.ROLLED_BACK else good
    return replace(releases.became(program, build, Standing.GOOD), good=build, previous=previous, trial=None)


def _give_up(program: Program, back: Build, why: str) -> Program:
    """Back to `back`, told; a release that failed is remembered as such."""
    lost, trying = program.build, program.trial
    text = f"build {lost.number}{release_of(lost)} is given up, back to build {back.number}{release_of(back)}: {why}"
    if _other_release(lost, back):
        program = releases.became(program, lost, Standing.FAILED, why)
        program = releases.became(program, back, Standing.GOOD)
        if trying is None or trying.served:
            text += f"; {UNDONE}"
    program = note(choose(program, back), "build.lost", text)
    return replace(program, facts=(*program.facts, Fact("rollback", Severity.CRITICAL, f"{program.settings.name}: {text}")))


def _hold(program: Program, trying: Trial, good: Build, now: float) -> Program:
    """It failed and there is no way back by itself: people are told what they can do, and it is tried on."""
    lost, name = program.build, program.settings.name
    if trying.deployed:
        program = releases.became(program, lost, Standing.FAILED, trying.lost)
    text = f"build {lost.number}{release_of(lost)} fails: {trying.lost}; {_mend(program, good)}"
    program = note(replace(program, trial=Trial(lost.number, now, deployed=trying.deployed)), "build.failed", text)
    return replace(program, facts=(*program.facts, Fact("release", Severity.CRITICAL, f"{name}: {text}")))


def _mend(program: Program, good: Build) -> str:
    name = program.settings.name
    if not returnable(good, program.build):
        return f"its directory was changed in place, and only you can change it back: {checkout(good.directory, good.release)}"
    how = f"reviver rollback {name}" if program.link is not None else "the configuration that served, and reviver apply"
    return f"it is not taken back, as release.rollback = false: {how} goes back to build {good.number}{release_of(good)}"


def checkout(directory: str, revision: str) -> str:
    """The command by which an operator goes back where the directory itself was changed."""
    return f"git -C {directory} checkout {revision or 'REVISION'} && reviver apply"


def _retreat(program: Program) -> Program:
    """Back to the build that was trusted before this one: memory says that what hung it twice came with this one."""
    why, before = program.retreat, program.previous
    program = replace(program, retreat="")
    if before is None:
        return program
    return replace(_give_up(program, before, why), good=before, previous=None)


# --- the link -------------------------------------------------------------------------------------------------------------------


def switch(program: Program, _: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Have the link name the build under way, once that may start."""
    link, build = program.link, program.build
    if link is None or link.names == build.directory or program.preflight is not Preflight.PASSED or program.removed:
        return program, ()
    if link.asked is not None and not clock.due(link.asked + SWITCH_AGAIN_S):
        return program, ()
    program = replace(program, link=replace(link, asked=clock.now))
    return program, (Switch(program.settings.name, link.path, build.directory),)
