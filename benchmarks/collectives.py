"""What our collectives cost, against torch's own and accelerate's, in the same processes.

Each pair takes turns on the same ranks; a ratio is made within a turn, and the median is shown.

    python benchmarks/collectives.py
    python benchmarks/collectives.py --ranks 2
    python benchmarks/collectives.py --markdown docs/benchmarks-collectives.md
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

import allranks
from collectives_worker import CASES, measured
from startup_tables import Grid, machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from collectives_worker import Case

METHOD = """\
# What collectives cost

Written by `python benchmarks/collectives.py --markdown docs/benchmarks-collectives.md`;
`make bench` prints the same tables.

Measured on {machine}, over gloo. Load of the machine when it began: {load:.1f}.

- Ours and the peer's call take turns on the same ranks, after a warm-up. A time is the median on
  rank 0; a ratio is made within each turn, and its median shown: above 1x, ours is faster.
- accelerate is version {accelerate}. Ragged rows: 100 on even ranks, 20,000 on odd ones.
- Memory is how far the resident memory of the receiver rises above its level before the call, as
  a multiple of the bytes that came from other ranks.
- With more ranks than cores, times depend on how the system switches between processes.

![How many times as fast as its peer each call is](pictures/collectives.svg)

"""


def row(case: Case, seconds: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """A line of the table: both times, and their ratio."""
    ours, theirs = (median(each) for each in zip(*seconds, strict=True))
    ratio = median(their / our for our, their in seconds)
    return case.name, case.peer, shown(ours), shown(theirs), f"{ratio:.2f}x"


def shown(seconds: float) -> str:
    """A time for people."""
    return f"{seconds * 1e3:.1f} ms" if seconds >= 0.01 else f"{seconds * 1e6:.0f} us"


def table(ranks: int) -> list[Grid]:
    """All cases on so many ranks."""
    rows = []
    memory = []
    for case in track(CASES, f"{ranks} ranks", transient=True):
        results = allranks.launch(measured, (case.name, case.peer), ranks=ranks)
        rows.append(row(case, results[0].seconds))
        if results[0].memory:
            ours, theirs = (f"{value:.2f}x" for value in results[0].memory)
            memory.append((case.name, case.peer, ours, theirs))
    head = ("", "peer", "ours", "peer's", "faster")
    return [
        Grid(f"{ranks} ranks, medians", head, tuple(rows)),
        Grid(f"{ranks} ranks, memory of the receiver", ("", "peer", *head[2:4]), tuple(memory)),
    ]


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4], help="default: 2 4")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page here too")
    options = parser.parse_args()
    import accelerate

    console, load = Console(), os.getloadavg()[0]
    grids = [grid for ranks in options.ranks for grid in table(ranks)]
    console.print(machine())
    for grid in grids:
        console.print(grid.rich())
    if options.markdown:
        method = METHOD.format(machine=machine(), load=load, accelerate=accelerate.__version__)
        options.markdown.write_text(method + "\n".join(grid.markdown() for grid in grids))


if __name__ == "__main__":
    main()
