"""The matrix of pairs as heat maps: ranks by host, and the slowest pair marked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from allranks._bench import units

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from matplotlib.axes import Axes

    from allranks._bench.results import Pair, PairMatrix, Setting

NARROWEST = 4.0
"""The colours cover this factor at least, so that mere noise stays of one colour."""

WRITTEN = 10
"""Up to so many ranks, each cell says its figure, and each rank has its number."""

NAMED = 24
"""How many hosts have their names at the axes, at most."""

MARK = "#D55E00"


@dataclass(frozen=True)
class _Kind:
    """What a map shows.

    Attributes:
        title: what stands above it.
        unit: at its scale.
        figure: of a pair.
        colours: the name of the colour map, in which bright is good.
    """

    title: str
    unit: str
    figure: Callable[[Pair], float]
    colours: str


def draw_pair_bandwidths(axis: Axes, matrix: PairMatrix, setting: Setting) -> None:
    """The bandwidth of each pair."""
    slowest = matrix.slowest
    told = f"slowest pair: {units.ends_of(slowest, setting)}, {units.bandwidth_of(slowest)}"
    title = f"Bandwidth of pairs, {units.size(matrix.large)}\n{told}"
    kind = _Kind(title, "GB/s", lambda pair: pair.bandwidth, "viridis")
    _draw(axis, matrix, setting, kind, slowest)


def draw_pair_latencies(axis: Axes, matrix: PairMatrix, setting: Setting) -> None:
    """The latency of each pair."""
    latest = matrix.latest
    told = f"highest latency: {units.ends_of(latest, setting)}, {units.latency_of(latest)}"
    title = f"Latency of pairs, {units.size(matrix.small)}, half of a round trip\n{told}"
    kind = _Kind(title, "µs", lambda pair: pair.latency * 1e6, "viridis_r")
    _draw(axis, matrix, setting, kind, latest)


def _draw(axis: Axes, matrix: PairMatrix, setting: Setting, kind: _Kind, worst: Pair) -> None:
    import numpy as np
    from matplotlib.colors import LogNorm

    places = _places(matrix, setting)
    cells = np.full((len(places), len(places)), np.nan)
    for pair in matrix.pairs:
        cells[places[pair.source], places[pair.target]] = kind.figure(pair)
    least, most = float(np.nanmin(cells)), float(np.nanmax(cells))
    if kind.colours.endswith("_r"):
        most = max(most, least * NARROWEST)
    else:
        least = min(least, most / NARROWEST)
    image = axis.imshow(cells, cmap=kind.colours, norm=LogNorm(least, most))
    axis.set_facecolor("0.92")
    axis.figure.colorbar(image, ax=axis, label=kind.unit, shrink=0.8, format="%g")
    axis.set_title(kind.title, loc="left")
    _frame(axis, (places[worst.target] - 0.5, places[worst.source] - 0.5))
    _name_ranks(axis, list(places), setting)
    if len(places) <= WRITTEN:
        _write(axis, cells, image)


def _places(matrix: PairMatrix, setting: Setting) -> dict[int, int]:
    """The row and column of each rank: hosts one after the other."""
    by_host = (rank for ranks in setting.ranks_by_host() for rank in ranks)
    return {rank: place for place, rank in enumerate(r for r in by_host if r in {*matrix.ranks})}


def _frame(axis: Axes, corner: tuple[float, float]) -> None:
    from matplotlib.patches import Rectangle

    axis.add_patch(Rectangle(corner, 1, 1, fill=False, ec=MARK, lw=2.5, clip_on=False, zorder=3))


def _name_ranks(axis: Axes, ranks: list[int], setting: Setting) -> None:
    """Lines between hosts; the ranks' numbers where they are few, and the hosts' names."""
    axis.set_xlabel("to")
    axis.set_ylabel("from")
    hosts = list(_spans(ranks, setting))
    for begin, _, _ in hosts[1:]:
        axis.axhline(begin - 0.5, color="white", lw=2)
        axis.axvline(begin - 0.5, color="white", lw=2)
    shown = hosts[:: -(-len(hosts) // NAMED)]
    middles, names = [(b + e - 1) / 2 for b, e, _ in shown], [name for _, _, name in shown]
    if len(ranks) <= WRITTEN:
        told = [f"{rank}\n{setting.hosts[rank]}" for rank in ranks]
        axis.set_xticks(range(len(ranks)), told)
        axis.set_yticks(range(len(ranks)), [one.replace("\n", " on ") for one in told])
    else:
        axis.set_xticks(middles, names, rotation=90)
        axis.set_yticks(middles, names)
    axis.tick_params(length=0)


def _spans(ranks: list[int], setting: Setting) -> Iterator[tuple[int, int, str]]:
    """Each host's first place, the place after its last one, and its name."""
    begin = 0
    for end in range(1, len(ranks) + 1):
        if end == len(ranks) or setting.nodes[ranks[end]] != setting.nodes[ranks[begin]]:
            yield begin, end, setting.hosts[ranks[begin]]
            begin = end


def _write(axis: Axes, cells: Any, image: Any) -> None:
    """Write each cell's figure, dark on bright cells and bright on dark ones."""
    for (row, column), value in _known(cells):
        bright = sum(image.cmap(image.norm(value))[:3]) > 1.5
        told = f"{value:.3g}"
        axis.text(column, row, told, ha="center", va="center", color="k" if bright else "w")


def _known(cells: Any) -> Iterator[tuple[tuple[int, int], float]]:
    import numpy as np

    for place, value in np.ndenumerate(cells):
        if not np.isnan(value):
            yield place, float(value)
