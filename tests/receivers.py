"""Real receivers of alerts on loopback: an HTTP server that answers as it is told to."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Callable

DEADLINE_S = 15.0


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        threading.Event().wait(0.005)


class Receiver(http.server.ThreadingHTTPServer):
    """Answers each POST by what `answers` says next: a status, or "hang" or "drip" until the end; 200 when nothing is left."""

    daemon_threads = True

    def __init__(self, answers: tuple[int | str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = list(answers)
        self.taken: list[object] = []  # texts that were answered by 200
        self.got: list[tuple[str, dict[str, str], dict[str, object]]] = []
        self.raw: list[bytes] = []
        self.asked: list[str] = []  # paths of GETs, answered in the same way
        self.ending = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    @property
    def target(self) -> str:
        return f"webhook:http://127.0.0.1:{self.port}/hook?token=secret"

    def wait_for(self, count: int) -> None:
        until(lambda: len(self.got) >= count)

    def texts(self) -> list[object]:
        return [body["text"] for _, _, body in self.got]

    def end(self) -> None:
        self.ending.set()
        self.shutdown()
        self._thread.join()
        self.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    server: Receiver

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self._answer(self.server.answers.pop(0) if self.server.answers else 200)

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        body = json.loads(raw)
        self.server.raw.append(raw)
        self.server.got.append((self.path, dict(self.headers), body))
        answer = self.server.answers.pop(0) if self.server.answers else 200
        if answer == 200:
            self.server.taken.append(body.get("text"))
        self._answer(answer)

    def _answer(self, answer: int | str) -> None:
        if answer == "drip":
            while not self.server.ending.wait(0.01):
                try:
                    self.wfile.write(b"H")
                except OSError:
                    return
        elif answer == "hang":
            self.server.ending.wait()
        else:
            self.send_response(int(answer))
            self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""
