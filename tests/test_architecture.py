"""What no test of behaviour shows: policy is pure, nothing blocks the daemon's loop, the command line starts fast.

The floors between rooms are import-linter's (pyproject.toml); here stand the rules that imports alone do not show. Each rule is tried on
planted offences first, so that a rule that finds nothing is known to be able to.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
POLICY = sorted((ROOT / "supervisor/policy").rglob("*.py"))
APART = ROOT / "supervisor/mechanism/sorry.py"  # a process of its own, which has no loop
ROOMS = sorted(
    {
        ROOT / "supervisor/daemon.py",
        ROOT / "supervisor/control/server.py",
        *(ROOT / "supervisor/mechanism").rglob("*.py"),
        *(ROOT / "supervisor/records").rglob("*.py"),
        *(ROOT / "supervisor/alerts").rglob("*.py"),
    }
    - {APART}
)

PURE_MODULES = {
    "__future__",
    "collections",
    "collections.abc",
    "dataclasses",
    "enum",
    "functools",
    "itertools",
    "math",
    "operator",
    "statistics",
    "string",
    "typing",
    "zlib",
}
PURE_ROOMS = ("supervisor.model", "supervisor.servers", "supervisor.policy")
IMPURE_BUILTINS = {"__import__", "breakpoint", "eval", "exec", "input", "open", "print"}

# These start threads of asyncio's own or wait for exec on the loop: a lane does it instead.
NEVER = {"to_thread", "run_in_executor", "create_subprocess_exec", "create_subprocess_shell"}
BLOCKING = {
    "time.sleep",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.create_connection",
    "subprocess.run",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
    "subprocess.Popen",
    "os.system",
    "open",
}

Found = list[str]


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Each module that is imported, anywhere in the file, with its line; `from a import b` may mean the module a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, "." * node.level + (node.module or "")


def aliases(tree: ast.AST) -> dict[str, str]:
    """What the imported names of a file stand for: {"sleep": "time.sleep"}."""
    known: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            known |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return known


def dotted(node: ast.expr, known: dict[str, str]) -> str:
    """The full name of what is called: `time.sleep`; `?.read` where only the method is known."""
    if isinstance(node, ast.Name):
        return known.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value, known)}.{node.attr}"
    return "?"


def calls(tree: ast.AST, known: dict[str, str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, dotted(node.func, known)


def on_the_loop(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that an `async def` runs itself: functions defined in it are somebody's callbacks, or go into a lane."""
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef):
            waiting: list[ast.AST] = list(node.body)
            while waiting:
                inner = waiting.pop()
                yield inner
                if not isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
                    waiting += ast.iter_child_nodes(inner)


def impurities(source: str) -> Found:
    """What policy must not do: import the world, or touch it by a built-in."""
    tree = ast.parse(source)
    found = [
        f"line {line}: imports {module}"
        for line, module in imports(tree)
        if module not in PURE_MODULES and not any(module == room or module.startswith(f"{room}.") for room in PURE_ROOMS)
    ]
    names = (node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in IMPURE_BUILTINS)
    return found + [f"line {node.lineno}: uses {node.id}" for node in names]


def blockers(source: str) -> Found:
    """What a room of the daemon must not do."""
    tree = ast.parse(source)
    known = aliases(tree)
    found = [
        f"line {line}: calls {name}"
        for line, name in calls(tree, known)
        if name.rpartition(".")[2] in NEVER or name in ("print", "threading.Thread", "threading.Timer")
    ]
    for node in on_the_loop(tree):
        if isinstance(node, ast.Call):
            name = dotted(node.func, known)
            if name in BLOCKING or name.endswith(".getaddrinfo"):
                found.append(f"line {node.lineno}: blocks the loop in {name}")
    return found


def foreigners(source: str) -> Found:
    """What the command line's door must not import."""
    return [
        f"line {line}: imports {module}"
        for line, module in imports(ast.parse(source))
        if module.partition(".")[0] not in sys.stdlib_module_names
        and module not in ("click", "supervisor", "supervisor.commands")
        and not module.startswith(("click.", "supervisor.commands."))
    ]


