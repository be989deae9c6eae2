"""The matrix of pairs as heat maps: ranks by host, and the slowest pair marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from allranks._bench import units
from allranks._bench.curves import label_in_full
from allranks._system import words
from allranks._system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from allranks._bench.results import Pair, PairMatrix, Setting

NARROWEST = 4.0
"""The colours cover this factor at least, so that mere noise stays of one colour."""

WRITTEN = 10
"""Up to so many ranks, each cell says its figure, and each rank has its number."""

FRAMED = 24
"""Up to so many ranks, a cell has room for a frame."""

NAMED = 24
"""How many hosts have their names at the axes, at most."""

UPRIGHT = 4
"""How many hosts have room for their names side by side."""

LINE = 50
"""Letters that have room in a line above a map."""

AWAY = 14.0
"""Points between the ranks' numbers and the hosts' names."""

THIN = 50.0
"""Points that all lines between ranks may take together."""

MARK = "#D55E00"


@dataclass(frozen=True)
class _Kind:
    """What a map shows.

    Attributes:
        title: what stands above it.
        unit: at its scale.
        figure: of a pair.
        less: whether less is good; what is good is bright.
    """

    title: str
    unit: str
    figure: Callable[[Pair], float]
    less: bool


_Span: TypeAlias = tuple[int, int, str]


def draw_pair_bandwidths(axis: Axes, matrix: PairMatrix, setting: Setting) -> None:
    """The bandwidth of each pair."""
    slowest = matrix.slowest
    told = f"Bandwidth of pairs, {words.size(matrix.large)}; slowest pair"
    title = f"{told}, {units.bandwidth_of(slowest)}:\n{_ends(slowest, setting)}"
    kind = _Kind(title, "GB/s", lambda pair: pair.bandwidth, less=False)
    _draw(axis, matrix, setting, kind, slowest)


def draw_pair_latencies(axis: Axes, matrix: PairMatrix, setting: Setting) -> None:
    """The latency of each pair."""
    latest = matrix.latest
    told = f"Latency of pairs, {words.size(matrix.small)}; highest latency"
    title = f"{told}, {units.latency_of(latest)}:\n{_ends(latest, setting)}"
    kind = _Kind(title, "µs", lambda pair: pair.latency * 1e6, less=True)
    _draw(axis, matrix, setting, kind, latest)


def _ends(pair: Pair, setting: Setting) -> str:
    """A pair in a line where that is short enough, else in two."""
    line = units.ends_of(pair, setting)
    return line if len(line) <= LINE else units.ends_of(pair, setting, between="\n")


def _draw(axis: Axes, matrix: PairMatrix, setting: Setting, kind: _Kind, worst: Pair) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm

    places = _places(matrix, setting)
    cells = np.full((len(places), len(places)), np.nan)
    for pair in matrix.pairs:
        cells[places[pair.source], places[pair.target]] = kind.figure(pair)
    least, most = _limits([kind.figure(pair) for pair in matrix.pairs], less_is_good=kind.less)
    colours = "viridis_r" if kind.less else "viridis"
    image = axis.imshow(cells, cmap=colours, norm=LogNorm(least, most))
    axis.set_facecolor("0.92")
    bar = axis.figure.colorbar(image, ax=axis, label=kind.unit, shrink=0.8)
    label_in_full(bar.ax.yaxis, few=most < least * 1000)
    axis.set_title(kind.title, loc="left")
    _mark(axis, places[worst.target], places[worst.source], frame=len(places) <= FRAMED)
    _name_ranks(axis, list(places), setting)
    if len(places) <= WRITTEN:
        _write(axis, cells, image)


def _limits(figures: Sequence[float], *, less_is_good: bool) -> tuple[float, float]:
    """Where the colours begin and end; the good end stays where it is."""
    least, most = min(figures), max(figures)
    if less_is_good:
        return least, max(most, least * NARROWEST)
    return min(least, most / NARROWEST), most


def _places(matrix: PairMatrix, setting: Setting) -> dict[int, int]:
    """The row and column of each rank: hosts one after the other."""
    by_host = (rank for ranks in setting.ranks_by_host() for rank in ranks)
    return {rank: place for place, rank in enumerate(r for r in by_host if r in {*matrix.ranks})}


def _mark(axis: Axes, column: int, row: int, *, frame: bool) -> None:
    """A frame around a cell, or a ring around one that is too small for it."""
    from matplotlib.patches import Rectangle

    if frame:
        cell = (column - 0.5, row - 0.5)
        axis.add_patch(Rectangle(cell, 1, 1, fill=False, ec=MARK, lw=2.5, clip_on=False, zorder=3))
    else:
        axis.plot(column, row, "o", ms=13, mfc="none", mec=MARK, mew=2, clip_on=False)


def _name_ranks(axis: Axes, ranks: list[int], setting: Setting) -> None:
    """Lines between hosts; the ranks' numbers where they are few, and the hosts' names."""
    axis.set_xlabel("to rank, by host")
    axis.set_ylabel("from rank, by host")
    hosts = list(_spans(ranks, setting))
    for begin, _, _ in hosts[1:]:
        axis.axhline(begin - 0.5, color="white", lw=min(2, THIN / len(ranks)))
        axis.axvline(begin - 0.5, color="white", lw=min(2, THIN / len(ranks)))
    few = len(ranks) <= WRITTEN
    for one in (axis.xaxis, axis.yaxis):
        one.set_ticks(range(len(ranks)) if few else [])
        one.set_ticklabels(list(map(str, ranks)) if few else [])
        one.set_tick_params(length=0)
        turned = few if one is axis.yaxis else len(hosts) > UPRIGHT
        _name_hosts(one, hosts, turned=turned, beyond=AWAY if few else 0)


def _name_hosts(axis: Axis, hosts: list[_Span], *, turned: bool, beyond: float) -> None:
    """Write the hosts' names, beyond the ranks' numbers where these are shown."""
    shown = hosts[:: -(-len(hosts) // NAMED)]
    axis.remove_overlapping_locs = False  # A host's middle may be a rank's place.
    axis.set_ticks([(begin + end - 1) / 2 for begin, end, _ in shown], minor=True)
    names = [printable(name.partition(".")[0]) for _, _, name in shown]
    axis.set_ticklabels(names, minor=True, rotation=90 * turned)
    axis.set_tick_params(which="minor", length=0, pad=4 + beyond)


def _spans(ranks: list[int], setting: Setting) -> Iterator[_Span]:
    """Each host's first place, the place after its last one, and its name."""
    begin = 0
    for end in range(1, len(ranks) + 1):
        if end == len(ranks) or setting.nodes[ranks[end]] != setting.nodes[ranks[begin]]:
            yield begin, end, setting.hosts[ranks[begin]]
            begin = end


def _write(axis: Axes, cells: Any, image: Any) -> None:
    """Write each cell's figure, dark on bright cells and bright on dark ones."""
    for (row, column), value in _known(cells):
        red, green, blue, _ = image.cmap(image.norm(value))
        bright = 0.3 * red + 0.6 * green + 0.1 * blue > 0.45
        told = f"{value:.3g}" if value < 100 else f"{value:,.0f}"
        axis.text(column, row, told, ha="center", va="center", color="k" if bright else "w")


def _known(cells: Any) -> Iterator[tuple[tuple[int, int], float]]:
    import numpy as np

    for place, value in np.ndenumerate(cells):
        if not np.isnan(value):
            yield place, float(value)
