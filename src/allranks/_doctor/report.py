"""What the doctor found, for people and for programs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table
from rich.text import Text

from allranks._doctor.checks import FAILURE, OK, WARNING, Check, fails
from allranks._system.printable import printable
from allranks._system.words import counted

if TYPE_CHECKING:
    from rich.console import RenderableType

COLOURS = {OK: "green", WARNING: "yellow", FAILURE: "red"}


@dataclass(frozen=True)
class Report:
    """What one rank says, mostly rank 0 for all.

    Attributes:
        of: whose it is, in words.
        checks: what was looked at.
        not_tried: what was not, and why; "" if nothing was left out.
    """

    of: str
    checks: tuple[Check, ...]
    not_tried: str = ""

    @property
    def fails(self) -> bool:
        """Whether the job would fail."""
        return fails(self.checks)


def as_json(report: Report) -> str:
    """The report as one line, since several hosts may write one each."""
    return json.dumps({**asdict(report), "fails": report.fails})


def as_table(report: Report) -> RenderableType:
    """The report for a terminal."""
    title = Text(printable(f"doctor: {report.of}"), style="bold")
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("seen", overflow="fold")
    for check in report.checks:
        status = Text(check.status, style=COLOURS[check.status])
        table.add_row(check.what, status, _cell(check))
    parts = [table]
    return Group(*parts, *map(Text, filter(None, (printable(report.not_tried), _verdict(report)))))


def _cell(check: Check) -> Text:
    seen = Text(printable(check.seen))
    if check.remedy:
        seen.append("\n$ " + printable(check.remedy), style="bold")
    return seen


def _verdict(report: Report) -> str:
    found = [check.status for check in report.checks]
    told = [counted(found.count(kind), kind) for kind in (FAILURE, WARNING) if kind in found]
    told += [f"{found.count(OK)} ok"] * (OK in found)
    return f"{', '.join(told)}: {'the job would fail' if report.fails else 'the job can run'}"
