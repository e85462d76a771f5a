"""The operator's door: parses the command line and calls `supervisor.commands`. No logic.

Each verb imports its own module inside its function, for start-up time: `reviver status` is run in loops and prompts, and pays for no
other verb. What goes wrong is said in one place, in one sentence; nobody sees a traceback.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from supervisor import __version__
from supervisor.commands import Refusal

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

FAILED = 1
INTERRUPTED = 130  # 128 + SIGINT, as shells say it

Names = tuple[str, ...]


def _nearest(context: click.Context, _: click.Parameter, value: str | None) -> str | None:
    """`--config` may stand before the verb or after it."""
    outer: str | None = context.find_root().params.get("config")
    return value or outer


def _complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """Names of programs for the shell; none where no daemon answers."""
    from supervisor.commands.complete import names

    return names(context.params.get("config"), incomplete)


def _complete_release(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """A program's name first, and a directory."""
    from click.shell_completion import CompletionItem

    folders = click.Path(file_okay=False).shell_complete(context, parameter, incomplete)
    names = [] if context.params.get("words") else _complete(context, parameter, incomplete)
    return [*(CompletionItem(name) for name in names), *folders]


CONFIG = click.option("--config", metavar="FILE", callback=_nearest, help="The configuration (else: see `reviver --help`).")
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON object, for scripts.")
NO_WAIT = click.option("--no-wait", is_flag=True, help="Ask, and do not wait until it is so.")
NAME = click.argument("name", shell_complete=_complete)
NAMES = click.argument("names", nargs=-1, required=True, metavar="NAME... | all", shell_complete=_complete)
ANY_NAMES = click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=_complete)
FOLLOW = click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")

EPILOG = """\b
Without --config: $REVIVER_CONFIG, ./config.toml, $XDG_CONFIG_HOME/reviver/config.toml, /etc/reviver/config.toml.
Exit codes: 0 done, 1 refused or failed, 2 usage, 3 not running, or no daemon answers, 4 no such program, 78 bad configuration.
Completion: eval "$(_REVIVER_COMPLETE=bash_source reviver)", or zsh_source, fish_source."""


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@CONFIG
@click.version_option(__version__, prog_name="reviver", message="%(prog)s %(version)s")
def reviver(config: str | None) -> None:
    """Keep servers alive: find hung ones, relieve them before customers notice, and say why."""


@reviver.command()
@CONFIG
@click.option("--exit-with", metavar="NAME", default="", help="End when this program has, with its exit code (for containers).")
def run(config: str | None, exit_with: str) -> None:
    """Supervise the configured programs, in the foreground."""
    from supervisor.commands.run import run

    run(config, exit_with)


@reviver.command(short_help="Validate the configuration, run the preflights.")
@CONFIG
@JSON
def check(config: str | None, as_json: bool) -> int:
    """Validate the configuration and run the preflights; change nothing."""
    from supervisor.commands.check import check

    return check(config, as_json)


@reviver.command()
@CONFIG
@JSON
def plan(config: str | None, as_json: bool) -> int:
    """Say what taking up the changed configuration would do."""
    from supervisor.commands.plan import plan

    return plan(config, as_json)


@reviver.command(short_help="Take up the changed configuration.")
@CONFIG
@JSON
@NO_WAIT
def apply(config: str | None, as_json: bool, no_wait: bool) -> int:
    """Take up the changed configuration; only programs it touches move."""
    from supervisor.commands.plan import apply

    return apply(config, not no_wait, as_json)


@reviver.command()
@CONFIG
@JSON
@ANY_NAMES
def status(config: str | None, as_json: bool, names: Names) -> int:
    """How the programs are; exits 3 when one does not run."""
    from supervisor.commands.status import status

    return status(config, names, as_json)


@reviver.command()
@CONFIG
@NO_WAIT
@NAMES
def start(config: str | None, no_wait: bool, names: Names) -> int:
    """Start programs, now, whatever their backoff says."""
    from supervisor.commands.act import act

    return act(config, "start", {"names": names, "wait": not no_wait})


@reviver.command(short_help="Stop programs: signal, grace, then SIGKILL.")
@CONFIG
@NO_WAIT
@NAMES
def stop(config: str | None, no_wait: bool, names: Names) -> int:
    """Stop programs: their stop signal, the grace, then SIGKILL to what is left."""
    from supervisor.commands.act import act

    return act(config, "stop", {"names": names, "wait": not no_wait})


