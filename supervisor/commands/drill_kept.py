"""Drills that were kept: a folder each beneath `drills/` in the operator's state_dir, with the shadow's journal, evidence and recordings.

So a drill is read as any incident is, and never stands among the operator's own: D3 is the third drill, D3.2 the second incident of it.
Bounded in number; blocking.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from supervisor.alerts.channels import named
from supervisor.commands.drill_card import Row
from supervisor.control.client import Refusal
from supervisor.control.messages import REFUSED
from supervisor.records.incidents import read_incident, read_incidents
from supervisor.records.journal import JournalError

FOLDER = "drills"  # in state_dir
CARD = "drill.json"
LIMIT = 50  # drills: the newest. Each is some hundred kilobytes
CHANNEL = "the drill's channel"  # a file of the shadow's
GONE = "DIR"  # stands for the shadow's folder, which is not there any more


@dataclass(frozen=True, slots=True)
class Drill:
    """One that was kept.

    state_dir  where its journal, evidence and recordings are
    folder     the shadow's, which is not there any more
    what       the fault, for people
    program    the operator's program of which it was a shadow; "" is the bundled store
    """

    number: int
    state_dir: str
    folder: str
    fault: str
    what: str
    program: str
    rows: tuple[Row, ...]

    @property
    def id(self) -> str:
        return f"D{self.number}"

    def incidents(self) -> list[dict[str, Any]]:
        """All of it, the oldest first. Raises Refusal."""
        try:
            numbers = sorted(each["incident"] for each in read_incidents(self.state_dir))
            found = [read_incident(self.state_dir, number, named) for number in numbers]
        except JournalError as problem:
            raise Refusal(REFUSED, str(problem)) from None
        return [self._own(each) for each in found if each is not None]

    def only(self) -> int:
        """The number of its incident. Raises Refusal where it has none, or several."""
        ids = [each["incident"] for each in self.incidents()]
        if len(ids) == 1:
            return 1
        raise Refusal(REFUSED, f"drill {self.id} has {len(ids)} incidents{': name ' if ids else ''}{' or '.join(ids)}")

    def incident(self, number: int) -> dict[str, Any]:
        """One of them. Raises Refusal."""
        wanted = f"{self.id}.{number}"
        found = next((each for each in self.incidents() if each["incident"] == wanted), None)
        if found is None:
            raise Refusal(REFUSED, f"there is no incident {wanted} (see: reviver incidents --drills)")
        return found

    def spoken(self, text: str) -> str:
        """The text without the name of a folder that nobody finds any more."""
        return text.replace(self.folder, GONE)

    def _own(self, record: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.spoken(json.dumps(record)))
        told = [{**letter, "channel": CHANNEL} for letter in found["told"]]
        return {**found, "told": told, "incident": f"{self.id}.{record['incident']}", "drill": True}


def keep(state_dir: str, shadow: Path, card: Mapping[str, str], rows: Sequence[Row]) -> Drill | None:
    """Copy what an ended shadow leaves in its state_dir; None where that cannot be written.

    shadow  its folder
    card    fault, what and program of a `Drill`
    """
    above = Path(state_dir, FOLDER)
    with contextlib.suppress(OSError):
        above.mkdir(mode=0o700, exist_ok=True)
        number = max(_numbers(above), default=0) + 1
        made = above / str(number)
        made.mkdir(mode=0o700)
        shutil.copytree(shadow / "state", made, dirs_exist_ok=True)
        text = json.dumps({"drill": True, **card, "folder": str(shadow), "card": [asdict(row) for row in rows]}, indent=1)
        (made / CARD).write_text(f"{text}\n")
        for old in sorted(_numbers(above))[:-LIMIT]:
            shutil.rmtree(above / str(old), ignore_errors=True)
        return Drill(number, str(made), str(shadow), rows=tuple(rows), **card)
    return None


def find(state_dir: str, number: int) -> Drill:
    """Raises Refusal."""
    made = Path(state_dir, FOLDER, str(number))
    try:
        said = json.loads((made / CARD).read_text())
        rows = tuple(Row(**row) for row in said["card"])
        return Drill(number, str(made), said["folder"], said["fault"], said["what"], said["program"], rows)
    except FileNotFoundError:
        raise Refusal(REFUSED, f"there is no drill D{number} in {state_dir} (see: reviver incidents --drills)") from None
    except OSError as problem:
        raise Refusal(REFUSED, f"drill D{number} cannot be read ({problem.strerror}): ask as the user who played it") from None
    except (ValueError, KeyError, TypeError):
        raise Refusal(REFUSED, f"drill D{number} cannot be read: {made / CARD} is cut off, or of another version") from None


def all_of(state_dir: str) -> Iterator[Drill]:
    """Those that can be read, the newest first."""
    for number in sorted(_numbers(Path(state_dir, FOLDER)), reverse=True):
        with contextlib.suppress(Refusal):
            yield find(state_dir, number)


def _numbers(above: Path) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir(above) if name.isdecimal()]
    return []
