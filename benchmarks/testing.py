"""What a test on two ranks costs: with ``@pytest.mark.ranks(2)``, and with ``mp.spawn``.

One pytest session runs both in turns; each test is timed as pytest runs it, fixtures included.

    python benchmarks/testing.py
    python benchmarks/testing.py --rounds 1
    python benchmarks/testing.py --markdown docs/benchmarks-testing.md
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest
from rich.console import Console
from rich.progress import Progress

from startup_tables import Grid, machine

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent / "timed_tests.py"
BATCH = 100
"""Tests on ranks of ours, of each kind, for each one with mp.spawn."""

NAMES = {"all_reduce": "one all_reduce", "optimizer_step": "an optimizer step"}

METHOD = """\
# What a test on two ranks costs

Written by `python benchmarks/testing.py --markdown docs/benchmarks-testing.md`; `make bench` prints
the same table.

Measured on {machine}. Load of the machine when it began: {load:.1f}.

- The bodies are the same (`benchmarks/timed_tests.py`): one all_reduce; and one AdamW step of a
  linear layer whose gradients are summed over the ranks.
- `@pytest.mark.ranks(2)`: as a user writes it. `mp.spawn`: a test that spawns two processes, which
  meet at a file, run the body and leave.
- One pytest session runs {rounds} rounds of {batch} tests of ours and one with mp.spawn, of each
  kind, in turns. A test's cost is the time that pytest spends on it, fixtures and report included.
- The first test of a session also pays for the process that imports torch.

"""


class Clock:
    """A pytest plugin that orders the tests in rounds, and times them."""

    def __init__(self, rounds: int, console: Console) -> None:
        """Prepare.

        Args:
            rounds: how many.
            console: where the progress is shown.
        """
        self.seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
        self._rounds = rounds
        self._progress = Progress(console=console, transient=True)
        self._task = self._progress.add_task("tests on ranks")

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Turn by turn: a batch of ours, one of theirs."""
        ours = {kind: [one for one in items if _key(one) == ("ranks", kind)] for kind in NAMES}
        spawned = {
            kind: next(one for one in items if _key(one) == ("spawn", kind)) for kind in NAMES
        }
        items[:] = []
        for _ in range(self._rounds):
            for kind in NAMES:
                items += [*(ours[kind].pop() for _ in range(BATCH)), spawned[kind]]
        self._progress.update(self._task, total=len(items))
        self._progress.start()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Time one test."""
        began = time.perf_counter()
        result = yield
        self.seconds[_key(item)].append(time.perf_counter() - began)
        self._progress.advance(self._task)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Say what failed, in place of pytest's terminal."""
        if report.failed:
            self._progress.console.print(report.nodeid, report.longreprtext, sep="\n")

    def pytest_unconfigure(self) -> None:
        """Take the progress bar away."""
        self._progress.stop()


def _key(item: pytest.Item) -> tuple[str, str]:
    """Who runs a test, and which body."""
    who = "ranks" if item.get_closest_marker("ranks") else "spawn"
    return who, next(kind for kind in NAMES if kind in item.name)


def table(clock: Clock) -> Grid:
    """What the clock says."""
    first, *_ = clock.seconds["ranks", "all_reduce"]
    rows = []
    for kind, name in NAMES.items():
        ours, theirs = clock.seconds["ranks", kind], clock.seconds["spawn", kind]
        warm = sorted(ours[1:] if kind == "all_reduce" else ours)
        cost, other = median(warm), median(theirs)
        tenths = f"{warm[len(warm) // 10] * 1e3:.0f} to {warm[len(warm) * 9 // 10] * 1e3:.0f}"
        rows.append(
            (name, f"{cost * 1e3:.0f} ms ({tenths})", f"{other:.2f} s", f"{other / cost:.0f}x")
        )
    title = f"A test on 2 ranks, median (first to last tenth); the first test took {first:.1f} s"
    return Grid(title, ("", "@pytest.mark.ranks(2)", "mp.spawn", "faster"), tuple(rows))


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page here too")
    options = parser.parse_args()
    console, load = Console(), os.getloadavg()[0]
    clock = Clock(options.rounds, console)
    os.environ["TIMED_TESTS"] = str(options.rounds * BATCH)
    plain = ["-c", os.devnull, "-p", "no:cacheprovider", "-p", "no:terminal"]
    code = pytest.main([*plain, str(TESTS)], plugins=[clock])
    if code:
        sys.exit("tests failed")
    grid = table(clock)
    console.print(machine())
    console.print(grid.rich())
    if options.markdown:
        method = METHOD.format(machine=machine(), load=load, rounds=options.rounds, batch=BATCH)
        options.markdown.write_text(method + grid.markdown())


if __name__ == "__main__":
    main()
