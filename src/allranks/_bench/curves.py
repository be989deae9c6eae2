"""The curves of a picture: bus bandwidth and time of each collective over its size."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from allranks._system import words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from allranks._bench.results import Row, Timing

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Those of Okabe and Ito, which people who see few colours tell apart."""

SMALL = 64 * 2**10
"""Bytes up to which a call's time tells its latency."""

LEADER = {"arrowstyle": "-", "lw": 0.6, "shrinkB": 4, "relpos": (0, 0.5)}
"""The line from a label to its curve."""

APART = 0.065
"""How far apart labels stand, as a share of the height."""


def draw_bandwidths(axis: Axes, rows: Sequence[Row]) -> None:
    """Bus bandwidth over size."""
    _draw(axis, rows, lambda timing: timing.busbw)
    axis.set_title("Bus bandwidth, as nccl-tests define it", loc="left")
    axis.set_ylabel("bus bandwidth (GB/s)")
    axis.plot([], [], "-", color="0.35", label="allranks")
    axis.plot([], [], "--", color="0.35", label="torch.distributed")
    axis.legend(frameon=False, loc="upper left")  # Bandwidths rise to the right.


def draw_times(axis: Axes, rows: Sequence[Row]) -> None:
    """Time over size, of the small calls."""
    small = [row for row in rows if row.bytes <= SMALL] or rows
    _draw(axis, small, lambda timing: timing.seconds * 1e6)
    axis.set_title("Time of small calls, median of the slowest rank", loc="left")
    axis.set_ylabel("time (µs)")


def spread(places: Sequence[float], apart: float) -> list[float]:
    """Places of labels between 0 and 1, moved as little as keeps them apart.

    Args:
        places: where they belong, in any order.
        apart: how far apart they must be.
    """
    moved = list(places)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + apart)
    limit = 1.0
    for i in reversed(order):
        moved[i] = min(moved[i], limit)
        limit = moved[i] - apart
    return moved


def label_in_full(axis: Axis, *, few: bool) -> None:
    """Label a logarithmic axis with numbers written in full.

    Args:
        axis: one of an Axes, or of a colour bar.
        few: whether it covers so little that 2 and 5 are labelled, too.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=20))
    axis.set_major_formatter(lambda value, _: f"{value:,.9f}".rstrip("0").rstrip("."))
    axis.set_minor_formatter(NullFormatter())


def _draw(axis: Axes, rows: Sequence[Row], figure: Callable[[Timing], float]) -> None:
    names = list(dict.fromkeys(row.collective for row in rows))
    ends: dict[str, tuple[float, float]] = {}
    for name, colour in zip(names, COLOURS, strict=False):
        found = [row for row in rows if row.collective == name]
        sizes, ours = [row.bytes for row in found], [figure(row.ours) for row in found]
        axis.plot(sizes, ours, "o-", ms=3, lw=1.6, color=colour)
        theirs = [(row.bytes, figure(row.torchs)) for row in found if row.torchs]
        axis.plot(*zip(*theirs, strict=True) if theirs else ([], []), "--", lw=1.1, color=colour)
        ends[name] = (sizes[-1], ours[-1])
    _dress(axis)
    _label(axis, ends)


def _dress(axis: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.xaxis.set_major_locator(LogLocator(base=16))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(lambda value, _: words.size(value))
    low, high = axis.get_ylim()
    label_in_full(axis.yaxis, few=high < low * 1000)
    axis.set_xlabel("size of the call")
    axis.grid(alpha=0.3, lw=0.5)
    axis.spines[["top", "right"]].set_visible(False)


def _label(axis: Axes, ends: dict[str, tuple[float, float]]) -> None:
    """Write each collective's name beside the end of its curve."""
    low, high = map(math.log10, axis.get_ylim())
    places = [(math.log10(value) - low) / (high - low) for _, value in ends.values()]
    named = zip(ends.items(), spread(places, APART), COLOURS, strict=False)
    for (name, end), place, colour in named:
        axis.annotate(
            name,
            end,
            xytext=(1.03, place),
            textcoords="axes fraction",
            color=colour,
            va="center",
            arrowprops={**LEADER, "color": colour},
        )
