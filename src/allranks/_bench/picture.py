"""The picture of a run, as PNG and SVG; needs matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from allranks._bench import units
from allranks._bench.curves import draw_bandwidths, draw_times
from allranks._bench.heat_map import draw_pair_bandwidths, draw_pair_latencies

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from allranks._bench.results import Report

STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "svg.fonttype": "none",
    "svg.hashsalt": "allranks",
}
"""Text stays text in the SVG, and equal figures make equal files."""

WIDTHS, HEIGHT = (7.6, 5.2), 8.8
"""Inches of the curves and of the matrix, and of the picture."""

NEEDED = "no picture is drawn: it needs matplotlib; `pip install 'allranks[plot]'`"


def can_draw() -> bool:
    """Whether matplotlib can be imported."""
    try:
        import matplotlib.figure  # noqa: F401 - asked for, not used
    except ImportError:
        return False
    return True


def files(stem: Path) -> list[Path]:
    """The files of a picture: a name with .png or .svg at its end, or without, means both."""
    plain = stem.with_suffix("") if stem.suffix in (".png", ".svg") else stem
    return [plain.with_name(f"{plain.name}.{kind}") for kind in ("png", "svg")]


def draw(report: Report, stem: Path) -> None:
    """Write the picture of a run in both formats."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = _figure(report)
        png, svg = files(stem)
        figure.savefig(png, dpi=150)
        figure.savefig(svg, metadata={"Date": None})


def _figure(report: Report) -> Figure:
    from matplotlib.figure import Figure

    widths = WIDTHS if report.pairs else WIDTHS[:1]
    figure = Figure(figsize=(sum(widths), HEIGHT), layout="constrained")
    axes = figure.subplots(2, len(widths), squeeze=False, width_ratios=widths)
    figure.suptitle(f"allranks bench: {units.headline(report.setting)}", fontsize=12)
    draw_bandwidths(axes[0][0], report.rows)
    draw_times(axes[1][0], report.rows)
    if report.pairs:
        draw_pair_bandwidths(axes[0][1], report.pairs, report.setting)
        draw_pair_latencies(axes[1][1], report.pairs, report.setting)
    return figure
