"""What may stand in evidence and messages: names, never values. Pure."""

from __future__ import annotations

import re

HIDDEN = "<redacted>"
PATH_LIMIT = 120  # characters
PARAMETERS_LIMIT = 8  # more are counted, not named

_NAME = re.compile(r"[\w.\[\]-]{1,40}")
_UNFIT = re.compile(r"[^!-~]")  # all but printable ASCII: a client chooses these characters, and they go to terminals
_QUERY_VALUES = re.compile(r"([?&;][\w.\[\]-]{1,40})=[^&;\s\"'<>]+")
_SECRETS = re.compile(
    r"(?i)((?:pass(?:word|wd)?|pwd|secret|token|api[_-]?key|authorization|cookie|session(?:id)?|credential)s?[\"']?\s*[=:]\s*)"
    r"(?:(?:bearer|basic|digest)\s+)?(?:\"[^\"]*\"|'[^']*'|\S+)"
)
_BEARERS = re.compile(r"(?i)\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}")
_LOGINS = re.compile(r"(\w://[^/\s:@]*:)[^@\s/]+(@)")  # a password within a URL


def request_line(method: str, path: str, query: str) -> str:
    """A request for people: "GET /checkout?coupon=<redacted>"."""
    shown = _UNFIT.sub("?", path)
    shown = shown if len(shown) <= PATH_LIMIT else f"{shown[:PATH_LIMIT]}..."
    names = [part.partition("=")[0] for part in query.split("&") if part]
    told = [f"{name}={HIDDEN}" if _NAME.fullmatch(name) else HIDDEN for name in names[:PARAMETERS_LIMIT]]
    more = [f"and {len(names) - PARAMETERS_LIMIT} more"] if len(names) > PARAMETERS_LIMIT else []
    return f"{method} {shown}" + (f"?{'&'.join(told + more)}" if told else "")


def hide(text: str) -> str:
    """A line of output without what looks like a secret: values of queries, passwords, tokens, keys, cookies."""
    text = _LOGINS.sub(rf"\1{HIDDEN}\2", text)
    text = _SECRETS.sub(rf"\1{HIDDEN}", text)
    text = _BEARERS.sub(rf"\1{HIDDEN}", text)
    return _QUERY_VALUES.sub(rf"\1={HIDDEN}", text)
