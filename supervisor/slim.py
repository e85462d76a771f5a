"""Keeping the daemon small: what its libraries import for things that it never does is not there while they are imported."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without(*names: str) -> Iterator[None]:
    """Nothing that is imported inside finds these modules; afterwards they can be imported as ever."""
    modules: dict[str, Any] = sys.modules
    known = {name: modules.get(name) for name in names}
    modules.update(dict.fromkeys(names))
    try:
        yield
    finally:
        for name, module in known.items():
            del modules[name]
            if module is not None:
                modules[name] = module
