"""A recording as bytes: small enough to be kept beside an incident, and read again by a later version.

Facts of one kind stand together, and an order beside them tells how they came: likeness is what compression lives of. Instants are kept
to a tenth of a millisecond. It touches no file.
"""

from __future__ import annotations

import lzma
from typing import Any

import msgspec

from supervisor.policy.facts import (
    Asked,
    Beaten,
    Blinded,
    Fact,
    Heard,
    HostSeen,
    Opened,
    Queued,
    Readied,
    Ruled,
    SocketsSeen,
    Stopping,
    Unasked,
    Unseen,
    WorkersSeen,
)
from supervisor.policy.replay import Recording
from supervisor.policy.samples import TreeSample

INSTANT_DIGITS = 4  # the kernel's ages have a resolution of milliseconds
PRESET = 1  # against 6: 1/8 of the time, 9 MB instead of 94, for an eighth more bytes
SIZE_LIMIT_BYTES = 64 << 20  # of one recording, unpacked: an hour of a big tree looked at densely


class RecordingError(Exception):
    """These bytes are no recording that this version can read; the text says why."""


class _Columns(msgspec.Struct, forbid_unknown_fields=True):
    """`order` holds for each fact the number of its kind: its place in _KINDS, which only ever grows at its end."""

    spawned: float
    order: list[int]
    ruled: list[Ruled] = []
    readied: list[Readied] = []
    asked: list[Asked] = []
    heard: list[Heard] = []
    unasked: list[Unasked] = []
    beaten: list[Beaten] = []
    stopping: list[Stopping] = []
    queued: list[Queued] = []
    sockets: list[SocketsSeen] = []
    unseen: list[Unseen] = []
    workers: list[WorkersSeen] = []
    host: list[HostSeen] = []
    blinded: list[Blinded] = []
    trees: list[TreeSample] = []
    opened: list[Opened] = []


_KINDS: dict[type[Fact], str] = {
    Ruled: "ruled",
    Readied: "readied",
    Asked: "asked",
    Heard: "heard",
    Unasked: "unasked",
    Beaten: "beaten",
    Stopping: "stopping",
    Queued: "queued",
    SocketsSeen: "sockets",
    Unseen: "unseen",
    WorkersSeen: "workers",
    HostSeen: "host",
    Blinded: "blinded",
    TreeSample: "trees",
    Opened: "opened",
}
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
_DECODER = msgspec.json.Decoder(_Columns)


def encode(recording: Recording) -> bytes:
    """For a lane: a tenth of a second for a minute of a big tree."""
    columns: dict[str, list[Any]] = {name: [] for name in _KINDS.values()}
    for fact in recording.facts:
        columns[_KINDS[type(fact)]].append(_rounded(msgspec.to_builtins(fact)))
    order = [_NUMBERS[type(fact)] for fact in recording.facts]
    return lzma.compress(msgspec.json.encode({"spawned": recording.spawned, "order": order, **columns}), preset=PRESET)


def decode(data: bytes) -> Recording:
    """Raises RecordingError."""
    unpacker = lzma.LZMADecompressor()
    try:
        unpacked = unpacker.decompress(data, SIZE_LIMIT_BYTES)
        if not unpacker.eof:
            raise RecordingError(f"this is no recording that can be read: it is cut off, or over {SIZE_LIMIT_BYTES} bytes long")
        columns = _DECODER.decode(unpacked)
        rows = [iter(getattr(columns, name)) for name in _KINDS.values()]
        return Recording(columns.spawned, tuple(next(rows[number]) for number in columns.order))
    except (lzma.LZMAError, EOFError, msgspec.MsgspecError, IndexError, RuntimeError) as problem:
        raise RecordingError(f"this is no recording that can be read: {problem}") from None


def _rounded(value: Any) -> Any:
    match value:
        case float():
            return round(value, INSTANT_DIGITS)
        case dict():
            return {name: _rounded(each) for name, each in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_rounded(each) for each in value]
        case _:
            return value
