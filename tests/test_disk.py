"""A full disk under the logs, under the state, and under both: customers are served all the time, and all resumes by itself."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack
from pathlib import Path

from tests.disk import alone_on_small_disk, fill, free, kept_full
from tests.supervised import Supervised, free_port, python

STORE = """
import http.server, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        sys.stdout.write('x' * 9999 + '\\n'); sys.stdout.flush()
        self.send_response(200); self.send_header('Content-Length', '0'); self.end_headers()
    def log_message(self, *words): pass
http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Page).serve_forever()
"""
LOST = re.compile(r"store\.log is written again; [1-9].* of output was lost")
CRASHER = "import signal, time; print('started'); signal.pause()"


class Customers:
    """One who asks again and again; `failed` is what went wrong."""

    def __init__(self, port: int) -> None:
        self.served = 0
        self.failed: list[str] = []
        self._url = f"http://127.0.0.1:{port}/"
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Customers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._done.wait(0.002):
            try:
                with urllib.request.urlopen(self._url, timeout=20) as answer:
                    answer.read()
                self.served += 1
            except (urllib.error.URLError, OSError) as problem:
                self.failed.append(str(problem))


def crash(daemon: Supervised, number: int) -> None:
    """End the other program's instance, and wait for the next one."""
    (pid,) = (pid for pid in daemon.pids_of(f"other:{number}") if b"signal.pause" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(pid, signal.SIGSEGV)
    daemon.until("instance.started", lambda line: line["text"].startswith(f"other:{number + 1} started"))


def test_full_disks_each_in_turn_and_together_cost_no_customer_anything_and_are_over_by_themselves(tmp_path: Path) -> None:
    test = "test_full_disks_each_in_turn_and_together_cost_no_customer_anything_and_are_over_by_themselves"
    root = alone_on_small_disk(f"tests/test_disk.py::{test}")
    if root is None:
        return
    disks = {"log": root / "log", "state": root / "state"}
    for name, disk in disks.items():
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], check=True)
        (tmp_path / name).symlink_to(disk)
    port = free_port()
    programs = (
        f'[program.store]\ncommand = {python(STORE)[:-1]}, "{port}"]\n[program.store.health]\ntcp = "127.0.0.1:{port}"\n'
        f'[program.store.output]\nrotate = "64KiB"\nkeep = 3\ncompress = false\n'
        f'[program.other]\ncommand = {python(CRASHER)}\n[program.other.restart]\nfirst = "0s"\nbudget = 100\nlimit = "100ms"\n'
    )
    fill(disks["state"])  # already at the start
    with Supervised(tmp_path, programs) as daemon:
        daemon.until("daemon.warned", lambda line: "cannot write the journal" in line["text"])
        daemon.until("instance.ready", subject="store:1")
        with Customers(port) as customers:
            crash(daemon, 1)
            free(disks["state"])
            daemon.until("daemon.warned", lambda line: "is written again; nothing was lost" in line["text"])
            for number, full in enumerate((("log",), ("log", "state")), start=2):
                with ExitStack() as filled:
                    for name in full:
                        filled.enter_context(kept_full(disks[name]))
                    daemon.until("daemon.warned", lambda line: line["text"].startswith("store: cannot write"))
                    crash(daemon, number)
                    enough = customers.served + 150  # 1.5 MB of output: more than a pipe holds
                    daemon.wait_for(lambda enough=enough: customers.served > enough)
                daemon.until("daemon.warned", lambda line: bool(LOST.search(line["text"])))
        assert customers.failed == []
        assert customers.served > 10
        crash(daemon, 4)
        daemon.wait_for(lambda: any((disks["state"] / "evidence").glob("*other*4*")))
        assert daemon.status("store")["restarts"] == 0
        assert daemon.status("store")["state"] == "ready"
