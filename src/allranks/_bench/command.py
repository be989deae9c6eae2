"""``allranks bench``: measure, print, and write the files."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from allranks._bench import compare, picture
from allranks._bench.own_setting import own_device, setting_of
from allranks._bench.results import read_report
from allranks._bench.run import measured_run
from allranks._bench.table import shown
from allranks._process_group.lifecycle import session, world
from allranks._process_group.together import on_master
from allranks._system import streams
from allranks._system.printable import printable
from allranks._system.typed_json import written
from allranks._system.words import tell
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import RenderableType

    from allranks._bench.plan import Plan
    from allranks._bench.results import Report, Setting

ALONE = """\
a world of one has no other rank to send to. Start it as you start the job, for example:
  allranks run -n 4 -m allranks bench
  torchrun --nproc-per-node 4 -m allranks bench
  srun -N 2 --ntasks-per-node 4 allranks bench"""

ELSEWHERE = "--picture and --json name other places, and --no-picture draws none"

WIDTH_OF_A_FILE = 120
"""Columns of the table where there is no terminal."""


@dataclass(frozen=True)
class Outputs:
    """Where the figures go.

    Attributes:
        json: the file for them, or None.
        to_stdout: whether they go to standard output as JSON, and the table to standard error.
        compare: the file of an earlier run, or None.
        picture: the picture's files, without their ends, or None.
    """

    json: Path | None
    to_stdout: bool
    compare: Path | None
    picture: Path | None

    def files(self) -> list[Path]:
        """The files that will be written."""
        drawn = picture.files(self.picture) if self.picture and picture.can_draw() else []
        return [*([self.json] if self.json else []), *drawn]


def bench(plan: Plan, outputs: Outputs, *, cpu: bool) -> None:
    """Measure what the plan asks for, on all ranks of this job. Collective.

    Args:
        plan: what to measure.
        outputs: where the figures go.
        cpu: whether to use the CPU even where there is an accelerator.

    Raises:
        ConfigError: this is a world of one.
        SystemExit: a file cannot be read or written, or is of another setting; rank 0 has said so.
    """
    if world().world_size == 1:
        raise ConfigError(ALONE)
    with session(cpu=cpu or None) as here:
        device = own_device()
        setting = setting_of(here, device)
        refused = on_master(partial(_refused, outputs, setting))
        report = None if refused else measured_run(plan, setting, device, here)
    if report is None:
        raise SystemExit(1)
    if here.rank == 0:
        _tell(report, outputs)


def _refused(outputs: Outputs, setting: Setting) -> bool:
    """Say why a run would be in vain, and whether; a launcher ends all once one rank has left."""
    why = _refusal(outputs, setting)
    if why:
        streams.show(sys.stderr, f"Error: {printable(why)}\n")
    return bool(why)


def _refusal(outputs: Outputs, setting: Setting) -> str:
    """Why a run would be in vain, or "": asked before anything is measured."""
    for file in outputs.files():
        if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
            return f"{file} cannot be written; {ELSEWHERE}"
    if outputs.compare is None:
        return ""
    try:
        why = compare.why_not_comparable(read_report(outputs.compare).setting, setting)
    except ConfigError as error:
        return f"--compare: {error}"
    return f"--compare: {outputs.compare} cannot be compared with this run: {why}" if why else ""


def _tell(report: Report, outputs: Outputs) -> None:
    """Print the tables, and write the files."""
    streams.escape_what_cannot_be_encoded()
    _print(shown(report), outputs)
    if outputs.compare:
        _print(compare.compared(read_report(outputs.compare), report, outputs.compare), outputs)
    if outputs.to_stdout:
        print(written(report))  # noqa: T201 - what was asked for
    if outputs.json:
        outputs.json.write_text(f"{written(report)}\n")
    if outputs.picture and picture.can_draw():
        picture.draw(report, outputs.picture)
    elif outputs.picture:
        tell(picture.NEEDED)
    if files := outputs.files():
        tell(f"written: {', '.join(map(str, files))}")


def _print(part: RenderableType, outputs: Outputs) -> None:
    console = streams.console(stderr=outputs.to_stdout)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_A_FILE)
    console.print(part)
