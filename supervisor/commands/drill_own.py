"""The faults that any program can be given, in a shadow of one that is marked for drills: without its help, and without changing it.

What has to come from within is a command in front of its own: it bears the name of env(1), which is known to be replaced by what it
starts, so the shadow takes the program for the server that it is. What cannot be brought about truly is refused.
"""

from __future__ import annotations

import shlex
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from supervisor.commands import drill_peer, drill_program
from supervisor.commands.drill_card import Expected, names_all
from supervisor.commands.drill_customers import Customers
from supervisor.commands.drill_faults import ANY, SILENT_S, Fault
from supervisor.commands.drill_peer import Peer
from supervisor.commands.drill_shadow import HOST, Shadow, toml
from supervisor.control.client import Refusal
from supervisor.control.messages import REFUSED
from supervisor.model import ProgramSettings, Settings

GROWTH_MB_PER_S, GROWTH_MB = 20, 240  # four times what is called a leak, for twice as long as it takes to be seen
SLOW_S = 86_400  # longer than any start may take
SOON_S = 15.0  # to decide and to say so, once a start has failed
BESIDE = 3  # so many times the limit it has while another serves (docs/policy.md)
BALLAST_S = 5.0  # for the helper to be there
BALLAST = f"""\
import os, sys, time
begin, parent, kept = sys.argv[1], os.getppid(), []
while os.getppid() == parent:
    if os.path.exists(begin) and len(kept) < {GROWTH_MB // 2}:
        kept.append(bytearray(b"x") * 2_000_000)
    time.sleep({2 / GROWTH_MB_PER_S})
"""


@dataclass(slots=True)
class Own:
    """A program of the operator's in its shadow.

    where  the shadow's folder
    table  its table there
    """

    program: ProgramSettings
    where: Path
    table: dict[str, Any]

    @property
    def command(self) -> list[str]:
        return list(self.program.launch.command)

    def behind(self, name: str, lines: str) -> list[str]:
        """Its command behind a script of these lines, which goes on to the command when it is through."""
        folder = self.where / name
        folder.mkdir(mode=0o755)
        script = folder / "env"
        script.write_text(f'#!/bin/sh\n{lines}\nexec "$@"\n')
        script.chmod(0o755)
        return [str(script), *self.command]


def prepared(
    fault: str, settings: Settings, program: ProgramSettings, port: int, where: Path, peer: str, held: ExitStack
) -> tuple[Fault, str]:
    """The fault, and the tables of the shadow in which it can be played.

    peer    the environment's variable that names what the program depends on
    held    what has to last as long as the drill
    raises  Refusal
    """
    if peer and fault != "dead-dependency":
        raise Refusal(REFUSED, f"--peer is for dead-dependency: {fault} needs no peer")
    own = Own(program, where, drill_program.table(settings, program, port))
    own.table["command"] = own.command
    match fault:
        case "leak":
            chosen = _leak(own)
        case "slow-boot":
            chosen = _lost(own, "a build that does not become ready", f"sleep {SLOW_S}", program.health.start_s + SOON_S)
        case "bad-release":
            chosen = _lost(
                own, "a build that cannot start", "echo 'this build cannot start: a drill made it so' >&2; exit 1", SOON_S
            )
        case "dead-dependency":
            chosen = _dead(own, peer, held)
        case "hang":
            chosen = _hang(own)
        case _:
            chosen = ANY[fault]
    wait_s = program.restart.healthy_s + program.restart.limit_s  # its recovery is proven, and it starts again, at its own pace
    expected = replace(chosen.expected, over_s=chosen.expected.over_s + wait_s)
    return replace(chosen, expected=expected), drill_program.written(program, own.table)


def _hang(own: Own) -> Fault:
    """Stopped, it neither answers nor ends when it is asked to: it goes when it is proven hung."""
    blocked_s, chosen = own.program.hang.blocked_s, ANY["hang"]
    if blocked_s is None:
        raise Refusal(
            REFUSED,
            f"{own.program.name} says hang.blocked = off, so one that is stopped is told and never killed, and there is no recovery to "
            "measure: crash has one",
        )
    return replace(chosen, expected=replace(chosen.expected, over_s=chosen.expected.over_s + BESIDE * blocked_s))


def _leak(own: Own) -> Fault:
    """A helper in its tree grows: Reviver counts the whole tree, and cannot tell it from a worker."""
    free_mb = psutil.virtual_memory().available // 1_000_000
    if free_mb < 2 * GROWTH_MB:
        raise Refusal(
            REFUSED, f"a leak takes {GROWTH_MB} MB and this host has {free_mb} MB available: drill it where there is more"
        )
    begin, code = own.where / "leak/begin", own.where / "ballast"
    code.write_text(BALLAST)
    ballast = shlex.join([sys.executable, "-I", "-S", str(code), str(begin)])
    own.table["command"] = own.behind("leak", f"{ballast} </dev/null >/dev/null 2>&1 &")

    def inject(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
        pids = [instance["pid"] for instance in shadow.instances()]
        if not shadow.until(lambda: any(_carries(pid, code) for pid in pids), BALLAST_S):
            raise Refusal(
                REFUSED, f"the helper that grows does not run: {sys.executable} must be executable for the program's user"
            )
        begin.touch()

    what = f"a process of its tree that grows by {GROWTH_MB_PER_S} MB a second"
    return Fault(what, inject, Expected(("instance.leaking",), found_s=20.0, served=False, told=False, over_s=30.0))


def _carries(pid: int, code: Path) -> bool:
    try:
        return any(str(code) in child.cmdline() for child in psutil.Process(pid).children())
    except psutil.Error:
        return False


def _lost(own: Own, what: str, lines: str, found_s: float) -> Fault:
    """A build that differs in its command alone: for Reviver that is what a release is."""
    program = own.program
    if not program.release.rollback:
        raise Refusal(
            REFUSED,
            f"{program.name} says release.rollback = false, so no build is taken back and there is nothing to measure: "
            "crash-loop shows what a build that dies does",
        )
    worse = own.behind("build", lines)

    def inject(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
        shadow.change(f"command = {toml(own.command)}\n", f"command = {toml(worse)}\n")

    expected = Expected(("build.lost",), ("build 2",), found_s, served=False, told_s=found_s, over_s=found_s, gap_s=2.0)
    if not program.relief.extra:  # it may not live beside itself, so the one that serves goes first
        expected = replace(expected, served=True, served_s=found_s + SOON_S, failing=None, gap_s=found_s + SOON_S)
    return Fault(what, inject, expected)


def _dead(own: Own, variable: str, held: ExitStack) -> Fault:
    """Its peer falls silent, until people are told; then it speaks again."""
    name = own.program.name
    if not variable:
        raise Refusal(
            REFUSED,
            f"what {name} depends on is not known: --peer VARIABLE names the variable of its environment in which HOST:PORT stands",
        )
    peer = held.enter_context(Peer(variable, drill_peer.value_of(variable, dict(own.program.launch.env))))
    own.table["env"] = {**own.table.get("env", {}), variable: peer.value}
    named = Expected((), (f"{HOST}:{peer.port}",))

    def inject(shadow: Shadow, customers: Customers, held: ExitStack) -> None:
        began_wall = time.time()
        peer.say("silent")
        shadow.until(lambda: any(names_all(named, page) for page in shadow.pages(began_wall)), SILENT_S)
        peer.say("speak")

    expected = replace(named, found=("instance.suspected",), found_s=10.0, served=False, told_s=SILENT_S, failing=None, gap_s=60.0)
    return Fault(f"the peer of {variable} falls silent", inject, expected)
