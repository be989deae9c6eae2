"""``allranks status``: once, as JSON, or again and again."""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live

from allranks._status.dump import default_directory, dump, prepare
from allranks._status.jobs import jobs
from allranks._status.table import shown
from allranks._system import streams

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import RenderableType

    from allranks._watch.status_report import JobReport

EVERY = 2.0
"""Seconds between two pictures."""

NONE = (
    "No job of yours{meant} answers on this host. A job answers on each host where it has ranks, "
    "once setup() has returned, in a world of two ranks or more, and unless ALLRANKS_STATUS=0 or "
    "ALLRANKS_WATCH=0 is set around it."
)


def print_jobs(of: str, *, stacks: bool, verdict: bool) -> None:
    """Print each job as a table; the exit code is 1 where there is none."""
    streams.escape_what_cannot_be_encoded()
    found = jobs(of, verdict=verdict)
    console = streams.console(stderr=False)
    for job in found:
        console.print(shown(job, console.width, stacks=stacks))
    _leave_where_none(found, of)
    console.print("A job whose ranks are still in setup() is not shown.", style="dim")


def print_json(of: str, *, verdict: bool) -> None:
    """Print a list of jobs; the exit code is 1 where there is none."""
    found = jobs(of, verdict=verdict)
    print(json.dumps([asdict(job) for job in found], indent=1))  # noqa: T201 - what was asked for
    _leave_where_none(found, of)


def follow_jobs(of: str, *, stacks: bool, verdict: bool) -> None:
    """Draw all jobs again and again, until Ctrl-C."""
    streams.escape_what_cannot_be_encoded()
    console = streams.console(stderr=False)

    def picture() -> RenderableType:
        found = [shown(job, console.width, stacks=stacks) for job in jobs(of, verdict=verdict)]
        return Group(*found) if found else _none(of)

    with suppress(KeyboardInterrupt), Live(picture(), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(EVERY)
            live.update(picture(), refresh=True)


def dump_jobs(of: str, directory: Path | None) -> None:
    """Write each job's files, and print where its page is; the exit code is 1 where there is none.

    Raises:
        ConfigError: the directory cannot be used, or is not empty.
    """
    place = directory or default_directory()
    is_new = not place.exists()
    prepare(place)
    found = jobs(of, verdict=True, details=True)
    if is_new and not found:
        place.rmdir()
    _leave_where_none(found, of)
    for page in dump(found, place):
        print(f"{page}: open it in a browser")  # noqa: T201 - what the command says


def _none(of: str) -> str:
    return NONE.format(meant=f" with {of!r}" if of else "")


def _leave_where_none(found: Sequence[JobReport], of: str) -> None:
    if not found:
        print(_none(of), file=sys.stderr)  # noqa: T201 - what the command says
        raise SystemExit(1)
