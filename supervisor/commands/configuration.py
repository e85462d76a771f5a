"""The configuration, for the verbs that read it themselves."""

from __future__ import annotations

import os

from supervisor import config
from supervisor.control.client import Refusal
from supervisor.control.messages import BAD_CONFIG
from supervisor.model import Settings


def load(explicit: str | None) -> Settings:
    """Find and load it.

    raises  Refusal with all faults, exit code 78
    """
    try:
        return config.load(config.find(explicit, os.environ))
    except config.ConfigErrors as problem:
        raise refusal(problem.faults) from None


def refusal(faults: tuple[config.ConfigError, ...]) -> Refusal:
    """What is wrong, all of it."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    return Refusal(BAD_CONFIG, f"the configuration has {count}", tuple(str(fault) for fault in faults))
