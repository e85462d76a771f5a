"""What customers noticed: counted from looks, taken up by the incident; and the real thing beside real sockets."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from supervisor.control.views import world
from supervisor.mechanism.sockdiag import dropped
from supervisor.model import Candidate, Fact, Fleet, Incident, LaunchSettings, Noticed, ProgramSettings, Severity, Toll
from supervisor.policy import toll
from supervisor.policy.clock import Clock
from supervisor.policy.program import create
from supervisor.policy.samples import Client, SocketSample
from supervisor.policy.toll import Tally, add, words
from supervisor.policy.values import replace
from tests.supervised import Supervised, free_port, python

OURS = ("127.0.0.1", 999)


def client(number: int, since: float, *, inode: int = 0, owner: int = 0, waiting: bool = True) -> Client:
    return Client(("10.0.0.1", number, 80), inode, owner, waiting, True, since, 0)


def look(tally: Tally, at: float, *clients: Client, dropped: int | None = 0, odd: bool = True) -> None:
    tally.look(SocketSample(at, 0, 128, clients), frozenset({OURS}), dropped, odd=odd)


def test_a_wait_is_counted_once_with_its_length_and_the_trouble_it_was() -> None:
    tally = Tally()
    look(tally, 10.0, client(1, 9.8))
    look(tally, 10.5, client(1, 9.8))
    look(tally, 11.0, client(1, 9.8), client(2, 10.9))
    look(tally, 11.6, client(1, 9.8), client(2, 10.9))
    look(tally, 12.2, client(2, 10.9))
    look(tally, 13.0)
    found = tally.take("")
    assert found is not None
    assert (found.looks, found.waited, found.broken) == (6, 2, 0)
    assert found.longest_s == pytest.approx(1.8)
    assert found.trouble_s == pytest.approx(0.2 + 0.6 + 0.3)
    assert tally.take("") is None


def test_our_own_probe_is_no_customer_and_neither_is_who_waits_for_nothing() -> None:
    tally = Tally()
    probe = replace(client(1, 5.0, inode=7), key=(*OURS, 80))
    for at in (10.0, 11.0):
        look(tally, at, probe, client(2, 5.0, inode=8, waiting=False))
    tally.died(None, 11.0)
    assert tally.take("") == Toll(looks=3)


def test_what_was_noticed_in_peace_is_forgotten() -> None:
    tally = Tally()
    look(tally, 10.0, client(1, 2.0), odd=False)
    assert tally.take("") is None
    look(tally, 15.0, client(1, 2.0), dropped=3, odd=False)
    look(tally, 15.1, dropped=5)
    assert tally.take("") == Toll(looks=1, refused=2)


def test_a_death_breaks_what_its_tree_had_taken_and_no_more_than_once() -> None:
    tally = Tally()
    look(tally, 10.0, client(1, 9.9, inode=5, owner=100), client(2, 9.9, inode=6, owner=200), client(3, 9.9))
    tally.died(frozenset({100}), 10.5)
    tally.died(frozenset({100}), 10.6)
    first = tally.take("")
    assert first is not None
    assert first.broken == 1
    tally.died(None, 10.7)
    second = tally.take("")
    assert second is not None
    assert second.broken == 1  # the other one; the third had not been accepted, and waits in the held socket
    tally.died(None, 10.0 + toll.FRESH_S + 1)
    assert tally.take("") is None


def test_what_comes_just_before_the_incident_belongs_to_it_and_what_is_old_to_none() -> None:
    one = create(Candidate(ProgramSettings(name="store", launch=LaunchSettings(command=("x",))), "", "/"), 0.0)
    fleet = world(Fleet({"store": one}))
    incident = Incident(1, 100.0, Severity.WARNING, facts=(Fact("hang", Severity.WARNING, "x"),))
    for apart_s, expected in ((5.0, 2), (toll.BEFORE_S + 1, 0)):
        told = toll.hear(one, Noticed("store", Toll(looks=1, broken=2)), 95.0)
        opened, _ = toll.count(replace(told, incident=incident), fleet, Clock(95.0 + apart_s))
        assert opened.incident is not None
        assert opened.incident.toll.broken == expected
        assert opened.tolled is None
        again, _ = toll.count(opened, fleet, Clock(95.0 + apart_s))
        assert again is opened
    late = toll.hear(
        toll.hear(one, Noticed("store", Toll(looks=1, broken=2)), 1.0), Noticed("store", Toll(looks=1, refused=1)), 90.0
    )
    assert late.toll == Toll(looks=1, refused=1)


def test_words_are_honest_about_what_was_not_seen() -> None:
    assert words(Toll()) == "what customers noticed was not seen: no connection of it could be looked at"
    seen = add(Toll(looks=2, broken=1, longest_s=1.8, waited=3, trouble_s=0.9), Toll(looks=1, unseen="unix"))
    assert words(seen) == (
        "customers noticed: 0 refused, 1 broken, longest wait 1.8 s (3 waited over 1.0 s; trouble for 0.9 s); not seen: unix"
    )


def test_the_kernel_counts_who_was_turned_away_at_one_socket() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as full, socket.create_server(("127.0.0.1", 0)) as other:
        clients = [socket.socket() for _ in range(6)]
        try:
            for each in clients:
                each.setblocking(False)
                each.connect_ex(full.getsockname())
            deadline = time.monotonic() + 10.0
            while not dropped(full):
                assert time.monotonic() < deadline
            assert dropped(other) == 0
        finally:
            for each in clients:
                each.close()


STUCK = """
import os, socket, time
listener = socket.socket(fileno=3)
listener.setblocking(True)
while True:
    connection, _ = listener.accept()
    if b"/hang" in connection.recv(1000):
        while True:
            pass
    connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n")
    connection.close()
"""


def test_a_killed_server_has_broken_one_request_and_the_others_waited(tmp_path: Path) -> None:
    port = free_port()
    rest = '[program.store.hang]\nsuspect = "200ms"\ncertain = "1s"\n[program.store.restart]\nhealthy = "1s"\n'
    health = '[program.store.health]\nhttp = "/"\nevery = "200ms"\n[program.store.relief]\nextra = 0\n'
    rest += '[program.store.sorry]\nafter = "off"\n'  # the page takes who asks as the probe does for the probe
    config = f'[program.store]\ncommand = {python(STUCK)}\nsockets = ["127.0.0.1:{port}"]\n{health}{rest}'
    with Supervised(tmp_path, config) as daemon:
        daemon.until("instance.ready")
        with socket.create_connection(("127.0.0.1", port)) as poison:
            poison.sendall(b"GET /hang HTTP/1.0\r\n\r\n")
            answers: list[bytes] = []
            waiting = threading.Thread(target=lambda: answers.append(_get(port)))
            waiting.start()
            over = daemon.until("incident.closed")
            waiting.join(10)
    assert answers == [b"HTTP/1.0 200 OK"]
    assert "customers noticed: 0 refused, 1 broken, longest wait " in over["text"]
    record = json.dumps(over)
    assert "0.0 s" not in record.partition("longest wait")[2]


def _get(port: int) -> bytes:
    with socket.create_connection(("127.0.0.1", port)) as customer:
        customer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return customer.recv(1000).partition(b"\r\n")[0]
