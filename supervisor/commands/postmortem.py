"""`reviver postmortem`: the record of an incident as a document for people, from the journal, the evidence and the recordings."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from supervisor.commands import drill_card, drill_kept, drill_may3
from supervisor.commands.configuration import load
from supervisor.commands.drill_kept import Drill
from supervisor.commands.incidents import find
from supervisor.commands.releases import who
from supervisor.commands.screen import remark, say
from supervisor.commands.which import Which
from supervisor.control.client import Refusal
from supervisor.control.messages import REFUSED
from supervisor.mechanism.evidence import FILE_BYTES, FOLDER
from supervisor.records import recordings
from supervisor.records.paper import markdown
from supervisor.records.paper_html import html
from supervisor.records.postmortem import Evidence, Found, Played, evidence, write
from supervisor.records.together import together

READ_BYTES = 4 * FILE_BYTES  # a longer file keeps one stack and fifty threads, and may still be over its limit a little


def postmortem(config: str | None, ids: Sequence[str], target: str | None) -> int:
    """Print Markdown, or write an HTML file that is not there yet: of one incident, of several of one program, or of a drill."""
    if len({Which.read(which).drill for which in ids}) > 1:
        raise Refusal(REFUSED, "a postmortem is of incidents or of one drill: name the others by themselves")
    found = [_found(config, which) for which in dict.fromkeys(ids)]
    if len({each.program for each in found}) > 1:
        raise Refusal(REFUSED, "a postmortem is of one program: name incidents of one (see: reviver incidents NAME)")
    document = write(together(found))
    if target is None:
        say(markdown(document)[:-1])
        return 0
    _create(Path(target), html(document))
    remark(f"{target} is written; its yellow fields are for people")
    return 0


def _found(config: str | None, which: str) -> Found:
    """All that is kept of what one id names."""
    records, wanted, state_dir = find(config, which), Which.read(which), load(config).daemon.state_dir
    drill = drill_kept.find(state_dir, wanted.drill) if wanted.drill else None
    folder, spoken = (state_dir, str) if drill is None else (drill.state_dir, drill.spoken)
    return together([_one(record, folder, spoken, _played(drill)) for record in records])


def _played(drill: Drill | None) -> Played | None:
    if drill is None:
        return None
    rows = tuple(("ok" if row.well else "missing", row.what, row.good, row.measured) for row in drill.rows)
    shadow_of = drill.program or "the bundled store"
    head = drill_may3.CARD_HEAD if drill.fault == "may3" else drill_card.HEAD
    return Played(drill.id, f"{drill.what}, in a shadow of {shadow_of}", head, rows)


def _one(record: dict[str, Any], state_dir: str, spoken: Callable[[str], str], played: Played | None) -> Found:
    record["acknowledgements"] = [{**each, "by": who(each["by"])} for each in record["acknowledgements"]]
    record["acknowledged_by"] = record["acknowledged_by"] and who(record["acknowledged_by"])
    known, problems = _evidence(Path(state_dir, FOLDER), record, spoken)
    number = int(str(record["incident"]).rpartition(".")[2])
    recorded = tuple(recordings.read(state_dir, incident=number))
    return Found(record, tuple(known), tuple(problems), recorded, played=played)


def _evidence(folder: Path, record: dict[str, Any], spoken: Callable[[str], str]) -> tuple[list[Evidence], list[str]]:
    """What was found of its instances, oldest first, and a sentence for each file that could not be had."""
    wanted = {name.replace(":", "-") for name in record["evidence"]}
    known, problems = [], []
    try:
        paths = sorted(path for path in folder.iterdir() if re.sub(r"-\d+\.json$", "", path.name) in wanted) if wanted else []
    except OSError as problem:
        return [], [f"The evidence could not be read ({problem.strerror}): ask as the user who runs Reviver."]
    for path in paths:
        try:
            with path.open("rb") as file:
                found = evidence(spoken(file.read(READ_BYTES).decode(errors="replace")).encode())
        except OSError as problem:
            problems.append(f"The evidence {path.name} could not be read ({problem.strerror}).")
            continue
        if found is None:
            problems.append(f"The evidence {path.name} could not be read: it is cut off, or of another version.")
        else:
            known.append(found)
    if wanted and not paths:
        problems.append("The evidence is not there any more: only the newest files of all programs are kept.")
    return sorted(known, key=lambda each: each.taken_wall), problems


def _create(path: Path, text: str) -> None:
    """Write a new file, whole or not at all; one that is there may hold what people wrote into it.

    raises  Refusal, OSError
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise Refusal(REFUSED, f"{path} exists, and people may have written into it: name another file, or remove it") from None
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
