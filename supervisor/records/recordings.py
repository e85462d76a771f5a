"""Recordings on disk: what was seen around each bad verdict, so that it can be explained, and replayed through other settings.

`<state_dir>/recordings/INCIDENT-PROGRAM-NUMBER-WALL.recording`, 0600: a line of JSON that says what it is of, then the
facts (recording.py). It holds settings, and so what a configuration gave a program as environment. Whole or not at all; bounded in
number, in size and by `keep`, the oldest go first. Blocking: for a lane, or a command.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from supervisor.model import Fleet, InstanceId
from supervisor.policy.replay import Recording
from supervisor.records import recording

FOLDER = "recordings"
FILES_LIMIT = 1000  # some 10 KB each for a small server
BYTES_LIMIT = 64 << 20


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a recording is of.

    incident  that was open while the verdict was bad; 0: none was
    began     when the verdict became bad
    ended     why it ends, in words
    fleet     the program, and those that it waits for, as they were when the recording begins
    wall_s    what must be added to an instant of it for wall time
    boot      its instants are those of this boot
    """

    incident: int
    program: str
    number: int
    began: float
    ended: str
    fleet: Fleet
    wall_s: float
    boot: str
    version: str

    @property
    def id(self) -> InstanceId:
        return InstanceId(self.program, self.number)


class Kept(msgspec.Struct, frozen=True):
    head: Head
    recording: Recording


def write(state_dir: str, kept: Kept, keep_s: float | None) -> None:
    """Keep one, and only the newest of all. Raises OSError."""
    folder = Path(state_dir) / FOLDER
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    head = kept.head
    wall_ms = int((head.began + head.wall_s) * 1000)
    target = folder / f"{head.incident}-{head.program}-{head.number}-{wall_ms}.recording"
    draft = target.with_suffix(".new")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(msgspec.json.encode(head) + b"\n" + recording.encode(kept.recording))
    draft.replace(target)
    _trim(folder, keep_s)


def read(state_dir: str, *, incident: int | None = None, since_wall: float = 0.0) -> Iterator[Kept]:
    """Those of one incident, or of all, the oldest first; what another version wrote and cannot be read is left out. Raises OSError."""
    pattern = "*.recording" if incident is None else f"{incident}-*.recording"
    for path in sorted((Path(state_dir) / FOLDER).glob(pattern), key=_wall_ms):
        if _wall_ms(path) < since_wall * 1000:
            continue
        head, _, facts = path.read_bytes().partition(b"\n")
        try:
            yield Kept(msgspec.json.decode(head, type=Head), recording.decode(facts))
        except (msgspec.MsgspecError, recording.RecordingError):
            continue


def _trim(folder: Path, keep_s: float | None) -> None:
    oldest_ms = 0.0 if keep_s is None else (time.time() - keep_s) * 1000
    size = 0
    for count, path in enumerate(sorted(folder.glob("*.recording"), key=_wall_ms, reverse=True), 1):
        size += path.stat().st_size
        if count > 1 and (count > FILES_LIMIT or size > BYTES_LIMIT or _wall_ms(path) < oldest_ms):
            path.unlink(missing_ok=True)


def _wall_ms(path: Path) -> int:
    """When its verdict became bad, as its name says; a name that is not ours is the oldest."""
    word = path.stem.rpartition("-")[2]
    return int(word) if word.isdecimal() else 0
