"""Releases on real processes: deployed, refused, taken back, rolled back by hand, and remembered."""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from tests.supervised import Supervised, free_port

SERVER = """
import os, signal, socket, sys
NAME = os.path.basename(os.getcwd())
listener = socket.socket(fileno=3)
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
while True:
    client, _ = listener.accept()
    if b"/crash" in client.recv(4096):
        os._exit(3)
    client.sendall(f"HTTP/1.1 200 OK\\r\\nContent-Length: {len(NAME)}\\r\\nConnection: close\\r\\n\\r\\n{NAME}".encode())
    client.close()
"""


class Shop:
    """A folder of releases and a link that names the first one, and a program that runs there."""

    def __init__(self, folder: Path, *, more: str = "") -> None:
        self.folder = folder / "srv"
        self.link = self.folder / "current"
        self.port = free_port()
        self.release("r1")
        self.link.symlink_to("releases/r1")
        compileall = json.dumps([sys.executable, "-m", "compileall", "-q", "."])
        self.program = f"""
[program.shop]
command = {json.dumps([sys.executable, "app.py"])}
directory = "{self.link}"
sockets = ["127.0.0.1:{self.port}"]
relief.extra = 1
restart.first = "0s"
preflight = [{compileall}]
[program.shop.health]
http = "/health"
every = "100ms"
{more}
"""

    def release(self, name: str, code: str = SERVER) -> None:
        (self.folder / "releases" / name).mkdir(parents=True)
        (self.folder / "releases" / name / "app.py").write_text(code)

    def named(self) -> str:
        """What the link names."""
        return os.readlink(self.link)

    def ask(self, path: str = "/") -> str:
        """The release that answers; "" for a connection that ended without an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", path)
            return connection.getresponse().read().decode()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            return ""
        finally:
            connection.close()


class Customers:
    """Somebody who asks all the time; what was answered stands in `answers`."""

    def __init__(self, shop: Shop) -> None:
        self.answers: list[str] = []
        self._shop = shop
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> Customers:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _ask(self) -> None:
        while not self._over.wait(0.01):
            try:
                self.answers.append(self._shop.ask())
            except OSError as problem:
                self.answers.append(str(problem))


def history(daemon: Supervised) -> list[tuple[str, str]]:
    told = json.loads(daemon.ask("releases", "shop", "--json").stdout)
    return [(line["release"], line["state"]) for line in told["programs"][0]["releases"]]


def test_deploy_and_rollback_serve_every_customer_and_are_remembered(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.release("r2")
    with Supervised(tmp_path, shop.program) as daemon:
        daemon.until("instance.ready", subject="shop:1")
        with Customers(shop) as customers:
            deployed = daemon.ask("deploy", str(shop.folder / "releases" / "r2"))
            assert (shop.ask(), shop.named()) == ("r2", "releases/r2")
            assert history(daemon) == [("r2", "on trial"), ("r1", "good")]
            back = daemon.ask("rollback", "shop")
            assert (shop.ask(), shop.named()) == ("r1", "releases/r1")
        assert (deployed.returncode, back.returncode) == (0, 0), deployed.stderr + back.stderr
        assert deployed.stdout.startswith("shop: release r2 serves: shop:2; on probation for 10 min")
        assert "stays changed" in back.stdout
        assert set(customers.answers) == {"r1", "r2"}
        told = daemon.ask("releases").stdout
        assert "rolled back" in told
    with Supervised(tmp_path, shop.program) as daemon:
        daemon.until("instance.ready")
        assert history(daemon) == [("r2", "rolled back"), ("r1", "serving")]


def test_release_that_does_not_compile_moves_nothing_and_is_not_tried_again_unasked(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.release("bad", "def broken(:\n")
    with Supervised(tmp_path, shop.program) as daemon:
        daemon.until("instance.ready", subject="shop:1")
        before = daemon.status("shop")["instances"][0]["pid"]
        first, second, again = (daemon.ask("deploy", *words) for words in (["shop", "bad"], ["bad"], ["bad", "shop", "--again"]))
        assert first.returncode == second.returncode == again.returncode == 1
        assert "nothing was changed: its preflight failed" in first.stderr
        assert "--again" in second.stderr
        assert "nothing was changed: its preflight failed" in again.stderr
        assert shop.named() == "releases/r1"
        assert [i["pid"] for i in daemon.status("shop")["instances"]] == [before]
        assert history(daemon)[0] == ("bad", "failed")


def test_release_that_crashes_twice_within_its_probation_goes_back_with_its_link(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.release("bad")
    with Supervised(tmp_path, shop.program) as daemon:
        daemon.until("instance.ready", subject="shop:1")
        assert daemon.ask("deploy", "bad").returncode == 0
        for _ in range(2):
            assert shop.ask("/crash") == ""
        lost = daemon.until("build.lost")
        assert "(release bad) is given up, back to build 1 (release r1)" in lost["text"]
        assert "stays changed" in lost["text"]
        daemon.until("release.switched")
        assert (shop.ask(), shop.named()) == ("r1", "releases/r1")
        assert history(daemon) == [("bad", "failed"), ("r1", "serving")]


def test_release_that_does_not_start_never_replaces_the_one_that_serves(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    shop.release("bad", "raise SystemExit('no database')")
    with Supervised(tmp_path, shop.program) as daemon:
        daemon.until("instance.ready", subject="shop:1")
        with Customers(shop) as customers:
            refused = daemon.ask("deploy", "bad")
        assert refused.returncode == 1
        assert "is given up, back to build 1" in refused.stderr
        assert set(customers.answers) == {"r1"}
        daemon.wait_for(lambda: shop.named() == "releases/r1")
        assert [i["id"] for i in daemon.status("shop")["instances"]] == ["shop:1"]


@pytest.mark.parametrize("verb", [["deploy", "app", "/srv/r2"], ["rollback", "app"]])
def test_directory_changed_in_place_is_the_operators_to_change(tmp_path: Path, verb: list[str]) -> None:
    """Reviver says which command does it."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.py").write_text("import signal; signal.pause()")
    program = f'[program.app]\ncommand = {json.dumps([sys.executable, "app.py"])}\ndirectory = "{tmp_path}/app"\n'
    with Supervised(tmp_path, program) as daemon:
        daemon.until("instance.ready")
        refused = daemon.ask(*verb)
        assert refused.returncode == 1
        assert f"git -C {tmp_path}/app checkout REVISION && reviver apply" in refused.stderr
