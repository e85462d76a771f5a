"""Programs that are built to get away from whoever ends them, for the bench of trees and for tests.

Each says `ready` once it is under way, and ends by itself within some time, should nobody end it.
"""

from __future__ import annotations

# Ten daemons, each double-forked into a session of its own: `ready` is written once all live.
DAEMONS = """
import os, time
read, write = os.pipe()
for _ in range(10):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write, b"x")
            time.sleep(30)
        os._exit(0)
    os.wait()
seen = b""
while len(seen) < 10:
    seen += os.read(read, 10)
print("ready", flush=True)
time.sleep(30)
"""
# The same with an empty environment: no mark is left of whose they were.
WIPED = DAEMONS.replace("            time.sleep(30)", '            os.execve("/bin/sleep", ["sleep", "30"], {})')


def hopper(lasts_s: int) -> str:
    """A process that is another one each millisecond: it forks, in a new session, and ends. `lasts_s`: at most."""
    return f"""
import os, time
ends = time.monotonic() + {lasts_s}
if os.fork() == 0:
    print("ready", flush=True)
    while time.monotonic() < ends:
        time.sleep(0.001)
        if os.fork():
            os._exit(0)
        os.setsid()
    os._exit(0)
time.sleep(30)
"""


def bomb(size: int, lasts_s: int) -> str:
    """A fork bomb: each forks as long as it gets a token out of the pipe, of which there are four times `size`; each lives for `lasts_s`
    at most. `ready` is said when `size` live."""
    return f"""
import os, signal, time
tokens, more = os.pipe()
os.set_blocking(tokens, False)
os.write(more, b"x" * {4 * size})
live, count = os.pipe()
if os.fork() == 0:
    while True:
        signal.alarm({lasts_s})
        os.write(count, b"x")
        try:
            while os.read(tokens, 1):
                if os.fork() == 0:
                    break
                time.sleep(0.02)
        except BlockingIOError:
            signal.pause()
seen = 0
while seen < {size}:
    seen += len(os.read(live, {size}))
print("ready", flush=True)
time.sleep(30)
"""
