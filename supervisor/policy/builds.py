"""Which build is under way: wanted by an apply, a deploy or a rollback, tried, trusted or given up; and the symlink that names it.

What is new is proposed first: until its preflight has passed and the link names it, nothing that runs has anything to do with it. A
build that is another release is on probation once it serves alone; one that has only other settings is trusted at once then. What is
given up is never chosen again unasked, and the link goes back with it; nobody waits for that.
"""

from __future__ import annotations

from supervisor.model import (
    Build,
    Candidate,
    DeployAsked,
    Effect,
    LaunchSettings,
    Link,
    Preflight,
    Preflighted,
    Program,
    Proposal,
    Severity,
    Standing,
    State,
    Switch,
    Switched,
    Trial,
    Wanted,
)
from supervisor.policy import releases
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import World, hands_off, returnable, stale, wanted, way_back
from supervisor.policy.words import fact, note, release_of, spell

SWITCH_AGAIN_S = 10.0  # a switch that was not answered, or not well, is asked for again: a full disk is mended some time
UNDONE = "what it changed elsewhere (a database) stays changed"

# --- which one ------------------------------------------------------------------------------------------------------------------


def begin(program: Program, now: float) -> Program:
    """A program's first build in this life: what its directory names, but for a link that still names a release that failed."""
    named, back = releases.newest(program, program.build), releases.last_good(program)
    failed = named is not None and named.standing is Standing.FAILED and program.settings.release.rollback
    if program.link is None or back is None or named is None or not failed:
        return releases.began(program, now)
    text = f"release {named.name} failed before ({named.why}): release {back.name} is started"
    text += f"; reviver deploy {program.settings.name} {named.directory} --again tries it once more"
    program = note(program, "release.refused", text)
    return replace(program, build=replace(program.build, release=back.name, directory=back.directory))


def candidate(program: Program, candidate: Candidate, now: float, *, begins: bool) -> Program:
    """Take up what a configuration and the disk say. A link that nobody touched says nothing new: what is under way stays.

    begins  a supervisor reads it that begins: what was given before and did not change asks for nothing, whatever became of it
    """
    given = Build(0, candidate.release, candidate.settings.launch, candidate.directory)
    unchanged = program.given == given
    program = replace(program, given=given)
    launch, place = candidate.settings.launch, (candidate.release, candidate.directory)
    newest = program.build if program.proposed is None else program.proposed.build
    link = program.link
    if not candidate.linked:
        program = replace(program, link=None)
    elif link is None or link.path != launch.directory:
        program = replace(program, link=Link(launch.directory, candidate.directory))
    elif link.names == candidate.directory:
        place = newest.release, newest.directory
    elif candidate.directory != newest.directory:
        program = replace(program, link=Link(link.path, ""))  # somebody switched it; one of ours may be on its way
    if begins and unchanged:
        return program
    return _want(program, launch, *place, by="apply", back=False, now=now)


def deploy(program: Program, event: DeployAsked, now: float) -> Program:
    """An operator's command: it waits for no backoff, and may name what failed before."""
    text = f"release {event.release} is to run" + (" again" if event.back else "") + f", asked by {event.by}"
    program = replace(note(program, "release.asked", text), resting=0, retreat="")
    launch = program.settings.launch
    return _want(program, launch, event.release, event.directory, by=event.by, back=event.back, now=now)


def _want(program: Program, launch: LaunchSettings, release: str, directory: str, *, by: str, back: bool, now: float) -> Program:
    """Somebody wants this: one that is known is chosen as it was, a new one is proposed, or chosen where nothing is in its way."""
    proposed = program.proposed
    if proposed is not None and _is(proposed.build, launch, release, directory):
        return program
    checked = proposed is not None or program.preflight is Preflight.PASSED
    if proposed is not None:
        program = replace(program, proposed=None, preflight=Preflight.PASSED)
    for known in (program.build, program.good):
        if known is not None and _is(known, launch, release, directory):
            return choose(_left(program, known, by, back=back), known)
    build = Build(program.builds + 1, release, launch, directory)
    program = replace(program, builds=build.number)
    preflight = Preflight.NEEDED if launch.preflight else Preflight.PASSED
    waits = program.link is not None or (bool(launch.preflight) and program.wanted is Wanted.UP)
    if waits and checked:
        return replace(program, proposed=Proposal(build, by, back), preflight=preflight)
    return replace(_take(program, build, by, now, back=back), preflight=preflight)


def _is(build: Build, launch: LaunchSettings, release: str, directory: str) -> bool:
    return (build.release, build.launch, build.directory) == (release, launch, directory)


