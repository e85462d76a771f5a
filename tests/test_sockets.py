"""Held sockets, on real ones: loopback and ephemeral ports alone."""

from __future__ import annotations

import errno
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.mechanism import sockets
from supervisor.mechanism.launch import LaunchError
from supervisor.mechanism.sockets import Holder


@pytest.fixture
def holder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Holder]:
    monkeypatch.setattr(sockets, "BUSY_S", 0.05)
    monkeypatch.setattr(sockets, "BUSY_PAUSE_S", 0.01)
    before = os.listdir("/proc/self/fd")
    holder = Holder()
    yield holder
    for program in ("store", "other"):
        holder.release(program)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.fixture
def ports() -> list[int]:
    """Ports that were free a moment ago."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    found = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return found


def named(fd: int) -> object:
    with socket.socket(fileno=os.dup(fd)) as copy:
        return copy.getsockname()


def refusal(holder: Holder, *addresses: str, program: str = "store") -> LaunchError:
    with pytest.raises(LaunchError) as caught:
        holder.hold(program, addresses)
    return caught.value


def test_hold_queues_customers_before_anybody_accepts(holder: Holder, ports: list[int]) -> None:
    (fd,) = holder.hold("store", [f"127.0.0.1:{ports[0]}"])
    with socket.create_connection(("127.0.0.1", ports[0]), timeout=5) as customer, socket.socket(fileno=os.dup(fd)) as server:
        accepted, peer = server.accept()
        accepted.close()
        assert peer == customer.getsockname()


def test_hold_gives_blocking_descriptors_that_are_not_inherited(holder: Holder, ports: list[int]) -> None:
    (fd,) = holder.hold("store", [f"127.0.0.1:{ports[0]}"])
    assert os.get_blocking(fd)
    assert not os.get_inheritable(fd)


def test_hold_again_gives_the_same_descriptors(holder: Holder, ports: list[int]) -> None:
    addresses = [f"127.0.0.1:{port}" for port in ports]
    first = holder.hold("store", addresses)
    assert holder.hold("store", addresses) == first
    assert [named(fd) for fd in first] == [("127.0.0.1", port) for port in ports]
    assert holder.addresses("store") == tuple(addresses)


def test_hold_of_changed_addresses_keeps_what_is_common(holder: Holder, ports: list[int]) -> None:
    one, two, three = (f"127.0.0.1:{port}" for port in ports)
    first = holder.hold("store", [one, two])
    second = holder.hold("store", [three, two])
    assert second[1] == first[1]
    assert named(second[0]) == ("127.0.0.1", ports[2])
    socket.create_server(("127.0.0.1", ports[0])).close()  # what was dropped is free


def test_hold_that_fails_changes_nothing(holder: Holder, ports: list[int]) -> None:
    one, two, three = (f"127.0.0.1:{port}" for port in ports)
    first = holder.hold("store", [one])
    with socket.create_server(("127.0.0.1", ports[2])):
        refusal(holder, two, three)
    assert holder.addresses("store") == (one,)
    assert holder.hold("store", [one]) == first
    socket.create_server(("127.0.0.1", ports[1])).close()  # nothing of the failed attempt is left


def test_hold_of_a_busy_port_names_who_has_it(holder: Holder, ports: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{ports[0]}"
    with socket.create_server(("127.0.0.1", ports[0])):
        error = refusal(holder, address)
        assert error.text == f"cannot bind {address}: address already in use by Reviver itself (stop that program first)"
        monkeypatch.setattr(os, "getpid", lambda: -1)
        error = refusal(holder, address)
        monkeypatch.undo()
        assert (
            error.text
            == f"cannot bind {address}: address already in use by pid {os.getpid()} ({Path('/proc/self/comm').read_text()[:-1]})"
        )
    assert not error.permanent


def test_hold_of_a_port_held_for_another_program_names_it(holder: Holder, ports: list[int]) -> None:
    holder.hold("other", [f"127.0.0.1:{ports[0]}"])
    error = refusal(holder, f"0.0.0.0:{ports[0]}")
    assert error.text.endswith("address already in use by Reviver itself for other (stop that program first)")


def test_hold_waits_for_a_port_that_becomes_free(holder: Holder, ports: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "BUSY_S", 10.0)
    leaving = socket.create_server(("127.0.0.1", ports[0]))
    met = threading.Event()
    real = sockets._open_inet

    def watched(address: str) -> sockets.Held:
        try:
            return real(address)
        finally:
            met.set()

    monkeypatch.setattr(sockets, "_open_inet", watched)

    def leave() -> None:
        met.wait(10)
        leaving.close()

    leaver = threading.Thread(target=leave)
    leaver.start()
    assert len(holder.hold("store", [f"127.0.0.1:{ports[0]}"])) == 1
    leaver.join()


def test_release_closes(holder: Holder, ports: list[int]) -> None:
    holder.hold("store", [f"127.0.0.1:{ports[0]}"])
    holder.release("store")
    assert holder.addresses("store") == ()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]), timeout=5)


@pytest.mark.skipif(not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"), reason="this host has no IPv6")
def test_hold_of_an_ipv6_wildcard_leaves_ipv4_to_another(holder: Holder, ports: list[int]) -> None:
    six, four = holder.hold("store", [f"[::]:{ports[0]}", f"0.0.0.0:{ports[0]}"])
    assert named(four) == ("0.0.0.0", ports[0])
    socket.create_connection(("::1", ports[0]), timeout=5).close()
    with socket.socket(fileno=os.dup(six)) as server:
        server.accept()[0].close()


def test_hold_of_localhost_is_ipv4_loopback(holder: Holder, ports: list[int]) -> None:
    assert named(holder.hold("store", [f"localhost:{ports[0]}"])[0]) == ("127.0.0.1", ports[0])


@pytest.mark.parametrize("address", ["example.com:80", "nonsense", "[fe80::zz]:80", ":80"])
def test_hold_of_a_name_is_refused_for_good(holder: Holder, address: str) -> None:
    error = refusal(holder, address)
    assert error.permanent
    assert error.text.startswith(f"cannot bind {address}: a name is no address")


def test_unix_socket_is_open_to_all_and_gone_after_release(holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "run" / "store.sock"
    (fd,) = holder.hold("store", [f"unix:{path}"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert named(fd) == str(path)
    with socket.socket(socket.AF_UNIX) as customer:
        customer.connect(str(path))
    holder.release("store")
    assert not path.exists()


def test_unix_socket_of_a_dead_owner_is_taken_over(holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "store.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    assert path.exists()
    holder.hold("store", [f"unix:{path}"])
    with socket.socket(socket.AF_UNIX) as customer:
        customer.connect(str(path))


def test_unix_socket_of_a_living_owner_is_left_alone(holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "store.sock"
    with socket.socket(socket.AF_UNIX) as owner:
        owner.bind(str(path))
        owner.listen()
        error = refusal(holder, f"unix:{path}")
        with socket.socket(socket.AF_UNIX) as customer:
            customer.connect(str(path))
    assert "already in use by Reviver itself" in error.text
    assert not error.permanent


def test_unix_socket_never_replaces_a_file(holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "store.sock"
    path.write_text("precious")
    error = refusal(holder, f"unix:{path}")
    assert error.permanent
    assert path.read_text() == "precious"


def test_unix_socket_that_was_replaced_by_a_link_opens_no_other_file(
    holder: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program's user who owns the folder is quicker than we are: root must not make another file writable for everybody."""
    path, secret = tmp_path / "store.sock", tmp_path / "secret"
    secret.touch(mode=0o600)
    listen = sockets._listen

    def listen_and_lose(listener: socket.socket, where: tuple[str, int] | str) -> None:
        listen(listener, where)
        path.unlink()
        path.symlink_to(secret)

    monkeypatch.setattr(sockets, "_listen", listen_and_lose)
    assert "another file" in refusal(holder, f"unix:{path}").text
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_unix_release_leaves_anothers_socket_there(holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "store.sock"
    holder.hold("store", [f"unix:{path}"])
    path.unlink()
    with socket.socket(socket.AF_UNIX) as newer:
        newer.bind(str(path))
        holder.release("store")
        assert path.exists()


@pytest.mark.parametrize(
    ("address", "number", "permanent", "words"),
    [
        ("127.0.0.1:80", errno.EACCES, True, "permission denied (run as root, or give the unit CAP_NET_BIND_SERVICE)"),
        (
            "unix:/run/x.sock",
            errno.EACCES,
            True,
            "permission denied (let Reviver's user write into that folder, or choose another)",
        ),
        (
            "10.9.9.9:80",
            errno.EADDRNOTAVAIL,
            False,
            "this host does not have that address (bring its interface up, or choose another)",
        ),
        ("127.0.0.1:80", errno.EMFILE, False, "too many open files (raise the limit of open files of Reviver itself)"),
    ],
)
def test_refusal_says_what_to_do(
    holder: Holder, monkeypatch: pytest.MonkeyPatch, address: str, number: int, permanent: bool, words: str
) -> None:
    def refuse(_: str) -> sockets.Held:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(sockets, "_open_inet", refuse)
    monkeypatch.setattr(sockets, "_open_unix", refuse)
    error = refusal(holder, address)
    assert (error.text, error.permanent) == (f"cannot bind {address}: {words}", permanent)
