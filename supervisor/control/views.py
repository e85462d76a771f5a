"""What people and scripts are told of the fleet, as JSON-able dicts: status, explain, plan. Pure: instants come as arguments.

The fleet knows monotonic instants alone; `Moment` holds one and the offset to wall time: all of one answer is of one instant.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any

from supervisor.model import (
    Act,
    Applied,
    Candidate,
    DaemonSettings,
    Fleet,
    Instance,
    InstanceId,
    Program,
    ProgramSettings,
    Release,
    Standing,
    State,
    Verdict,
    Wanted,
)
from supervisor.policy import telling
from supervisor.policy.clock import Clock
from supervisor.policy.history import next_start
from supervisor.policy.instance import RETIRING_LIMIT_S
from supervisor.policy.releases import newest
from supervisor.policy.wanted import SUSPICIOUS, World, patience_s, ready, wanted
from supervisor.policy.words import spell


@dataclass(frozen=True, slots=True)
class Channel:
    """A way to people: its name without secrets, how many messages wait for it, and since when (wall seconds) and why it fails."""

    name: str
    waiting: int
    failing_wall: float | None
    problem: str


@dataclass(frozen=True, slots=True)
class About:
    """The daemon itself. `started` is a monotonic instant; `config` the path of its configuration, "" for none."""

    pid: int
    version: str
    started: float
    config: str
    guarded: bool
    daemon: DaemonSettings
    channels: tuple[Channel, ...] = ()


@dataclass(frozen=True, slots=True)
class Vitals:
    """The newest sample of an instance's process tree. `cpu_ratio` is in cores (1.0 is one core busy); None is not known."""

    cpu_ratio: float | None
    rss_bytes: int | None
    workers: int | None


@dataclass(frozen=True, slots=True)
class Moment:
    """`now` in monotonic seconds, and what to add to a monotonic instant for seconds since the epoch."""

    now: float
    wall_offset_s: float

    def wall(self, instant: float) -> str:
        """The instant in RFC 3339, UTC, to the second."""
        return _utc(instant + self.wall_offset_s)

    def ago(self, instant: float) -> str:
        return spell(self.now - instant)


