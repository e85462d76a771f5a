"""Releases of the bundled store for a drill: its own source, copied into a folder for each, with what makes it the release it is.

The store's code is read as text and never imported. It runs in processes of the shadow.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import supervisor
from supervisor.commands.drill_shadow import marked, toml
from supervisor.control.client import Refusal
from supervisor.control.messages import REFUSED

NAME = "store"
SOURCE = Path(supervisor.__file__).parent / "demo"
PACKAGE = "shop"  # what the copy is called: it must not be found where the bundled one is
NEEDED = ("flask", "gunicorn")
HEALTHY_S = 2  # of calm prove a recovery here, so that a drill ends soon; 60 s at the default
LIMIT_S = 5  # the slowest pace of restarts; 30 s at the default
START_S = 5  # the time it has to become ready; 60 s at the default
SLOW_S = 120  # longer than a start may take at all

LOOP = """\
        while total_cents > coupon.floor_cents:
            total_cents -= total_cents * coupon.percent // 100
        return total_cents
"""
ONCE = """\
        return max(coupon.floor_cents, total_cents - total_cents * coupon.percent // 100)
"""
ENDING = """\
        while total_cents > coupon.floor_cents:
            share_cents = total_cents * coupon.percent // 100
            if share_cents == 0:
                break
            total_cents -= share_cents
        return total_cents
"""
PEER = "data/peer"  # beneath the shadow's folder: the port of what the store depends on
RATES = "/rates"
ASKS = f"""

@app.get("{RATES}")
def exchange_rates() -> Response:
    import socket

    with open(os.path.join(os.environ["DEMO_DATA"], "{PEER.rpartition("/")[2]}")) as file:
        port = int(file.read())
    with socket.create_connection(("127.0.0.1", port)) as bank:
        bank.sendall(b"rates?")
        return Response(bank.recv(100))
"""


@dataclass(frozen=True, slots=True)
class Release:
    """`name` is its folder's, as revisions are called; `coupons` stands for the loop; `added` ends its main file."""

    name: str
    coupons: str = LOOP
    added: str = ""


BEFORE = Release("3e1b8d0", ONCE)
LOOPING = Release("4f2a91c")
FIXED = Release("9b7e6d5", ENDING)
BAD = Release("5d0c7e2", ONCE, '\nraise RuntimeError("this release cannot start: a drill made it so")\n')
DEPENDENT = Release("8c15d40", ONCE, ASKS)
SLOW = Release("6a93f1b", ONCE, f"\ntime.sleep({SLOW_S})\n")


def make(where: Path, release: Release) -> Path:
    """Write the release into its folder beneath `where`, and give the folder."""
    folder = where / "releases" / release.name
    shutil.copytree(SOURCE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (folder / PACKAGE).glob("*.py"):
        text = file.read_text().replace("supervisor.demo", PACKAGE)
        if file.name == "store.py":
            text = with_coupons(text, release.coupons) + release.added
        file.write_text(text)
    return folder


def with_coupons(text: str, coupons: str) -> str:
    """The store's source with another way to take a coupon's share."""
    assert LOOP in text, "the bundled store has another loop: mend drill_store.LOOP"
    return text.replace(LOOP, coupons)


def tables(where: Path, port: int, first: Release, release: str = "") -> str:
    """The program's tables, serving `first`; `release` has more keys of its [release]. Raises Refusal when the extra is not installed."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise Refusal(REFUSED, f"the bundled store needs {' and '.join(missing)}: pip install 'reviver[demo]'")
    (where / "current").symlink_to(make(where, first))
    name = marked(NAME)
    command = [sys.executable, "-m", "gunicorn", f"{PACKAGE}.store:app", "--timeout", "0", "--graceful-timeout", "120"]
    return (
        f"[program.{name}]\ncommand = {toml(command)}\ndirectory = {toml(str(where / 'current'))}\n"
        f'sockets = ["127.0.0.1:{port}"]\nenv = {toml({"DEMO_DATA": str(where / "data"), "XDG_RUNTIME_DIR": str(where)})}\n'
        f"preflight = {toml([[sys.executable, '-m', 'compileall', '-q', '.']])}\n"
        f'[program.{name}.health]\nhttp = "/health"\nstart = "{START_S}s"\n'
        f'[program.{name}.restart]\nhealthy = "{HEALTHY_S}s"\nlimit = "{LIMIT_S}s"\n'
        f"[program.{name}.release]\n{release}\n"
    )
