"""`reviver drill`: a fault on purpose, in a shadow, with the clock running, and a score card.

The shadow is a Reviver of its own (`drill_shadow`) with the bundled store, on a port of its own, with customers of its own. What the
operator runs is not touched.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from supervisor.commands import drill_store
from supervisor.commands.configuration import load
from supervisor.commands.drill_card import Row, Seen, rows
from supervisor.commands.drill_faults import FAULTS, play
from supervisor.commands.drill_shadow import Line, folder, free_port, marked, running
from supervisor.commands.screen import remark, say_json, table
from supervisor.control.client import find_config

HEAD = ("RESULT", "WHAT", "GOOD IS", "MEASURED")
FOLDER = "drills"  # in state_dir


def drill(config: str | None, fault: str, as_json: bool) -> int:
    """Play one fault and print the card; 1 when something was not as it should be.

    raises  Refusal
    """
    chosen, port, program = FAULTS[fault], free_port(), marked(drill_store.NAME)
    with folder() as where:
        tables = drill_store.tables(where, port, chosen.first) + channel(where)
        with running(where, program, port, tables) as shadow:
            remark(f"drill: {chosen.what}, in a shadow of the bundled store on 127.0.0.1:{port}; what you run is not touched")
            seen = play(chosen, shadow, "/")
        incidents = shadow.incidents()
    card = rows(chosen.expected, seen)
    kept = keep(config, fault, seen, card, incidents)
    if as_json:
        say_json({"drill": fault, "program": program, "rows": [asdict(row) for row in card], "kept": kept})
    else:
        table(HEAD, [("ok" if row.well else "missing", row.what, row.good, row.measured) for row in card], state=0)
    remark(f"kept, marked as a drill: {kept}" if kept else "not kept: there is no configuration whose state_dir can be written")
    return 0 if all(row.well for row in card) else 1


def channel(where: Path) -> str:
    """The only channel of a shadow: it notes when it got what."""
    return f'[[escalation]]\nnotify = ["command:/bin/sh {where}/pager {where}/message"]\n'


def keep(config: str | None, fault: str, seen: Seen, card: Sequence[Row], incidents: Sequence[Line]) -> str:
    """Write down what was, beside the operator's own incidents and never among them; the file's path, "" where that cannot be.

    config  whose state_dir it is; where no configuration is found nothing is kept
    """
    if find_config(config, os.environ) is None:
        return ""
    began = datetime.fromtimestamp(seen.began_wall, UTC)
    record = {
        "drill": True,
        "fault": fault,
        "began": began.isoformat(),
        "card": [asdict(row) for row in card],
        "incidents": incidents,
    }
    file = Path(load(config).daemon.state_dir, FOLDER, f"{began:%Y-%m-%dT%H-%M-%SZ}-{fault}.json")
    with contextlib.suppress(OSError):
        file.parent.mkdir(mode=0o700, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n")
        return str(file)
    return ""
