"""The guard: keeps the daemon alive, and its descriptors, where there is no systemd. `reviver run` becomes it.

One process, one loop, one child that matters. To the daemon it speaks systemd's protocol: the daemon says that it is ready and that it
lives, and has descriptors stored; when it dies or falls silent it is started anew at once, with those descriptors. The guard knows nothing
of programs: it is small so that it has no reason to die. It touches its own socket, its child, and stderr.

What it promises. There are never two daemons. It waits for nobody: neither for a reader of stderr nor for a message. No datagram can
end it, and only the daemon's are heard. As the subreaper of everything beneath (or as PID 1 of a container) it reaps all orphans at once:
whoever kept a pidfd learns the exit status from that. Standard library only, and of that little: it is resident as long as the host runs.

How it ends: with the daemon's exit code, when that is 0 (it drained; `X_EXIT=` names another code for then), or 1 or 78 before any daemon
was ever ready (a refusal, or a bad configuration). 75 asks to be started anew. Everything else is an accident: started anew at once, then
ever slower, and never given up.

source  sd_notify(3), sd_listen_fds(3) for the protocol; signal(7), pid_namespaces(7), prctl(2)
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import select
import signal
import socket
import stat
import sys
import time

from supervisor import notify

WATCHDOG_S = 30.0  # a daemon that took no decision for so long is dead; the unit for systemd says the same
START_S = 90.0  # to become ready, and to end once it said that it stops: systemd's own defaults; the daemon asks for more
ABORT_S = 5.0  # from SIGABRT, which lets it say where it was, to SIGKILL
HEALTHY_S = 10.0  # after a life as long as this the next death is a new story: no backoff
FIRST_S = 0.1  # backoff: at once, 0.1 s, 0.2 s ... and never slower than
SLOWEST_READY_S = 1.0  # this, for one that had become ready: programs are watched for as long as it lives,
SLOWEST_S = 5.0  # and this, for one that had not: each try costs half a second of a processor, for nothing
LATE_S = 1.0  # the guard itself was held up for so long (a suspended machine, SIGSTOP): it judges nobody
AGAIN_S = 0.02  # until a signal that could not be passed on yet is tried again
EXTEND_LIMIT_S = 7 * 86400.0  # more time than this nobody needs; a number without a limit would overflow
PENDING_LIMIT = 2  # signals of one kind that wait to be passed on: a second stop hurries, a third says nothing new
STOP_DEATHS = 3  # daemons that die while they should stop the programs, until the guard gives up
HEAR_LIMIT = 1024  # datagrams taken at a time: a queue holds some hundred at most

DONE, FAILED, AGAIN, CONFIG = 0, 1, 75, 78  # the daemon's exit codes that mean something here
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
STOPS = (signal.SIGTERM, signal.SIGINT)
ROOM_FDS = (
    256  # that a daemon can open beside those that were stored, until it raises its own limit: without, it could not even be loaded
)
SOCKET = "reviver-guard"  # what its file's name begins with
FIRST_FD = 3  # SD_LISTEN_FDS_START
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def backoff_s(deaths: int, slowest_s: float = SLOWEST_S) -> float:
    """Seconds to wait before the next start, after so many deaths in a row (1: the first)."""
    return 0.0 if deaths <= 1 else min(slowest_s, FIRST_S * 2.0 ** min(deaths - 2, 30))


class Store:
    """The descriptors that are kept for the daemon, by name, in the order in which they came."""

    def __init__(self, fds_limit: int = notify.STORE_FDS_LIMIT) -> None:
        self._fds_limit = fds_limit
        self._kept: dict[str, list[int]] = {}
        self._count = 0
        self._names_bytes = 0

    def keep(self, name: str, fds: list[int]) -> bool:
        """Take these over; a descriptor of the same file under the same name is kept once. False: some were closed, for want of room."""
        known = {_file(fd) for fd in self._kept.get(name, ())}
        size, room = len(name) + 1, True
        for fd in fds:
            if _file(fd) in known:
                close(fd)
            elif self._count == self._fds_limit or self._names_bytes + size > notify.STORE_NAMES_BYTES:
                room = False
                close(fd)
            else:
                known.add(_file(fd))
                self._kept.setdefault(name, []).append(fd)
                self._count += 1
                self._names_bytes += size
        return room

    def drop(self, name: str) -> None:
        """Close all of this name."""
        for fd in self._kept.pop(name, ()):
            self._count -= 1
            self._names_bytes -= len(name) + 1
            close(fd)

    def all(self) -> list[tuple[str, int]]:
        return [(name, fd) for name, fds in self._kept.items() for fd in fds]


def _file(fd: int) -> tuple[int, int, int]:
    """What tells one open file from another; the ends of a pipe differ in how they are open."""
    found = os.fstat(fd)
    return found.st_dev, found.st_ino, fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE


def storable(name: str) -> bool:
    """Whether a descriptor may be called so: what LISTEN_FDNAMES can carry, as systemd has it."""
    return 0 < len(name) <= 255 and name.isascii() and name.isprintable() and ":" not in name


def close(fd: int) -> None:
    with contextlib.suppress(OSError):  # an error that its file kept until now: nobody here can do anything about it
        os.close(fd)


class Life:
    """One daemon, from its start to its reaping."""

    __slots__ = ("condemned", "due", "pid", "ready", "silent_at", "since", "stopping")

    def __init__(self, pid: int, now: float) -> None:
        self.pid = pid
        self.since = now
        self.ready = False
        self.stopping = False
        self.due: float | None = now + START_S  # by then it must be ready, or have ended if it said that it stops
        self.silent_at: float | None = None  # from then on it has been silent for too long
        self.condemned = 0  # 1: SIGABRT was sent, 2: SIGKILL


class Guard:
    """Keeps one command alive until it has done its work."""

    def __init__(self, command: list[str]) -> None:
        """command: the first word is a path. Raises OSError when there is no folder for the socket."""
        self._command = command
        self._socket = _private_socket()
        self._path: str = self._socket.getsockname()
        self._given_nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        # twice the store: at a start each descriptor may need a second number for a moment
        self._store = Store(min(notify.STORE_FDS_LIMIT, max(0, (self._given_nofile[1] - 64) // 2)))
        self._life: Life | None = None
        self._start_at = 0.0  # of the next daemon, while there is none
        self._deaths = 0  # in a row
        self._ever_ready = False
        self._pending: list[int] = []  # signals that the daemon has not been sent yet
        self._stops = 0  # how often it was told to stop
        self._stop_deaths = 0
        self._full_told = False
        self._exit_code = DONE  # what the daemon wants told when all is done
        self._code: int | None = None

    def run(self) -> int:
        """Keep the daemon until it is done; the answer is the exit code."""
        if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            say("cannot become a subreaper: of what ends while no supervisor runs, the exit status may be lost")
        hard = self._given_nofile[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        woken, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, *FORWARDED):
            signal.signal(number, lambda *_: None)
        poll = select.poll()
        poll.register(woken, select.POLLIN)
        poll.register(self._socket, select.POLLIN)
        while self._code is None:
            poll.poll(self._wait_ms())
            self._signalled(woken)
            self._hear()
            self._reap()
            self._act(time.monotonic())
        signal.set_wakeup_fd(-1)
        with contextlib.suppress(OSError):
            os.unlink(self._path)
        return self._code

    def _wait_ms(self) -> float:
        """Milliseconds until something is due, whatever happens."""
        life = self._life
        instants = [self._start_at] if life is None else [at for at in (life.due, life.silent_at) if at is not None]
        if life is not None and self._pending:
            instants.append(time.monotonic() + AGAIN_S)
        return max(0.0, (min(instants) - time.monotonic()) * 1000) + 1 if instants else -1

    # --- what happens ---------------------------------------------------------------------------------------------------------

    def _signalled(self, woken: int) -> None:
        try:
            numbers = os.read(woken, 4096)
        except BlockingIOError:
            return
        for number in numbers:
            if number in FORWARDED and self._pending.count(number) < PENDING_LIMIT:
                self._pending.append(number)
        stops = sum(number in STOPS for number in numbers)
        self._stops += stops
        if stops and self._life is None:
            self._start_at = 0.0  # only a daemon can stop what runs

    def _hear(self) -> None:
        for _ in range(HEAR_LIMIT):
            try:
                message, fds = notify.receive(self._socket)
            except OSError:  # nothing waits, or there is no memory for it: the daemon says again that it lives
                return
            life = self._life
            if message is None or life is None or message.pid != life.pid:
                for fd in fds:
                    close(fd)
            else:
                self._take(life, message.state, list(fds), time.monotonic())

    def _take(self, life: Life, state: dict[str, str], fds: list[int], now: float) -> None:
        """What the daemon said. A word that is not understood is none."""
        if not life.condemned:
            self._time(life, state, now)
        if (exit_code := _number(state.get("X_EXIT", ""))) is not None:
            self._exit_code = exit_code & 0xFF
        name = state.get("FDNAME", "stored")
        if state.get("FDSTORE") == "1" and storable(name):
            if not self._store.keep(name, fds) and not self._full_told:
                self._full_told = True
                say(
                    "cannot keep more of the supervisor's descriptors: after its death some output or queued customers would be lost"
                )
            return
        for fd in fds:
            close(fd)
        if state.get("FDSTOREREMOVE") == "1":
            self._store.drop(name)

    def _time(self, life: Life, state: dict[str, str], now: float) -> None:
        """What it said of how it is sets by when it has to be heard again."""
        if state.get("READY") == "1" and not life.ready:
            life.ready = self._ever_ready = True
            life.due, life.silent_at = None, now + WATCHDOG_S
        if state.get("WATCHDOG") == "1" and life.ready:
            life.silent_at = now + WATCHDOG_S
        if state.get("STOPPING") == "1" and not life.stopping:
            life.stopping = True
            life.due = now + START_S
            self._stops = max(self._stops, 1)
        extend_usec = _number(state.get("EXTEND_TIMEOUT_USEC", ""))
        if life.due is not None and extend_usec is not None:
            life.due = max(life.due, now + min(extend_usec / 1e6, EXTEND_LIMIT_S))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if self._life is not None and pid == self._life.pid:
                self._hear()  # what it said last
                life, self._life = self._life, None
                self._died(life, os.waitstatus_to_exitcode(status), time.monotonic())

    def _died(self, life: Life, code: int, now: float) -> None:
        """Whether that was the end, and if not, when the next one starts."""
        if code == DONE or (code in (FAILED, CONFIG) and not self._ever_ready):
            self._code = code or self._exit_code
            return
        if self._stops:
            self._stop_deaths += 1
            if self._stop_deaths >= STOP_DEATHS or not self._ever_ready:
                say(f"the supervisor (pid {life.pid}) {_words(code)} and could not stop the programs: some may still run")
                self._code = FAILED
                return
            self._pending += [signal.SIGTERM] * (min(self._stops, PENDING_LIMIT) - self._pending.count(signal.SIGTERM))
        self._deaths = 1 if now - life.since >= HEALTHY_S else self._deaths + 1
        slowest_s = SLOWEST_READY_S if life.ready else SLOWEST_S
        wait_s = 0.0 if code == AGAIN or self._stops else SLOWEST_S if code == CONFIG else backoff_s(self._deaths, slowest_s)
        self._start_at = now + wait_s
        when = f"in {wait_s:g} s" if wait_s else "now"
        why = "asks to be started anew" if code == AGAIN else _words(code)
        say(f"the supervisor (pid {life.pid}) {why}: the next one starts {when}")

    # --- what is done ---------------------------------------------------------------------------------------------------------

    def _act(self, now: float) -> None:
        life = self._life
        if self._code is not None:
            return
        if life is None:
            if now >= self._start_at:
                self._start(now)
            return
        self._forward(life)
        instants = [at for at in (life.silent_at, life.due) if at is not None]
        if instants and not life.condemned and now - min(instants) > LATE_S:  # we did not run: neither did it, as far as we know
            life.silent_at = None if life.silent_at is None else now + WATCHDOG_S
            life.due = None if life.due is None else now + START_S
        elif life.silent_at is not None and now >= life.silent_at:
            self._condemn(life, now, f"has been silent for {WATCHDOG_S:g} s")
        elif life.due is not None and now >= life.due:
            why = "did not end in time" if life.stopping else f"did not become ready within {round(now - life.since, 1):g} s"
            self._condemn(life, now, why)

    def _forward(self, life: Life) -> None:
        """Pass signals on once the daemon listens: before, they would end it. One of a kind at a time: the kernel keeps no more."""
        if not self._pending:
            return
        caught, waiting = _signals(life.pid)
        if caught & _bit(signal.SIGHUP):  # the last of those that the daemon comes to handle
            for number in sorted(set(self._pending)):
                if not waiting & _bit(number):
                    self._pending.remove(number)
                    os.kill(life.pid, number)
        elif self._stops > 1 and not life.condemned:
            self._condemn(life, time.monotonic(), "is not ready to stop yet, and was told to twice")

    def _condemn(self, life: Life, now: float, why: str) -> None:
        """End it: SIGABRT, later SIGKILL. What survives that is in the kernel's hands, and is waited for: there are never two."""
        life.silent_at = life.due = None
        life.condemned += 1
        if life.condemned == 1:
            say(f"the supervisor (pid {life.pid}) {why}: it is ended")
            os.kill(life.pid, signal.SIGABRT)
            life.due = now + ABORT_S
        else:
            os.kill(life.pid, signal.SIGKILL)

    def _start(self, now: float) -> None:
        """Fork it, with signals blocked until it has left our handlers behind: they would report what it is sent as sent to us."""
        unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
        try:
            pid = os.fork()
            if pid == 0:
                self._become_daemon(unblocked)
            self._life = Life(pid, now)
        except OSError as problem:
            self._deaths += 1
            self._start_at = now + max(FIRST_S, backoff_s(self._deaths))
            say(f"cannot start the supervisor: {_reason(problem)}; tried again")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)

    def _become_daemon(self, unblocked: set[int]) -> None:
        """In the child: the session, signals, limits, descriptors and environment of the daemon. Never returns."""
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ, *FORWARDED):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            stored = self._store.all()
            _place([fd for _, fd in stored])  # from here on no descriptor of ours is what it was
            soft, hard = self._given_nofile
            room = min(hard, FIRST_FD + len(stored) + ROOM_FDS)
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, room), hard))
            os.execve(self._command[0], self._command, self._environment([name for name, _ in stored]))
        except OSError as problem:
            say(f"cannot start {self._command[0]}: {_reason(problem)}")
        finally:
            os._exit(127)

    def _environment(self, names: list[str]) -> dict[str, str]:
        environ = {key: value for key, value in os.environ.items() if key not in notify.OURS or key == notify.EXIT_WITH}
        environ["NOTIFY_SOCKET"] = self._path
        environ["WATCHDOG_USEC"] = str(int(WATCHDOG_S * 1e6))
        environ[notify.GUARD] = str(os.getppid())
        if names:
            environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(names)), "LISTEN_FDNAMES": ":".join(names)}
        return environ


