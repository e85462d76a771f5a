"""The control socket, the daemon's side: who may connect, JSON-RPC over lines, and a limit on everything.

It decides nothing: verbs become events, questions are answered by views. Whatever it knows of the daemon comes through `Backend`.
"""

from __future__ import annotations

from supervisor.control.backend import Backend, Reading, Story

__all__ = ["Backend", "Reading", "Story"]
