"""What goes wrong, and what operators do, at random instants; and how the weather becomes calm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from supervisor.model import (
    AckAsked,
    DeployAsked,
    HoldAsked,
    HoldEndAsked,
    LaunchSettings,
    Nature,
    Program,
    ProgramSettings,
    RestartAsked,
    RestartWhen,
    SignalAsked,
    StartAsked,
    State,
    Wanted,
)
from supervisor.policy import releases
from supervisor.policy.outside import TRY_AGAIN_S
from tests.sim.plan import COUPON, LINKS, PEOPLE, bad_behaviour
from tests.sim.servers import LOCK, RETRIES, Phase, Request, Server, Site, Sort
from tests.sim.world import Config, World, release_of

CALM_OPERATOR_S = 5.0
LAST_COMMANDS_S = 10.0  # an operator's second thought may come so long after the faults


class Mischief:
    """Acts until the world is calm."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.random
        self._count = 1
        acts: dict[str, Callable[[], None]] = {
            "crash": self._crash,
            "leave": self._leave,
            "freeze": self._freeze,
            "stop": self._stop,
            "wedge": self._wedge,
            "poison": self._poison,
            "worker": self._worker,
            "report": self._report,
            "database": self._database,
            "memory": self._memory,
            "starve": self._starve,
            "blind": self._blind,
            "operator": self._operate,
            "release": self._release,
            LINKS: self._deploy,
            PEOPLE: self._people,
            "death": world.die,
        }
        self._acts = [acts[kind] for kind in sorted(world.plan.mischief) if kind in acts] or [self._crash]
        self._next()

    def _next(self) -> None:
        self._world.agenda.after(self._random.expovariate(1 / self._world.plan.every_s), self._act)

    def _act(self) -> None:
        if self._world.calm:
            return
        self._random.choice(self._acts)()
        self._next()

    def _log(self, kind: str, thing: object = "") -> None:
        self._world.tell(f"# {kind}", thing)

    def _site(self) -> Site:
        return self._world.sites[self._random.choice(sorted(self._world.config))]

    def _server(self) -> tuple[Site, Server] | None:
        site = self._site()
        running = [server for server in site.servers.values() if server.phase in (Phase.BOOT, Phase.UP)]
        return (site, self._random.choice(running)) if running else None

    # --- faults

    def _crash(self) -> None:
        if found := self._server():
            self._log("crash", found[1].id)
            left = 1 if self._world.has("tree") and self._random.random() < 0.4 else 0
            found[0].end(found[1], self._random.choice((1, -11)), left)

    def _leave(self) -> None:
        if found := self._server():
            self._log("exit 0", found[1].id)
            found[0].end(found[1], 0, 0)

    def _freeze(self) -> None:
        if found := self._server():
            self._log("state D", found[1].id)
            found[0].freeze(found[1], "D")
            self._world.agenda.after(self._random.uniform(1.0, 25.0), found[0].thaw, found[1], "D")

    def _stop(self) -> None:
        if (found := self._server()) and found[1].phase is Phase.UP:
            self._log("state T", found[1].id)
            found[0].freeze(found[1], "T")

    def _wedge(self) -> None:
        if (found := self._server()) and found[1].phase is Phase.UP and found[1].wedged is Nature.NONE:
            nature = self._random.choice((Nature.SPINNING, Nature.LOCKED))
            self._log("wedge", (found[1].id, nature))
            found[0].wedge(found[1], nature)
            if self._random.random() < 0.3:  # it was long, not endless
                self._world.agenda.after(self._random.uniform(1.5, 12.0), self._unwedge, *found)

    def _unwedge(self, site: Site, server: Server) -> None:
        if server.phase is Phase.UP:
            self._log("unwedge", server.id)
            site.unwedge(server)

    def _poison(self) -> None:
        sort = self._random.choice((Sort.POISON, Sort.POISON, Sort.LOCK))
        site = self._site()
        apart_s = self._random.choice((0.0, 3.0))
        self._log(sort, site.name)
        for index in range(self._random.choice((1, 1, 2, 4))):
            self._world.agenda.after(index * apart_s, self._bite, site, sort)

    def _bite(self, site: Site, sort: Sort) -> None:
        if not self._world.calm:
            cause = COUPON if sort is Sort.POISON else LOCK
            site.arrive(Request(sort, 0.0, False, self._world.agenda.now, cause=cause))

    def _worker(self) -> None:
        site = self._site()
        sort, cause = self._random.choice(((Sort.POISON, COUPON), (Sort.LOCK, LOCK)))
        self._log("worker", site.name)
        site.arrive(Request(sort, 0.0, False, self._world.agenda.now, RETRIES, cause))

    def _report(self) -> None:
        site = self._site()
        self._log("reports", site.name)
        cause = self._world.programs[site.name].report
        for _ in range(self._random.choice((1, 2))):
            site.arrive(Request(Sort.REPORT, self._random.uniform(1.5, 8.0), False, self._world.agenda.now, cause=cause))

    def _database(self) -> None:
        self._log("database down")
        for site in self._world.sites.values():
            site.set_database(False)
        lasts_s = self._random.uniform(3.0, 50.0) if self._random.random() < 0.7 else self._random.uniform(60.0, 150.0)
        self._world.agenda.after(lasts_s, self._database_up)

    def _database_up(self) -> None:
        self._log("database up")
        for site in self._world.sites.values():
            site.set_database(True, half_open=0.0 if self._world.calm else 0.4)

    def _memory(self) -> None:
        self._log("memory full")
        self._world.room = False
        self._world.agenda.after(self._random.uniform(2.0, 40.0), self._memory_again)

    def _memory_again(self) -> None:
        self._world.room = True

    def _starve(self) -> None:
        self._log("host sick")
        self._world.sick = True
        self._world.processors.set_health(0.1)
        self._world.agenda.after(self._random.uniform(2.0, 10.0), self._recover)

    def _recover(self) -> None:
        self._world.sick = False
        self._world.processors.set_health(1.0)

    def _blind(self) -> None:
        self._log("watcher silent")
        self._world.blind_until = self._world.agenda.now + self._random.uniform(1.0, 25.0)

    # --- operators

    def _operate(self) -> None:
        world, name = self._world, self._random.choice(sorted(self._world.config))
        match self._random.randrange(10):
            case 0 | 1:
                world.stop(name)
                if self._random.random() < 0.7:
                    world.agenda.after(self._random.uniform(0.0, 8.0), world.post, StartAsked(name))
            case 2:
                world.post(StartAsked(name))
            case 3:
                world.post(RestartAsked(name))
            case 4:
                world.post(RestartAsked(name, at_once=True))
            case 5:
                world.post(SignalAsked(name, "HUP"))
            case 6:
                self._change_settings(name)
            case 7:
                self._add_or_remove()
            case 8:
                self._new_build(name, bad=False)
            case _:
                world.shut_down()
                if self._random.random() < 0.3:
                    world.agenda.after(self._random.uniform(0.0, 2.0), world.shut_down)

    def _change_settings(self, name: str) -> None:
        """Settings that make no new build."""
        config, random = self._world.config[name], self._random
        old = config.settings
        changed: ProgramSettings = random.choice(
            (
                replace(old, instances=random.choice((1, 2, 3))),
                replace(old, grace_s=random.choice((1.0, 5.0))),
                replace(old, hang=replace(old.hang, certain_s=random.choice((3.0, 8.0)))),
                replace(old, relief=replace(old.relief, extra=random.choice((0, 1, 2)))),
                replace(old, restart=replace(old.restart, when=RestartWhen.ALWAYS, limit_s=random.choice((2.0, 10.0)))),
            )
        )
        config.settings = changed
        self._world.apply()

    def _add_or_remove(self) -> None:
        world = self._world
        spare = world.plan.spares[0]
        name = spare.settings.name
        if name in world.config:
            del world.config[name]
        else:
            world.config[name] = Config(spare.settings, spare.directory, spare.linked)
        world.apply()

    def _release(self) -> None:
        self._new_build(self._random.choice(sorted(self._world.config)), bad=self._random.random() < 0.75)

    def _new_build(self, name: str, *, bad: bool) -> None:
        world = self._world
        self._count += 1
        good = world.programs[name].behaviour
        directory = f"/srv/{name}/r{self._count}"
        start_s = world.config[name].settings.health.start_s
        world.behaviours[directory] = bad_behaviour(self._random, good, start_s, f"r{self._count}") if bad else good
        self._log("release", (directory, world.behaviours[directory]))
        config = world.config[name]
        config.directory = directory  # a symlink is switched by hand
        if self._random.random() < 0.5:
            command = ("serve", name, str(self._count))
            config.settings = replace(config.settings, launch=_with_command(config.settings.launch, command))
        world.apply()

    def _people(self) -> None:
        """Somebody is at it, wants Reviver's hands off, or begins or ends maintenance."""
        world, random = self._world, self._random
        name = random.choice(sorted(world.config))
        incidents = [p.incident.number for p in world.fleet.programs.values() if p.incident is not None]
        match random.randrange(6):
            case 0 | 1 if incidents:
                world.post(AckAsked(random.choice(incidents), "uid 1000"))
            case 2 | 3:
                world.post(HoldAsked(name, random.uniform(2.0, 40.0), "to look at it", "uid 1000"))
            case 4:
                world.post(HoldEndAsked(name, "uid 1000"))
            case _:
                world.maintain(tuple(each for each in sorted(world.config) if random.random() < 0.3))

    # --- releases behind a symlink

    def _deploy(self) -> None:
        """An operator deploys a release, good or bad, new or one that was there before, or goes back to the last good one."""
        world, random = self._world, self._random
        linked = [name for name in sorted(world.config) if world.config[name].linked and name in world.fleet.programs]
        if not linked:
            return
        name = random.choice(linked)
        program = world.fleet.programs[name]
        match random.randrange(5):
            case 0:
                back = releases.last_good(program)
                if back is not None:
                    self._ask(name, back.directory, back=True)
            case 1:
                known = sorted(d for d in world.behaviours if d.startswith(f"/srv/{name}/") and d != program.build.directory)
                if known:
                    self._ask(name, random.choice(known), back=False)
            case _:
                self._count += 1
                directory, good = f"/srv/{name}/r{self._count}", world.programs[name].behaviour
                start_s = world.config[name].settings.health.start_s
                bad = random.random() < 0.7
                world.behaviours[directory] = bad_behaviour(random, good, start_s, f"r{self._count}") if bad else good
                self._log("release", (directory, world.behaviours[directory]))
                self._ask(name, directory, back=False)

    def _ask(self, name: str, directory: str, *, back: bool) -> None:
        self._world.post(DeployAsked(name, release_of(directory), directory, "uid 1000", back))


