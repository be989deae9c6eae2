"""The command line: ``allranks run``, ``env`` and ``migrate``; more is in ``_job_commands``."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from allranks._job_commands import bench, doctor, dump, status
from allranks._launch.local_world import local_world
from allranks._launch.rank_process import Program
from allranks._launchers.description import description
from allranks._launchers.detect import detect
from allranks._launchers.world import World
from allranks._rendezvous import ports
from allranks._rendezvous.address_board import SET_ADDRESS
from allranks._system import cpus, interpreter, numa, streams, variables
from allranks._system.printable import printable
from allranks._system.version import __version__
from allranks.errors import AllranksError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.table import Table

    from allranks._migrate.project import Source

WIDTH_OF_A_FILE = 160
"""Columns of a table that goes into a file or a pipe."""

INTERPRETER = re.compile(r"(^|/)(python[\d.]*|pypy3?)(\.exe)?$")

NUMBER_OF_RANKS = ("np", "nproc_per_node", "num_processes", "ntasks")
"""How mpirun, torchrun, accelerate and srun ask for ranks, which here is -n."""

OTHER_HOSTS = ("nnodes", "node_rank", "nodes", "num_machines", "machine_rank")
"""How they ask for several hosts."""


class _FailingClosed(click.Group):
    """Commands whose exported lines end in ``false``, whatever has gone wrong."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run a command; ``eval "$(allranks env --export)" && ...`` goes no further if it fails."""
        owner = os.getpid()
        try:
            return super().main(*args, **more)
        except BaseException as error:
            failed = not isinstance(error, SystemExit) or error.code
            if failed and "--export" in sys.argv and os.getpid() == owner:  # And no rank's option.
                click.echo("false")
            raise

    def format_epilog(self, _: click.Context, formatter: click.HelpFormatter) -> None:
        """Tell the variables after the commands."""
        with formatter.section("Environment variables"):
            formatter.write_dl([*variables.OF_USERS.items()])


@click.group(cls=_FailingClosed, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="allranks")
def main() -> None:
    """PyTorch's process group, up under any launcher."""
    streams.open_closed_streams()


def _refuse_spelling(_: click.Context, option: click.Parameter, value: str | None) -> None:
    """Say what stands for another launcher's option here."""
    if value is None:
        return
    if option.name in OTHER_HOSTS:
        number = "-n says how many ranks start, all of them on this host. For several hosts, start"
        hint = f"{number} the script itself with torchrun, srun, mpirun, Ray or Kubernetes"
    else:
        hint = f"write -n {value if value.isdecimal() else 'and a number'}"
    raise click.UsageError(f"No such option '{option.opts[0]}'; {hint}.")


def _with_spellings_of_others(command: Callable[..., None]) -> Callable[..., None]:
    """With the options of other launchers, hidden, each of which says what to write instead."""
    for name in (*NUMBER_OF_RANKS, *OTHER_HOSTS):
        dashed = f"--{name.replace('_', '-')}"
        spellings = dict.fromkeys([dashed, f"--{name}", "-np" if name == "np" else dashed])
        hidden = click.option(
            *spellings, hidden=True, expose_value=False, callback=_refuse_spelling
        )
        command = hidden(command)
    return command


@main.command(context_settings={"allow_interspersed_args": False})
@_with_spellings_of_others
@click.option("-n", "--ranks", type=click.IntRange(min=1), required=True, help="How many ranks.")
@click.option("-m", "--module", is_flag=True, help="TARGET is a module's name.")
@click.option("--spawn", is_flag=True, help="Start fresh interpreters; the default is to fork.")
@click.option("--quiet-ranks", is_flag=True, help="Show the output of rank 0 only.")
@click.option("--no-fold", is_flag=True, help="Show every line, also where ranks print alike.")
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    ranks: int,
    module: bool,
    spawn: bool,
    quiet_ranks: bool,
    no_fold: bool,
    target: str,
    arguments: tuple[str, ...],
) -> None:
    """Run TARGET, a script, as N ranks on this host; ARGUMENTS are its own.

    torch is imported once and the ranks are forked. When one rank fails, the others are ended,
    its traceback is shown last, and its exit code is the command's.
    """
    if not module and INTERPRETER.search(target) and shutil.which(target):
        raise click.BadParameter(
            f"leave {target!r} out: the command starts the interpreter by itself, as in `allranks "
            f"run -n {ranks} {shlex.join(arguments) or 'train.py'}`",
            param_hint="TARGET",
        )
    if not module and not os.path.exists(target):  # noqa: PTH110 - a path or a zip, as python
        raise click.BadParameter(f"{target!r} does not exist", param_hint="TARGET")
    interpreter.forget_first_place()
    from allranks._launch import child_rank
    from allranks._launch.job_outcome import explain
    from allranks._launch.rank_output import RankOutput
    from allranks._launch.received_signals import exit_at_interrupt
    from allranks._launch.supervisor import Supervisor
    from allranks._launch.template import preload

    program = Program(target, arguments, module, interpreter.has_safe_path())
    output = RankOutput(ranks, quiet=quiet_ranks, fold=not no_fold)
    supervisor = Supervisor(output.write, output.show_due)
    try:
        if not spawn:
            with exit_at_interrupt():
                preload()
        with local_world(ranks) as environs:
            outcome = supervisor.watch(
                lambda reaper: child_rank.start(program, environs, reaper, spawn=spawn)
            )
    except (AllranksError, OSError) as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    output.show_all()
    if outcome.first:
        output.show_unseen(outcome.first.rank)
    explain(outcome)
    raise SystemExit(outcome.exit_code)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--export", is_flag=True, help="As `export RANK=...` lines, for a shell's eval.")
