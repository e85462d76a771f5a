"""posix_spawn(3), called so that nobody but the caller waits for it.

Whoever spawns is held by the kernel until the child has executed its file: half a millisecond, and for as long as a dead mount likes.
os.posix_spawn holds the interpreter's lock meanwhile, and with it the loop; through ctypes the lock is given back. Touches nothing
but the child; all that it takes is in the C library's own functions, which glibc and musl both have. Blocks: for a lane.

source  posix_spawn(3), posix_spawnattr_setflags(3), posix_spawn_file_actions_adddup2(3)
"""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import signal
from collections.abc import Mapping, Sequence

_OPAQUE_BYTES = 1024  # what the library keeps in one of its own structures: 336 bytes at most in glibc and in musl
_SETSIGDEF, _SETSIGMASK, _SETSID = 0x04, 0x08, 0x80  # POSIX_SPAWN_*, the same in both

_slow = ctypes.CDLL(None)  # gives the interpreter's lock back
_quick = ctypes.PyDLL(None)  # keeps it: giving it back would take longer than the call


def spawn(words: Sequence[str], environ: Mapping[str, str], targets: Mapping[int, int]) -> int:
    """Start a child in a session of its own, with no signal blocked and none ignored; its pid.

    words    the first is the file's path
    targets  a number in the child, and the descriptor of ours that it is to have there
    raises   OSError; ValueError for a NUL character, which would end a word early
    """
    argv = _strings(words)
    envp = _strings([f"{name}={value}" for name, value in environ.items()])
    actions = ctypes.create_string_buffer(_OPAQUE_BYTES)
    above = max(targets, default=-1) + 1
    copies: list[int] = []
    _do(_quick.posix_spawn_file_actions_init, actions)
    try:
        for theirs, ours in targets.items():
            if ours < above:  # one that stands among the targets is copied above them: so no one overwrites another
                ours = fcntl.fcntl(ours, fcntl.F_DUPFD_CLOEXEC, above)
                copies.append(ours)
            _do(_quick.posix_spawn_file_actions_adddup2, actions, ours, theirs)
        pid = ctypes.c_int()
        _do(_slow.posix_spawn, ctypes.byref(pid), argv[0], actions, _attributes(), argv, envp)
    finally:
        _quick.posix_spawn_file_actions_destroy(actions)
        for copy in copies:
            os.close(copy)
    return pid.value


@functools.cache
def _attributes() -> ctypes.Array[ctypes.c_char]:
    """The session and the signals: the same for every child, only read by posix_spawn, and kept for good."""
    attributes = ctypes.create_string_buffer(_OPAQUE_BYTES)
    signals = ctypes.create_string_buffer(_OPAQUE_BYTES)
    _do(_quick.posix_spawnattr_init, attributes)
    _do(_quick.posix_spawnattr_setflags, attributes, ctypes.c_short(_SETSIGDEF | _SETSIGMASK | _SETSID))
    _quick.sigemptyset(signals)
    _do(_quick.posix_spawnattr_setsigmask, attributes, signals)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        _quick.sigaddset(signals, number)
    _do(_quick.posix_spawnattr_setsigdefault, attributes, signals)
    return attributes


def _strings(words: Sequence[str]) -> ctypes.Array[ctypes.c_char_p]:
    """A null-terminated array, as execve(2) takes it."""
    *strings, _ = os.fsencode("".join(f"{word}\0" for word in words)).split(b"\0")
    if len(strings) != len(words):
        raise ValueError("embedded null character")
    return (ctypes.c_char_p * (len(words) + 1))(*strings, None)


def _do(call: ctypes._NamedFuncPointer, *args: object) -> None:
    """These functions return the error's number."""
    if error := call(*args):
        raise OSError(error, os.strerror(error))
