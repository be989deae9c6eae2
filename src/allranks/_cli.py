"""The command line: ``allranks run`` and ``allranks env``."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from allranks._launch.local_world import local_world
from allranks._launch.rank_process import Program
from allranks._launchers.detect import detect, told_by
from allranks._launchers.world import World
from allranks._rendezvous import ports
from allranks._rendezvous.address_board import SET_ADDRESS
from allranks._system import interpreter, processes, streams
from allranks._system.printable import printable
from allranks._system.typed_json import plain
from allranks._system.version import __version__
from allranks._system.words import ranges
from allranks.errors import AllranksError, ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from allranks._launch.child_rank import ChildRank
    from allranks._launch.supervisor import JobOutcome

CURSOR_MOVES = re.compile(rb"\x1b\[\d*[A-HJK]")
UNSEEN = 4096
COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")


class _FailingClosed(click.Group):
    """Commands whose exported lines end in ``false``, whatever has gone wrong."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run a command; ``eval "$(allranks env --export)" && ...`` goes no further if it fails."""
        try:
            return super().main(*args, **more)
        except BaseException as error:
            failed = not isinstance(error, SystemExit) or error.code
            if failed and "--export" in sys.argv:
                click.echo("false")
            raise


@click.group(cls=_FailingClosed, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="allranks")
def main() -> None:
    """PyTorch's process group, up under any launcher."""
    streams.open_closed_streams()


@main.command(context_settings={"allow_interspersed_args": False})
@click.option("-n", "--ranks", type=click.IntRange(min=1), required=True, help="How many ranks.")
@click.option("-m", "--module", is_flag=True, help="TARGET is a module's name.")
@click.option("--spawn", is_flag=True, help="Start fresh interpreters; the default is to fork.")
@click.option("--quiet-ranks", is_flag=True, help="Show the output of rank 0 only.")
@click.argument("target")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(
    ranks: int,
    module: bool,
    spawn: bool,
    quiet_ranks: bool,
    target: str,
    arguments: tuple[str, ...],
) -> None:
    """Run TARGET, a script, as N ranks on this host; ARGUMENTS are its own.

    torch is imported once and the ranks are forked. When one rank fails, the others are ended,
    its traceback is shown last, and its exit code is the command's.
    """
    if not module and not os.path.exists(target):  # noqa: PTH110 - a path or a zip, as python
        raise click.BadParameter(f"{target!r} does not exist", param_hint="TARGET")
    interpreter.forget_first_place()
    from allranks._launch import child_rank
    from allranks._launch.supervisor import Supervisor
    from allranks._launch.template import preload

    program = Program(target, arguments, module, interpreter.has_safe_path())
    output = RankOutput(ranks, quiet=quiet_ranks)
    supervisor = Supervisor(output.write)
    try:
        if not spawn:
            preload()
        with local_world(ranks) as environs:
            outcome = supervisor.watch(
                lambda reaper: child_rank.start(program, environs, reaper, spawn=spawn)
            )
    except AllranksError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    if outcome.first:
        output.show_unseen(outcome.first.rank)
    _explain(outcome)
    raise SystemExit(outcome.exit_code)


class RankOutput:
    """Passes on what the ranks write, line by line, each with its rank before it."""

    def __init__(self, ranks: int, *, quiet: bool = False) -> None:
        """Prepare the two streams.

        Args:
            ranks: how many ranks there are.
            quiet: pass on rank 0's output only.
        """
        self._quiet = quiet
        self._width = len(str(ranks - 1))
        self._lines = streams.LineSplitter()
        self._unseen: dict[tuple[int, int], bytes] = {}
        self._prefixes = {
            (rank, stream): self._prefix(rank, console)
            for stream, console in ((1, _console(stderr=False)), (2, _console(stderr=True)))
            for rank in range(ranks)
        }

    def _prefix(self, rank: int, console: Console) -> bytes:
        bar = streams.bar(console.file)
        with console.capture() as capture:
            style = COLOURS[rank % len(COLOURS)]
            console.print(f"{rank:>{self._width}}{bar} ", style=style, end="", highlight=False)
        return capture.get().encode(console.encoding)

    def write(self, rank: int, stream: int, text: bytes) -> None:
        """Take what a rank wrote to a stream; an empty text ends the stream."""
        key = (rank, stream)
        if self._quiet and rank > 0:
            self._unseen[key] = (self._unseen.get(key, b"") + text)[-UNSEEN:]
            return
        out = sys.stdout.buffer if stream == 1 else sys.stderr.buffer
        for line in self._lines.split(key, text):
            self._put(out, key, line)
        rest = self._lines.unfinished[key]
        if b"\r" in rest:
            rest[:] = self._show_progress(out, bytes(rest))
        out.flush()

    def show_unseen(self, rank: int) -> None:
        """Show the end of what a quiet rank wrote to its standard error, since it failed."""
        for line in self._unseen.pop((rank, 2), b"").splitlines():
            self._put(sys.stderr.buffer, (rank, 2), line)
        sys.stderr.buffer.flush()

    def _put(self, out: BinaryIO, key: tuple[int, int], line: bytes) -> None:
        """A line that was redrawn, as by a progress bar, is shown as it stood at last."""
        *_, last = line.rstrip(b"\r\n").split(b"\r")
        text = CURSOR_MOVES.sub(b"", last)
        if last and not text:
            return
        clear = b"\r\x1b[2K" if out.isatty() else b""
        out.write(clear + self._prefixes[key] + text + b"\n")

    def _show_progress(self, out: BinaryIO, rest: bytes) -> bytes:
        """Redraw an unfinished line, on a terminal; nothing but its last state is kept."""
        before, carriage_return, last = rest.rpartition(b"\r")
        if out.isatty() and carriage_return and (last or before):
            out.write(b"\r" + (last or before.rpartition(b"\r")[2]))
        if not carriage_return:
            return rest
        return b"\r" + last if last else before.rpartition(b"\r")[2] + b"\r"


