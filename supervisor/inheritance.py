"""What a supervisor that died left: its programs as they were written down, who of them lives, and which kept descriptors are whose.

Asks the world, in a lane, and changes nothing: what is made of the answer is policy's (`policy.adoption`) and the daemon's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from supervisor.lanes import Lane
from supervisor.mechanism import release
from supervisor.mechanism.adoption import Survivor, identify, listeners, survivor
from supervisor.model import Candidate, Fleet, InstanceId, LaunchSettings, Program, ProgramSettings
from supervisor.policy.program import create
from supervisor.policy.strangers import join
from supervisor.records.handover import Record

LOOK_S = 10.0  # at one process and its descriptors


@dataclass(frozen=True, slots=True)
class Inheritance:
    """All descriptors in it belong to whoever takes it up.

    living     what is there of each instance that had a process
    sockets    by program: its listening sockets, () where none is left
    unclaimed  by the name under which the service manager keeps them: descriptors of which nobody knows anything
    """

    records: tuple[Record, ...]
    living: Mapping[InstanceId, Survivor]
    sockets: Mapping[str, tuple[int, ...]]
    unclaimed: Mapping[str, tuple[int, ...]]

    @property
    def unborn(self) -> frozenset[InstanceId]:
        """Those whose process ended at its gate."""
        return frozenset(id for id, found in self.living.items() if found.unborn)


@dataclass(frozen=True, slots=True)
class Heir:
    """Finds out what is left.

    fleet       what the journal knows of the time before
    configured  the programs as they are configured now
    boot        what tells this boot of the host from another
    lane        where the world is asked
    warn        gets a sentence for each instance of which nothing was written down
    """

    fleet: Fleet
    configured: tuple[ProgramSettings, ...]
    boot: str
    lane: Lane
    warn: Callable[[str], None]

    async def inherit(self, records: tuple[Record, ...], kept: Mapping[str, tuple[int, ...]]) -> Inheritance:
        """records: what was written down; kept: what the service manager kept, by name."""
        records = await self._with_strangers(records, kept)
        unclaimed = dict(kept)
        living: dict[InstanceId, Survivor] = {}
        sockets: dict[str, tuple[int, ...]] = {}
        for program in (record.program for record in records):
            name = program.settings.name
            for instance in program.instances:
                if instance.pid is not None:
                    call = (survivor, instance, unclaimed.pop(instance_name(instance.id), ()), program.settings.output.to)
                    living[instance.id] = await self.lane.run(*call, deadline_s=LOOK_S)
            sockets[name] = unclaimed.pop(sockets_name(name), ())
            if not sockets[name] and program.build.launch.sockets:
                alive = [(i.pid, living[i.id].pidfd) for i in program.instances if i.pid is not None]
                sockets[name] = await self.lane.run(listeners, [each for each in alive if each[1] >= 0], deadline_s=LOOK_S)
        return Inheritance(records, living, sockets, unclaimed)

    async def _with_strangers(self, records: tuple[Record, ...], kept: Mapping[str, tuple[int, ...]]) -> tuple[Record, ...]:
        """What was written down, and what only others know, as it could not be: instances that the service manager keeps, numbers given."""
        named = {instance_name(instance.id) for record in records for instance in record.program.instances}
        by_name = {record.program.settings.name: record for record in records}
        for name, fds in kept.items():
            id = _instance_of(name)
            if id is None or name in named:
                continue
            process = await self.lane.run(identify, fds, deadline_s=LOOK_S)
            if process is not None:
                now = time.monotonic()
                known = by_name.get(id.program) or Record(self.boot, now, await self._unwritten(id.program))
                by_name[id.program] = replace(known, program=join(known.program, id, *process, now))
                self.warn(
                    f"{id} (pid {process[0]}) lives, and stands in no handover, as that could not be written: it is taken over"
                )
        counted = {name: max(record.program.started, self.fleet.numbers.get(name, 0)) for name, record in by_name.items()}
        return tuple(replace(r, program=replace(r.program, started=counted[name])) for name, r in by_name.items())

    async def _unwritten(self, name: str) -> Program:
        """A program of which no handover tells, as it is configured now; what is not configured any more leaves when that is taken up."""
        settings = next((program for program in self.configured if program.name == name), None)
        if settings is None:
            settings = ProgramSettings(name=name, launch=LaunchSettings(command=(name,)))
        (place,) = await release.resolve_each([settings.launch], self.warn)
        fleet, candidate = self.fleet, Candidate(settings, *place)
        past = fleet.causes.get(name, ()), fleet.releases.get(name, ())
        return create(candidate, time.monotonic(), fleet.numbers.get(name, 0), *past, fleet.open.get(name))


# --- the names under which the service manager keeps descriptors; they may hold no colon -----------------------------------------


def instance_name(id: InstanceId) -> str:
    """Of an instance's pidfd and the pipe of its output."""
    return f"instance.{id.program}.{id.number}"


def sockets_name(program: str) -> str:
    """Of a program's listening sockets."""
    return f"socket.{program}"


def _instance_of(name: str) -> InstanceId | None:
    """The instance that is meant by such a name; None where it names something else."""
    kind, _, id = name.partition(".")
    program, _, number = id.rpartition(".")
    return InstanceId(program, int(number)) if kind == "instance" and number.isdecimal() else None
