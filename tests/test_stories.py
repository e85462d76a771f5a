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
        130.0 knows apply x1
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
        110.0 start 2, knows apply x1
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
        168.1 tell over
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
        100.3 tell refused
        160.3 tell over
        """,
    ),
    "a deploy: preflight, the link, one after the other, probation": (
        "store x2+1 linked preflight=check",
        """
        100 deploy store r2
        800 deploy store r3
        """,
        """
        0.0 preflight r1
        0.3 start 1, start 2
        100.0 preflight r2
        100.3 link r2
        100.3 start 3 r2
        100.8 stop 1
        100.9 start 4 r2
        101.4 stop 2
        800.0 preflight r3
        800.3 link r3
        800.3 start 5 r3
        800.8 stop 3
        800.9 start 6 r3
        801.4 stop 4
        """,
    ),
    "a deploy that does not compile never becomes the link's target": (
        "store x1+1 linked preflight=check",
        "100 deploy store r2; r2: preflight fails",
        """
        0.0 preflight r1
        0.3 start 1
        100.0 preflight r2
        100.3 tell refused
        160.3 tell over
        """,
    ),
    "a deploy that does not compile leaves the one on probation alone": (
        "store x1+1 linked preflight=check",
        """
        100 deploy store r2
        200 deploy store r3; r3: preflight fails
        """,
        """
        0.0 preflight r1
        0.3 start 1
        100.0 preflight r2
        100.3 link r2
        100.3 start 2 r2
        100.8 stop 1
        200.0 preflight r3
        200.3 tell refused
        260.3 tell over
        """,
    ),
    "a crash during another release's preflight is healed at once": (
        "store x1+1 linked preflight=check",
        """
        100 deploy store r2
        100.1 1 crashes
        """,
        """
        0.0 preflight r1
        0.3 start 1
        100.0 preflight r2
        100.1 start 2, tell crash
        100.3 link r2
        100.3 start 3 r2, stop 2
        160.8 tell over
        """,
    ),
    "a release on probation that is lost during the next one's preflight": (
        "store x1+1 linked preflight=check",
        """
        100 deploy store r2
        170 2 crashes
        200 deploy store r3
        200.1 3 crashes
        """,
        """
        0.0 preflight r1
        0.3 start 1
        100.0 preflight r2
        100.3 link r2
        100.3 start 2 r2
        100.8 stop 1
        170.0 start 3 r2, tell crash
        200.0 preflight r3
        200.1 start 4, tell rollback
        200.3 link r3
        200.3 start 5 r3, stop 4
        260.8 tell over
        """,
    ),
    "a deploy that does not boot: the link goes back": (
        "store x1+1 linked",
        "100 deploy store r2; r2: crashes",
        """
        0.0 start 1
        100.0 link r2
        100.0 start 2 r2
        100.1 link r1, tell crash, tell rollback
        160.1 tell over
        """,
    ),
    "a deploy that crashes twice within its probation goes back": (
        "store x1+1 linked",
        """
        100 deploy store r2
        200 2 crashes
        300 3 crashes
        """,
        """
        0.0 start 1
        100.0 link r2
        100.0 start 2 r2
        100.5 stop 1
        200.0 start 3 r2, tell crash
        260.5 tell over
        300.0 link r1, start 4, tell crash, tell rollback
        360.5 tell over
        """,
    ),
    "a deploy that loops within its probation: relieved by the last good release, and back to it": (
        "store x1+1 linked",
        """
        100 deploy store r2
        400 2 hangs
        """,
        """
        0.0 start 1
        100.0 link r2
        100.0 start 2 r2
        100.5 stop 1
        401.0 start 3
        401.2 tell hang
        401.5 stop 2
        430.0 kill 2
        430.0 link r1, tell rollback, knows apply x1
        490.0 tell over
        """,
    ),
    "after the probation a crash is a crash": (
        "store x1+1 linked probation=50",
        """
        100 deploy store r2
        200 2 crashes
        300 3 crashes
        """,
        """
        0.0 start 1
        100.0 link r2
        100.0 start 2 r2
        100.5 stop 1
        200.0 start 3 r2, tell crash
        260.5 tell over
        300.0 start 4 r2, tell crash
        360.5 tell over
        """,
    ),
    "an apply for another reason does not try a failed release again": (
        "store x1+1 linked",
        """
        100 deploy store r2; r2: crashes
        200 apply store x1+1 linked grace=3
        """,
        """
        0.0 start 1
        100.0 link r2
        100.0 start 2 r2
        100.1 link r1, tell crash, tell rollback
        160.1 tell over
        """,
    ),
    "an apply in the midst of a deploy does not undo it": (
        "store x1+1 linked preflight=check",
        """
        100 deploy store r2
        100.1 apply store x1+1 linked preflight=check grace=3
        """,
        """
        0.0 preflight r1
        0.3 start 1
        100.0 preflight r2
        100.3 link r2
        100.3 start 2 r2
        100.8 stop 1
        """,
    ),
    "a link that somebody switched by hand is a deploy; it goes back when that fails": (
        "store x1+1 linked",
        """
        100 by-hand store r2; r2: crashes
        """,
        """
        0.0 start 1
        100.0 link r2
        100.0 start 2 r2
        100.1 link r1, tell crash, tell rollback
        160.1 tell over
        """,
    ),
    "a rollback by hand of a release on trial, and of one that was trusted": (
        "store x1+1 linked probation=50",
        """
        100 deploy store r2
        120 rollback store r1
        200 deploy store r2
        300 rollback store r1
        """,
        """
        0.0 start 1
        100.0 link r2
        100.0 start 2 r2
        100.5 stop 1
        120.0 link r1, start 3
        120.5 stop 2
        200.0 link r2
        200.0 start 4 r2
        200.5 stop 3
        300.0 link r1
        300.0 start 5
        300.5 stop 4
        """,
    ),
    "rollback = false: said, and held for people": (
        "store x1+1 linked rollback=no",
        """
        100 deploy store r2; r2: crashes
        110 rollback store r1
        """,
        """
        0.0 start 1
        100.0 link r2
        100.0 start 2 r2
        100.1 tell crash, tell release
        100.7 start 3 r2
        102.0 start 4 r2
        104.2 start 5 r2
        108.5 start 6 r2
        110.0 link r1
        160.1 tell over
        """,
    ),
    "a directory changed in place has nothing to go back to": (
        "store x1+1 in-place",
        "100 apply store r2 x1+1 in-place; r2: crashes",
        """
        0.0 start 1
        100.0 start 2 r2
        100.1 tell crash, tell release
        100.7 start 3 r2
        102.0 start 4 r2
        104.2 start 5 r2
        108.5 start 6 r2
        117.6 start 7 r2
        117.8 tell crash-loop
        152.8 start 8 r2
        184.7 start 9 r2
        216.3 start 10 r2
        251.6 start 11 r2
        285.3 start 12 r2
        """,
    ),
    "a deploy of a stopped program switches the link and starts nothing": (
        "store x1+1 linked preflight=check",
        """
        50 stop store
        100 deploy store r2
        200 start store
        """,
        """
        0.0 preflight r1
        0.3 start 1
        50.0 stop 1
        100.0 preflight r2
        100.3 link r2
        200.0 start 2 r2
        """,
    ),
    "a link that cannot be switched: nothing is changed": (
        "store x1+0 linked",
        """
        90 disk full
        100 deploy store r2
        """,
        """
        0.0 start 1
        100.0 link r2 fails
        100.0 tell refused
        160.0 tell over
        """,
    ),
    "a link that cannot be switched back: the good one serves all the same": (
        "store x1+1 linked",
        """
        100 deploy store r2
        190 disk full
        200 2 crashes
        210 3 crashes
        225 disk free
        """,
        """
        0.0 start 1
        100.0 link r2
        100.0 start 2 r2
        100.5 stop 1
        200.0 start 3 r2, tell crash
        210.0 link r1 fails, start 4, tell rollback
        210.0 tell link
        220.0 link r1 fails
        230.0 link r1
        270.5 tell over
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
    "a verdict that does not know since when kills and suspects nobody": (
        "store x1+1",
        "100 1 blind-look",
        "0.0 start 1",
    ),
    "the same loop after half an hour: one cause, count 2, known at once and killed early where it holds all": (
        "store x1+0",
        """
        100 1 hangs
        1900 2 hangs
        """,
        """
        0.0 start 1
        101.2 tell hang
        110.0 kill 1
        110.0 start 2, knows apply x1
        170.5 tell over
        1901.2 tell recurrence, tell hang
        1903.0 kill 2
        1903.0 start 3, knows apply x2
        1963.5 tell over
        """,
    ),
    "the same loop after the supervisor's restart: one cause, count 2": (
        "store x1+0",
        """
        100 1 hangs
        200 supervisor dies
        2000 3 hangs
        """,
        """
        0.0 start 1
        101.2 tell hang
        110.0 kill 1
        110.0 start 2, knows apply x1
        170.5 tell over
        201.0 start 3
        2001.2 tell recurrence, tell hang
        2003.0 kill 3
        2003.0 start 4, knows apply x2
        2063.5 tell over
        """,
    ),
    "two long reports at once on both instances: nothing is killed, one may leave when it is done": (
        "store x2+1",
        """
        100 1 works
        100 2 works
        108 1 moves
        108 2 moves
        """,
        """
        0.0 start 1, start 2
        101.0 start 3
        101.2 tell hang
        108.0 stop 2
        168.1 tell over
        """,
    ),
    "a wave of poison that was proven before: each is killed as soon as it holds all": (
        "store x1+1",
        """
        100 1 hangs
        300 2 hangs
        301.6 3 hangs
        309 4 hangs
        312 5 hangs
        """,
        """
        0.0 start 1
        101.0 start 2
        101.2 tell hang
        101.5 stop 1
        130.0 kill 1
        130.0 knows apply x1
        190.0 tell over
        301.0 start 3
        301.2 tell recurrence, tell hang
        301.5 stop 2
        303.0 kill 2
        303.0 start 4, knows apply x2
        303.5 stop 3
        310.0 kill 3
        310.0 start 5, tell needs-you, knows apply x3
        310.5 stop 4
        313.0 kill 4
        313.0 start 6, knows apply x4
        313.5 stop 5
        342.0 kill 5
        342.0 knows apply x5
        402.0 tell over
        """,
    ),
    "a wave of something new: all that hang are given their patience": (
        "store x1+1",
        """
        100 1 hangs
        101.6 2 hangs
        """,
        """
        0.0 start 1
        101.0 start 2
        101.2 tell hang
        101.5 stop 1
        115.0 kill 1
        115.0 start 3, knows apply x1
        115.5 stop 2
        131.6 kill 2
        131.6 knows apply x2
        191.6 tell over
        """,
    ),
    "a dead database under two instances: told, nobody killed, and over when it is back": (
        "store x2+1",
        """
        100 1 waits
        100.1 2 waits
        160 1 moves
        160 2 moves
        """,
        """
        0.0 start 1, start 2
        101.0 start 3
        101.2 tell hang
        101.3 tell waiting
        160.0 stop 2
        220.1 tell over
        """,
    ),
    "one that waits on while another serves again has no excuse any more": (
        "store x2+0",
        """
        100 1 waits
        100.1 2 waits
        160 1 moves
        """,
        """
        0.0 start 1, start 2
        101.2 tell hang
        101.3 tell waiting
        280.1 kill 2
        280.1 start 3, knows query x1
        340.6 tell over
        """,
    ),
    "connections that stay dead: one is tried each five minutes": (
        "store x2+0",
        """
        100 1 waits
        100.1 2 waits
        """,
        """
        0.0 start 1, start 2
        101.2 tell hang
        101.3 tell waiting
        161.1 tell down
        401.3 kill 2
        401.4 start 3, knows query x1
        701.5 kill 1
        701.5 start 4, knows query x2
        762.0 tell over
        """,
    ),
    "one that was asked to go is not killed for the peer that another was killed for": (
        "store x2+2",
        """
        100 1 waits
        103 2 waits
        """,
        """
        0.0 start 1, start 2
        101.0 start 3
        101.2 tell hang
        101.5 stop 1
        104.0 start 4
        104.5 stop 2
        280.0 kill 1
        280.0 knows query x1
        580.0 kill 2
        580.0 knows query x2
        640.0 tell over
        """,
    ),
    "a dead database twice within a day is no reason to go back": (
        "store x1+0",
        """
        50 apply store r2 x1+0
        100 2 waits
        500 3 waits
        """,
        """
        0.0 start 1
        50.0 stop 1
        50.1 start 2 r2
        101.2 tell hang
        160.0 kill 2
        160.0 start 3 r2, knows query x1
        220.5 tell over
        501.2 tell recurrence, tell hang
        560.0 kill 3
        560.0 start 4 r2, knows query x2
        620.5 tell over
        """,
    ),
    "a sibling's crash that shortens patience kills by a fresh look": (
        "store x2+0",
        """
        100 1 hangs
        118 2 crashes
        """,
        """
        0.0 start 1, start 2
        101.2 tell hang
        118.0 start 3, tell crash
        130.0 kill 1
        130.0 start 4, knows apply x1
        190.5 tell over
        """,
    ),
    "a change of settings that shortens patience kills by a fresh look": (
        "store x2+0",
        """
        100 1 hangs
        115 apply store x1+0
        """,
        """
        0.0 start 1, start 2
        101.2 tell hang
        130.0 kill 1
        130.0 knows apply x1
        190.0 tell over
        """,
    ),
    "one worker hangs: asked, then killed alone": (
        "store x1+1 server=gunicorn",
        "100 1 worker",
        """
        0.0 start 1
        130.0 ABRT to worker of 1
        132.0 KILL to worker of 1
        """,
    ),
    "an old look at a worker kills nobody": (
        "store x1+1 server=gunicorn",
        "100 1 old-worker",
        "0.0 start 1",
    ),
    "a worker of a suspect is left alone": (
        "store x1+0 server=gunicorn",
        """
        100 1 worker
        110 1 waits
        """,
        """
        0.0 start 1
        111.2 tell hang
        170.0 kill 1
        170.0 start 2, knows query x1
        230.5 tell over
        """,
    ),
    "the third hung worker makes the instance worn": (
        "store x1+0 server=gunicorn",
        """
        100 1 worker
        140 1 worker
        180 1 worker
        """,
        """
        0.0 start 1
        130.0 ABRT to worker of 1
        132.0 KILL to worker of 1
        170.0 ABRT to worker of 1
        172.0 KILL to worker of 1
        210.0 ABRT to worker of 1, stop 1
        210.1 start 2
        """,
    ),
    "a host without memory gets its relief when there is some again": (
        "store x1+1",
        """
        99 memory full
        100 1 hangs
        105 memory free
        """,
        """
        0.0 start 1
        101.0 tell relief-budget
        101.2 tell hang
        105.0 start 2
        105.5 stop 1
        130.0 kill 1
        130.0 knows apply x1
        190.0 tell over
        """,
    ),
    "a loop that came with this release, twice: back to the previous one": (
        "store x1+1",
        """
        50 apply store r2 x1+1 probation=40
        100 2 hangs
        400 3 hangs
        """,
        """
        0.0 start 1
        50.0 start 2 r2
        50.5 stop 1
        101.0 start 3 r2
        101.2 tell hang
        101.5 stop 2
        130.0 kill 2
        130.0 knows apply x1
        190.0 tell over
        401.0 start 4 r2
        401.2 tell recurrence, tell hang
        401.5 stop 3
        430.0 kill 3
        430.0 start 5, tell rollback, knows apply x2
        430.5 stop 4
        490.0 tell over
        """,
    ),
    "a loop that is older than this release: no way back helps": (
        "store x1+0",
        """
        100 1 hangs
        200 apply store r2 x1+0
        300 3 hangs
        """,
        """
        0.0 start 1
        101.2 tell hang
        110.0 kill 1
        110.0 start 2, knows apply x1
        170.5 tell over
        200.0 stop 2
        200.1 start 3 r2
        301.2 tell recurrence, tell hang
        303.0 kill 3
        303.0 start 4 r2, knows apply x2
        363.5 tell over
        """,
    ),
}


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.strip().splitlines()]


def _until(name: str, script: str) -> float:
    """Long enough for all that follows: a peer is waited for in steps of five minutes, a crash loop goes on for ever."""
    if "crash loop" in name:
        return 150
    return 800 if "waits" in script else max([0.0, *(float(line.split()[0]) for line in lines(script) if line)]) + 200


@pytest.mark.parametrize("name", STORIES)
def test_story(name: str) -> None:
    setup, script, result = STORIES[name]
    assert lines(play(setup, script, until=_until(name, script))) == lines(result)


def test_shutdown_in_a_crash_loop_waits_for_no_backoff() -> None:
    told = lines(play("db x1+1; store x1+1 after=db; r1: crashes", "40 shutdown", until=200))
    assert told[-1] == "40.0 over"
