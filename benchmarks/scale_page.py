"""The tables, the picture and the page of ``scale.py``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scale_laws import ASKED, CALLS, CURVES, MESSAGES, estimates, law, points
from startup_tables import Grid

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from scale_laws import Curve

METHOD = """\
# What happens as ranks grow

Written by `python benchmarks/scale.py --markdown docs/scale.md`; `make bench` prints the same
tables.

Measured on {machine}.

![Each figure against the number of ranks, with its law]({picture})

Dots are measured, lines are the laws with the constants that fit best. Crosses, and dashed lines,
are torch's own collectives, in turns with ours.

## What was run

- **Real ranks** (8 to 128, or more where it says so) share this machine's cores, and meet over TCP
  as ranks of several hosts do. A time is therefore that of one host which is far too small for
  them. Each made ten calls of each kind; then one rank raised; then one did not come, and every
  other rank named it.
- **Simulated ranks**: the package's own classes with real sockets and a real store, without a
  program around them. Thousands of them share the cores too, so a time is an upper bound; counts,
  bytes and the store's own CPU are what a cluster sees as well.

## The laws

- **What a host asks in the roll call** does not grow: one agent a host brings its ranks, and takes
  one verdict for all of them.
- **Rank 0's part of the roll call** grows with the hosts: it reads one record of each, in batches,
  and writes one verdict for each.
- **Messages of a rank in a call** do not grow: headers travel up and down a tree, and inner ranks
  fold what they pass on. A rank has at most 15 children in its host, or 8 in a host of more than
  16, and 8 more in other hosts; each tells, and is told.
- **The time of a call** grows with the levels of that tree, which is the logarithm of the hosts to
  the base of 8. On one machine, whose cores all ranks share, it grows with the ranks.
- **A quiet watch** asks next to nothing: the first rank of a host parks one `wait` in the store.
- **Hearing of a failure** grows with the hosts: the store answers each parked `wait`; then it is
  one hop within the host.
- **A verdict** grows with the hosts: ranks that stand alike tell a digest, and one of them the
  details.

"""

HOLDS = """\
## What bounds a world

- **Rank 0's descriptors**: a connection for each rank, as torch's store and group have. `setup`
  raises the soft limit to the hard one; where that does not suffice, the error tells the limit,
  what is needed, and the command that raises it.
- **gloo**: up to 31 ranks each connects to each at once; from 32 its keys travel in batches; from
  128 ranks connect when they first need each other (`benchmarks/scale_gloo.py` measures all three).
- **Memory of a verdict**: at most 16 hosts are listed, the rest is counted.
"""


LABELS = {
    "up": "until all are up, s",
    "messages": "messages of the busiest rank in a call",
    "messages of rank 0": "messages of rank 0 in a call",
    "sockets": "sockets of a rank",
    "quiet operations": "store operations of all ranks in 10 s, quiet",
    "down": "until all are down, s",
    "failure heard": "a failure is heard by all, s",
    "lines of a failure": "lines that a failure prints",
    "lines of a clean end": "lines that a clean end prints",
    "run CPU s": "CPU of `allranks run` of a script that imports torch, s",
    "run s": "the same, wall, s",
    "seconds": "until all have their answer, s (median)",
    "slowest": "the same, slowest run, s",
    "ms until a host is together": "before, until a host's ranks are together, ms",
    "rank 0 CPU s": "CPU of rank 0, s",
    "rank 0 peak MB": "memory of rank 0's process, most, MB",
    "CPU ms a host": "CPU of a host, ms",
    "quiet": "store operations a rank and second, quiet",
    "heard": "a failure is heard by all, s",
    "verdict": "from the question to the verdict, s",
    "told": "until all have it, s",
    "length": "characters of the verdict",
    "operations": "store operations of a rank for it",
    "grown": "by how much the store grows, MiB",
    "store": "memory of the store's process, MiB",
    "server": "CPU of the store for it, s",
}
"""What the figures of the parts are, for people."""


def grids(found: dict[str, Any]) -> list[Grid]:
    """A table for each part."""
    return [
        _grid("Real ranks of one host", [_flat(world) for world in found["real"]]),
        _grid("The roll call, 8 ranks a host (simulated hosts)", found["roll_call"]),
        _grid("The watch, 8 ranks a host (simulated hosts)", found["watch"], leave=("text",)),
    ]


def _flat(world: dict[str, Any]) -> dict[str, Any]:
    calls = {f"{name}, ms": value for name, value in world["calls"].items()}
    return {**{name: value for name, value in world.items() if name != "calls"}, **calls}


def _grid(title: str, worlds: Sequence[dict[str, Any]], leave: Sequence[str] = ()) -> Grid:
    """A line for each figure, a column for each size."""
    names = [name for name in (worlds[0] if worlds else ()) if name not in ("ranks", *leave)]
    head = ("", *(f"{int(world['ranks']):,}" for world in worlds))
    return Grid(
        title,
        head,
        tuple((LABELS.get(name, name), *(_short(one[name]) for one in worlds)) for name in names),
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def page(found: dict[str, Any], name: str) -> str:
    """All of it, for docs/."""
    tables = [*grids(found), estimates(found)]
    return (
        METHOD.format(machine=found["machine"], picture=name)
        + HOLDS
        + "\n"
        + "\n".join(grid.markdown().rstrip("\n") + "\n" for grid in tables)
    )


def picture(found: dict[str, Any], path: Path) -> None:
    """A panel for each kind of figure."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "allranks", "font.size": 8, "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    panels = list(dict.fromkeys(curve.panel for curve in CURVES))
    figure, axes = plt.subplots(3, 2, figsize=(9, 10), layout="constrained")
    for title, axis in zip(panels, axes.flat, strict=True):
        axis.set_title(title, loc="left", fontweight="bold")
        for curve in CURVES:
            if curve.panel == title:
                _draw(axis, found, curve)
        _dress(axis, title)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _draw(axis: Axes, found: dict[str, Any], curve: Curve) -> None:
    """What was measured, and its law from the least to the most ranks."""
    import numpy as np

    measured = points(found, curve)
    if not measured:
        return
    sizes = [size for size, _ in measured]
    style = ("x", "--") if curve.theirs else ("o", "-")
    (dots,) = axis.plot(sizes, [value for _, value in measured], style[0], ms=4, label=curve.label)
    along = np.geomspace(min(sizes), max(sizes), 60)
    grows = law(found, curve)
    axis.plot(along, [grows(size) for size in along], style[1], lw=1, color=dots.get_color())


def _dress(axis: Axes, title: str) -> None:
    axis.set_xscale("log", base=2)
    axis.set_yscale("linear" if title in (ASKED, MESSAGES) else "log")
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.xaxis.set_major_formatter(lambda size, _: f"{size:,.0f}")
    axis.set_xlabel("ranks" if title != CALLS else "ranks, on the cores of one machine")
    axis.grid(alpha=0.3)
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    if title in (ASKED, MESSAGES):
        axis.set_ylim(bottom=0)
