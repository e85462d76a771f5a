"""When customers are told that nothing can serve, instead of being left to wait.

Waiting is better than an error as long as an answer may come soon: a restart, or a relief, which takes what the program's boot takes.
So the time counts from when the last instance stopped being ready, and is longer for programs that boot slowly. Who is in a crash loop
is not waited for. An instance that is ready ends it at once.
"""

from __future__ import annotations

from supervisor.model import Apologize, Effect, Program, StepAside
from supervisor.policy.clock import Clock
from supervisor.policy.values import replace
from supervisor.policy.wanted import BOOTS, World, ready, wanted
from supervisor.policy.words import note, spell

WORTH_WAITING_S = 15.0  # whoever has waited for so long wants to know; slower boots are not waited for


def grace_s(program: Program) -> float | None:
    """Seconds without anybody ready until customers are told; None: never."""
    after_s = program.settings.sorry.after_s
    if after_s is None:
        return None
    return 0.0 if program.crash_loop else max(after_s, min(BOOTS * program.boot_s, WORTH_WAITING_S))


def apologize(program: Program, world: World, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """Answer in its place while nothing is ready: wanted or stopped, its sockets are held and customers come.

    One of which nothing ever ran has no customers yet, unless it is wanted.
    """
    after_s = grace_s(program)
    if ready(program) or after_s is None or (program.removed and not program.instances):  # no longer in the configuration, and gone
        return _step_aside(program, clock)
    if program.silent is None:
        if not program.instances and not wanted(program, world):
            return program, ()
        program = replace(program, silent=clock.now)
    since = clock.now if program.silent is None else program.silent
    if program.apologizing or not clock.due(since + after_s):
        return program, ()
    text = f"nothing has been ready for {spell(clock.now - since)}: customers are told so, with a page and status 503"
    return note(replace(program, apologizing=True), "page.shown", text), (Apologize(program.settings.name),)


def _step_aside(program: Program, clock: Clock) -> tuple[Program, tuple[Effect, ...]]:
    """The queue is the program's own again."""
    if not program.apologizing:
        return (program if program.silent is None else replace(program, silent=None)), ()
    text = "customers are served again: the page is gone" if ready(program) else "the page is switched off"
    if program.silent is not None and ready(program):
        text = f"{text}, after {spell(clock.now - program.silent)} in which nothing was ready"
    return note(replace(program, apologizing=False, silent=None), "page.hidden", text), (StepAside(program.settings.name),)
