"""The tables of ``startup.py``, for the terminal and for ``docs/benchmarks.md``."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from startup_job import Sample

Quantity: TypeAlias = Literal["collective", "step", "memory", "leave"]

OURS = "allranks run"
THEIRS = ("torchrun", "mp.spawn")
IMPORT = "import torch"

QUANTITIES: dict[Quantity, tuple[str, str]] = {
    "collective": ("first collective", "Seconds from the command to the first collective"),
    "step": ("first step", "Seconds from the command to the first DDP + optimizer step"),
    "memory": ("memory", "PSS of the whole job after that step, in MB"),
    "leave": ("leaving", "Seconds from the last rank's leave to go to the end of the command"),
}


@dataclass(frozen=True)
class Grid:
    """A table of texts.

    Attributes:
        title: what it shows.
        head: its columns.
        rows: its lines, each as long as the head.
    """

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(*self.head, title=self.title, title_justify="left")
        for column in table.columns[1:]:
            column.justify = "right"
        for row in self.rows:
            table.add_row(*map(escape, row))
        return table

    def markdown(self) -> str:
        """For a page."""
        rule = ("---", *("---:" for _ in self.head[1:]))
        lines = [f"| {' | '.join(row)} |" for row in (self.head, rule, *self.rows)]
        return "\n".join((f"## {self.title}", "", *lines, ""))


class Results:
    """All samples of a benchmark: those of one round, one after the other, make a pair."""

    def __init__(self, samples: Mapping[tuple[str, int], Sequence[Sample]]) -> None:
        """Take what was measured.

        Args:
            samples: by command and number of ranks, one in each round.
        """
        self._samples = samples
        self.ranks = sorted({ranks for name, ranks in samples if name == OURS})
        self.rounds = len(next(iter(samples.values())))
        self.strangers = max(one.strangers for some in samples.values() for one in some)

    def grids(self) -> list[Grid]:
        """The headline, each quantity, and the overhead."""
        return [self.headline(), *map(self._quantity, QUANTITIES), self._overhead()]

    def headline(self) -> Grid:
        """Our share of what the others need."""
        rows = [
            (f"{QUANTITIES[of][0]}, of {their}'s", *self._row(partial(self._ratio, of, their)))
            for their in THEIRS
            for of in ("collective", "step", "memory")
        ]
        return self._grid(f"{OURS}: share of what the others need", rows)

    def _ratio(self, of: Quantity, their: str, ranks: int) -> str:
        pairs = zip(self._values(OURS, ranks, of), self._values(their, ranks, of), strict=True)
        return f"{median(our / other for our, other in pairs):.2f}x"

    def _quantity(self, of: Quantity) -> Grid:
        names = dict.fromkeys(name for name, _ in self._samples if name != IMPORT)
        rows = [(name, *self._row(partial(self._spread, of, name))) for name in names]
        if of in ("step", "memory"):
            rows.append((f"one bare `{IMPORT}`", self._spread(of, IMPORT, 1), *self._blanks()))
        return self._grid(f"{QUANTITIES[of][1]}, median (least to most)", rows)

    def _spread(self, of: Quantity, name: str, ranks: int) -> str:
        values = self._values(name, ranks, of)
        if not values:
            return ""
        digits = 0 if of == "memory" else 2
        least, middle, most = (f"{f(values):.{digits}f}" for f in (min, median, max))
        return f"{middle} ({least} to {most})" if len(values) > 1 else middle

    def _overhead(self) -> Grid:
        kinds: tuple[tuple[Quantity, str], ...] = (
            ("collective", "s to the first collective"),
            ("step", "s to the first step"),
            ("memory", "MB"),
        )
        rows = [
            (f"{name}, {unit}", *self._row(partial(self._beyond_import, of, name)))
            for name in (OURS, *THEIRS)
            for of, unit in kinds
        ]
        return self._grid(f"Overhead over one bare `{IMPORT}`", rows)

    def _beyond_import(self, of: Quantity, name: str, ranks: int) -> str:
        bare = self._values(IMPORT, 1, "memory" if of == "memory" else "step")
        extra = median(
            value - one for value, one in zip(self._values(name, ranks, of), bare, strict=True)
        )
        return f"{extra:+.0f}" if of == "memory" else f"{extra:+.2f}"

    def _values(self, name: str, ranks: int, of: Quantity) -> list[float]:
        return [getattr(sample, of) for sample in self._samples.get((name, ranks), ())]

    def _row(self, cell: Callable[[int], str]) -> tuple[str, ...]:
        return tuple(map(cell, self.ranks))

    def _blanks(self) -> tuple[str, ...]:
        return ("",) * (len(self.ranks) - 1)

    def _grid(self, title: str, rows: Sequence[tuple[str, ...]]) -> Grid:
        head = tuple(f"{n} rank{'s' if n > 1 else ''}" for n in self.ranks)
        return Grid(title, ("", *head), tuple(rows))


def put_into(page: Path, grid: Grid, mark: str, method: str) -> None:
    """Put a table, and how it was made, where a page has its mark."""
    begin, end = f"<!-- the table: {mark} -->\n", "<!-- the end of the table -->\n"
    before, _, rest = page.read_text().partition(begin)
    after = rest.partition(end)[2]
    lines = [f"| {' | '.join(row)} |" for row in (grid.head, ("---",) * len(grid.head), *grid.rows)]
    page.write_text(f"{before}{begin}{method}\n\n{chr(10).join(lines)}\n{end}{after}")


def machine() -> str:
    """The machine in words."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} on {platform.machine()}, "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )
