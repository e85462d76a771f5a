"""The demo store: its pages, its start by many processes at once, and each of its bad coupons on real processes."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import ModuleType

import pytest
from flask.testing import FlaskClient

from supervisor.demo import catalogue, faults

BOOT_LIMIT_S = 30.0  # for a loaded machine; nothing waits for it in peace


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEMO_DATA", str(tmp_path_factory.mktemp("shop")))
        yield importlib.import_module("supervisor.demo.store")


@pytest.fixture
def shop(store: ModuleType) -> FlaskClient:
    client: FlaskClient = store.app.test_client()
    return client


def test_catalogue_lists_every_product_with_its_price(shop: FlaskClient) -> None:
    page = shop.get("/").get_data(as_text=True)
    assert page.count('<svg class="picture') == 8
    assert "Harbour mug" in page
    assert "€ 14.50" in page


def test_product_page_escapes_and_links_the_cart(shop: FlaskClient) -> None:
    assert 'action="/cart/kettle"' in shop.get("/product/kettle").get_data(as_text=True)
    assert shop.get("/product/<script>").status_code == 404


def test_order_of_a_cart_is_written_down_with_its_coupon(shop: FlaskClient) -> None:
    shop.post("/cart/mug")
    shop.post("/cart/mug")
    shop.post("/cart/lamp", data={"count": "1"})
    assert "€ 98.00" in shop.get("/cart").get_data(as_text=True)
    answer = shop.post("/checkout", data={"coupon": "welcome10"}, follow_redirects=True)
    assert "€ 92.61" in answer.get_data(as_text=True)  # 98.00 and 4.90 shipping, less 10 %
    assert "Nothing in it yet" in shop.get("/cart").get_data(as_text=True)


def test_cart_keeps_counts_within_bounds(shop: FlaskClient) -> None:
    shop.post("/cart/mug", data={"count": "100000"})
    assert 'value="99"' in shop.get("/cart").get_data(as_text=True)
    shop.post("/cart/mug", data={"count": "-3"})
    assert "Nothing in it yet" in shop.get("/cart").get_data(as_text=True)


def test_order_page_is_unknown_without_its_token(shop: FlaskClient) -> None:
    assert shop.get("/order/1").status_code == 404


def test_step_coupon_with_a_floor_ends(store: ModuleType) -> None:
    assert store.apply_coupon(10_000, catalogue.Coupon("SPRING", "step", 10, 2500)) <= 2500


def test_unknown_coupon_is_said(shop: FlaskClient) -> None:
    assert "do not know the coupon &lt;b&gt;" in shop.get("/checkout?coupon=<b>").get_data(as_text=True)


def test_health_reads_the_database(shop: FlaskClient) -> None:
    assert shop.get("/health").get_data(as_text=True) == "ok: 8 products\n"


def test_leak_grows_and_ends_at_its_ceiling(shop: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "LEAK_CEILING_BYTES", 3 * faults.LEAK_STEP_BYTES)
    monkeypatch.setattr(faults, "LEAK_PAUSE_S", 0.001)
    assert shop.get("/checkout?coupon=LEAK").status_code == 200
    for thread in threading.enumerate():
        if thread.name == "neighbours":
            thread.join(BOOT_LIMIT_S)
            assert not thread.is_alive()
    assert faults._leaking.acquire(blocking=False)  # it can happen again
    faults._leaking.release()


def test_slow_report_costs_processor_time_and_ends(shop: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "REPORT_CPU_S", 0.05)
    before = time.thread_time()
    assert shop.get("/checkout?coupon=SLOW").status_code == 200
    assert time.thread_time() - before >= 0.05


def test_many_processes_may_make_the_database_at_once(tmp_path: Path) -> None:
    code = "import sys; sys.stdin.read(); from supervisor.demo import catalogue as c; print(c.secret(c.prepare()))"
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "DEMO_DATA": str(tmp_path)},
        )
        for _ in range(6)
    ]
    for starter in starters:
        assert starter.stdin is not None
        starter.stdin.close()
        starter.stdin = None
    secrets = {starter.communicate(timeout=BOOT_LIMIT_S)[0] for starter in starters}
    assert len(secrets) == 1
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".sqlite"] == [catalogue.FILE_NAME]
    with closing(sqlite3.connect(tmp_path / catalogue.FILE_NAME)) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("SELECT count(*) FROM products").fetchone() == (8,)
        assert db.execute("SELECT count(*) FROM settings").fetchone() == (1,)


def test_default_folder_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMO_DATA", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"reviver-demo-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="DEMO_DATA"):
        catalogue.data_dir()


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], tuple[str, int]]]:
    """The store under a real gunicorn on a held socket; nothing is left of it afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as held, (folder / "output").open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "supervisor.demo.store:app", "-b", f"fd://{held.fileno()}", "--timeout", "0"],
            stdout=output,
            stderr=output,
            pass_fds=(held.fileno(),),
            start_new_session=True,
            env={**os.environ, "DEMO_DATA": str(folder), "HOME": str(folder)},
        )
        resource.prlimit(server.pid, resource.RLIMIT_CORE, (0, 0))  # the crash is meant: it leaves no core in the folder
        try:
            yield server, held.getsockname()
        finally:
            if server.poll() is None:
                os.killpg(server.pid, signal.SIGKILL)
            server.wait(BOOT_LIMIT_S)


def ask(address: tuple[str, int], path: str) -> socket.socket:
    client = socket.create_connection(address, timeout=BOOT_LIMIT_S)
    client.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    return client


def test_loop_spins_for_ever_on_one_worker(tmp_path: Path) -> None:
    with served(tmp_path) as (server, address):
        with ask(address, "/health") as client:
            assert b" 200 " in client.recv(100)
        (worker,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
        with ask(address, "/checkout?coupon=LOOP"):
            before = _cpu_ticks(worker)
            while _cpu_ticks(worker) < before + 30:  # 0.3 s of processor time, and no answer
                time.sleep(0.01)
            with ask(address, "/health") as client:
                client.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    client.recv(100)


def test_crash_ends_the_whole_server(tmp_path: Path) -> None:
    with served(tmp_path) as (server, address), ask(address, "/checkout?coupon=CRASH"):
        assert server.wait(BOOT_LIMIT_S) == -signal.SIGABRT


def _cpu_ticks(pid: str) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
