"""``allranks doctor``: looks at the job, shows what it found, and leaves with the exit code."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from allranks._doctor.checks import FAILURE, Check
from allranks._doctor.examination import examine
from allranks._doctor.report import Report, as_json, as_table
from allranks._doctor.start import looks_first
from allranks._system import streams
from allranks._system.waiting import BackgroundCall, StillRunning

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH_OF_A_FILE = 120
"""Columns of a table that goes into a file or a pipe."""

GRACE = 10.0
"""Seconds that the examination may take beyond its time before it is left behind."""


def run_doctor(seconds: float, *, json: bool) -> NoReturn:
    """Look at the job, and leave: with 1 if it would fail. Collective.

    Args:
        seconds: the time that it may take.
        json: whether to print JSON.
    """
    streams.escape_what_cannot_be_encoded()
    show = _print_json if json else _print_table
    try:
        code = BackgroundCall(lambda: examine(seconds, show)).result(seconds + GRACE)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except StillRunning:
        code = _cut_short(seconds, show)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # A call that was left behind in torch would hold up the interpreter's end.


def _print_json(report: Report) -> None:
    print(as_json(report), flush=True)  # noqa: T201 - what was asked for


def _print_table(report: Report) -> None:
    console = streams.console(stderr=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDTH_OF_A_FILE)
    console.print(as_table(report), soft_wrap=False)


def _cut_short(seconds: float, show: Callable[[Report], None]) -> int:
    seen = f"it has not ended within {seconds:g} s"
    if looks_first():
        row = Check("doctor", FAILURE, seen, f"allranks doctor --timeout {5 * seconds:g}")
        show(Report("this process", (row,)))
    return 1
