"""Has evidence taken, in a lane: of a suspect, once more before it is killed, and of one that ended by itself.

Never in the way of recovery: each has a deadline, and what cannot be had is said as nothing. What is found is told in the story, and
policy hears of a suspect's cause by EvidenceTaken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from supervisor.lanes import Lane, LaneError
from supervisor.mechanism import deaths, evidence
from supervisor.mechanism.dumping import Taker
from supervisor.mechanism.output import Outputs
from supervisor.model import Event, EvidenceTaken, Instance, InstanceId, Note, Program

EVIDENCE_S = 5.0  # twice what a look may take
OOM_S = 5.0
GATHER_S = 0.1  # between two such questions: while many are started they are asked together


class Witness:
    """For the loop's thread."""

    def __init__(
        self, lane: Lane, outputs: Outputs, state_dir: str, post: Callable[[Event], None], tell: Callable[[Note], None]
    ) -> None:
        """lane: for evidence alone. post: EvidenceTaken. tell: a line of the story."""
        self._lane = lane
        self._outputs = outputs
        self._state_dir = state_dir
        self._post = post
        self._tell = tell
        self._memory: dict[InstanceId, deaths.OomCount | None] = {}  # what the kernel had killed for want of memory before
        self._born: dict[InstanceId, int] = {}  # those for whom that is to be asked, once the last answer is here
        self._asking = False

    def born(self, id: InstanceId, pid: int) -> None:
        """Remember what is needed to tell later whether the kernel killed it for want of memory."""
        self._memory[id] = None
        self._born[id] = pid
        if not self._asking:
            self._ask()

    def _ask(self) -> None:
        """For all at once, as many may be started within one moment."""
        born, self._born = self._born, {}
        self._asking = True
        asked = self._lane.run(deaths.oom_counts, tuple(born.values()), deadline_s=OOM_S)
        asked.add_done_callback(partial(self._answered, tuple(born)))

    def _answered(self, ids: tuple[InstanceId, ...], asked: asyncio.Future[list[deaths.OomCount]]) -> None:
        self._asking = bool(self._born)
        if self._asking:
            asyncio.get_running_loop().call_later(GATHER_S, self._ask)
        if not isinstance(asked.exception(), LaneError):  # else an OOM kill is told as a plain SIGKILL
            self._memory |= {id: count for id, count in zip(ids, asked.result(), strict=True) if id in self._memory}

    async def suspect(self, program: Program, instance: Instance) -> None:
        """What a suspect does; answered by EvidenceTaken in any case."""
        found = await self._look(program, instance, evidence.TAKERS)
        cause = found.cause
        if cause is None:
            self._post(EvidenceTaken(instance.id, found.summary, suspected=instance.suspected))
        else:
            self._post(EvidenceTaken(instance.id, found.summary, cause.key, cause.where, cause.outside, instance.suspected))

    async def condemned(self, program: Program, instance: Instance) -> None:
        """What one does that is to be killed, by the ways that are taken only then; where its cause is known already, nothing."""
        if not instance.cause:
            await self._look(program, instance, evidence.LAST_TAKERS)

    async def ended(self, program: Program, instance: Instance, words: str) -> str:
        """Why it ended by itself: the kernel's words, its own last ones, a traceback among them. "" when that is no more than `words`."""
        before = self._memory.pop(instance.id, None)
        if instance.pid is None:
            return ""
        call = (evidence.crash, self._subject(program, instance, instance.pid), words, before, self._state_dir)
        try:
            found = await self._lane.run(*call, deadline_s=EVIDENCE_S)
        except LaneError:
            return ""
        cause = found.cause
        if cause is None or (not cause.where and cause.error == words):
            return ""
        self._tell(Note(str(instance.id), "evidence.taken", found.summary))
        reason = f"{cause.error} in {cause.where}" if cause.where else cause.error
        self._post(EvidenceTaken(instance.id, found.summary, where=reason))
        return reason

    def forget(self, id: InstanceId) -> None:
        self._memory.pop(id, None)

    async def _look(self, program: Program, instance: Instance, takers: Sequence[Taker]) -> evidence.Taken:
        found = evidence.Taken("")
        if instance.pid is not None:
            call = (evidence.take, self._subject(program, instance, instance.pid), self._state_dir, takers)
            try:
                found = await self._lane.run(*call, deadline_s=EVIDENCE_S)
            except LaneError:
                return found
        if found.summary:
            self._tell(Note(str(instance.id), "evidence.taken", found.summary))
        return found

    def _subject(self, program: Program, instance: Instance, pid: int) -> evidence.Subject:
        known = (program.good, program.previous)
        build = next((b for b in known if b is not None and b.number == instance.build), program.build)
        places = (build.launch.directory, build.directory)
        return evidence.Subject(
            instance.id, pid, build.launch.command, places, build.release, partial(self._outputs.last, instance.id)
        )
