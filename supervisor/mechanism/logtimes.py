"""When a line of output was written, as far as the line itself says so. Pure.

Known are ISO 8601 at its begin (also in brackets, or as the first value of a JSON object or of key=value pairs) and the common log
format's `[01/May/2023:10:00:00 -0800]`. A time without a zone is this host's own.
"""

from __future__ import annotations

import re
from datetime import datetime

HEAD_BYTES = 256  # of a line in which its time may stand

_ISO = re.compile(
    rb'\W{0,2}(?:[@\w.-]{1,20}"?\s?[:=]\s?"?)?'
    rb"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d*)?(?: ?(?:(Z)|([+-]\d\d):?(\d\d)))?"
)
_COMMON = re.compile(rb"\[(\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\]")


def written_wall(line: bytes) -> float | None:
    """Seconds since 1970; None for a line that does not say."""
    head = line[:HEAD_BYTES]
    try:
        if found := _ISO.match(head):
            day, clock, fraction, utc, hours, minutes = (part.decode() if part else "" for part in found.groups())
            zone = "+00:00" if utc else f"{hours}:{minutes}" if hours else ""
            return datetime.fromisoformat(f"{day}T{clock}.{fraction or '0':0<6}{zone}").timestamp()
        if found := _COMMON.search(head):
            return datetime.strptime(found[1].decode(), "%d/%b/%Y:%H:%M:%S %z").timestamp()
    except (ValueError, OverflowError):  # digits, but no time
        pass
    return None
