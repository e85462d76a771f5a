"""Releases on real processes: deployed, refused, taken back, rolled back by hand, and remembered."""

from __future__ import annotations

import grp
import http.client
import json
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from supervisor.control import server
from supervisor.control.client import Client, Refusal
from supervisor.control.messages import NO_SUCH_PROGRAM, REFUSED, USAGE
from supervisor.model import Applied, Candidate, LaunchSettings, ProgramSettings
from tests.control import Running, running
from tests.supervised import SLEEPER, Supervised, free_port

# Asked to stop it ends between two customers, never with one whom it has accepted.
SERVER = """
import os, select, signal, socket
NAME = os.path.basename(os.getcwd())
listener = socket.socket(fileno=3)
listener.setblocking(False)  # another instance may have been quicker
woken, wakes = socket.socketpair()
wakes.setblocking(False)
signal.set_wakeup_fd(wakes.fileno())
signal.signal(signal.SIGTERM, lambda *_: None)
while woken not in select.select([listener, woken], [], [])[0]:
    try:
        client, _ = listener.accept()
    except BlockingIOError:
        continue
    client.setblocking(True)
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


def test_directory_changed_in_place_is_the_operators_to_change(tmp_path: Path) -> None:
    """Reviver says which command does it."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "app.py").write_text(SLEEPER)
    program = f'[program.app]\ncommand = {json.dumps([sys.executable, "app.py"])}\ndirectory = "{tmp_path}/app"\n'
    with Supervised(tmp_path, program) as daemon:
        daemon.until("instance.ready")
        for refused in (daemon.ask("deploy", "app", "/srv/r2"), daemon.ask("rollback", "app")):
            assert refused.returncode == 1
            assert f"git -C {tmp_path}/app checkout REVISION && reviver apply" in refused.stderr


# --- the door, over programs that are played ------------------------------------------------------------------------------------


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rv-") as made:
        yield Path(made)


def played(name: str, place: Path) -> Applied:
    """A program behind a link to the first of two releases, with a third elsewhere."""
    for folder in ("releases/r1", "releases/r2", "elsewhere/r9"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    launch = LaunchSettings(command=("serve",), directory=f"{place}/current")
    return Applied((Candidate(ProgramSettings(name=name, launch=launch), "r1", f"{place}/releases/r1", linked=True),))


@contextmanager
def door(place: Path) -> Iterator[tuple[Running, Client]]:
    (place / "run").mkdir()
    with running(place / "run") as served, Client(str(place / "run")) as client:
        served.post(played("store", place))
        yield served, client


@pytest.mark.parametrize(
    "words",
    [["{0}/releases/r2"], ["store", "{0}/releases/r2"], ["{0}/releases/r2", "store"], ["releases/r2"], ["r2"]],
)
def test_deploy_takes_its_words_in_either_order_and_needs_no_name_where_there_is_one_link(place: Path, words: list[str]) -> None:
    with door(place) as (served, client):
        answer = client.call("deploy", {"words": [word.format(place) for word in words], "folder": str(place)})
        assert answer["programs"][0]["text"].startswith("release r2 serves: store:2; on probation")
        assert served.world.fleet_now.programs["store"].build.directory == str(place / "releases" / "r2")


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        ([], USAGE, "which release? reviver deploy [NAME] PATH names its directory"),
        (["store"], USAGE, "which release?"),
        (["stor", "r2"], NO_SUCH_PROGRAM, "did you mean 'store'?"),
        (["releases/r7"], REFUSED, "releases/r7: no such file or directory"),
        (["r1"], REFUSED, "release r1 runs already: reviver restart store replaces its instances"),
        (["\0"], REFUSED, "no release there, nothing was changed"),
    ],
)
def test_deploy_of_nothing_sensible_is_one_sentence(place: Path, words: list[str], code: int, sentence: str) -> None:
    with door(place) as (_, client), pytest.raises(Refusal) as refused:
        client.call("deploy", {"words": words, "folder": str(place)})
    assert refused.value.code == code
    assert sentence in str(refused.value)


def test_member_of_the_group_may_deploy_from_the_releases_folder_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs there runs as the program's user."""
    monkeypatch.setattr(server, "_owner", lambda _: False)
    monkeypatch.setattr(server, "_member", lambda *_: True)
    (place / "run").mkdir()
    own = grp.getgrgid(os.getgid()).gr_name
    with running(place / "run", group=own) as served, Client(str(place / "run")) as client:
        served.post(played("store", place))
        with pytest.raises(Refusal, match="only the daemon's own user and root may deploy from another folder"):
            client.call("deploy", {"words": [f"{place}/elsewhere/r9"]})
        assert client.call("deploy", {"words": ["r2"]})["programs"][0]["done"]


def test_deploy_whose_link_cannot_be_switched_changes_nothing(place: Path) -> None:
    with door(place) as (served, client):
        served.world.switch_problem = "no space left on device"
        (answer,) = client.call("deploy", {"words": ["r2"]})["programs"]
        assert not answer["done"]
        assert "nothing was changed: its link could not be switched: no space left on device" in answer["text"]
        (instance,) = client.call("status", {"names": ["store"]})["programs"][0]["instances"]
        assert instance["id"] == "store:1"


def test_rollback_without_an_earlier_good_release_says_so(place: Path) -> None:
    with door(place) as (_, client), pytest.raises(Refusal, match="store has no earlier release that was good"):
        client.call("rollback", {})