def _console(*, stderr: bool) -> Console:
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True, markup=False, emoji=False)


def _explain(outcome: JobOutcome) -> None:
    """Say how the job failed; the first failing rank's traceback stands last."""
    console = _console(stderr=True)
    if outcome.signal is not None:
        name = signal.Signals(outcome.signal).name
        console.print(f"allranks: all ranks ended, after {name}", style="yellow")
    if outcome.first is None or (outcome.signal is not None and not outcome.first.failure):
        return
    if outcome.first.lost_peers and outcome.done:
        console.print(f"allranks: before, {_told_done(outcome.done)}")
    for told in _told_once(outcome.first, outcome.others):
        console.print(f"allranks: {told}")
    first = f"rank {outcome.first.rank} (pid {outcome.first.pid})"
    console.print(f"allranks: {first} {_how(outcome.first)}", style="bold red")
    if outcome.first.failure:
        console.print(printable(outcome.first.failure.traceback), end="")


def _told_done(done: tuple[ChildRank, ...]) -> str:
    gone = ranges(rank.rank for rank in done)
    return f"rank{'s' * (len(done) > 1)} {gone} had left with exit code 0, which the others missed"


def _told_once(first: ChildRank, others: tuple[ChildRank, ...]) -> list[str]:
    """How the others failed; those that failed in one way in one sentence."""
    by_way: dict[str, list[int]] = {}
    for rank in others:
        way = "failed in the same way" if _how(rank) == _how(first) else _how(rank)
        by_way.setdefault(way, []).append(rank.rank)
    return [
        f"after rank {first.rank}, rank{'s' * (len(who) > 1)} {ranges(who)} {way}"
        for way, who in by_way.items()
    ]


def _how(rank: ChildRank) -> str:
    if rank.failure and not rank.is_leaving:
        return f"failed: {printable(rank.failure.summary)}"
    status = rank.exit_code if rank.is_leaving else rank.status or 0
    if status < 0:
        hint = "; out of memory?" if status == -signal.SIGKILL else ""
        return f"was ended by {processes.signal_name(-status)}{hint}"
    return f"left with exit code {status}"


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--export", is_flag=True, help="As `export RANK=...` lines, for a shell's eval.")
def env(as_json: bool, export: bool) -> None:
    r"""Show which launcher was detected, from which variables, and why the rest was ignored.

    With --export, a program that knows nothing but RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT
    runs under any launcher, and does not start where this command fails or is missing:

    \b
        srun bash -c 'v=$(allranks env --export) && eval "$v" && exec python train.py'
    """
    try:
        world = detect(os.environ)
        exported = _exported(world) if export else ""
    except AllranksError as error:
        raise click.ClickException(printable(str(error))) from error
    if export:
        click.echo(exported)
        return
    if as_json:
        click.echo(json.dumps(asdict(world), indent=2))
        return
    from rich.table import Table
    from rich.text import Text

    streams.escape_what_cannot_be_encoded()
    told = [name for name in told_by(world.launcher) if name in os.environ]
    table = Table("fact", "value", title=f"launcher: {world.launcher}", title_justify="left")
    for name, value in asdict(world).items():
        if name not in ("launcher", "notes") and value not in (None, "", ()):
            table.add_row(name, Text(printable(str(value))))
    console = _console(stderr=False)
    console.print(table)
    if told:
        pairs = ", ".join(f"{name}={plain(os.environ[name]):.60}" for name in told)
        console.print(Text(printable(f"told by: {pairs}")))
    for note in world.notes:
        console.print(Text(printable(f"note: {note}")))


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


if __name__ == "__main__":
    main(prog_name="allranks")
