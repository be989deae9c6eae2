"""A job as a table: ranks that stand alike are one row."""

from __future__ import annotations

import textwrap
import time
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from allranks._status.alike import alike
from allranks._system.printable import printable
from allranks._system.words import ranges
from allranks._watch.status_report import GONE, LEFT, RUNNING, SILENT, STOPPED, WAITING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from allranks._watch.status_report import JobReport, RankRow

HEAD = ("ranks", "state", "at", "for", "late by", "calls/s", "memory", "host", "pid", "device")

FITTING = ((100, 5), (130, 8))
"""Below so many columns of the terminal only the first of these are shown; `--json` has all."""

COLOURS = {WAITING: "yellow", STOPPED: "red", GONE: "red", SILENT: "red", LEFT: "dim", RUNNING: ""}

LONGEST_LINE = 100
"""Characters of a program's command line that are shown."""

FEW = 3
"""How many hosts or processes of a row are listed; more are counted."""


def shown(job: JobReport, width: int, *, stacks: bool) -> RenderableType:
    """A job for the terminal.

    Args:
        job: the job.
        width: columns of the terminal.
        stacks: whether to show where each program stands, line by line.
    """
    many = next((many for least, many in FITTING if width < least), len(HEAD))
    table = Table(box=SIMPLE_HEAD, title=_headline(job), title_justify="left", pad_edge=False)
    for name in HEAD[:many]:
        table.add_column(name, no_wrap=name not in ("ranks", "at"), overflow="fold")
    for some in alike(job.rows, stacks=stacks):
        table.add_row(*map(Text, _cells(some)[:many]), style=COLOURS[some[0].state])
        if stacks and some[0].stack:
            table.add_row("", "", Text("\n".join(some[0].stack), style="dim"))
    told = [Text.assemble((f"{label}: ", "bold"), text) for label, text in _below(job) if text]
    return Group(table, *told)


def _below(job: JobReport) -> tuple[tuple[str, str], ...]:
    missing = f"{job.trouble}; only what this host knows is shown" if job.trouble else ""
    return ("verdict", printable(job.verdict)), ("note", printable(missing))


def _headline(job: JobReport) -> Text:
    if job.told_by < 0:
        return Text("a job whose ranks give no answer", style="bold")
    up = _duration(max(0.0, time.time() - job.since))
    many = "rank" if job.world_size == 1 else "ranks"
    name = f"job {job.job} ({job.launcher})" if job.launcher not in job.job else f"job {job.job}"
    line = textwrap.shorten(job.program, LONGEST_LINE, placeholder=" ...")
    program = f"\n{line}, in {job.directory}" if line else ""
    return Text(printable(f"{name}: {job.world_size} {many}, up for {up}{program}"), style="bold")


def _cells(some: Sequence[RankRow]) -> tuple[str, ...]:
    first = some[0]
    seconds = [row.seconds for row in some if row.seconds]
    return (
        ranges([row.rank for row in some]),
        first.state,
        printable(first.doing),
        _duration(max(seconds)) if seconds else "",
        _span([1e3 * row.late for row in some if row.state in (RUNNING, WAITING)], "{:.0f} ms"),
        _span([row.rate for row in some if row.state in (RUNNING, WAITING)], "{:.1f}"),
        _span([row.memory for row in some if row.memory], "{:.0f} MiB"),
        _few([row.host for row in some if row.host], "hosts"),
        _few([str(row.pid) for row in some if row.pid], "processes"),
        _few([row.device for row in some if row.device], "devices"),
    )


def _few(texts: Sequence[str], many: str) -> str:
    different = list(dict.fromkeys(texts))
    return ", ".join(different) if len(different) <= FEW else f"{len(different)} {many}"


def _span(values: Sequence[float], form: str) -> str:
    if not values:
        return ""
    least, most = form.format(min(values)), form.format(max(values))
    return least if least == most else f"{least.split()[0]} to {most}"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
