"""The way to the running daemon, for the verbs that need it."""

from __future__ import annotations

import os

from supervisor.control.client import Client, find_config, find_runtime_dir


def connect(config: str | None) -> Client:
    """A connection to the daemon of this configuration (None: of the one that is found).

    raises  client.Refusal, with the exit code
    """
    return Client(find_runtime_dir(find_config(config, os.environ), os.environ))
