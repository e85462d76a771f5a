"""From stacks to a cause: which function is to blame, what kind of trouble, and a name that stays the same. All pure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from supervisor.model import Nature
from supervisor.policy.cause import Code, Frame, Frames, Thread, cause, crash, packages, summary

SHOP = "/srv/shop/releases/7"
CODE = Code((SHOP,))
SERVER = Frame("handle", "/venv/lib/python3.11/site-packages/gunicorn/sync.py", 184)
VIEW = Frame("checkout", f"{SHOP}/shop/views.py", 99)
LOOP = Frame("apply", f"{SHOP}/shop/coupons.py", 41)


def at(frame: Frame, line: int) -> Frame:
    return replace(frame, line=line)


def moments(*innermost: Frame, beneath: Frames = (VIEW, SERVER)) -> tuple[Frames, ...]:
    return tuple((frame, *beneath) for frame in innermost)


def spinning(*stacks: Frames, request: str = "") -> Thread:
    return Thread(10, 10, "shop", "python", 0.98, moments=stacks, request=request)


def waiting(*stacks: Frames, tid: int = 11, locked: bool = False, peers: tuple[str, ...] = ()) -> Thread:
    return Thread(10, tid, "shop", "python", 0.0, locked, peers, stacks)


def test_a_loop_is_named_with_its_lines_and_key() -> None:
    found = cause(
        [spinning(*moments(at(LOOP, 42), at(LOOP, 41), at(LOOP, 43)), request="GET /checkout?coupon=<redacted>")], CODE, "4f2a"
    )
    assert found is not None
    assert found.key == "python:spinning:shop/coupons.py:apply"
    assert found.lines == (41, 42, 43)
    assert summary(found) == "loops in shop/coupons.py:41 apply(), GET /checkout?coupon=<redacted>, release 4f2a"


def test_a_loop_that_calls_others_is_named_and_not_whom_it_calls() -> None:
    helpers = [Frame(name, f"{SHOP}/shop/money.py", 3) for name in ("round", "tax", "round")]
    found = cause([spinning(*((helper, at(LOOP, 42), VIEW, SERVER) for helper in helpers))], CODE)
    assert found is not None
    assert found.function == "apply"


def test_a_function_that_is_entered_anew_is_the_loop_only_where_its_line_stands_in_one() -> None:
    helper = Frame("share", f"{SHOP}/shop/money.py", 3)
    thread = replace(spinning(*[(helper, LOOP, VIEW, SERVER)] * 5), renewed=((helper.file, helper.function),))
    called = cause([thread], replace(CODE, straight=frozenset({(helper.file, 3)})))
    looping = cause([thread], CODE)
    assert called is not None
    assert looping is not None
    assert (called.function, looping.function) == ("apply", "share")


def test_a_loop_in_a_library_is_blamed_on_the_program_that_called_it() -> None:
    library = Frame("match", "/venv/lib/python3.11/site-packages/regex/core.py", 7)
    standard = Frame("search", "/usr/lib/python3.11/re.py", 176)
    found = cause([spinning(*[(library, standard, LOOP, VIEW, SERVER)] * 5)], CODE)
    assert found is not None
    assert found.function == "apply"


def test_the_key_survives_edits_above_it_another_release_and_another_closure() -> None:
    before = cause([spinning(*moments(LOOP, LOOP))], CODE, "1")
    moved = Frame("apply", "/srv/shop/releases/8/shop/coupons.py", 57)
    after = cause([spinning(*moments(moved, moved))], Code(("/srv/shop/releases/8",)), "2")
    assert before is not None
    assert after is not None
    assert before.key == after.key
    closure = Frame("apply.<locals>.step", LOOP.file, 44)
    inner = cause([spinning((closure, VIEW))], CODE)
    assert inner is not None
    assert inner.function == "apply.step"


def test_code_in_the_package_that_the_command_names_is_the_programs_own() -> None:
    installed = Frame("apply", "/venv/lib/python3.11/site-packages/store/coupons.py", 41)
    stacks = [spinning((installed, SERVER))]
    found = cause(stacks, Code(("/srv",), packages(("gunicorn", "store.wsgi:app", "-k", "uvicorn.workers.UvicornWorker"))))
    assert found is not None
    assert found.file == "store/coupons.py"


@pytest.mark.parametrize(
    ("command", "named"),
    [
        (("gunicorn", "store.wsgi"), ("store",)),
        (("python", "-m", "store"), ("store",)),
        (("python3", "-m", "gunicorn", "wsgi:app"), ("wsgi",)),
        (("celery", "-A", "tasks", "worker"), ("tasks",)),
        (("node", "server.js", "--port", "80"), ()),
        (("./bin/shop", "127.0.0.1:80"), ()),
    ],
)
def test_packages_of_a_command(command: tuple[str, ...], named: tuple[str, ...]) -> None:
    assert packages(command) == named


def test_the_running_thread_is_blamed_beside_many_that_wait() -> None:
    idle = [waiting((VIEW, SERVER), tid=20 + number) for number in range(8)]
    found = cause([*idle, spinning(*moments(LOOP))], CODE)
    assert found is not None
    assert (found.nature, found.function) == (Nature.SPINNING, "apply")


def test_threads_that_share_one_lock_to_run_are_spinning_together() -> None:
    halves = [replace(spinning(*moments(LOOP)), tid=tid, busy=0.45) for tid in (10, 11)]
    found = cause(halves, CODE)
    assert found is not None
    assert found.nature is Nature.SPINNING


def test_all_that_wait_for_one_peer_are_told_with_it() -> None:
    query = (Frame("read", "/usr/lib/python3.11/socket.py", 1), Frame("query", f"{SHOP}/shop/db.py", 12), VIEW, SERVER)
    pool = [waiting(query, tid=tid, peers=("10.0.0.5:5432",)) for tid in range(8)]
    main = waiting((Frame("<module>", f"{SHOP}/run.py", 3),), tid=99)
    found = cause([main, *pool], CODE)
    assert found is not None
    assert found.outside == "10.0.0.5:5432"
    assert summary(found) == "8 threads wait in shop/db.py:12 query() for 10.0.0.5:5432"


def test_a_peer_is_to_blame_only_when_every_thread_that_serves_waits_for_it() -> None:
    query = (Frame("query", f"{SHOP}/shop/db.py", 12), VIEW)
    found = cause([waiting(query, peers=("10.0.0.5:5432",)), waiting((VIEW,), tid=12)], CODE)
    assert found is not None
    assert (found.peers, found.outside) == (("10.0.0.5:5432",), "")


def test_an_event_loop_that_waits_is_told_by_its_peer() -> None:
    loop = (
        Frame("EpollSelector.select", "/usr/lib/python3.11/selectors.py", 468),
        Frame("<module>", f"{SHOP}/.venv/bin/uvicorn", 8),
    )
    found = cause([waiting(loop, peers=("10.0.0.5:5432",))], CODE)
    assert found is not None
    assert found.key == "python:blocked:selectors.py:EpollSelector.select:10.0.0.5:5432"
    assert summary(found) == "waits in selectors.py:468 EpollSelector.select() for 10.0.0.5:5432"


def test_threads_on_a_lock_are_told_so() -> None:
    found = cause([waiting((LOOP, VIEW), tid=tid, locked=True) for tid in (1, 2)], CODE)
    assert found is not None
    assert found.nature is Nature.LOCKED
    assert summary(found) == "2 threads wait for a lock in shop/coupons.py:41 apply()"


def test_without_a_stack_there_is_no_cause() -> None:
    assert cause([Thread(1, 1, "x", "native", 0.9)], CODE) is None
    assert cause([spinning((), ())], CODE) is None


def test_java_and_its_servers_are_not_the_programs_own_code() -> None:
    stack = (
        Frame("java.util.HashMap.get", "java/util/HashMap.java", 5),
        Frame("com.shop.Cart.total", "com/shop/Cart.java", 12),
        Frame("org.apache.tomcat.Worker.run", "org/apache/tomcat/Worker.java", 3),
    )
    found = cause([replace(spinning(stack), runtime="java")], CODE)
    assert found is not None
    assert found.key == "java:spinning:com/shop/Cart.java:com.shop.Cart.total"


TRACEBACK = (
    "[ERROR] Exception in worker process",
    "Traceback (most recent call last):",
    f'  File "{SHOP}/shop/cart.py", line 12, in total',
    "    return sum(prices)",
    "           ^^^^^^^^^^^",
    '  File "/usr/lib/python3.11/decimal.py", line 3, in add',
    "    raise",
    "ValueError: not a price: x",
    "[INFO] Worker exiting",
)


def test_a_crash_is_named_by_the_traceback_it_ended_with() -> None:
    found = crash("exit code 1", TRACEBACK, CODE)
    assert summary(found) == "ValueError: not a price: x in shop/cart.py:12 total()"
    assert found.key == "python:crash:shop/cart.py:total:ValueError"


@pytest.mark.parametrize(
    ("words", "output"),
    [
        ("exit code 1", (*TRACEBACK, *["GET / 200"] * 11)),  # long survived
        ("killed by SIGKILL", TRACEBACK),  # logged, and then somebody killed it
        ("exit code 3", ("Traceback (most recent call last):",)),
        ("exit code 3", ()),
    ],
)
def test_a_crash_without_a_traceback_of_its_own_is_named_by_its_ending(words: str, output: tuple[str, ...]) -> None:
    assert summary(crash(words, output, CODE)) == words


def test_a_fatal_signal_is_named_by_faulthandlers_innermost_call() -> None:
    output = (
        "Fatal Python error: Segmentation fault",
        "",
        "Current thread 0x00007f4e27fe2f20 (most recent call first):",
        f'  File "{SHOP}/shop/image.py", line 8 in scale',
        f'  File "{SHOP}/shop/views.py", line 99 in checkout',
        "",
    )
    found = crash("killed by SIGSEGV, core dumped", output, CODE)
    assert summary(found) == "Fatal Python error: Segmentation fault in shop/image.py:8 scale()"


def test_an_oom_kill_is_no_plain_sigkill() -> None:
    assert summary(crash("killed by SIGKILL", (), CODE, oom=True)) == "killed by the kernel: out of memory"
    assert summary(crash("exit code 0", (), CODE, oom=True)) == "exit code 0"


def test_what_a_program_calls_itself_never_reaches_a_terminal_as_it_is() -> None:
    evil = Frame("apply\x1b[2J\u202e", LOOP.file, 41)
    found = cause([spinning((evil, VIEW))], CODE)
    assert found is not None
    assert summary(found) == "loops in shop/coupons.py:41 apply?[2J?()"
    assert summary(crash("exit code 1", (*TRACEBACK[:-2], "ValueError: \x1b]0;x\x07"), CODE)).startswith("ValueError: ?]0;x? in")