@reviver.command(short_help="Replace all instances, one after the other.")
@CONFIG
@NO_WAIT
@click.option("--now", is_flag=True, help="Do not wait until the new ones are ready before the old ones go.")
@NAMES
def restart(config: str | None, no_wait: bool, now: bool, names: Names) -> int:
    """Replace all instances; where two can live, the new one is ready before the old one goes."""
    from supervisor.commands.act import act

    return act(config, "restart", {"names": names, "wait": not no_wait, "now": now})


@reviver.command(short_help="The program's own reload: a signal or a restart.")
@CONFIG
@NO_WAIT
@NAMES
def reload(config: str | None, no_wait: bool, names: Names) -> int:
    """The program's own reload: its signal, or a restart one instance after the other."""
    from supervisor.commands.act import act

    return act(config, "reload", {"names": names, "wait": not no_wait})


@reviver.command()
@CONFIG
@click.argument("signal", metavar="SIGNAL")
@NAMES
def signal(config: str | None, signal: str, names: Names) -> int:
    """Send a signal, such as HUP or USR1, to every instance."""
    from supervisor.commands.act import act

    return act(config, "signal", {"signal": signal, "names": names})


@reviver.command(short_help="Run another release: preflight, switch, one by one.")
@CONFIG
@NO_WAIT
@click.option("--again", is_flag=True, help="Also one that failed before.")
@click.argument("words", nargs=-1, required=True, metavar="[NAME] PATH", shell_complete=_complete_release)
def deploy(config: str | None, no_wait: bool, again: bool, words: Names) -> int:
    """Run the release in the directory PATH: preflight there, the symlink switched, one instance after the other, probation.

    NAME may be left out where only one program's directory is a symlink; PATH may be a name beside the release that runs.
    """
    from supervisor.commands.releases import deploy

    return deploy(config, words, again, not no_wait)


@reviver.command(short_help="Run the last good release again.")
@CONFIG
@NO_WAIT
@click.argument("name", required=False, default="", shell_complete=_complete)
def rollback(config: str | None, no_wait: bool, name: str) -> int:
    """Run the last good release again. What the other one changed in a database stays changed."""
    from supervisor.commands.releases import rollback

    return rollback(config, name, not no_wait)


@reviver.command(short_help="Which releases ran, and what became of them.")
@CONFIG
@JSON
@ANY_NAMES
def releases(config: str | None, as_json: bool, names: Names) -> int:
    """Which releases ran, since when, by whom, and what became of them."""
    from supervisor.commands.releases import releases

    return releases(config, names, as_json)


@reviver.command(short_help="Run the code that is installed now; programs go on.")
@CONFIG
def upgrade(config: str | None) -> int:
    """Have the running supervisor give way to the code that is installed now. All programs go on."""
    from supervisor.commands.upgrade import upgrade

    return upgrade(config)


@reviver.command()
@CONFIG
@FOLLOW
@click.option(
    "-n", "lines", type=click.IntRange(0, 1_000_000), help="So many lines of the past: 20, or with --since or --grep all."
)
@click.option(
    "--since",
    metavar="WHEN",
    help="What was written since then, e.g. 10m or 2026-01-01T10:00:00Z, by the time that each line says. Of a file whose lines say none, "
    "all is shown if its last line is recent enough; timestamps = true in the configuration is exact.",
)
@click.option("--grep", metavar="REGEX", help="Only the lines in which it is found (a Python regular expression).")
@NAME
def logs(config: str | None, follow: bool, lines: int | None, since: str | None, grep: str | None, name: str) -> int:
    """What a program and all its instances wrote to stdout and stderr."""
    from supervisor.commands.logs import logs

    return logs(config, name, lines, since, grep, follow)


@reviver.command()
@CONFIG
@JSON
@FOLLOW
@click.option("-n", "lines", type=click.IntRange(0, 10_000), default=20, show_default=True, help="So many lines of the past.")
@click.argument("name", required=False, default="", shell_complete=_complete)
def events(config: str | None, as_json: bool, follow: bool, lines: int, name: str) -> int:
    """What Reviver saw and did. With --json one object a line."""
    from supervisor.commands.events import events

    return events(config, name, lines, follow, as_json)


@reviver.command(short_help="Why it is so, what was tried, what comes next.")
@CONFIG
@JSON
@NAME
def explain(config: str | None, as_json: bool, name: str) -> int:
    """Why a program is in its state, what was tried, what comes next and when."""
    from supervisor.commands.explain import explain

    return explain(config, name, as_json)