def _with_command(launch: LaunchSettings, command: tuple[str, ...]) -> LaunchSettings:
    return replace(launch, command=command)


class Calm:
    """No more faults; an operator mends what only an operator can mend; the rest has to come right by itself."""

    def __init__(self, world: World) -> None:
        self._world = world
        world.calm = True
        world.sick = False
        world.room = True
        world.blind_until = 0.0
        world.processors.set_health(1.0)
        world.tell("# calm", "")
        for site in world.sites.values():
            site.set_database(True)
            site.forgive()
            for server in list(site.servers.values()):
                site.thaw(server, "D")
                if not self._found_when_stopped(server):
                    site.thaw(server, "T")
                if not server.behaviour.probed and server.wedged is not Nature.NONE:
                    site.unwedge(server)  # nobody asks it and nobody waits: it could stay for ever, and rightly
        self.limit_s = max((self._limit_s(p.settings) for p in world.fleet.programs.values()), default=0.0) + 60.0
        self._over = False
        self._operate()

    def over(self) -> None:
        """The operator goes home, and no customer comes any more."""
        self._over = True
        for site in self._world.sites.values():
            site.customers = False

    def _found_when_stopped(self, server: Server) -> bool:
        """Whether the supervisor has to get rid of one in state T by itself."""
        program = self._world.fleet.programs.get(server.id.program)
        return program is not None and program.settings.hang.blocked_s is not None and server.behaviour.probed

    @staticmethod
    def _limit_s(settings: ProgramSettings) -> float:
        """The longest way to health: doubled starts without a look, patience, the slowest pace, and calm."""
        hang, restart = settings.hang, settings.restart
        patience_s = 3 * max(hang.certain_s, hang.blocked_s or 0.0)
        calm_s = 4 * restart.limit_s + 2 * restart.healthy_s + restart.window_s
        lonely_s = (settings.instances + settings.relief.extra) * TRY_AGAIN_S if hang.blocked_s else 0.0  # all waited for one peer
        return 16 * settings.health.start_s + patience_s + 2 * settings.grace_s + calm_s + lonely_s

    def _operate(self) -> None:
        world = self._world
        if self._over:
            return
        world.maintain(())
        for name, program in list(world.fleet.programs.items()):
            world.sites[name].mend_loops()
            if program.hold is not None:
                world.post(HoldEndAsked(name, "uid 1000"))
            if self._beyond_healing(program):
                plan = world.programs[name]
                world.tell("# a good release", name)
                fixed = replace(world.config[name].settings, launch=plan.settings.launch)
                world.config[name] = Config(fixed, plan.directory, plan.linked)
                world.apply()
            suspected = any(i.state is State.SUSPECT for i in program.instances)
            half_open = any(
                server.half_open for server in world.sites[name].servers.values()
            )  # one is tried each five minutes, or none
            if suspected and (program.settings.hang.act == "tell" or half_open):
                world.post(RestartAsked(name, at_once=True))
        world.agenda.after(CALM_OPERATOR_S, self._operate)

    def _beyond_healing(self, program: Program) -> bool:
        """Its build can never serve, and there is none to go back to by itself."""
        name = program.settings.name
        changed = program.build.directory != self._world.programs[name].directory
        build = self._world.behaviours[program.build.directory]
        slow = build.boot_s > program.settings.health.start_s / 2
        doubtful = build.hopeless or build.loops > 0 or build.boot_crash > 0 or slow
        alone = program.trial is None or not program.settings.release.rollback
        return changed and doubtful and alone and name in self._world.config


