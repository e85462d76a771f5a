"""`reviver check`: everything that can be known of a configuration before it runs. Works without a daemon, and changes nothing.

The preflights are run, as they would be before a new build starts: they are the operator's own commands, and are expected to change
nothing either.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from supervisor import config, servers
from supervisor.commands.configuration import refusal
from supervisor.commands.screen import remark, safe, say, say_json
from supervisor.control.messages import BAD_CONFIG, REFUSED
from supervisor.mechanism.cgroups import idle_limits, prospect
from supervisor.mechanism.launch import run_preflight
from supervisor.mechanism.release import resolve
from supervisor.model import Build, ProgramSettings, RunPreflight, Settings
from supervisor.policy.fill import PREFLIGHT_S


def check(explicit: str | None, as_json: bool) -> int:
    """Print what was found; 78 when the configuration has faults, 1 when a preflight fails."""
    path, settings, faults = _read(explicit)
    programs = [_program(program) for program in settings.programs] if settings and not faults else []
    failed = [each for each in programs if each["preflight_problem"]]
    answer: dict[str, Any] = {
        "config": path,
        "ok": not faults and not failed,
        "faults": [{"file": f.file, "key": f.key, "problem": f.problem, "mend": f.mend} for f in faults],
        "programs": programs,
        "unused": list(settings.unused) if settings else [],
    }
    if as_json:
        say_json(answer)
    elif faults:
        raise refusal(faults)
    else:
        _show(answer)
    if faults:
        return BAD_CONFIG
    return REFUSED if failed else 0


def _read(explicit: str | None) -> tuple[str, Settings | None, tuple[config.ConfigError, ...]]:
    """The path, the settings where they could be read at all, and every fault, also those that only this host tells."""
    path = Path(explicit or "")
    try:
        path = config.find(explicit, os.environ)
        settings = config.load(path)
    except config.ConfigErrors as problem:
        return str(path), None, problem.faults
    return str(path), settings, config.examine(settings)


def _program(settings: ProgramSettings) -> dict[str, Any]:
    release, directory, _ = resolve(settings.launch)
    problem = ""
    if settings.launch.preflight:
        build = Build(1, release, settings.launch, directory)
        problem = run_preflight(RunPreflight(settings.name, build, PREFLIGHT_S), os.environ)
    return {
        "name": settings.name,
        "server": settings.server or None,
        "release": release,
        "extra": settings.relief.extra,
        "because": settings.relief.extra_because,
        "preflights": len(settings.launch.preflight),
        "preflight_problem": problem,
        "remarks": [*servers.remarks(settings), *_idle_limits(settings)],
    }


def _idle_limits(settings: ProgramSettings) -> list[str]:
    """What was written of limits, and this host does not have."""
    controllers, why = prospect(os.environ)
    return [f"limits.{key} has no effect here: {why}" for key in idle_limits(settings.launch.limits, controllers)]


def _show(answer: dict[str, Any]) -> None:
    for program in answer["programs"]:
        name = safe(program["name"])
        say(f"{name}: {program['server'] or 'a server that Reviver does not know'}; {safe(program['because'])}")
        if program["preflight_problem"]:
            remark(f"{name}: {program['preflight_problem']}")
        elif program["preflights"]:
            say(f"{name}: {program['preflights']} preflight command{'s' if program['preflights'] > 1 else ''} passed")
        for sentence in program["remarks"]:
            remark(f"{name}: {sentence}")
    for sentence in answer["unused"]:
        remark(sentence)
    if answer["ok"]:
        count = len(answer["programs"])
        say(f"{safe(answer['config'])}: good, {count} program{'' if count == 1 else 's'}")
