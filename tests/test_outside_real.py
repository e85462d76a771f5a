"""What is not the store's fault, and what it did before: a real database that stops answering, a real loop met again after a restart.

All is short: the limits are some tenths of a second, and each step waits for the line of the story, or the verdict, that it needs.
"""

from __future__ import annotations

import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.supervised import Line, Supervised, free_port, python

# Answers each line with one; a process of its own, so that it can be stopped as a whole.
DATABASE = """
import socket, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def serve(client):
    while client.recv(100):
        client.sendall(b"row\\n")
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
# A store with one connection to its database; /health asks it as well, as a health check should.
STORE = """
import socket
database = socket.create_connection(("127.0.0.1", {database}))
listener = socket.socket(fileno=3)
while True:
    customer, _ = listener.accept()
    with customer:
        if customer.recv(1000):
            database.sendall(b"select\\n")
            assert database.recv(100)
            customer.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""
LOOP = """
import socket
listener = socket.socket(fileno=3)
def apply_coupon():
    while True:
        pass
while True:
    customer, _ = listener.accept()
    with customer:
        if b"LOOP" in customer.recv(1000):
            apply_coupon()
        customer.sendall(b"HTTP/1.0 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
"""


BLOCKED_S = 4.0  # longer than evidence may take: by then it is known that both wait for the same
PATIENCE_S = (
    1.5 * BLOCKED_S + 0.5
)  # one beside another has so long, and a turn of the loop: then, alone in its trouble, it is killed


def program(command: str, port: int, more: str = "") -> str:
    return f"""
[program.store]
command = {command}
sockets = ["127.0.0.1:{port}"]
{more}
[program.store.health]
http = "/health"
every = "200ms"
timeout = "1s"
[program.store.hang]
suspect = "300ms"
certain = "1s"
blocked = "{BLOCKED_S}s"
"""


@contextmanager
def database() -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Gives its process and its port."""
    process = subprocess.Popen([sys.executable, "-S", "-E", "-c", DATABASE], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        yield process, int(process.stdout.readline())
    finally:
        process.kill()
        process.communicate()


@contextmanager
def customer(port: int, path: str = "/checkout") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 30) as asking:
        asking.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
        yield asking


def verdicts(daemon: Supervised) -> list[Line]:
    return [each["verdict"] for each in daemon.status("store")["instances"]]


def silent_s(verdict: Line) -> float:
    """For how long one that is hung has not answered; 0 for any other."""
    found = re.search(r"no answer for ([\d.]+) s", verdict["because"]) if verdict["kind"] == "hung (blocked)" else None
    return float(found[1]) if found else 0.0


def test_a_dead_database_under_two_instances_is_named_and_nobody_is_killed_for_it(tmp_path: Path) -> None:
    port = free_port()
    with database() as (process, at), ExitStack() as customers:
        settings = program(python(STORE.format(database=at)), port, 'instances = 2\nsorry.after = "1s"')
        with Supervised(tmp_path, settings) as daemon:
            for _ in range(2):
                daemon.until("instance.ready")
            # they stand in the queue while the database answers: so each instance accepts one of them, and no probe in its place
            asking = [customers.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(4)]
            process.send_signal(signal.SIGSTOP)
            for each in asking:
                each.sendall(b"GET /checkout HTTP/1.0\r\n\r\n")
            told = daemon.until("program.waits_outside")
            assert f"127.0.0.1:{at}" in told["text"]
            assert f"127.0.0.1:{at}" in daemon.ask("explain", "store").stdout
            daemon.wait_for(lambda: min(map(silent_s, verdicts(daemon))) > PATIENCE_S)
            daemon.wait_for(lambda: bool(select.select(asking, [], [], 0)[0]))  # the page has answered somebody
            process.send_signal(signal.SIGCONT)
            daemon.until("program.reconnected")
            answers = sorted(each.recv(100)[9:12] for each in asking)
            assert set(answers) == {b"200", b"503"}  # whom they had accepted, and who would have waited in the queue
            daemon.wait_for(lambda: [verdict["kind"] for verdict in verdicts(daemon)] == ["healthy", "healthy"])
            assert not [line for line in daemon.seen if line["event"] == "instance.condemned"], daemon.story()


def test_the_same_loop_after_the_supervisors_restart_is_the_same_cause_for_the_second_time(tmp_path: Path) -> None:
    port = free_port()
    settings = program(python(LOOP), port)
    with Supervised(tmp_path, settings) as daemon:
        daemon.until("instance.ready")
        with customer(port, "/checkout?coupon=LOOP"):
            assert "apply_coupon()" in daemon.until("evidence.taken")["text"]
            daemon.until("instance.condemned")
        assert not [line for line in daemon.seen if line["event"] == "cause.recurred"]
    with Supervised(tmp_path, settings) as daemon:
        daemon.until("instance.ready")
        with customer(port, "/checkout?coupon=LOOP"):
            told = daemon.until("cause.recurred")["text"]
            assert "apply_coupon()" in told
            assert "the 2nd time" in told
