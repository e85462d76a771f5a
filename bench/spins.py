"""Programs that loop for ever when they are asked to, in five frameworks: what the bench of causes writes into a folder and runs.

Each loop is a function whose last statement never ends; which line that is, is known from the source, so the truth needs no list.
Nothing here is imported by anything but the servers that are started with it.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

# What real programs hang in: arithmetic, nothing at all, a regular expression, the clock, a failing call tried again, logging, memory,
# C code that keeps the interpreter's lock, a helper called in a loop, a closure, a generator, a file system's question.
PYTHON = """
import itertools
import json
import logging
import os
import re
import time
from decimal import Decimal

log = logging.getLogger("shop")
log.addHandler(logging.NullHandler())
log.propagate = False


class PartnerDown(Exception):
    pass


def arithmetic():
    total = 490
    while total > 0:
        total -= total * 10 // 100
        if total < 10:
            total += 480


def constant():
    while True:
        pass


def pattern():
    return re.match(r"(a+)+$", "a" * 64 + "!")


def deadline():
    until = time.time() + 10**9
    while time.time() < until:
        pass


def partner():
    raise PartnerDown


def retry():
    while True:
        try:
            partner()
        except PartnerDown:
            continue


def logs():
    number = 0
    while True:
        log.warning("attempt %d", number)
        number += 1


def allocate():
    kept = []
    while True:
        kept.append(bytes(1000))
        if len(kept) > 10_000:
            kept.clear()


def native():
    return sum(itertools.repeat(1))


def share(amount):
    return (amount * Decimal("0.9")).quantize(Decimal("0.01"))


def helper():
    amount = Decimal(100)
    while amount >= 0:
        amount = share(amount)


def closure():
    def step(number):
        while number >= 0:
            number = abs(number)

    step(3)


def generator():
    numbers = itertools.count()
    for number in numbers:
        if number < 0:
            break


def files():
    while not os.path.exists("/nonexistent/flag"):
        pass


def documents():
    text = json.dumps({"cart": list(range(100))})
    while json.loads(text):
        pass


SPINS = {each.__name__: each for each in (
    arithmetic, constant, pattern, deadline, retry, logs, allocate, native, helper, closure, generator, files, documents)}


def spin(name):
    print("spins", name, flush=True)
    SPINS[name]()
"""

FLASK = """
from flask import Flask, request
from shop import spins

app = Flask(__name__)


@app.route("/health")
def health():
    return "ok"


@app.route("/spin/<name>", methods=["GET", "POST"])
def spin(name):
    spins.spin(name)
    return "done"
"""

DJANGO = """
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from shop import spins

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY="bench", ALLOWED_HOSTS=["*"])


def health(request):
    return HttpResponse("ok")


@csrf_exempt
def spin(request, name):
    spins.spin(name)
    return HttpResponse("done")


urlpatterns = [path("health", health), path("spin/<str:name>", spin)]
app = get_wsgi_application()
"""

STARLETTE = """
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from shop import spins


async def health(request):
    return PlainTextResponse("ok")


async def spin(request):
    spins.spin(request.path_params["name"])
    return PlainTextResponse("done")


app = Starlette(routes=[Route("/health", health), Route("/spin/{name}", spin, methods=["GET", "POST"])])
"""

FASTAPI = """
from fastapi import FastAPI
from shop import spins

app = FastAPI()


@app.get("/health")
async def health():
    return "ok"


@app.api_route("/spin/{name}", methods=["GET", "POST"])
async def spin(name: str):
    spins.spin(name)
    return "done"
"""

NODE = r"""
const http = require('http');
const fs = require('fs');

function arithmetic() {
  let total = 490;
  while (total > 0) {
    total -= total / 10;
    if (total < 10) total += 480;
  }
}

function constant() {
  for (;;) {}
}

function pattern() {
  return /^(a+)+$/.test('a'.repeat(64) + '!');
}

function deadline() {
  const until = Date.now() + 1e12;
  while (Date.now() < until) {}
}

function retry() {
  while (true) {
    try {
      throw new Error('partner is down');
    } catch (error) {
      continue;
    }
  }
}

function allocate() {
  let kept = [];
  while (true) {
    kept.push({ price: kept.length });
    if (kept.length > 10000) kept = [];
  }
}

function helper() {
  let amount = 100;
  while (amount >= 0) amount = share(amount);
}

function share(amount) {
  return Math.round(amount * 0.9 * 100) / 100;
}

function files() {
  while (!fs.existsSync('/nonexistent/flag')) {}
}

function documents() {
  const text = JSON.stringify({ cart: Array.from({ length: 100 }, (_, n) => n) });
  while (JSON.parse(text)) {}
}

const spins = { arithmetic, constant, pattern, deadline, retry, allocate, helper, files, documents };

http.createServer((request, response) => {
  const name = request.url.split('?')[0].split('/').pop();
  if (spins[name]) {
    console.log('spins', name);
    spins[name]();
  }
  response.end('ok');
}).listen(Number(process.env.PORT), '127.0.0.1');
"""


@dataclass(frozen=True, slots=True)
class Truth:
    """Where a spin really is: the functions that may be named, and the lines of the statement that never ends."""

    functions: tuple[str, ...]
    lines: range


def python_truths() -> dict[str, Truth]:
    """Each Python spin's place, from its source."""
    functions = {node.name: node for node in ast.parse(PYTHON).body if isinstance(node, ast.FunctionDef)}
    (names,) = re.findall(r"for each in \(\s*([\w, ]+)\)", PYTHON)
    return {name: _truth(functions[name]) for name in names.split(", ")}


def node_truths() -> dict[str, Truth]:
    """Each node spin's place: the whole function, whose lines before the loop take no time."""
    found = {}
    lines = NODE.splitlines()
    (names,) = re.findall(r"const spins = \{ ([\w, ]+) \}", NODE)
    for name in names.split(", "):
        first = lines.index(f"function {name}() {{") + 1
        last = next(at for at, line in enumerate(lines[first:], first + 1) if line == "}")
        found[name] = Truth((name,), range(first, last + 1))
    return found


def _truth(function: ast.FunctionDef) -> Truth:
    inner = [node for node in function.body if isinstance(node, ast.FunctionDef)]
    if inner:  # the closure loops, and its maker waits for it
        return Truth((f"{function.name}.{inner[0].name}", inner[0].name), _truth(inner[0]).lines)
    last = function.body[-1]
    return Truth((function.name,), range(last.lineno, (last.end_lineno or last.lineno) + 1))
