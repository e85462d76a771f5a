"""`reviver drill`: a fault on purpose, in a shadow, with the clock running, and a score card.

The shadow is a Reviver of its own (`drill_shadow`) with the bundled store, or with a program that is marked for drills (`drill_program`),
on a port of its own, with customers of its own. What the operator runs is not touched.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from supervisor.commands import drill_kept, drill_may3, drill_own, drill_program, drill_store
from supervisor.commands.configuration import load
from supervisor.commands.drill_card import HEAD, Row, Seen, rows
from supervisor.commands.drill_customers import Customers
from supervisor.commands.drill_faults import COME_S, FAULTS, Fault, play
from supervisor.commands.drill_kept import Drill
from supervisor.commands.drill_shadow import folder, free_port, marked, running
from supervisor.commands.drill_voices import Voices, voices
from supervisor.commands.screen import remark, say, say_json, spell, table, typed
from supervisor.control.client import find_config


@dataclass(frozen=True, slots=True)
class Prepared:
    """A drill that can begin. `tables` are the shadow's configuration, `path` is what its customers ask for."""

    program: str
    fault: Fault
    tables: str
    path: str = "/"


@dataclass(frozen=True, slots=True)
class Own:
    """A program of the operator's own.

    path  what its customers ask for; "" is what its health.http asks
    peer  the variable of its environment that names what it depends on; "": none is named
    """

    name: str
    path: str = ""
    peer: str = ""


def drill(config: str | None, fault: str, own: Own | None, tell: bool, as_json: bool) -> int:
    """Play one fault and print the card; 1 when something was not as it should be.

    own     a program that is marked for drills; None: the bundled store
    tell    the operator's channels hear of it
    raises  Refusal
    """
    port, name, state_dir = free_port(), own.name if own is not None else "", _state_dir(config)
    with folder() as where, ExitStack() as held:
        prepared = _store(fault, port, where) if own is None else _program(config, fault, own, port, where, held)
        heard, steps = voices(load(config), name, where) if tell else (Voices(), "")
        what = f"{prepared.fault.what}, in a shadow of {name or 'the bundled store'} on 127.0.0.1:{port}"
        with running(where, prepared.program, port, prepared.tables + channel(where) + steps) as shadow:
            remark(f"drill: {what}")
            remark(f"what you run is not touched; it is over within {spell(prepared.fault.expected.over_s)}, if all is well")
            seen = play(prepared.fault, shadow, prepared.path, heard.forward)
        card = rows(prepared.fault.expected, seen)
        kept = _keep(state_dir, where, {"fault": fault, "what": prepared.fault.what, "program": name}, card)
    if as_json:
        said = [asdict(row) for row in card]
        say_json({"drill": fault, "program": prepared.program, "rows": said, "kept": None if kept is None else kept.id})
    else:
        table(
            [word.upper() for word in HEAD],
            [("ok" if row.well else "missing", row.what, row.good, row.measured) for row in card],
            state=0,
        )
    _say_where(kept, config)
    return 0 if all(row.well for row in card) else 1


def may3(config: str | None) -> int:
    """Play the whole morning and print its transcript; 1 when something was not as it should be.

    raises  Refusal
    """
    port, program, state_dir = free_port(), marked(drill_store.NAME), _state_dir(config)
    with folder() as where:
        with (
            running(where, program, port, drill_may3.tables(where, port) + channel(where)) as shadow,
            Customers(port, "/", where / "customers") as customers,
        ):
            shadow.until(lambda: bool(customers.requests()), COME_S)
            began_wall = time.time()
            scenes = list(drill_may3.Morning(shadow, customers).play())
            story, pages = shadow.story(began_wall), shadow.pages(began_wall)
        seen = Seen(began_wall, story, pages, customers.requests())
        card = [Row(scene.at, scene.now, scene.then, scene.well) for scene in scenes]
        kept = _keep(state_dir, where, {"fault": "may3", "what": drill_may3.WHAT, "program": ""}, card)
    say(drill_may3.transcript(scenes, seen, where))
    _say_where(kept, config)
    return 0 if all(scene.well for scene in scenes) else 1


def _store(fault: str, port: int, where: Path) -> Prepared:
    chosen = FAULTS[fault]
    return Prepared(marked(drill_store.NAME), chosen, drill_store.tables(where, port, chosen.first))


def _program(config: str | None, fault: str, own: Own, port: int, where: Path, held: ExitStack) -> Prepared:
    settings = load(config)
    program = drill_program.chosen(settings, own.name)
    chosen, tables = drill_own.prepared(fault, settings, program, port, where, own.peer, held)
    return Prepared(marked(own.name), chosen, tables, own.path or program.health.http)


def channel(where: Path) -> str:
    """The shadow's own channel: it notes when it got what."""
    return f'[[escalation]]\nnotify = ["command:/bin/sh {where}/pager {where}/message"]\n'


def _state_dir(config: str | None) -> str:
    """Where it is kept: beside the operator's own incidents, and never among them; "" where there is no configuration.

    raises  Refusal: a configuration with faults is said before a drill is played, and not afterwards
    """
    return load(config).daemon.state_dir if find_config(config, os.environ) is not None else ""


def _keep(state_dir: str, where: Path, card: Mapping[str, str], measured: Sequence[Row]) -> Drill | None:
    return drill_kept.keep(state_dir, where, card, measured) if state_dir else None


def _say_where(kept: Drill | None, config: str | None) -> None:
    option = typed(config)
    if kept is None:
        remark("not kept: there is no configuration whose state_dir can be written")
    elif not kept.incidents():
        remark(f"kept as drill {kept.id}; no incident was opened in it")
    else:
        remark(f"kept as drill {kept.id}: reviver postmortem {kept.id}{option}, reviver incidents --drills{option}")
