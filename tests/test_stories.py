"""Stories that an operator would tell, in virtual time: what happens on the left, what the supervisor does on the right."""

from __future__ import annotations

import pytest

from tests.sim.stories import play

STORIES = {
    "first start": (
        "store x2+1",
        "",
        "0.0 start 1, start 2",
    ),
    "a crash after a healthy run restarts at once": (
        "store x1+1",
        "100 1 crashes",
        """
        0.0 start 1
        100.0 start 2, tell crash
        160.5 tell over
        """,
    ),
    "exit 0 while it should run is a crash too": (
        "store x1+0",
        "100 1 ends",
        """
        0.0 start 1
        100.0 start 2, tell crash
        160.5 tell over
        """,
    ),
    "a crash loop slows down and is never given up": (
        "store x1+1 budget=3; r1: crashes",
        "",
        """
        0.0 start 1
        0.1 tell crash
        0.6 start 2
        1.9 start 3
        4.3 start 4
        4.4 tell crash-loop
        35.9 start 5
        60.0 tell down
        67.3 start 6
        101.5 start 7
        136.7 start 8
        """,
    ),
    "a stop ends the incident of a crash loop": (
        "store x1+1 budget=3; r1: crashes",
        "20 stop store",
        """
        0.0 start 1
        0.1 tell crash
        0.6 start 2
        1.9 start 3
        4.3 start 4
        4.4 tell crash-loop
        20.0 tell over
        """,
    ),
    "a slow boot within its time is left alone": (
        "store x1+1 boot-limit=60; r1: boot=50",
        "",
        "0.0 start 1",
    ),
    "a boot that takes too long is killed, and the next has twice the time": (
        "store x1+0 boot-limit=10; r1: boot=15",
        "",
        """
        0.0 start 1
        10.0 tell down, tell start, kill 1
        10.5 start 2
        85.5 tell over
        """,
    ),
    "a boot that takes too long beside its successor: that one has twice the time already": (
        "store x1+1 boot-limit=10; r1: boot=15",
        "",
        """
        0.0 start 1
        10.0 tell down, tell start, kill 1
        10.5 start 2
        85.5 tell over
        """,
    ),
    "a hang: relief serves, the suspect may finish, and is killed when it is proven hung": (
        "store x1+1",
        "100 1 hangs",
        """
        0.0 start 1
        101.0 start 2
        101.2 tell hang
        101.5 stop 1
        130.0 kill 1
        190.0 tell over
        """,
    ),
    "a hang of one that may not run beside itself": (
        "store x1+0",
        "100 1 hangs",
        """
        0.0 start 1
        101.2 tell hang
        110.0 kill 1
        110.0 start 2
        170.5 tell over
        """,
    ),
    "a suspect that recovers before its relief is ready stays": (
        "store x1+1; r1: boot=3",
        """
        100 1 hangs
        103 1 moves
        """,
        """
        0.0 start 1
        101.0 start 2
        101.2 tell hang
        103.0 stop 2
        163.0 tell over
        """,
    ),
    "a suspect that was only busy finishes and leaves; nothing is killed": (
        "store x1+1",
        """
        100 1 hangs
        108 1 moves
        """,
        """
        0.0 start 1
        101.0 start 2
        101.2 tell hang
        101.5 stop 1
        161.5 tell over
        """,
    ),
    "a watched suspect recovers beside its relief: the newest wins, the oldest leaves": (
        "store x1+1 retire=watch",
        """
        100 1 hangs
        108 1 moves
        """,
        """
        0.0 start 1
        101.0 start 2
        101.2 tell hang
        108.0 stop 1
        168.0 tell over
        """,
    ),
    "an old look changes nothing": (
        "store x1+1",
        "100 1 old-look",
        "0.0 start 1",
    ),
    'with act = "tell" people are told, and nobody is touched': (
        "store x1+1 act=tell",
        "100 1 hangs",
        """
        0.0 start 1
        101.2 tell hang
        110.0 tell hung-held
        161.0 tell down
        """,
    ),
    "a rolling restart with one extra: the new one is ready before the old goes": (
        "store x2+1",
        "100 restart store",
        """
        0.0 start 1, start 2
        100.0 start 3
        100.5 stop 1
        100.6 start 4
        101.1 stop 2
        """,
    ),
    "a rolling restart without extra: one after the other": (
        "store x2+0",
        "100 restart store",
        """
        0.0 start 1, start 2
        100.0 stop 1
        100.1 start 3
        100.6 stop 2
        100.7 start 4
        """,
    ),
    "a restart at once waits for nobody": (
        "store x2+1",
        "100 restart-now store",
        """
        0.0 start 1, start 2
        100.0 stop 1, stop 2, start 3
        100.1 start 4
        """,
    ),
    "a signal goes to all": (
        "store x2+1",
        "100 signal store HUP",
        """
        0.0 start 1, start 2
        100.0 HUP 1, HUP 2
        """,
    ),
    "a stop while it starts": (
        "store x1+1; r1: boot=5",
        "2 stop store",
        """
        0.0 start 1
        2.0 stop 1
        """,
    ),
    "a stop of one that does not listen ends by the grace": (
        "store x1+1 grace=4; r1: silent",
        "2 stop store",
        """
        0.0 start 1
        2.0 stop 1
        6.0 kill 1
        """,
    ),
    "a stop of a program that another needs is a stop": (
        "db x1+1; store x1+1 after=db",
        "100 stop db",
        """
        0.0 start 1
        0.5 start store:1
        100.0 stop 1
        """,
    ),
    "a bad build that crashes: back to the good one, which serves all the while": (
        "store x1+1",
        "100 apply store r2 x1+1; r2: crashes",
        """
        0.0 start 1
        100.0 start 2 r2
        100.1 tell crash, tell rollback
        160.1 tell over
        """,
    ),
    "a bad build that never answers": (
        "store x1+1 boot-limit=20",
        "100 apply store r2 x1+1 boot-limit=20; r2: silent",
        """
        0.0 start 1
        100.0 start 2 r2
        120.0 tell start, tell rollback, kill 2
        180.0 tell over
        """,
    ),
    "one that never answered and does not listen keeps no place longer than its grace": (
        "store x1+1 boot-limit=60",
        """
        100 apply store r2 x1+1 boot-limit=60; r2: silent
        110 apply store r3 x1+1 boot-limit=60
        """,
        """
        0.0 start 1
        100.0 start 2 r2
        110.0 stop 2
        120.0 kill 2
        120.0 start 3 r3
        120.5 stop 1
        """,
    ),
    "a bad build that fails its preflight is never started": (
        "store x1+1 preflight=check",
        "100 apply store r2 x1+1 preflight=check; r2: preflight fails",
        """
        0.0 preflight r1
        0.3 start 1
        100.0 preflight r2
        100.3 tell rollback
        160.3 tell over
        """,
    ),
    "a program that is not in the configuration any more goes": (
        "store x1+1; mail x1+1",
        "100 apply store x1+1",
        """
        0.0 start 1, start mail:1
        100.0 stop mail:1
        100.1 forget mail
        """,
    ),
    "a shutdown goes in reverse order": (
        "db x1+1; store x1+1 after=db; web x1+1 after=store",
        "100 shutdown",
        """
        0.0 start 1
        0.5 start store:1
        1.0 start web:1
        100.0 stop web:1
        100.1 stop store:1
        100.2 stop 1
        100.3 over
        """,
    ),
    "a second signal hurries": (
        "db x1+1; store x1+1 after=db",
        """
        100 db:1 hangs
        100 store:1 hangs
        100.5 shutdown
        102 shutdown
        """,
        """
        0.0 start 1
        0.5 start store:1
        100.5 stop store:1
        101.2 tell hang
        102.0 kill 1, kill store:1
        102.0 over
        """,
    ),
    "one that cannot be killed is told, and tried for ever": (
        "store x1+1 grace=4",
        """
        100 1 immortal
        100.5 1 hangs
        101 stop store
        128 1 mortal
        """,
        """
        0.0 start 1
        101.0 stop 1
        105.0 kill 1
        110.0 kill 1
        115.0 kill 1, tell cannot-be-killed
        120.0 kill 1
        125.0 kill 1
        130.0 kill 1
        130.0 tell over
        """,
    ),
}


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str) -> None:
    setup, script, result = STORIES[name]
    assert lines(play(setup, script, until=150 if "loop" in name else 200)) == lines(result)


def test_shutdown_in_a_crash_loop_waits_for_no_backoff() -> None:
    told = lines(play("db x1+1; store x1+1 after=db; r1: crashes", "40 shutdown", until=200))
    assert told[-1] == "40.0 over"
