"""The sd_notify datagram, both sides: telling a service manager how we are, and hearing it from the programs we supervise.

Standard library only, and of that only what is light: the guard imports this file too. It touches one datagram socket and nothing
else. It never blocks: a full socket loses the message and says so. It trusts no datagram: what is too long or malformed is ignored,
the sender is what the kernel says it is, and descriptors that come along are closed: pipes here, all others by whoever made the
listener, as closing those may take as long as the sender likes (a TCP socket that lingers, a file of its own file system).

Who may reach the listener. A program may run as another user, and must find the socket by its path: so the socket is 0666, and the
directory it stands in has to let strangers through without letting them list it: 0711. Everything else in that directory therefore
guards itself (0600 files, the control socket's own mode). That anybody on the host may write here costs nothing: a message counts
only after its sender was found to belong to an instance (`probes.attribute`).

source  sd_notify(3) for the protocol, unix(7) for credentials and descriptors
"""

from __future__ import annotations

import array
import contextlib
import errno
import os
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence

STATE_LIMIT_BYTES = 4096  # systemd takes no more in one datagram either
GUARD = "REVIVER_GUARD"  # the variable with the pid of the guard that keeps the daemon
EXIT_WITH = "REVIVER_EXIT_WITH"  # the variable with the program of `reviver run --exit-with`
# What a service manager told us about ourselves: true for us, false for whatever we start.
OURS = frozenset({"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", GUARD, EXIT_WITH})
STORE_FDS_LIMIT = 8192  # descriptors that a manager keeps: a socket, a pipe and a pidfd for each of some thousand instances
# Their names come back in one variable, and the kernel takes none over 128 KiB (execve(2)): with more, no supervisor could be started.
STORE_NAMES_BYTES = 120 * 1024
RECEIVE_LIMIT = 64  # datagrams per call: a program that floods the socket gets its share of a turn of the loop, and no more
FDS_LIMIT = 253  # descriptors of one datagram: the most that the kernel lets anybody send (SCM_MAX_FD), so it drops none here

_UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid
_ANCILLARY_BYTES = socket.CMSG_SPACE(_UCRED.size) + socket.CMSG_SPACE(FDS_LIMIT * array.array("i").itemsize)


class Message:
    """What one process said. `pid` and `uid` are the kernel's word; `state` is the sender's own.

    A plain class: `typing` and `dataclasses` would cost the guard one and two MiB.
    """

    __slots__ = ("pid", "state", "uid")

    def __init__(self, pid: int, uid: int, state: dict[str, str]) -> None:
        self.pid = pid
        self.uid = uid
        self.state = state

    def __repr__(self) -> str:
        return f"Message(pid={self.pid}, uid={self.uid}, state={self.state})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Message) and (self.pid, self.uid, self.state) == (other.pid, other.uid, other.state)


def under_systemd(environ: Mapping[str, str]) -> bool:
    """Whether a systemd unit of Type=notify keeps this very process, so that no guard is needed."""
    if not environ.get("NOTIFY_SOCKET"):
        return False
    pid = environ.get("SYSTEMD_EXEC_PID")  # since systemd 248; inherited, and then another process's
    return "INVOCATION_ID" in environ if pid is None else pid == str(os.getpid())


def send(state: str | Mapping[str, str], path: str | None = None, fds: Sequence[int] = ()) -> bool:
    """Send one state to the service manager, without ever waiting for it.

    state    "READY=1" or {"READY": "1", "STATUS": "..."}; a line break inside a value becomes a space
    path     of its socket, "@..." for an abstract one; None takes $NOTIFY_SOCKET
    fds      descriptors to go along (FDSTORE=1); they stay open here
    returns  False when there is nobody to tell, it does not listen, its queue is full, or the state is over STATE_LIMIT_BYTES
    """
    path = os.environ.get("NOTIFY_SOCKET", "") if path is None else path
    try:
        deliver(state, path, fds)
    except OSError:
        return False
    return True