@reviver.command(short_help="What was wrong: the newest incidents.")
@CONFIG
@JSON
@click.option("-n", "lines", type=click.IntRange(0, 10_000), default=20, show_default=True, help="So many, the newest first.")
@click.option("--drills", "of_drills", is_flag=True, help="Those of drills, which never stand among the others.")
@click.argument("name", required=False, default="", shell_complete=_complete)
def incidents(config: str | None, as_json: bool, lines: int, of_drills: bool, name: str) -> int:
    """What was wrong, of all programs or of one; also where no daemon runs."""
    from supervisor.commands.incidents import drills, incidents

    return drills(config, name, lines, as_json) if of_drills else incidents(config, name, lines, as_json)


@reviver.command(short_help="One incident: what, why, who was told, what comes next.")
@CONFIG
@JSON
@click.option("-n", "lines", type=click.IntRange(0, 10_000), default=20, show_default=True, help="So many lines of what happened.")
@click.argument("which", metavar="ID")
def incident(config: str | None, as_json: bool, lines: int, which: str) -> int:
    """What is wrong, since when, who is affected, why, what was done, what comes next, who was told; also where no daemon runs."""
    from supervisor.commands.incidents import incident

    return incident(config, which, lines, as_json)


@reviver.command(short_help="Write the postmortem of an incident.")
@CONFIG
@click.option(
    "--html",
    "target",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    help="Write a page with a drawn timeline into this new file.",
)
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
def postmortem(config: str | None, target: str | None, ids: Names) -> int:
    """The record of an incident as a document: impact, timeline, cause, resolution, follow-ups, and blanks for what only people know.

    ID is an incident; several of one program make one document. D3 is drill 3, and all its incidents (`reviver incidents --drills`).

    Markdown, unless --html is given; also where no daemon runs.
    """
    from supervisor.commands.postmortem import postmortem

    return postmortem(config, ids, target)


@reviver.command(short_help="Say that you are at it: nobody else is told.")
@CONFIG
@click.argument("numbers", metavar="[ID]...", type=click.IntRange(1), nargs=-1)
def ack(config: str | None, numbers: tuple[int, ...]) -> int:
    """Acknowledge incidents (without ID: the only open one): nobody else is told until it is over, or something new and critical comes.

    Healing goes on.
    """
    from supervisor.commands.incidents import ack

    return ack(config, numbers)


@reviver.command(short_help="Watch a program and do not heal it, for a while.")
@CONFIG
@click.option("--reason", default="", metavar="TEXT", help="Why: it stands in status and in messages.")
@click.option("--end", is_flag=True, help="End it now.")
@NAME
@click.argument("lasts", metavar="[DURATION]", required=False, default="")
def hold(config: str | None, reason: str, end: bool, name: str, lasts: str) -> int:
    """Keep Reviver's hands off a program for a while, such as 20m: it is watched and recorded, and not healed.

    Your own commands work as ever. It ends by itself, and says so.
    """
    from supervisor.commands.incidents import hold

    return hold(config, name, lasts, reason, end)


@reviver.command(short_help="Recorded incidents through other settings.")
@CONFIG
@JSON
@click.option("--days", type=click.FloatRange(0, 36500), help="All recordings of so many days, in place of ID.")
@click.argument("which", metavar="[ID]", required=False)
def replay(config: str | None, days: float | None, as_json: bool, which: str | None) -> int:
    """What today's diagnosis and rules make of a recorded incident, with the settings of --config; nothing is touched.

    --config may name a copy of the configuration in which other settings are tried.
    """
    from supervisor.commands.replay import replay

    return replay(config, which, days, as_json)


@reviver.command()
@JSON
@click.option("--http", metavar="URL", default="", help="Ask this meanwhile: a URL, or a path on its own port.")
@click.option("--inspect", is_flag=True, help="Take node's stack too: opens its inspector to users of this host for 0.2 s.")
@click.argument("pid", type=click.IntRange(1, 2**22))
def diagnose(as_json: bool, http: str, inspect: bool, pid: int) -> int:
    """What any process is doing, whether it hangs, and what you can do; needs no configuration."""
    from supervisor.commands.diagnose import diagnose

    return diagnose(pid, http, inspect, as_json)