def problems(files: list[Path], rule: object) -> Found:
    assert callable(rule)
    return [f"{file.relative_to(ROOT)}, {problem}" for file in files for problem in rule(file.read_text())]


@pytest.mark.parametrize(
    "planted",
    [
        "import time",
        "from random import random",
        "import os.path",
        "from datetime import datetime",
        "def f():\n    import psutil",
        "from supervisor.lanes import Lane",
        "from supervisor import config",
        "from . import clock",
        "import supervisor.modelling",
        "open('x')",
        "say = print",
    ],
)
def test_an_impurity_planted_in_policy_is_found(planted: str) -> None:
    assert len(impurities(planted)) == 1


def test_policy_is_pure() -> None:
    assert len(POLICY) > 1
    assert problems(POLICY, impurities) == []


@pytest.mark.parametrize(
    "planted",
    [
        "import asyncio\nasyncio.to_thread(f)",
        "from asyncio import to_thread as away\naway(f)",
        "loop.run_in_executor(None, f)",
        "import asyncio\nasyncio.create_subprocess_exec('x')",
        "import threading\nthreading.Thread(target=f)",
        "from threading import Thread\nThread(target=f)",
        "print('x')",
        "import time\nasync def f():\n    time.sleep(1)",
        "from time import sleep as nap\nasync def f():\n    if x:\n        nap(1)",
        "import socket\nasync def f():\n    return [socket.getaddrinfo('x', 1)]",
        "async def f(loop):\n    await loop.getaddrinfo('x', 1)",
        "import subprocess as s\nasync def f():\n    s.run(['x'])",
        "async def f():\n    with open('x') as file: pass",
    ],
)
def test_a_blocking_call_planted_in_the_daemon_is_found(planted: str) -> None:
    assert len(blockers(planted)) == 1


@pytest.mark.parametrize(
    "innocent",
    [
        "import time\ndef in_a_lane():\n    time.sleep(1)",
        "import socket\nasync def f(lane):\n    def ask(): return socket.getaddrinfo('x', 1)\n    await lane.run(ask, deadline_s=1)",
        "import asyncio\nasync def f():\n    await asyncio.sleep(1)",
    ],
)
def test_what_a_lane_does_is_no_offence(innocent: str) -> None:
    assert blockers(innocent) == []


def test_nothing_blocks_the_daemons_loop() -> None:
    assert len(ROOMS) > 10
    assert problems(ROOMS, blockers) == []


def test_only_lanes_make_threads() -> None:
    supervisor = ROOT / "supervisor"
    own = {supervisor / "lanes.py", APART}
    others = [file for file in sorted(supervisor.rglob("*.py")) if file not in own and supervisor / "demo" not in file.parents]
    made = [problem for problem in problems(others, blockers) if "threading." in problem]
    assert made == []


def test_what_is_a_process_of_its_own_needs_the_standard_library_alone() -> None:
    needed = {module.partition(".")[0] for _, module in imports(ast.parse(APART.read_text()))}
    assert needed
    assert needed <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "planted", ["import rich", "from supervisor.control import client", "def f():\n    import msgspec", "import clicky"]
)
def test_a_foreigner_planted_in_the_door_is_found(planted: str) -> None:
    assert len(foreigners(planted)) == 1


def test_the_door_imports_click_and_commands_alone() -> None:
    assert problems([ROOT / "cli.py"], foreigners) == []


def test_the_daemon_loads_neither_rich_nor_click() -> None:
    """In a fresh interpreter: nothing that is for terminals or the web is resident. A None stands for "must not be imported"."""
    unwanted = ("ssl", "_hashlib", "rich", "click", "flask", "werkzeug", "jinja2", "gunicorn", "multiprocessing")
    script = (
        "import sys, supervisor.__main__\n"
        f"loaded = [name for name, module in sys.modules.items() if module and name.partition('.')[0] in {unwanted}]\n"
        "sys.stdout.write(' '.join(sorted(loaded)))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (run.returncode, run.stdout) == (0, ""), run.stderr
