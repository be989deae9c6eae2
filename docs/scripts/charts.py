"""Draw the tables of the benchmarks' pages: `make pictures`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.figure import Figure

from markdown_table import rows_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DOCS = Path(__file__).parents[1]

COLOURS = ("#4c72b0", "#dd8452")

mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "allranks", "font.size": 9})


def table(page: str, heading: str) -> list[tuple[str, ...]]:
    """The rows of the first table under a heading of a page, its head first."""
    return rows_of((DOCS / page).read_text(), f"\n## {heading}")


def ratios(rows: list[tuple[str, ...]]) -> dict[str, float]:
    """What stands last in each row that has a ratio, by what is before it."""
    found = {f"{row[0]}\nagainst {row[1]}": row[-1] for row in rows[1:]}
    return {
        name: float(told[:-1]) for name, told in found.items() if re.fullmatch(r"[\d.]+x", told)
    }


def draw_collectives(axes: Axes) -> None:
    """How many times as fast as its peer each call is, on two ranks and on four."""
    for at, ranks in enumerate((4, 2)):
        found = ratios(table("benchmarks-collectives.md", f"{ranks} ranks, medians"))
        places = [place + 0.4 * at for place in range(len(found))]
        widths = [ratio - 1 for ratio in found.values()]
        axes.barh(places, widths, 0.38, left=1, label=f"{ranks} ranks", color=COLOURS[at])
        axes.set_yticks([place + 0.2 for place in range(len(found))], [*found])
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="times as fast as its peer, at 1x; right of it is faster")
    axes.xaxis.set_major_formatter("{x:g}x")
    axes.invert_yaxis()
    axes.legend()


def draw_startup(axes: Axes) -> None:
    """What `allranks run` takes of what torchrun takes."""
    head, *rows = table("benchmarks.md", "allranks run: share of what the others need")
    for row in rows[:3]:
        shares = [float(cell.rstrip("x")) for cell in row[1:]]
        axes.plot(head[1:], shares, marker="o", label=row[0].removesuffix(", of torchrun's"))
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set(ylim=0, ylabel="share of torchrun's, which is at 1; lower is better")
    axes.legend()


CHARTS = {"collectives": (draw_collectives, (8, 7)), "startup": (draw_startup, (6, 4))}


def draw(name: str, path: Path) -> None:
    """Draw a chart into a file."""
    drawing, size = CHARTS[name]
    figure = Figure(figsize=size, layout="constrained")
    drawing(figure.subplots())
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    for chart in CHARTS:
        draw(chart, DOCS / "pictures" / f"{chart}.svg")
