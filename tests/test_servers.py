"""What is known of each server: recognised from a command, taken side by side or not, and said in one sentence."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor import servers
from supervisor.model import HangSettings, LaunchSettings, ProgramSettings, ReliefSettings, Retirement

HELD = ("127.0.0.1:8000",)
ANSWER_WITHIN_S = 20.0  # gunicorn boots in 0.3 s; the rest is for a busy machine


def launch(command: str, sockets: tuple[str, ...] = HELD, **env: str) -> LaunchSettings:
    return LaunchSettings(command=tuple(command.split()), sockets=sockets, env=tuple(env.items()))


def said(
    command: str, sockets: tuple[str, ...] = HELD, *, stop: str = "TERM", extra: int = 1, hang: HangSettings | None = None
) -> str:
    """All remarks on a program, one a line."""
    program = ProgramSettings(
        name="store",
        launch=launch(command, sockets),
        stop=stop,
        relief=ReliefSettings(extra=extra),
        hang=hang or HangSettings(),
    )
    return "\n".join(servers.remarks(program))


# --- recognising ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("gunicorn store.wsgi", "gunicorn"),
        ("/srv/venv/bin/gunicorn store.wsgi", "gunicorn"),
        ("python -m gunicorn store.wsgi", "gunicorn"),
        ("python3.11 -u -X dev -m gunicorn.app.wsgiapp store.wsgi", "gunicorn"),
        ("python /srv/venv/bin/gunicorn store.wsgi", "gunicorn"),
        ("env -u HOME A=1 gunicorn store.wsgi", "gunicorn"),
        ("uv run --frozen --with x gunicorn store.wsgi", "gunicorn"),
        ("poetry run python -m uvicorn store:app", "uvicorn"),
        ("nice -n 5 poetry run daphne store:app", "daphne"),
        ("hypercorn store:app", "hypercorn"),
        ("uwsgi --ini x.ini", "uWSGI"),
        ("node server.js", "node"),
        ("bundle exec puma -C config/puma.rb", "puma"),
        ("/usr/sbin/nginx -g x", "nginx"),
        ("java -jar store.jar", "java"),
        ("waitress-serve store:app", "waitress"),
        ("python -m waitress store:app", "waitress"),
        ("granian store:app", "granian"),
        ("php -S 127.0.0.1:80", "php -S"),
        ("php artisan queue:work", ""),
        ("python app.py", ""),
        ("python gunicorn.py", ""),
        ("python -c gunicorn", ""),
        ("python", ""),
        ("sh -c gunicorn", ""),
        ("./store --gunicorn", ""),
        ("env A=1", ""),
        ("uv run", ""),
    ],
)
def test_a_server_is_recognised_from_its_command(command: str, name: str) -> None:
    found = servers.recognise(tuple(command.split()))
    assert (found.server.name if found else "") == name


def test_every_row_can_be_recognised_and_says_what_to_do_where_it_can_take_a_socket() -> None:
    for server in servers.SERVERS:
        found = servers.recognise((server.commands[0], *filter(None, [server.only_with])))
        assert found is not None
        assert found.server is server is servers.named(server.name)
        assert bool(server.mend) == (server.takes is not servers.Takes.NEVER)
    assert servers.named("nothing") is None


def test_workers_are_known_as_far_as_the_command_shows() -> None:
    workers = {
        "gunicorn x": True,
        "nginx": True,
        "uvicorn x": False,
        "uvicorn x --workers 1": False,
        "uvicorn x --workers=4": True,
        "hypercorn x -w 2": True,
        "puma -w2": True,
        "node x": False,
        "./store": False,
    }
    assert {command: servers.has_workers(tuple(command.split())) for command in workers} == workers


# --- held sockets in a command --------------------------------------------------------------------------------------------------


def test_placeholders_become_descriptors_and_other_braces_stay() -> None:
    command = ("--fd", "{fd}", "fd://{fd:1}", "{fd:2}{fd:12}", "{fd:}", "{FD}", "{fd:x}", "{other}", "{{fd}}")
    assert servers.with_fds(command) == ("--fd", "3", "fd://3", "414", "{fd:}", "{FD}", "{fd:x}", "{other}", "{3}")
    assert servers.placeholders(command) == (1, 1, 2, 12, 1)


# --- side by side ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "retire", "way"),
    [
        ("gunicorn store.wsgi --workers 4", Retirement.STOP, "gunicorn takes the held socket 127.0.0.1:8000 by LISTEN_FDS"),
        ("gunicorn -b 127.0.0.1:9000 store.wsgi", Retirement.STOP, "gunicorn takes the held socket 127.0.0.1:8000 by LISTEN_FDS"),
        ("uvicorn store:app --fd {fd}", Retirement.STOP, "uvicorn takes the held socket 127.0.0.1:8000 by its command"),
        ("uvicorn store:app --fd=3", Retirement.STOP, "uvicorn takes the held socket 127.0.0.1:8000 by its command"),
        ("uv run uvicorn store:app --fd {fd}", Retirement.STOP, "uvicorn takes the held socket 127.0.0.1:8000 by its command"),
        ("daphne --fd {fd} store:app", Retirement.WATCH, "daphne takes the held socket 127.0.0.1:8000 by its command"),
        ("hypercorn -b fd://{fd} store:app", Retirement.WATCH, "hypercorn takes the held socket 127.0.0.1:8000 by its command"),
        (
            "hypercorn -b fd://{fd} --graceful-timeout 60 store:app",
            Retirement.STOP,
            "hypercorn takes the held socket 127.0.0.1:8000 by its command",
        ),
        ("uwsgi --http-socket fd://{fd}", Retirement.WATCH, "uWSGI takes the held socket 127.0.0.1:8000 by its command"),
        ("node server.js {fd}", Retirement.WATCH, "node takes the held socket 127.0.0.1:8000 by its command"),
        ("puma --bind-to-activated-sockets=only", Retirement.STOP, "puma takes the held socket 127.0.0.1:8000 by LISTEN_FDS"),
    ],
)
def test_auto_is_one_where_this_command_takes_the_held_socket(command: str, retire: Retirement, way: str) -> None:
    assert servers.relief(launch(command)) == (1, f"two can live side by side: {way}", retire)


@pytest.mark.parametrize(
    ("command", "why"),
    [
        ("gunicorn -b fd://{fd} store.wsgi", "gunicorn gets the socket twice, by its command and by LISTEN_FDS; leave -b out"),
        ("uv run gunicorn store.wsgi", "gunicorn takes held sockets only as Reviver's own child, and uv stands between; start"),
        ("uvicorn store:app", "uvicorn is not told to take the held socket; add --fd {fd} to its command"),
        ("uvicorn store:app --port 8000", "uvicorn is not told to take the held socket; add --fd {fd} to its command"),
        ("hypercorn -b 127.0.0.1:8000 store:app", "hypercorn is not told to take the held socket; add -b fd://{fd} to its command"),
        ("uwsgi --http :8000", "uWSGI is not told to take the held socket; add --http-socket fd://{fd} to its command"),
        (
            "node server.js",
            "node is not told to take the held socket; let it call server.listen({fd: 3}), then write relief.extra = 1",
        ),
        ("puma -C config/puma.rb", "puma is not told to take the held socket; add --bind-to-activated-sockets=only"),
        ("nginx", 'nginx is not told to take the held socket; write env = { NGINX = "3;" }'),
        ("java -jar store.jar", "java takes a held socket as standard input only; "),
        ("waitress-serve store:app", "waitress cannot take a held socket from its command line"),
        ("granian store:app", "granian cannot take a held socket from its command line"),
        ("php -S 127.0.0.1:8000", "php -S cannot take a held socket from its command line"),
        ("./store", "store is no server that Reviver knows; write relief.extra = 1 if it takes held sockets"),
    ],
)
def test_auto_is_none_where_it_is_not_known_to_take_it(command: str, why: str) -> None:
    decided = servers.relief(launch(command))
    assert decided.extra == 0
    assert decided.because.startswith(f"never beside itself: {why}")


@pytest.mark.parametrize("command", ["gunicorn store.wsgi", "uvicorn store:app --fd 3", "./store"])
def test_auto_is_none_without_a_held_socket(command: str) -> None:
    decided = servers.relief(launch(command, ()))
    assert decided.extra == 0
    assert decided.because == (
        "never beside itself: no socket is held by Reviver; name its address in sockets and let the server take it"
    )


def test_nginx_takes_it_by_its_environment_and_stops_gracefully_on_quit() -> None:
    decided = servers.relief(launch("nginx", NGINX="3;"), stop="QUIT")
    assert decided == (
        1,
        "two can live side by side: nginx takes the held socket 127.0.0.1:8000 by the environment NGINX",
        Retirement.STOP,
    )
    assert servers.relief(launch("nginx", NGINX="3;")).retire is Retirement.WATCH


def test_several_sockets_are_named_where_the_server_takes_several() -> None:
    two = (*HELD, "[::]:80")
    assert servers.relief(launch("gunicorn x", two)).because.endswith("the held sockets 127.0.0.1:8000, [::]:80 by LISTEN_FDS")
    assert servers.relief(launch("uvicorn x --fd 3", two)).because.endswith("the held socket 127.0.0.1:8000 by its command")


def test_an_operators_word_wins_and_is_said() -> None:
    assert servers.relief(launch("gunicorn x"), extra=0) == (
        0,
        "never beside itself: the configuration says relief.extra = 0",
        Retirement.STOP,
    )
    decided = servers.relief(launch("./store"), extra=2, retire=Retirement.STOP)
    assert decided == (2, "3 can live side by side: the configuration says relief.extra = 2", Retirement.STOP)


def test_a_stop_that_is_not_graceful_for_long_enough_makes_a_suspect_watched() -> None:
    patient = HangSettings(certain_s=20.0)
    assert servers.relief(launch("gunicorn x"), hang=patient).retire is Retirement.WATCH
    assert servers.relief(launch("gunicorn x --graceful-timeout 60"), hang=patient).retire is Retirement.STOP
    assert servers.relief(launch("gunicorn x --graceful-timeout 5")).retire is Retirement.WATCH
    assert servers.relief(launch("gunicorn x"), stop="QUIT").retire is Retirement.WATCH
    assert servers.relief(launch("./store")).retire is Retirement.WATCH


# --- remarks --------------------------------------------------------------------------------------------------------------------

QUIET = "gunicorn x --timeout 0 --graceful-timeout 120"


@pytest.mark.parametrize(
    "command", [QUIET, "gunicorn x -t0 --graceful-timeout=30", "gunicorn x -t 61", "uvicorn x --fd {fd}", "./store"]
)
def test_nothing_is_remarked_where_all_is_well(command: str) -> None:
    assert said(command) == ""


def test_a_healer_that_races_ours_is_told_with_its_mend() -> None:
    assert said("gunicorn x") == (
        "gunicorn kills a worker by itself after 30 s, as far as its command shows, and would race Reviver: add --timeout 0"
    )
    assert "after 10 s" in said("gunicorn x --timeout 10")
    assert "after 5 s" in said("uvicorn x --fd 3 --workers 4")
    assert said("uvicorn x --fd 3 --workers 4").endswith("add --timeout-worker-healthcheck 120")
    assert "uWSGI kills a worker by itself after 20 s" in said("uwsgi --socket fd://3 --die-on-term --harakiri=20")
    assert said("uwsgi --socket fd://3 --die-on-term") == ""
    assert said("gunicorn x -t 61", hang=HangSettings(blocked_s=90.0)).startswith("gunicorn kills a worker by itself after 61 s")


def test_a_short_drain_is_told_where_two_live_side_by_side() -> None:
    assert said("gunicorn x --timeout 0 --graceful-timeout 5") == (
        "gunicorn breaks off what it still serves 5 s after its stop signal, as far as its command shows: "
        "add --graceful-timeout 30, so that a busy one may finish beside its relief"
    )
    assert said("gunicorn x --timeout 0 --graceful-timeout 5", extra=0) == ""


def test_an_address_that_is_bound_in_vain_is_told() -> None:
    assert said(f"{QUIET} -b 127.0.0.1:9 --bind=[::1]:9") == (
        "gunicorn ignores -b 127.0.0.1:9 beside a held socket: leave it out\n"
        "gunicorn ignores -b [::1]:9 beside a held socket: leave it out"
    )
    assert said(f"{QUIET} -b 127.0.0.1:9", (), extra=0) == ""


def test_a_number_that_contradicts_what_is_known_is_told_and_one_that_may_be_right_is_not() -> None:
    assert said("waitress-serve x") == "relief.extra = 1 cannot work: waitress cannot take a held socket from its command line"
    assert said("uvicorn x").startswith("relief.extra = 1 cannot work: uvicorn is not told to take the held socket")
    assert said(QUIET, ()).startswith("relief.extra = 1 cannot work: no socket is held by Reviver")
    assert said("node server.js") == ""
    assert said("./consumer", ()) == ""


def test_signals_that_do_not_do_what_is_meant_are_told() -> None:
    assert said("uwsgi --http-socket fd://{fd}") == "uWSGI reloads itself on SIGTERM instead of stopping: add --die-on-term"
    assert 'nginx stops gracefully on SIGQUIT: write stop = "QUIT"' in said("nginx")


def test_a_second_socket_that_nobody_serves_is_told() -> None:
    assert said("uvicorn x --fd {fd}", (*HELD, "[::]:80")) == (
        "uvicorn takes one socket only: nobody serves [::]:80; put another program behind it"
    )


# --- the table's claim on the server that the demo uses --------------------------------------------------------------------------


def test_gunicorn_serves_the_held_socket_and_ignores_an_address_to_bind(tmp_path: Path) -> None:
    """On a real gunicorn: LISTEN_FDS is taken, and `-b ADDRESS` beside it opens nothing."""
    (tmp_path / "app.py").write_text("def app(environ, start):\n    start('200 OK', [])\n    return [b'held']\n")
    with socket.create_server(("127.0.0.1", 0)) as held, socket.socket() as vain:
        vain.bind(("127.0.0.1", 0))  # ours already: a gunicorn that binds it too cannot start
        gunicorn = [sys.executable, "-m", "gunicorn", "app:app", "--timeout", "0", "-b", f"127.0.0.1:{vain.getsockname()[1]}"]
        hand_over = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))"
        script = f"{hand_over}; os.execv(sys.argv[2], sys.argv[2:])"
        environ = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
        with open(tmp_path / "output", "wb") as output:
            server = subprocess.Popen(
                [sys.executable, "-c", script, str(held.fileno()), *gunicorn],
                pass_fds=(held.fileno(),),
                cwd=tmp_path,
                env=environ,
                stdout=output,
                stderr=output,
            )
        try:
            client = http.client.HTTPConnection("127.0.0.1", held.getsockname()[1], timeout=ANSWER_WITHIN_S)
            client.request("GET", "/")
            answer = client.getresponse().read()
            client.close()
        finally:
            server.terminate()
            code = server.wait(ANSWER_WITHIN_S)
    assert (answer, code) == (b"held", 0), (tmp_path / "output").read_text()
