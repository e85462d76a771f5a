"""What a page says beside its fact: who is affected, what was done so far, what comes next. Pure; one sentence each."""

from __future__ import annotations

from supervisor.model import Act, Instance, Program, State
from supervisor.policy import toll
from supervisor.policy.history import next_start
from supervisor.policy.wanted import World, ready, suspects, unkillable, wanted
from supervisor.policy.words import enumerated, spell


def state(program: Program, world: World, now: float) -> tuple[str, str, str]:
    """Who is affected, what was done, what comes next."""
    whom, noticed = affected(program, world, now), toll.so_far(program)
    return f"{whom}; so far {noticed}" if noticed else whom, done(program), comes(program, now)


def affected(program: Program, world: World, now: float) -> str:
    up, serving, stuck = wanted(program, world), ready(program), suspects(program)
    if not up:
        return "nobody: nothing of it is wanted"
    if not serving:
        unserved_s = 0.0 if program.unserved is None else now - program.unserved
        since = f", for {spell(unserved_s)} now" if unserved_s >= 1.0 else ""
        return f"all customers: no instance is ready{since}"
    whole = f"{serving} of {up} instances serve{'s' if serving == 1 else ''}" if serving < up else "the others are served"
    if stuck:
        return f"those whose requests are in {_names(stuck)}; {whole}"
    serves = "serves" if serving == 1 else "serve"
    return whole if serving < up else f"nobody any more, as far as is seen: {_names(_of(program, State.READY))} {serves}"


def done(program: Program) -> str:
    said = []
    beside = [i for i in program.instances if i.relief and i.state in (State.STARTING, State.READY)]
    if beside:
        said.append(f"{_names(beside)} was started beside it" if len(beside) == 1 else f"{_names(beside)} were started beside it")
    if leaving := _of(program, State.RETIRING):
        said.append(f"{_names(leaving)} was asked to stop" if len(leaving) == 1 else f"{_names(leaving)} were asked to stop")
    if dying := _of(program, State.KILLING):
        said.append(f"SIGKILL was sent to {_names(dying)}")
    fresh = [i for i in _of(program, State.STARTING) if not i.relief]
    if fresh:
        said.append(f"{_names(fresh)} was started" if len(fresh) == 1 else f"{_names(fresh)} were started")
    if any(i.evidence for i in program.instances):
        said.append("evidence was taken")
    return "; ".join(said) or "nothing yet"


def comes(program: Program, now: float) -> str:
    hold, settings = program.hold, program.settings
    if hold is not None:
        return (
            f"nothing by itself for {spell(hold.until - now)}: {hold.by} holds it ({hold.reason}); "
            f"reviver hold {settings.name} --end lets Reviver heal it"
        )
    if stubborn := [i for i in program.instances if unkillable(i)]:
        return f"SIGKILL again each 5 s; look at {_names(stubborn)} yourself"
    if stuck := suspects(program):
        told = settings.hang.act is Act.TELL
        return "nothing by itself: hang.act is tell" if told else f"{_names(stuck)} is relieved, and killed once it is proven hung"
    if fresh := _of(program, State.STARTING):
        return f"{_names(fresh)} has {spell(fresh[0].start_s)} to become ready"
    if (start := next_start(program)) is not None and not program.instances:
        forever = ", and so on for ever" if program.crash_loop else ""
        return f"the next start in {spell(max(start - now, 0.0))}{forever}"
    return f"it is over when all has been calm for {spell(settings.restart.healthy_s)}"


def _of(program: Program, state: State) -> list[Instance]:
    return [i for i in program.instances if i.state is state]


def _names(instances: list[Instance] | tuple[Instance, ...]) -> str:
    return enumerated([str(instance.id) for instance in instances])