def _utc(wall: float) -> str:
    return datetime.fromtimestamp(wall, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def world(fleet: Fleet) -> World:
    return World(
        fleet.programs, fleet.escalation, fleet.draining, fleet.hurried, fleet.incidents, fleet.stakeholders, fleet.needed_by
    )


# --- status ---------------------------------------------------------------------------------------------------------------------


def status(
    fleet: Fleet, about: About, vitals: Mapping[InstanceId, Vitals], moment: Moment, names: Iterable[str] = ()
) -> dict[str, Any]:
    """What `status --json` prints. `names`: these programs only; none is all."""
    chosen = tuple(names) or tuple(fleet.programs)
    return {
        "daemon": {
            "pid": about.pid,
            "version": about.version,
            "uptime_s": round(moment.now - about.started, 1),
            "config": about.config,
        },
        "programs": [_program(fleet.programs[name], fleet, vitals, moment) for name in chosen],
        "channels": [_channel(channel) for channel in about.channels],
    }


def _channel(channel: Channel) -> dict[str, Any]:
    failing = None if channel.failing_wall is None else _utc(channel.failing_wall)
    return {"channel": channel.name, "waiting": channel.waiting, "failing_since": failing, "problem": channel.problem}


def _program(program: Program, fleet: Fleet, vitals: Mapping[InstanceId, Vitals], moment: Moment) -> dict[str, Any]:
    return {
        "name": program.settings.name,
        "wanted": program.wanted.value,
        "state": state(program, fleet),
        "release": program.build.release,
        "restarts": program.restarts,
        "incident": program.incident.number if program.incident else None,
        "hold": _hold(program, moment),
        "instances": [_instance(program, instance, vitals.get(instance.id), moment) for instance in program.instances],
    }


def _hold(program: Program, moment: Moment) -> dict[str, Any] | None:
    hold = program.hold
    return None if hold is None else {"until": moment.wall(hold.until), "by": hold.by, "reason": hold.reason}


def _instance(program: Program, instance: Instance, vitals: Vitals | None, moment: Moment) -> dict[str, Any]:
    verdict = instance.verdict
    known = {"kind": verdict.kind.value, "scope": verdict.scope.value, "because": verdict.because} if verdict else None
    return {
        "id": str(instance.id),
        "state": instance.state.value,
        "role": role(program, instance),
        "pid": instance.pid,
        "since": moment.wall(instance.since),
        "uptime_s": round(moment.now - instance.spawned, 1),
        "cpu_ratio": None if vitals is None or vitals.cpu_ratio is None else round(vitals.cpu_ratio, 3),
        "rss_bytes": vitals.rss_bytes if vitals else None,
        "workers": vitals.workers if vitals else None,
        "verdict": known or _unseen(instance),
    }


def _unseen(instance: Instance) -> dict[str, str]:
    """The verdict of an instance at which nobody has looked."""
    starting = instance.state is State.STARTING
    because = "it has not answered yet" if starting else "no look at it is known"
    return {"kind": "starting" if starting else "unknown", "scope": "instance", "because": because}


def role(program: Program, instance: Instance) -> str:
    """main, relief (while an older one that it stands beside lives on) or spare (ready beyond the wanted number)."""
    older = [other for other in program.instances if other.id.number < instance.id.number]
    if instance.relief and any(other.state is not State.READY for other in older):
        return "relief"
    serving = [other for other in program.instances if other.state is State.READY]
    if program.settings.relief.spare and instance in serving[program.settings.instances :]:
        return "spare"
    return "main"


def state(program: Program, fleet: Fleet) -> str:
    """One of stopped, starting, ready, suspect, failed, crash-loop, waiting, resting, held.

    stopped means that nothing of it lives: while it is going, the state is that of its instances.
    """
    living = {instance.state for instance in program.instances}
    up = wanted(program, world(fleet))
    if program.hold is not None and up:
        return "held"
    if not living:
        return _absent(program, up)
    if program.crash_loop:
        return "crash-loop"
    if State.READY in living and ready(program) >= up:
        return "ready"
    for candidate, name in (
        (State.SUSPECT, "suspect"),
        (State.STARTING, "starting"),
        (State.READY, "ready"),
        (State.RETIRING, "ready" if up == 0 else "starting"),
    ):
        if candidate in living:
            return name
    return "failed"


def _absent(program: Program, up: int) -> str:
    if program.wanted is Wanted.DOWN or program.removed:
        return "stopped"
    if program.crash_loop:
        return "crash-loop"
    if program.broken or (program.failed is not None and program.attempt):
        return "failed"
    if up == 0:
        return "resting" if program.resting else "stopped"
    return "waiting" if program.waiting is not None and not program.ordered else "starting"


# --- explain --------------------------------------------------------------------------------------------------------------------


def explain(program: Program, fleet: Fleet, stories: Iterable[Mapping[str, Any]], moment: Moment) -> dict[str, Any]:
    """Why the program is in its state, what was tried, and what comes next and when.

    stories  its last notes, oldest first
    """
    start = _next_start(program, fleet, moment)
    return {
        "program": program.settings.name,
        "state": state(program, fleet),
        "why": _why(program, fleet, moment),
        "tried": [f"{story.get('time', '')}  {story.get('subject', '')}: {story.get('text', '')}" for story in stories],
        "next": _next(program, fleet, start, moment),
        "next_start": moment.wall(start) if start is not None else None,
    }


def _why(program: Program, fleet: Fleet, moment: Moment) -> list[str]:
    name = program.settings.name
    said = [_instance_why(program, instance, moment) for instance in program.instances]
    if program.broken:
        said.append(f"{name} cannot be started: {program.broken}.")
    if program.crash_loop:
        window = spell(program.settings.restart.window_s)
        said.append(f"{name} is in a crash loop: {len(program.failures)} failures within {window}.")
    elif program.attempt and program.failed is not None:
        row = f" {program.attempt} times in a row, the last time" if program.attempt > 1 else ""
        said.append(f"{name} failed{row} {moment.ago(program.failed)} ago.")
    if not program.instances:
        said.append(_absent_why(program, fleet, moment))
    elif program.wanted is Wanted.DOWN:
        said.append(f"{name} is being stopped.")
    if program.apologizing:
        said.append("Nothing serves: customers get a page that says so, with status 503, until an instance is ready.")
    if program.hold is not None:
        hold = program.hold
        said.append(f"{name} is held by {hold.by} since {moment.ago(hold.since)} ({hold.reason}): it is not healed.")
    if program.proposed is not None:
        proposed = program.proposed.build
        said.append(f"Release {proposed.release or proposed.number} is to run as soon as its preflight has passed.")
    if program.trial is not None and program.good is not None:
        said.append(f"Release {_release(program)} is on trial; the last good one is {program.good.release or program.good.number}.")
    if program.link is not None and program.link.problem:
        said.append(f"{program.link.path} does not name the release that is to run: {program.link.problem}.")
    if program.incident is not None:
        headline = program.incident.headline.text if program.incident.headline else "something was bad"
        said.append(f"Incident {program.incident.number} was opened {moment.ago(program.incident.opened)} ago: {headline}.")
        acknowledged = program.incident.acknowledged
        if acknowledged is not None:
            said.append(f"{acknowledged.by} acknowledged it {moment.ago(acknowledged.at)} ago.")
    return [sentence for sentence in said if sentence]


def _release(program: Program) -> str:
    return program.build.release or str(program.build.number)


def _absent_why(program: Program, fleet: Fleet, moment: Moment) -> str:
    name = program.settings.name
    match _absent(program, wanted(program, world(fleet))):
        case "stopped" if program.settings.manual and not program.started:
            return f'{name} is started by hand only (start = "manual").'
        case "stopped":
            return f"{name} was stopped, and nobody has started it since."
        case "resting":
            return f'{name} ended by itself and rests (restart.when = "{program.settings.restart.when.value}").'
        case "waiting":
            missing = [other for other in program.settings.after if not _serves(fleet, other)]
            since = f" for {moment.ago(program.waiting)}" if program.waiting is not None else ""
            return f"{name} has waited{since} for {', '.join(missing) or 'the programs in `after`'} to be ready first."
        case "starting":
            return f"{name} is about to be started."
        case _:
            return ""


def _serves(fleet: Fleet, name: str) -> bool:
    return name in fleet.programs and ready(fleet.programs[name]) > 0


def _instance_why(program: Program, instance: Instance, moment: Moment) -> str:
    who = f"{instance.id} (pid {instance.pid})" if instance.pid else str(instance.id)
    because = f": {instance.verdict.because}" if instance.verdict else ""
    for_long = moment.ago(instance.since)
    match instance.state:
        case State.STARTING:
            return f"{who} has been starting for {moment.ago(instance.spawned)} and has not answered yet."
        case State.READY:
            return f"{who} has been ready for {for_long}{because}."
        case State.SUSPECT:
            return f"{who} has been suspect for {for_long}{because}."
        case State.RETIRING:
            return f"{who} was asked to stop {for_long} ago{f': {instance.why}' if instance.why else ''}."
        case State.KILLING:
            return f"{who} has been dying for {for_long}{f': {instance.why}' if instance.why else ''}."


def _next_start(program: Program, fleet: Fleet, moment: Moment) -> float | None:
    """When the next instance is started, where one is missing; None: none is, or nobody can say."""
    missing = wanted(program, world(fleet)) > sum(1 for i in program.instances if i.state in (State.STARTING, State.READY))
    if not missing or program.instances or (program.waiting is not None and not program.ordered):
        return None
    return max(moment.now, next_start(program) or moment.now)


def _next(program: Program, fleet: Fleet, start: float | None, moment: Moment) -> list[str]:
    name = program.settings.name
    if program.hold is not None and program.wanted is Wanted.UP:
        until = _in(program.hold.until, moment)
        return [f"Nothing by itself: the hold ends {until}, or with `reviver hold {name} --end`; your own commands work as ever."]
    said = [sentence for instance in program.instances for sentence in _instance_next(program, instance, moment)]
    if start is not None:
        read = f", `reviver logs {name}` shows what it wrote" if program.attempt and not program.broken else ""
        said.append(f"The next start is {_in(start, moment)}; `reviver start {name}` starts it at once{read}.")
    elif not program.instances and program.wanted is Wanted.DOWN:
        said.append(f"Nothing, until `reviver start {name}`.")
    elif not program.instances and program.resting:
        said.append(f"Nothing, until `reviver start {name}` or `reviver restart {name}`.")
    elif not program.instances and program.waiting is not None:
        limits_s = [fleet.programs[n].settings.health.start_s for n in program.settings.after if n in fleet.programs]
        said.append(
            f"It starts as soon as they are ready, and {_in(program.waiting + max(limits_s, default=0.0), moment)} in any case."
        )
    if program.trial is not None and program.trial.alone is not None and program.trial.deployed:
        trusted = program.trial.alone + program.settings.release.probation_s
        said.append(f"Release {_release(program)} is trusted {_in(trusted, moment)}, unless it hangs or fails again before.")
    if program.incident is not None and program.incident.calm is not None and program.wanted is Wanted.UP:
        over = program.incident.calm + program.settings.restart.healthy_s
        said.append(f"Incident {program.incident.number} is over {_in(over, moment)}, if all stays calm.")
    return said or ["Nothing: it is watched."]


def _in(instant: float, moment: Moment) -> str:
    return f"in {spell(instant - moment.now)}" if instant - moment.now >= 0.05 else "now"


def _instance_next(program: Program, instance: Instance, moment: Moment) -> list[str]:
    settings = program.settings
    match instance.state:
        case State.STARTING:
            late = instance.spawned + instance.start_s
            return [f"Unless {instance.id} answers, it is killed {_in(late, moment)} and another one is started."]
        case State.SUSPECT:
            return [*_relief_next(program, instance), _patience(program, instance, moment)]
        case State.RETIRING if instance.pressed is not None:
            late = instance.pressed + settings.grace_s
            return [f"If {instance.id} still lives, it is killed {_in(late, moment)}."]
        case State.RETIRING:
            return [_finishing(program, instance, moment)]
        case State.KILLING if instance.tries > 1:
            return [f"{instance.id} was sent SIGKILL {instance.tries} times; it is sent again each 5 s."]
        case _:
            return []


def _relief_next(program: Program, instance: Instance) -> list[str]:
    settings = program.settings
    if settings.hang.act is Act.TELL:
        return []
    if settings.relief.extra == 0:
        why = f" ({settings.relief.extra_because})" if settings.relief.extra_because else ""
        return [f"No relief can run beside it{why}."]
    others = [o for o in program.instances if o.id.number > instance.id.number and o.state in (State.STARTING, State.READY)]
    if others:
        return [f"As soon as {others[-1].id} answers, {instance.id} is asked to stop; it may finish its work."]
    return ["A relief is started beside it as soon as the relief budget allows."]


def _patience(program: Program, instance: Instance, moment: Moment) -> str:
    who = str(instance.id)
    if program.settings.hang.act is Act.TELL:
        return f'{who} is left alone: hang.act is "tell".'
    if instance.verdict is None or instance.verdict.kind not in SUSPICIOUS:
        return f"{who} is ready again as soon as something moves."
    proof = _proof(program, instance, instance.verdict, moment)
    if proof is None:
        return f'{who} is not killed for this: hang.blocked is "off".'
    return f"{who} is ready again as soon as something moves, and {proof}."


def _finishing(program: Program, instance: Instance, moment: Moment) -> str:
    """What awaits one that was asked to go and may finish its work."""
    latest = f"at the latest {_in((instance.asked or instance.since) + RETIRING_LIMIT_S, moment)}"
    verdict = instance.verdict
    suspicious = instance.ready is not None and verdict is not None and verdict.kind in SUSPICIOUS
    proof = (
        _proof(program, instance, verdict, moment) if verdict and suspicious and program.settings.hang.act is not Act.TELL else None
    )
    return (
        f"{instance.id} may finish its work; it is {proof}, {latest}."
        if proof
        else f"{instance.id} may finish its work; it is killed {latest}."
    )


def _proof(program: Program, instance: Instance, verdict: Verdict, moment: Moment) -> str | None:
    """What would prove it hung, and when at the earliest; None when nothing would."""
    patience = patience_s(program, instance, program.settings.hang, verdict, Clock(moment.now))
    if patience is None:
        return None
    still = max(instance.moved or instance.since, instance.excused or 0.0)
    return f"killed when a look proves that nothing moved for {spell(patience)}: {_in(still + patience, moment)} at the earliest"


# --- incidents ------------------------------------------------------------------------------------------------------------------


def incident(program: Program, fleet: Fleet, moment: Moment) -> dict[str, Any]:
    """What is so now, of a program whose incident is open."""
    affected, done, comes = telling.state(program, world(fleet), moment.now)
    return {"affected": affected, "done": done, "next": comes, "runbook": program.settings.runbook or None}


# --- releases -------------------------------------------------------------------------------------------------------------------


def releases(program: Program, moment: Moment) -> dict[str, Any]:
    """A program's releases, the newest first."""
    current = newest(program, program.build)
    return {
        "name": program.settings.name,
        "link": program.link.path if program.link is not None else None,
        "releases": [_release_line(line, moment, current=line == current) for line in reversed(program.releases)],
    }


def _release_line(line: Release, moment: Moment, *, current: bool) -> dict[str, Any]:
    return {
        "release": line.name,
        "directory": line.directory,
        "state": "serving" if current and line.standing is Standing.GOOD else line.standing.value,
        "deployed": moment.wall(line.at),
        "by": line.by,
        "why": line.why,
    }


# --- plan -----------------------------------------------------------------------------------------------------------------------

_DERIVED = {"name", "server", "extra_because"}  # never written by an operator
_WRITTEN = {"manual": "start"}
_UNITS = ("_s", "_bytes")


def plan(fleet: Fleet, applied: Applied, running: DaemonSettings, changed: DaemonSettings) -> dict[str, Any]:
    """What taking up `applied` would do, program by program; `running` and `changed` are the [reviver] tables."""
    named = {candidate.settings.name for candidate in applied.programs}
    gone = [name for name, program in fleet.programs.items() if name not in named and not program.removed]
    steps = [_planned(fleet.programs.get(candidate.settings.name), candidate) for candidate in applied.programs]
    steps += [_step(name, "stop", (), "no longer in the configuration") for name in gone]
    return {
        "programs": steps,
        "escalation": "update" if _people(applied) != _people(fleet) else "none",
        "later": [f"reviver.{key}" for key in changed_keys(running, changed)],
    }


def _people(who: Applied | Fleet) -> tuple[object, object]:
    """Who is told."""
    return who.escalation, who.stakeholders


def _step(name: str, action: str, keys: Iterable[str], text: str) -> dict[str, Any]:
    return {"name": name, "action": action, "keys": list(keys), "text": text}


def _planned(program: Program | None, candidate: Candidate) -> dict[str, Any]:
    settings = candidate.settings
    if program is None or program.removed:
        if settings.manual:
            return _step(settings.name, "add", (), 'new; started by hand only (start = "manual")')
        return _step(settings.name, "start", (), "new")
    keys = changed_keys(program.settings, settings)
    if (candidate.release, candidate.directory) != (program.build.release, program.build.directory):
        keys = (*keys, "release")
    if not keys:
        return _step(settings.name, "none", (), "unchanged")
    rebuilt = program.build.launch != settings.launch or "release" in keys
    changed = f"{', '.join(keys)} changed"
    if program.wanted is Wanted.DOWN:
        return _step(settings.name, "update", keys, f"it is stopped, and stays so; for its next start: {changed}")
    if rebuilt:
        how = "one instance after the other" if settings.relief.extra else "the old one stops, then the new one starts"
        return _step(settings.name, "restart", keys, f"{how}: {changed}")
    count = settings.instances - program.settings.instances
    fewer = f", {abs(count)} instance{'s' if abs(count) > 1 else ''} {'more' if count > 0 else 'fewer'}" if count else ""
    return _step(settings.name, "update", keys, f"in place, nothing is restarted{fewer}: {changed}")


def changed_keys(old: ProgramSettings | DaemonSettings, new: ProgramSettings | DaemonSettings) -> tuple[str, ...]:
    """The keys that differ, as an operator writes them: `command`, `health.every`. Values are left out: they may be secrets."""
    return tuple(_differing(old, new, ""))


def _differing(old: Any, new: Any, prefix: str) -> Iterable[str]:
    for each in fields(old):
        before, after = getattr(old, each.name), getattr(new, each.name)
        if before == after or each.name in _DERIVED:
            continue
        if is_dataclass(before):
            yield from _differing(before, after, prefix if each.name == "launch" else f"{prefix}{each.name}.")
        else:
            yield prefix + _written(each.name)


def _written(name: str) -> str:
    for unit in _UNITS:
        name = name.removesuffix(unit)
    return _WRITTEN.get(name, name)