def not_converged(world: World) -> str:
    """What is not as it should be after calm; "" when all is."""
    if not world.up:
        return "no supervisor"
    for name, program in world.fleet.programs.items():
        if (config := world.config.get(name)) is not None and config.linked and config.directory != program.build.directory:
            return f"{name}: its link names {config.directory}, and {program.build.directory} serves"
        if program.instances and world.behaviours[program.build.directory].life_s is not None:
            return f"{name}: it serves, and will crash again"
        if problem := _program_problem(program, world.sites[name]):
            return f"{name}: {problem}"
    return ""


def _program_problem(program: Program, site: Site) -> str:
    up = program.wanted is Wanted.UP and not program.removed
    wanted = max(0, program.settings.instances - program.resting) if up else 0
    states = [i.state.value for i in program.instances]
    if states != ["ready"] * wanted:
        return f"{wanted} should be ready, and its instances are {states}"
    if any(i.replace for i in program.instances) or program.proposed is not None:
        return "another should stand in the place of one"
    if program.removed:
        return "it was removed and is still there"
    living = {server.id: server for server in site.servers.values() if server.alive}
    if set(living) != {i.id for i in program.instances}:
        return f"{sorted(living)} live in truth"
    if mute := [str(s.id) for s in living.values() if s.behaviour.probed and not s.capable and not s.serving]:
        return f"{mute} do not serve in truth"
    if program.incident is not None or program.facts or program.notes:
        return f"the incident is not over: {program.incident}, facts {program.facts}"
    return ""
