"""Send one message through apprise: `python -m supervisor.alerts.apprise_child`, an order as JSON on standard input, then it ends.

A process of its own, because the library and what it imports would triple the daemon. The channel comes on standard input, never among
the arguments, which everybody may read. Exit codes: 0 sent, 1 not now, 64 apprise does not understand the channel, 69 it is not
installed; the reason is the last line of standard error, without what may be a secret.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import sys
from typing import Any

WELL = ("over", "healed by itself")  # voices that say that it is well again
SECRET_LENGTH = 4  # pieces of the address at least that long are not repeated


class _Last(logging.Handler):
    """Keeps what the library complained of last."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage()


def main() -> int:
    order: dict[str, Any] = json.load(sys.stdin)
    try:
        import apprise  # the point of this process: the sentence for one where it is missing
    except ImportError:
        return _fail(69, "needs apprise, which is not installed: pip install 'reviver[notify]'")
    last = _Last(logging.WARNING)
    logging.getLogger("apprise").addHandler(last)
    service = apprise.Apprise.instantiate(order["target"], suppress_exceptions=True)
    if service is None:
        return _fail(64, "is not understood by apprise: see its documentation for how this service is written")
    if isinstance(headers := getattr(service, "headers", None), dict):  # mail and JSON: a receiver can tell a second one
        headers["Idempotency-Key"] = order["id"]
    kinds = {"info": apprise.NotifyType.INFO, "warning": apprise.NotifyType.WARNING, "critical": apprise.NotifyType.FAILURE}
    kind = apprise.NotifyType.SUCCESS if order["voice"] in WELL else kinds[order["severity"]]
    with contextlib.redirect_stdout(sys.stderr):
        everyone = apprise.Apprise()
        everyone.add(service)
        text = apprise.NotifyFormat.TEXT  # with its lines, and never as HTML: it holds what a hostile program wrote
        sent = everyone.notify(body=order["body"], title=order["title"], notify_type=kind, body_format=text)
    return 0 if sent else _fail(1, f"did not take it: {_harmless(last.text, order['target']) or 'apprise does not say why'}")


def _fail(code: int, text: str) -> int:
    sys.stderr.write(f"\n{text}\n")
    return code


def _harmless(text: str, target: str) -> str:
    """The complaint on one line, without the pieces of the address."""
    _, _, rest = target.partition("://")
    for piece in sorted({each for each in re.split(r"[/:@?&=,]", rest) if len(each) >= SECRET_LENGTH}, key=len, reverse=True):
        text = text.replace(piece, "...")
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(main())