@reviver.command()
@CONFIG
@JSON
def doctor(config: str | None, as_json: bool) -> int:
    """What this host allows, and what follows from it."""
    from supervisor.commands.doctor import doctor

    return doctor(config, as_json)


@reviver.command(short_help="A fault on purpose, in a shadow, and a score card.")
@CONFIG
@JSON
@click.option("--tell", is_flag=True, help="Your channels hear of it too, in messages marked DRILL.")
@click.option("--path", default="", metavar="PATH", help="With NAME: what its customers ask for, in the place of health.http.")
@click.option("--peer", default="", metavar="VARIABLE", help="dead-dependency with NAME: where HOST:PORT of the peer stands.")
@click.argument(
    "fault",
    metavar="FAULT",
    type=click.Choice(["hang", "crash", "crash-loop", "bad-release", "slow-boot", "dead-dependency", "leak", "may3"]),
)
@click.argument("name", required=False, default="", shell_complete=_complete)
def drill(config: str | None, as_json: bool, tell: bool, path: str, peer: str, fault: str, name: str) -> int:
    """Practise: a fault in a shadow of the bundled store, under load, with the clock running.

    FAULT is hang, crash, crash-loop, bad-release, slow-boot, dead-dependency or leak.

    With NAME in a shadow of a program that is marked `drill = true`, and never of another.
    may3 is a whole morning in 90 s, or three minutes on a busy host: a release with an endless loop, found, told, taken back,
    mended; a transcript in Markdown.

    The shadow is a Reviver of its own; the one that you run, and its programs, are not touched. It measures how soon the fault was found,
    its cause named, people told, all well again, and what customers noticed; exits 1 when something was not as it should be.
    What was is kept for `incident`, `replay` and `postmortem`: see `reviver incidents --drills`.
    """
    from supervisor.commands.drill import Own, drill, may3

    if (path or peer) and not name:
        raise click.UsageError("--path and --peer are for a program of yours: give its NAME")
    if fault != "may3":
        return drill(config, fault, Own(name, path, peer) if name else None, tell, as_json)
    if name or tell or as_json:
        raise click.UsageError("may3 is played by the bundled store alone, and has one form")
    return may3(config)


@reviver.group()
def alerts() -> None:
    """The ways by which people are told."""


@alerts.command("test", short_help="Send a test message through every channel.")
@CONFIG
@JSON
def alerts_test(config: str | None, as_json: bool) -> int:
    """Send a test message through every channel, stakeholders' too, and say what came back."""
    from supervisor.commands.alerts import test

    return test(config, as_json)


@reviver.group()
def systemd() -> None:
    """Let systemd keep the supervisor alive."""


@systemd.command("show")
@CONFIG
def systemd_show(config: str | None) -> int:
    """Print the unit."""
    from supervisor.commands.systemd import show

    return show(config)


@systemd.command("install")
@CONFIG
@click.option("--force", is_flag=True, help="Also over a unit that somebody has edited.")
def systemd_install(config: str | None, force: bool) -> int:
    """Write the unit, and say what to type next."""
    from supervisor.commands.systemd import install

    return install(config, force)


def main() -> None:
    """The console script."""
    _open_standard_streams()
    sys.exit(_main())


def _open_standard_streams() -> None:
    """Whoever closed one of them gets nothing there: else the next file or socket that is opened would take its number."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            os.set_inheritable(fd, True)  # `run` becomes the daemon, which writes there too
            setattr(sys, name, os.fdopen(fd, "w" if fd else "r", closefd=False))


def _main() -> int:
    """Run the command line and give its exit code. Whatever goes wrong becomes one sentence on stderr."""
    try:
        code = reviver.main(prog_name="reviver", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as problem:
        problem.show()
        return problem.exit_code
    except click.Abort:
        return INTERRUPTED
    except Refusal as problem:
        return _refused(problem)
    except OSError as problem:
        _forget_output()
        if not isinstance(problem, BrokenPipeError):
            where = f" {problem.filename}:" if problem.filename else ""
            sys.stderr.write(f"reviver:{where} {(problem.strerror or str(problem)).lower()}\n")
        return FAILED
    return code if isinstance(code, int) else 0


def _forget_output() -> None:
    """What could not be written is not tried again at exit, where Python would complain in its own words."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _refused(problem: Refusal) -> int:
    from supervisor.commands.screen import remark

    remark(f"reviver: {problem}")
    for detail in problem.details:
        remark(f"  {detail}")
    return problem.code


if __name__ == "__main__":
    main()
