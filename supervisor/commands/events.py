"""`reviver events`: what Reviver saw and did, from the daemon; from the journal's file where no daemon answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from supervisor.commands.daemon import connect
from supervisor.commands.screen import remark, safe, say, say_json
from supervisor.control.client import Refusal, Unanswered
from supervisor.control.messages import REFUSED

SUBJECT_WIDTH = 10


def events(config: str | None, name: str, lines: int, follow: bool, as_json: bool) -> int:
    """Print the newest `lines` of them, of one program or of all, and then what comes."""
    show = say_json if as_json else _show
    try:
        daemon = connect(config)
    except Unanswered as nobody:
        return _recorded(config, name, lines, show, nobody)
    with daemon:
        answer = daemon.call("events", {"limit": lines, "name": name, "follow": follow})
        for story in answer:
            show(story)
        if follow:
            _flush()
            daemon.follow(lambda _, story: _follow(story, show))
    return 0


def _follow(story: dict[str, Any], show: Callable[[dict[str, Any]], None]) -> None:
    show(story)
    _flush()


def _flush() -> None:
    """Somebody waits for this line, at the other end of a pipe too."""
    sys.stdout.flush()


def _recorded(config: str | None, name: str, lines: int, show: Callable[[dict[str, Any]], None], nobody: Unanswered) -> int:
    from supervisor.commands.configuration import load  # 100 ms that the usual way does not pay
    from supervisor.records.journal import JournalError, read_story

    settings = load(config)
    remark(f"{nobody}; this is from the journal")
    try:
        story = read_story(settings.daemon.state_dir, limit=lines, program=name or None)
    except JournalError as problem:
        raise Refusal(REFUSED, str(problem)) from None
    for line in story:
        at = datetime.fromtimestamp(line.wall).astimezone()
        show({"at": at.isoformat(timespec="milliseconds"), "subject": line.subject, "name": line.name, "text": line.text})
    return 0


def _show(story: dict[str, Any]) -> None:
    subject = safe(story.get("subject", "")).ljust(SUBJECT_WIDTH)
    say(f"{_when(str(story.get('at', '')))}  {subject}  {safe(story.get('text', ''))}")


def _when(at: str) -> str:
    """The instant here, with its day where that is not today."""
    try:
        instant = datetime.fromisoformat(at).astimezone()
    except ValueError:
        return safe(at)
    today = datetime.now().astimezone().date()
    return instant.strftime("%H:%M:%S.%f" if instant.date() == today else "%Y-%m-%d %H:%M:%S.%f")[:-4]