def accept(program: Program, _: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Make the proposed build the one under way once its preflight has passed and the link names it."""
    proposed, link = program.proposed, program.link
    if proposed is None or program.preflight is not Preflight.PASSED:
        return program, ()
    if link is not None and link.names != proposed.build.directory:
        return program, ()
    program = replace(program, proposed=None)
    return _take(program, proposed.build, proposed.by, clock.now, back=proposed.back), ()


def _take(program: Program, build: Build, by: str, now: float, *, back: bool) -> Program:
    """Make a new build the one under way, on trial where another is trusted."""
    before, good = program.build, program.good
    text = f"build {build.number}{release_of(build)} takes the place of build {before.number}{release_of(before)}"
    program = note(_left(program, build, by, back=back), "build.made", text)
    other = _other_release(before, build) or (good is not None and _other_release(good, build))
    if _other_release(before, build):
        program = releases.entered(program, build, by, now)
    program = choose(program, build)
    return program if good is None else replace(program, trial=Trial(build.number, now, deployed=other))


def _other_release(one: Build, other: Build) -> bool:
    return (one.release, one.directory) != (other.release, other.directory)


def _left(program: Program, build: Build, by: str, *, back: bool) -> Program:
    """Write down what becomes of the release under way when somebody wants `build`: rolled back, where that is what they do.

    To take the last good one up again is that, however it is asked for.
    """
    last = releases.newest(program, program.build)
    returned = build == program.good and last is not None and last.standing is Standing.TRIED
    if not _other_release(program.build, build) or not (back or returned):
        return program
    return releases.became(program, program.build, Standing.ROLLED_BACK, f"by {by}")


def choose(program: Program, build: Build) -> Program:
    """Make `build` the one under way: what failed before says nothing of it. What is proposed meanwhile stays so."""
    if program.build == build:
        return replace(program, trial=program.trial if program.trial and program.trial.build == build.number else None)
    return replace(
        program,
        build=build,
        trial=None,
        preflight=Preflight.PASSED if program.proposed is None else program.preflight,
        failed=None,
        attempt=0,
        broken="",
        failures=(),
        crash_loop=False,
    )


# --- what became of it ----------------------------------------------------------------------------------------------------------


def preflighted(program: Program, event: Preflighted, now: float) -> Program:
    """A preflight ended. Nothing of what fails one was ever started."""
    proposed = program.proposed
    build = program.build if proposed is None else proposed.build
    if event.build != build.number or program.preflight is not Preflight.ASKED:
        return program
    if not event.problem:
        return note(
            replace(program, preflight=Preflight.PASSED, broken=""), "preflight.passed", f"build {event.build} passed its preflight"
        )
    program = note(program, "preflight.failed", f"build {event.build} failed its preflight: {event.problem}")
    why = f"its preflight failed: {event.problem}"
    if proposed is not None:
        if _other_release(program.build, build):
            program = releases.failed(program, build, proposed.by, why, now)
        return _drop(program, build, why)
    if program.good is not None and program.good != build:
        return _give_up(program, program.good, why)
    text = f"{program.settings.name} build {event.build}{release_of(build)} failed its preflight: {event.problem}"
    program = replace(program, preflight=Preflight.NEEDED, failed=now, broken=event.problem)
    return fact(program, "preflight", Severity.CRITICAL, text)


def _drop(program: Program, build: Build, why: str) -> Program:
    """What was proposed is not taken up. Nothing of it ran, and nothing else moved."""
    text = f"build {build.number}{release_of(build)} is not taken up, and nothing was changed: {why}"
    program = note(replace(program, proposed=None, preflight=Preflight.PASSED, refused=build), "build.refused", text)
    return fact(program, "refused", Severity.WARNING, f"{program.settings.name}: {text}")


def switched(program: Program, event: Switched) -> Program:
    """The link names another directory now, or cannot be made to."""
    link, proposed = program.link, program.proposed
    if link is None:
        return program
    if not event.problem:
        if link.names != event.directory:
            program = note(program, "release.switched", f"{link.path} names {event.directory}")
        return replace(program, link=replace(link, names=event.directory, asked=None, problem=""))
    if event.directory != _target(program):
        return replace(program, link=replace(link, asked=None))
    if proposed is not None:
        program = replace(program, link=replace(link, asked=None))
        return _drop(program, proposed.build, f"its link could not be switched: {event.problem}")
    program = replace(program, link=replace(link, problem=event.problem))
    if event.problem == link.problem:
        return program
    text = f"{link.path} does not name {event.directory}, which is to run: {event.problem}"
    text += f"; it is tried again each {spell(SWITCH_AGAIN_S)}"
    program = note(program, "release.not_switched", text)
    return fact(program, "link", Severity.CRITICAL, f"{program.settings.name}: {text}")


def trial(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Trust the build under way once it has proven itself, or give it up and go back to the last good one."""
    if hands_off(program) and (program.retreat or (program.trial is not None and program.trial.lost)):
        return program, ()
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
    lost, trying, proposed = program.build, program.trial, program.proposed
    text = f"build {lost.number}{release_of(lost)} is given up, back to build {back.number}{release_of(back)}: {why}"
    if _other_release(lost, back):
        if proposed is not None and not _other_release(proposed.build, lost):
            program = _drop(program, proposed.build, "its release failed meanwhile")
        program = releases.became(program, lost, Standing.FAILED, why)
        program = releases.became(program, back, Standing.GOOD)
        if trying is None or trying.served:
            text += f"; {UNDONE}"
    program = note(replace(choose(program, back), refused=lost), "build.lost", text)
    return fact(program, "rollback", Severity.CRITICAL, f"{program.settings.name}: {text}")


def _hold(program: Program, trying: Trial, good: Build, now: float) -> Program:
    """It failed and there is no way back by itself: people are told what they can do, and it is tried on."""
    lost, name = program.build, program.settings.name
    if trying.deployed:
        program = releases.became(program, lost, Standing.FAILED, trying.lost)
    text = f"build {lost.number}{release_of(lost)} fails: {trying.lost}; {_mend(program, good)}"
    program = note(replace(program, trial=Trial(lost.number, now, deployed=trying.deployed)), "build.failed", text)
    return fact(program, "release", Severity.CRITICAL, f"{name}: {text}")


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
    """Have the link name what is to run: what is proposed, once that may, else the build under way."""
    link, target = program.link, _target(program)
    if link is None or program.preflight is not Preflight.PASSED or link.names == target or program.removed:
        return program, ()
    if link.asked is not None and not clock.due(link.asked + SWITCH_AGAIN_S):
        return program, ()
    program = replace(program, link=replace(link, asked=clock.now))
    return program, (Switch(program.settings.name, link.path, target),)


def _target(program: Program) -> str:
    return program.build.directory if program.proposed is None else program.proposed.build.directory