def env(as_json: bool, export: bool) -> None:
    """Show which launcher was detected, from which variables, and why the rest was ignored.

    With --export, a program that knows nothing but RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
    runs under any launcher, and does not start where this command fails or is missing:

    \b
        srun bash -c 'v=$(allranks env --export) && eval "$v" && exec python train.py'
    """  # noqa: D301 - click looks for this character
    try:
        world = detect(os.environ)
        exported = _exported(world) if export else ""
        shown_cpus = [] if export or as_json else _shown_cpus(world)
    except AllranksError as error:
        raise click.ClickException(printable(str(error))) from error
    misspelt = [f"warning: {line}" for line in variables.misspelt(os.environ)]
    if export or as_json:
        for line in misspelt:
            click.echo(f"allranks: {printable(line)}", err=True)
        click.echo(exported if export else json.dumps(asdict(world), indent=2))
        return
    from rich.text import Text

    streams.escape_what_cannot_be_encoded()
    console = streams.console(stderr=False)
    for part in description(world, os.environ, shown_cpus):
        console.print(part)
    for line in misspelt:
        console.print(Text(printable(line)))


@main.command()
@click.option("--diff", "as_diff", is_flag=True, help="As a patch for review.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def migrate(as_diff: bool, as_json: bool, files: tuple[str, ...]) -> None:
    """Say for each function of somebody's dist_utils.py what to write instead, and where.

    FILE is read by its syntax tree, and never run; "-" is the standard input, and of a directory
    all files of Python are read. Give the files that import from it, too, or their directory, and
    each line in them is told that calls one of its functions:
    `allranks migrate .`

    A patch (--diff) makes each function that is recognised a call of allranks, so that all who call
    it can stay, and says under it what it leaves as it is:
    `allranks migrate --diff utils/misc.py > migrate.patch`.
    """
    from allranks._migrate.call_sites import call_sites
    from allranks._migrate.project import Project
    from allranks._migrate.report import as_text, diff, programs_report

    streams.escape_what_cannot_be_encoded()
    sources, failed = _sources(files)
    if as_diff:
        click.echo("".join(map(diff, sources)), nl=False)
        raise SystemExit(2 if failed else 0)
    sites = call_sites(Project(sources))
    if as_json:
        click.echo(json.dumps(programs_report(sites), indent=2))
    else:
        _show(as_text(sites, _width()))
    raise SystemExit(2 if failed else 0)


def _sources(files: Sequence[str]) -> tuple[list[Source], bool]:
    """The files that could be read, each once, and whether one could not."""
    from allranks._migrate.project import source_of
    from allranks._migrate.reading import NotReadError, read

    found: dict[str, Source] = {}
    failed = False
    for name, asked in _names(files):
        path = None if name == "-" else Path(name)
        key = str(path.resolve()) if path else name
        try:
            if key not in found:
                found[key] = source_of(name, path, read(_content(name)), asked=asked)
        except (NotReadError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else f"is no Python: {error}"
            click.echo(printable(f"allranks: {name}: {why}"), err=True)
            failed = True
    return list(found.values()), failed


def _names(files: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """The files, with those of directories; and whether one was given by itself."""
    from allranks._migrate.project import python_files

    for name in files:
        if name != "-" and Path(name).is_dir():
            yield from ((str(one), False) for one in python_files(Path(name)))
        else:
            yield name, True


def _content(name: str) -> bytes:
    return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()


def _width() -> int:
    console = streams.console(stderr=False)
    return console.width if console.is_terminal else max(console.width, WIDTH_OF_A_FILE)


def _show(parts: Iterator[Table | str]) -> None:
    from rich.text import Text

    console = streams.console(stderr=False)
    console.width = _width()
    for part in parts:
        shown = Text(part) if isinstance(part, str) else part
        console.print(shown, soft_wrap=isinstance(part, str))


def _shown_cpus(world: World) -> list[tuple[str, str]]:
    """Where this process may run, and what ALLRANKS_BIND would make of it."""
    shown = [("cpus", numa.described(cpus.affinity()))]
    if os.environ.get(variables.BIND):
        from allranks._process_group import binding, settings

        shown.append((variables.BIND, f"{settings.read(None, {}).bind}: {binding.foreseen(world)}"))
    return shown


def _exported(world: World) -> str:
    """The world as lines of a shell script."""
    variables = world.environ(ports.allowed(os.environ))
    if "MASTER_ADDR" not in variables:
        raise ConfigError(
            f"launcher {world.launcher}, rank {world.rank} of {world.world_size}: nothing tells "
            f"on which host rank 0 runs: {SET_ADDRESS}."
        )
    if not world.master_port and ":" not in world.job and world.world_size > 1:
        click.echo(
            "allranks: warning: nothing tells this job from others of its launcher, so that two of "
            "them on one host would use one port; ALLRANKS_JOB or MASTER_PORT keeps them apart.",
            err=True,
        )
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


for command in (status, dump, doctor, bench):
    main.add_command(command)


if __name__ == "__main__":
    main(prog_name="allranks")