def _place(fds: list[int]) -> None:
    """Have these, and no others beyond stderr, at 3, 4 ... in what is executed next."""
    beyond = FIRST_FD + len(fds)
    safe = [fd if fd >= beyond else fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, beyond) for fd in fds]
    for place, fd in enumerate(safe):
        os.dup2(fd, FIRST_FD + place, inheritable=True)


def _private_socket() -> socket.socket:
    """Where the daemon speaks to us: 0600, so that nobody else can fill its queue and make the daemon seem silent. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    folders = (os.environ.get("XDG_RUNTIME_DIR", ""), "/run", os.environ.get("TMPDIR", ""), "/tmp", "/dev/shm")
    before = os.umask(0o177)
    try:
        for folder in folders:
            with contextlib.suppress(OSError):
                if folder.startswith("/"):
                    sock.bind(f"{folder}/{SOCKET}.{os.getpid()}.{os.urandom(8).hex()}")
                    _remove_dead(folder)
                    return sock
    finally:
        os.umask(before)
    sock.close()
    raise OSError(
        errno.EACCES, "no folder for its socket: neither $XDG_RUNTIME_DIR, /run, $TMPDIR, /tmp nor /dev/shm can be written"
    )


def _remove_dead(folder: str) -> None:
    """Remove the sockets of guards that were killed: nobody listens there."""
    for name in os.listdir(folder):
        word, _, rest = name.partition(".")
        if word == SOCKET and not os.path.exists(f"/proc/{rest.partition('.')[0]}"):
            path = f"{folder}/{name}"
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as knock:
                if stat.S_ISSOCK(os.lstat(path).st_mode) and knock.connect_ex(path) == errno.ECONNREFUSED:
                    os.unlink(path)


def _signals(pid: int) -> tuple[int, int]:
    """The signals that a child of ours handles and does not block, and those that it was sent and has not seen yet, as bits."""
    caught = blocked = waiting = 0
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"SigCgt:"):
                    caught = int(line[7:], 16)
                elif line.startswith(b"SigBlk:"):
                    blocked = int(line[7:], 16)
                elif line.startswith(b"ShdPnd:"):
                    waiting = int(line[7:], 16)
    except OSError:  # no /proc here: as good as we know, it listens
        caught = -1
    return caught & ~blocked, waiting


def _bit(number: int) -> int:
    return 1 << (number - 1)


def _number(text: str) -> int | None:
    """One of up to 20 digits, as 64 bits have; None for anything else."""
    return int(text) if len(text) <= 20 and text.isascii() and text.isdecimal() else None


def _words(code: int) -> str:
    if code >= 0:
        return f"ended with {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _reason(problem: OSError) -> str:
    return (problem.strerror or str(problem)).lower()


def say(text: str) -> None:
    """One sentence on stderr, as the daemon's own story looks there; lost where nobody reads, as the guard waits for nobody."""
    now = time.time()
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    if os.isatty(2):
        line = f"{time.strftime('%H:%M:%S', time.localtime(now))}.{int(now * 100) % 100:02d}  guard    {text}\n"
    else:
        utc = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03d}Z"
        text = text.replace("\\", "\\\\").replace('"', '\\"')
        line = f'{{"time":"{utc}","event":"guard.told","subject":"guard","text":"{text}"}}\n'
    with contextlib.suppress(OSError):
        if select.select([], [2], [], 0)[1]:
            os.write(2, line.encode("utf-8", "replace"))


def _open_standard() -> None:
    """Have something at 0, 1 and 2: where we were started with one of them closed, our socket must not take its place."""
    with contextlib.suppress(OSError):  # a container without /dev
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)


def main(arguments: list[str]) -> int:
    """Keep `python -m supervisor ARGUMENTS`. -P: modules are not looked for in the working directory, which may hold anything."""
    _open_standard()
    command = [sys.executable, "-P", "-m", "supervisor", *arguments]
    try:
        guard = Guard(command)
    except OSError as problem:
        say(f"there is no guard: {_reason(problem)}; the supervisor runs without")
        os.execv(command[0], command)
    return guard.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
