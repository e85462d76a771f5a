"""Programs that need others, on real processes: who starts when, who is stopped first, and who is left alone."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.supervised import SLEEPER, Supervised, free_port, python

DATABASE = """
import os, signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
time.sleep(0.5)
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    listener.accept()[0].close()
"""
SHOP = f"import os, signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(0)){SLEEPER}"


def test_one_that_needs_another_starts_after_it_is_ready_and_is_stopped_before_it(tmp_path: Path) -> None:
    port = free_port()
    command = python(DATABASE)[:-1] + f', "{port}"]'
    programs = f"""
[program.shop]
command = {python(SHOP)}
after = ["db"]
[program.db]
command = {command}
health.tcp = "127.0.0.1:{port}"
"""
    with Supervised(tmp_path, programs) as daemon:
        daemon.until("program.waiting", subject="shop")
        daemon.until("instance.ready", subject="shop:1")
        order = [line["text"].split()[0] if line["event"] == "instance.started" else line["subject"] for line in daemon.seen]
        assert order.index("db:1", order.index("db:1") + 1) < order.index("shop:1"), (
            "the shop started before its database was ready"
        )
        (kept,) = daemon.pids_of("shop:1")
        assert daemon.ask("restart", "db").returncode == 0
        assert daemon.status("db")["instances"][0]["id"] == "db:2"
        assert daemon.pids_of("shop:1") == [kept], "a restart of the database touched the shop"
        daemon.signal(signal.SIGTERM)
        stopped = [line["subject"] for line in daemon.rest() if line["event"] == "instance.stopped"]
        assert stopped[-2:] == ["shop:1", "db:2"]
