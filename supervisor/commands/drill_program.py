"""A program of the operator's own in a drill: which may be, and what it is started with in the shadow.

Only one that is marked `drill = true`. It gets its own command and settings, on ports of loopback of its own. What it reaches by other ways
(a database, a queue) is the real one: that is what the mark answers for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supervisor import config
from supervisor.commands.drill_shadow import free_port, marked, toml
from supervisor.control.client import Refusal
from supervisor.control.messages import NO_SUCH_PROGRAM, REFUSED
from supervisor.model import ProgramSettings, Settings

LEFT_OUT = ("drill", "after", "output", "start")  # of no meaning in a shadow


def chosen(settings: Settings, name: str) -> ProgramSettings:
    """The program, if a drill may start another one of it.

    raises  Refusal
    """
    found = next((program for program in settings.programs if program.name == name), None)
    if found is None:
        raise Refusal(NO_SUCH_PROGRAM, f"there is no program {name} in {settings.path}")
    if not found.drill:
        raise Refusal(REFUSED, f"{name} is not marked for drills (drill = true in [program.{name}] lets a second one of it fail)")
    if not found.launch.sockets or not found.health.http.startswith("/"):
        raise Refusal(REFUSED, f"{name} cannot be drilled: that needs sockets held by Reviver, and a path in health.http")
    if found.health.tcp or found.health.command:
        raise Refusal(REFUSED, f"{name} cannot be drilled: its health.tcp or health.command would ask the one that you run")
    return found


def table(settings: Settings, program: ProgramSettings, port: int) -> dict[str, Any]:
    """Its table for a shadow, with `port` on loopback in the place of its first socket."""
    raw, folder = config.written(Path(settings.path), program.name)
    found: dict[str, Any] = {key: value for key, value in raw.items() if key not in LEFT_OUT}
    found["directory"] = os.path.realpath(program.launch.directory)  # no symlink: it is not the drill's to switch
    found["sockets"] = [f"127.0.0.1:{port}", *(f"127.0.0.1:{free_port()}" for _ in program.launch.sockets[1:])]
    if "env_file" in found:
        found["env_file"] = [str(Path(folder, each)) for each in found["env_file"]]
    if program.sorry.page:
        found["sorry"] = {**found["sorry"], "page": program.sorry.page}
    return found


def written(program: ProgramSettings, table: Mapping[str, Any]) -> str:
    """In TOML."""
    return f"[program.{marked(program.name)}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in table.items())