def deliver(state: str | Mapping[str, str], path: str, fds: Sequence[int] = (), through: socket.socket | None = None) -> None:
    """The same for a sender that wants to know why not.

    through a socket of `sender`, of whoever has much to say; None: one for this message alone
    raises  OSError: BlockingIOError while the queue is full; EINVAL for a path that is none, EMSGSIZE for a state over its limit
    """
    data = _spell(state).encode("utf-8", "replace")
    if path[:1] not in ("/", "@") or not data:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), path)
    if len(data) > STATE_LIMIT_BYTES:
        raise OSError(errno.EMSGSIZE, os.strerror(errno.EMSGSIZE), path)
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    address = "\0" + path[1:] if path.startswith("@") else path
    with contextlib.nullcontext(through) if through is not None else sender() as sock:
        sock.sendmsg([data], ancillary, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, address)


def sender() -> socket.socket:
    """What messages are sent through, to whatever path."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _spell(state: str | Mapping[str, str]) -> str:
    if isinstance(state, str):
        return state
    return "\n".join(f"{key}={' '.join(value.splitlines())}" for key, value in state.items())


class Listener:
    """The programs' NOTIFY_SOCKET. Give `fileno()` to the loop's add_reader, and call `receive` when it is readable."""

    def __init__(self, path: str, discard: Callable[[int], object] = os.close) -> None:
        """Listen at `path`, in the place of a socket that a dead one left there.

        discard  closes a descriptor, which may block
        raises   OSError: a missing directory, a path over 107 bytes, or one where something other than a socket stands
        """
        self.path = path
        self._discard = discard
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
            _remove_socket(path)
            self._socket.bind(path)
            os.chmod(path, 0o666)
            self._inode = os.lstat(path).st_ino
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def receive(self) -> Iterator[Message]:
        """What was sent since the last call, at most RECEIVE_LIMIT datagrams; more of them leave the socket readable.

        It ends after one that brought more than pipes: those wait to be closed, and the next turn's must not come on top of them.
        Descriptors that came with a message are closed once it has been dealt with, which is when the next one is asked for. That
        is what BARRIER=1 waits for: a sender such as systemd-notify lives until then, and can still be attributed.
        """
        for _ in range(RECEIVE_LIMIT):
            try:
                message, fds = receive(self._socket)
            except (BlockingIOError, InterruptedError):
                return
            try:
                if message is not None:
                    yield message
            finally:
                strange = [fd for fd in fds if not _close_pipe(fd)]
                for fd in strange:
                    self._discard(fd)
            if strange:
                return

    def deafen(self) -> None:
        """Take no more messages: whoever sends one is refused, and does not wait."""
        self._socket.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Stop listening, and remove the socket unless somebody else has put theirs in its place."""
        self._socket.close()
        try:
            if os.lstat(self.path).st_ino == self._inode:
                os.unlink(self.path)
        except FileNotFoundError:
            pass


def receive(sock: socket.socket) -> tuple[Message | None, array.array[int]]:
    """The next datagram of a socket with SO_PASSCRED: its message, None for one to be ignored; and its descriptors, which are the caller's.

    raises  BlockingIOError when none waits
    """
    data, ancillary, flags, _ = sock.recvmsg(STATE_LIMIT_BYTES, _ANCILLARY_BYTES, socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC)
    return None if flags & socket.MSG_TRUNC else _message(data, ancillary), _descriptors(ancillary)


def _remove_socket(path: str) -> None:
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass


def _descriptors(ancillary: Sequence[tuple[int, int, bytes]]) -> array.array[int]:
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    return fds


def _close_pipe(fd: int) -> bool:
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return False
    os.close(fd)
    return True


def _message(data: bytes, ancillary: Sequence[tuple[int, int, bytes]]) -> Message | None:
    """None for what is no state at all, or comes from a process that cannot be seen from here (pid 0: another pid namespace)."""
    for level, kind, credentials in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS) and len(credentials) == _UCRED.size:
            pid, uid, _ = _UCRED.unpack(credentials)
            state = _read(data)
            return Message(pid, uid, state) if pid > 0 and state else None
    return None


def _read(data: bytes) -> dict[str, str]:
    """The keys and values of a state. Of a key given twice the first counts, as systemd reads it."""
    data = data.removesuffix(b"\0")
    state: dict[str, str] = {}
    if b"\0" in data:
        return state
    for line in data.decode("utf-8", "replace").split("\n"):
        key, equals, value = line.partition("=")
        if key and equals:
            state.setdefault(key, value)
    return state
