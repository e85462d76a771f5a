"""Exits, and the end of whole trees. Lives on the loop; what may take longer than a blink is done in its lane.

An exit is noticed by its pidfd, with no thread and no polling. Usually nothing can be left of its tree, because no process came to us
that is not watched; then the exit is told within the same turn of the loop. Else what is left is killed in the lane first. A leader is
reaped last: as long as it is a zombie, its pid and its session's number cannot become another's.

Reviver is a subreaper: a descendant that lost its parent becomes ours instead of init's, so that it can be found and is reaped. The trees
of a supervisor that died went to the next subreaper above it (the guard, else init): an adopted one is no child of ours, and what leaves
its tree is looked for there.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

from supervisor.lanes import Lane, LaneError
from supervisor.mechanism import exits
from supervisor.mechanism import tree as trees
from supervisor.mechanism.cgroups import GONE_S, Groups
from supervisor.mechanism.launch import Child
from supervisor.model import Event, Exited, InstanceId

END_S = 2.0  # one attempt on one tree: a fork bomb of 150 takes 0.16 s; what survives this is in uninterruptible sleep
LANE_S = 60.0  # the same, behind all other trees that are ended at that moment
SWEEP_S = 0.2  # between the first news of a dead child and the look for strangers among the dead: a storm of them costs one look
STRANGER_S = 10.0  # a dead child that no part of this process has reaped for so long is nobody's
DEAD_LIMIT = 100  # dead orphans that wait for that: more are a storm, and would use up the host's pids
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(slots=True)
class _Watched:
    tree: trees.Tree
    pidfd: int  # -1: it ended while nobody had one
    foster: int = 0  # of an adopted one: the process that gets what loses its parent in that tree; 0: that is us
    exited: bool = False  # the leader is dead (and not reaped)
    told: bool = False  # ... and that was posted already, with something left
    ending: bool = False  # the lane is at it


class Reaper:
    """Watches the leaders of all instances. To be used on the loop's thread only, which must be the main thread."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, post: Callable[[Event], None], lane: Lane, groups: Groups | None = None
    ) -> None:
        """lane: where trees are ended, one after the other. Raises OSError when the kernel does not make us a subreaper."""
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "cannot become a subreaper")
        self._loop = loop
        self._post = post
        self._lane = lane
        self._groups = groups
        self._tidying: asyncio.TimerHandle | None = None
        self._watched: dict[InstanceId, _Watched] = {}
        self._leaders: dict[int, InstanceId] = {}
        self._orphans: set[int] | None = None  # our children, as they were read in this turn of the loop
        self._sweeping: asyncio.TimerHandle | None = None
        self._dead_since: dict[tuple[int, int], float] = {}  # strangers' zombies, by pid and start time
        loop.add_signal_handler(signal.SIGCHLD, self._child_died)

    def watch(self, child: Child) -> None:
        """Post Exited when it ends. Takes over the child's pidfd."""
        of = self._tree(child.id, child.pid, child.start_ticks)
        self._watched[child.id] = _Watched(of, child.pidfd)
        self._leaders[child.pid] = child.id
        self._loop.add_reader(child.pidfd, self._leader_ended, child.id)

    def adopt(self, id: InstanceId, pid: int, start_ticks: int, pidfd: int) -> None:
        """Watch an instance that an earlier supervisor started: post Exited when it ends, or has ended. Takes over the pidfd.

        pidfd  -1: the leader ended and nothing is known of how; what is left of its tree is ended
        """
        of = self._tree(id, pid, start_ticks)
        parent = trees.stat(pid) if pidfd >= 0 else None
        watched = self._watched[id] = _Watched(
            of, pidfd, foster=parent.ppid if parent is not None and parent.ppid else os.getppid()
        )
        self._leaders[pid] = id
        if pidfd >= 0:
            self._loop.add_reader(pidfd, self._leader_ended, id)
        else:
            watched.exited = True
            self._end(id, watched)

    def _tree(self, id: InstanceId, leader: int, start_ticks: int) -> trees.Tree:
        group = "" if self._groups is None else self._groups.path(id.program, leader, start_ticks)
        return trees.Tree(leader, start_ticks, trees.marks(id, leader), group)

    def group(self, id: InstanceId) -> str:
        """The folder of its control group, where it has one."""
        watched = self._watched.get(id)
        return "" if watched is None else watched.tree.group

    def signal(self, id: InstanceId, name: str) -> None:
        """Send one signal, named without SIG, to the instance's own process. One that does not live is answered by Exited."""
        watched = self._watched.get(id)
        if watched is None:
            self._loop.call_soon(self._post, Exited(id, None, 0, "unknown"))
        elif not watched.exited:
            trees.send(watched.pidfd, signal.Signals[f"SIG{name}"])

    def signal_worker(self, id: InstanceId, pid: int, start_ticks: int, name: str) -> None:
        """Send one signal to one process of the instance's tree, if it is still the one that started then. No answer."""
        if id in self._watched:
            with contextlib.suppress(OSError):  # no descriptor is left: the next look asks for it again
                pidfd = trees.seize(pid, start_ticks)
                if pidfd is not None:
                    try:
                        trees.send(pidfd, signal.Signals[f"SIG{name}"])
                    finally:
                        os.close(pidfd)

    def kill(self, id: InstanceId) -> None:
        """SIGKILL to the whole tree; answered by Exited when all of it is gone, or at once when it is gone already.

        What is in uninterruptible sleep dies later, and Exited comes then, or after the next `kill`.
        """
        watched = self._watched.get(id)
        if watched is None:
            self._loop.call_soon(self._post, Exited(id, None, 0, "unknown"))
        elif not watched.ending:
            if watched.exited or watched.foster or self._strangers() or trees.children(watched.tree.leader):
                self._end(id, watched)
            else:
                trees.send(watched.pidfd, signal.SIGKILL)

    def close(self) -> None:
        """Watch nothing any more. What lives goes on living."""
        self._loop.remove_signal_handler(signal.SIGCHLD)
        for timer in (self._sweeping, self._tidying):
            if timer is not None:
                timer.cancel()
        for watched in self._watched.values():
            if watched.pidfd >= 0:
                self._loop.remove_reader(watched.pidfd)
                os.close(watched.pidfd)
        self._watched.clear()
        self._leaders.clear()

    def _leader_ended(self, id: InstanceId) -> None:
        watched = self._watched[id]
        watched.exited = True
        self._loop.remove_reader(watched.pidfd)
        if watched.ending:
            return
        if watched.foster or self._strangers():
            self._end(id, watched)
        else:
            self._tell(id, watched, 0)

    def _strangers(self) -> set[int]:
        """Children of ours that nobody here watches: usually none. Whose they are is found out in the lane: it may block.

        Read once for all exits that the loop heard of at the same time: whoever lost its parent by one of them is with us by then.
        """
        if self._orphans is None:
            self._orphans = set(trees.orphans())
            self._loop.call_soon(self._forget_orphans)
        return {pid for pid in self._orphans if pid not in self._leaders}

    def _forget_orphans(self) -> None:
        self._orphans = None

    def _end(self, id: InstanceId, watched: _Watched) -> None:
        watched.ending = True
        strangers = trees.orphans
        if watched.foster:
            known = self._leaders.keys() - {watched.tree.leader}
            strangers = functools.partial(_fostered, watched.foster, frozenset(known))
        done = self._lane.run(trees.end, watched.tree, strangers, END_S, deadline_s=LANE_S)
        done.add_done_callback(functools.partial(self._end_tried, id))

    def _end_tried(self, id: InstanceId, done: asyncio.Future[int]) -> None:
        watched = self._watched.get(id)
        if done.cancelled() or watched is None:
            return
        watched.ending = False
        problem = done.exception()
        if problem is not None and not isinstance(problem, (LaneError, OSError)):
            raise problem
        if watched.exited:
            self._tell(id, watched, done.result() if problem is None else 1)  # not known: somebody may live

    def _tell(self, id: InstanceId, watched: _Watched, left: int) -> None:
        """Post the exit, once with something left and once with nothing; then the leader is reaped and forgotten."""
        if left and watched.told:
            return
        watched.told = True
        status, words = None, "ended while no supervisor ran, and how is not known"
        if watched.pidfd >= 0:
            status, words = exits.ending(watched.pidfd, watched.tree.leader, reap=not left)
        if not left:
            del self._watched[id], self._leaders[watched.tree.leader]
            if watched.pidfd >= 0:
                os.close(watched.pidfd)
            self._tidy_soon()
        self._post(Exited(id, status, left, words))

    def _tidy_soon(self) -> None:
        """Have the groups of the dead removed, once nobody reads their counters any more."""
        if self._groups is not None and self._tidying is None:
            self._tidying = self._loop.call_later(GONE_S, self._tidy, self._groups)

    def _tidy(self, groups: Groups) -> None:
        done = self._lane.run(groups.tidy, deadline_s=LANE_S)
        done.add_done_callback(self._tidied)

    def _tidied(self, done: asyncio.Future[bool]) -> None:
        self._tidying = None
        if not done.cancelled() and done.exception() is None and done.result():
            self._tidy_soon()

    def _child_died(self) -> None:
        if self._sweeping is not None:
            if self._sweeping.when() <= self._loop.time() + SWEEP_S:
                return
            self._sweeping.cancel()
        self._sweeping = self._loop.call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        """Reap dead children that nobody watches: at once where the session shows whose they were, else after a while.

        Such are those that came to us by their parent's death, and children that were given up at their gate. What other parts of
        this program start is theirs to reap: that takes them milliseconds.
        """
        self._sweeping = None
        now = time.monotonic()
        dead: dict[tuple[int, int], float] = {}
        orphans = set(trees.orphans())
        for pid in set(trees.children(os.getpid())) - self._leaders.keys():
            state = trees.stat(pid)
            if state is None or state.lives:
                continue
            since = self._dead_since.get((pid, state.start_ticks), now)
            storm = len(dead) >= DEAD_LIMIT and pid in orphans
            if state.session in self._leaders or now - since >= STRANGER_S or storm:
                _reap(pid)
            else:
                dead[pid, state.start_ticks] = since
        self._dead_since = dead
        if dead:
            self._sweeping = self._loop.call_later(STRANGER_S, self._sweep)


def _fostered(foster: int, known: frozenset[int]) -> list[int]:
    """Where what left an adopted tree is to be looked for: with whoever got it, and among our own orphans."""
    return [pid for pid in (*trees.children(foster), *trees.orphans()) if pid not in known]


def _reap(pid: int) -> None:
    with contextlib.suppress(ChildProcessError):  # the lane was quicker
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
