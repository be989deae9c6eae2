"""A child process that runs one rank of ``allranks run``, and how it is started: fork or spawn."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from allranks._launch import rank_process
from allranks._launch.leaving import exit_after
from allranks._launch.template import become_a_fresh_process, threads_each
from allranks._system import interpreter
from allranks._watch.failures import LOST_PEERS

if TYPE_CHECKING:
    from allranks._launch.rank_process import FailureReport, Program
    from allranks._launch.session_reaper import SessionReaper


@dataclass
class ChildRank:
    """A rank's process, as its parent sees it.

    Attributes:
        rank: its rank.
        pid: its process id, which is its process group's too.
        pipes: where it writes: standard output, standard error, its failure.
        status: how it ended: an exit code, or minus a signal's number; None while it runs.
        ended: when it ended, on the monotonic clock.
        failure: what it reported.
    """

    rank: int
    pid: int
    pipes: tuple[int, int, int]
    status: int | None = None
    ended: float = 0.0
    failure: FailureReport | None = None
    report: bytes = field(default=b"", repr=False)

    @property
    def exit_code(self) -> int:
        """Its exit code, as a shell shows it."""
        if self.failure:
            return self.failure.code  # Even if a signal met it on its way out.
        status = self.status or 0
        return 128 - status if status < 0 else status

    @property
    def is_leaving(self) -> bool:
        """Whether its program has asked to leave, with an exit code that tells of a failure."""
        return self.failure is not None and not self.failure.traceback

    @property
    def has_raised(self) -> bool:
        """Whether its program has failed with an exception."""
        return self.failure is not None and not self.is_leaving

    @property
    def lost_peers(self) -> bool:
        """Whether it failed because another rank was gone."""
        return bool(self.failure and LOST_PEERS.search(self.failure.summary))

    @property
    def is_victim(self) -> bool:
        """Whether another rank's failure came before."""
        return self.lost_peers or bool(self.failure and self.failure.repeated)

    @property
    def failed_at(self) -> float:
        """When it failed, on the monotonic clock: as it reported, else when it ended."""
        return self.failure.at if self.failure else self.ended


def start(
    program: Program, environs: list[dict[str, str]], reaper: SessionReaper, *, spawn: bool = False
) -> list[ChildRank]:
    """Start all ranks of a job on this host; in a forked rank this call does not return.

    Args:
        program: what they run.
        environs: each rank's own variables.
        reaper: is told of each.
        spawn: start fresh interpreters instead of forking this one.
    """
    begin = _spawn if spawn else _fork
    ranks = []
    for number, own in enumerate(environs):
        ranks.append(begin(program, number, {**own, **_terminal()}, reaper))
        reaper.tell(ranks[-1].pid)
    return ranks


def _terminal() -> dict[str, str]:
    """Lets rich draw progress bars in a rank, whose output is a pipe to our terminal."""
    if not sys.stderr.isatty():
        return {}
    columns = shutil.get_terminal_size().columns
    return {"TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "COLUMNS": str(columns)}


def _fork(program: Program, rank: int, environ: dict[str, str], reaper: SessionReaper) -> ChildRank:
    """What is in our own streams is written first, else each child would write it again."""
    pipes, writers = _pipes()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        rank_process.die_with_parent(parent)
        reaper.forget()
        for pipe in pipes:
            os.close(pipe)
        stdin = rank == 0 and sys.stdin is not None and not sys.stdin.isatty()
        become_a_fresh_process(int(environ["WORLD_SIZE"]), writers[:2], keep_stdin=stdin)
        exit_after(lambda: rank_process.become(program, environ, writers[2]))
    for pipe in writers:
        os.close(pipe)
    return ChildRank(rank, pid, pipes)


def _pipes() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    (out_r, out_w), (err_r, err_w), (report_r, report_w) = os.pipe(), os.pipe(), os.pipe()
    return (out_r, err_r, report_r), (out_w, err_w, report_w)


def _spawn(program: Program, rank: int, environ: dict[str, str], _: SessionReaper) -> ChildRank:
    pipes, writers = _pipes()
    threads = threads_each(int(environ["WORLD_SIZE"]))
    order = {
        "parent": os.getpid(),
        "program": asdict(program),
        "environ": environ,
        "report_to": writers[2],
    }
    main = "from allranks._launch import rank_process; rank_process.main()"
    process = subprocess.Popen(  # noqa: S603 - this very interpreter
        interpreter.command(main, json.dumps(order), options=["-u"]),
        env={**os.environ, **environ, "OMP_NUM_THREADS": str(threads)},
        stdin=None if rank == 0 and not sys.stdin.isatty() else subprocess.DEVNULL,
        stdout=writers[0],
        stderr=writers[1],
        pass_fds=[writers[2]],
        start_new_session=True,
    )
    process.returncode = 0  # It is reaped by its pid, with the others.
    for pipe in writers:
        os.close(pipe)
    return ChildRank(rank, process.pid, pipes)
