"""An incident's id as it is typed. Imports next to nothing: each verb that takes one pays for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from supervisor.control.client import Refusal
from supervisor.control.messages import REFUSED

# Nine digits: more than there will ever be, and a number that every table can hold.
TYPED = re.compile(r"(?:D([1-9]\d{0,8}))?(?(1)(?:\.([1-9]\d{0,8}))?|([1-9]\d{0,8}))")


@dataclass(frozen=True, slots=True)
class Which:
    """An incident's id as it is typed: `3`, `D3`, `D3.2`. `drill` 0: the operator's own; `number` 0: all of that drill."""

    number: int
    drill: int = 0

    @classmethod
    def read(cls, text: str) -> Self:
        """Raises Refusal."""
        found = TYPED.fullmatch(text)
        if found is None:
            raise Refusal(
                REFUSED, f"{text} is no incident: 3 is one, D3 a drill, and D3.1 an incident of it (see: reviver incidents)"
            )
        drill, part, number = (int(each or 0) for each in found.groups())
        return cls(part or number, drill)
