"""`reviver events`: what Reviver saw and did, from the daemon; from the journal's file where no daemon answers."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from supervisor.commands.daemon import connect
from supervisor.commands.screen import clock_time, remark, safe, say, say_json
from supervisor.control.client import Refusal, Unanswered
from supervisor.control.messages import NO_SUCH_PROGRAM, NOT_RUNNING, REFUSED, programs

SUBJECT_WIDTH = 10  # "store:1234"; wider subjects widen the column
SUBJECT_WIDTH_LIMIT = 24  # beyond it the column would leave no room for the text


def events(config: str | None, name: str, lines: int, follow: bool, as_json: bool) -> int:
    """Print the newest `lines` of them, of one program or of all, and then what comes."""
    show = say_json if as_json else _Lines()
    try:
        daemon = connect(config)
    except Unanswered as nobody:
        _recorded(config, name, lines, show, nobody)
        return NOT_RUNNING if follow else 0  # nothing more comes
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


def _recorded(config: str | None, name: str, lines: int, show: Callable[[dict[str, Any]], None], nobody: Unanswered) -> None:
    from supervisor.commands.configuration import load  # 100 ms that the usual way does not pay
    from supervisor.records.journal import JournalError, read_story

    settings = load(config)
    try:
        story = read_story(settings.daemon.state_dir, limit=lines, program=name or None)
    except JournalError as problem:
        raise Refusal(REFUSED, str(problem)) from None
    known = [program.name for program in settings.programs]
    if name and not story and name not in known:  # one that is gone from the configuration may have left a story
        raise Refusal(NO_SUCH_PROGRAM, f"there is no program {name!r}: {programs(known)}")
    remark(f"{nobody}; this is from the journal")
    for line in story:
        at = datetime.fromtimestamp(line.wall, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        show({"time": at, "subject": line.subject, "event": line.name, "text": line.text})


class _Lines:
    """Shows stories in columns, which grow with what has been shown."""

    def __init__(self) -> None:
        self._width = SUBJECT_WIDTH

    def __call__(self, story: dict[str, Any]) -> None:
        subject = safe(story.get("subject", ""))
        self._width = min(max(self._width, len(subject)), SUBJECT_WIDTH_LIMIT)
        say(f"{clock_time(str(story.get('time', '')))}  {subject:<{self._width}}  {safe(story.get('text', ''))}")
