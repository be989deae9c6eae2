"""The picture: both files, with what people look for in them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from allranks._bench.curves import spread
from allranks._bench.heat_map import draw_pair_bandwidths
from allranks._bench.picture import draw, files
from bench_report import report

pytest.importorskip("matplotlib")


def texts(svg: Path) -> list[str]:
    root = ET.fromstring(svg.read_text())
    return [
        text for each in root.iter("{http://www.w3.org/2000/svg}text") for text in each.itertext()
    ]


def test_both_files_are_whole_and_say_what_is_shown(tmp_path: Path) -> None:
    draw(report(), tmp_path / "one")
    png = (tmp_path / "one.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    assert png.endswith(b"IEND\xaeB`\x82")
    assert len(png) > 50_000
    told = texts(tmp_path / "one.svg")
    for label in ("bus bandwidth (GB/s)", "time (µs)", "size of the call", "GB/s", "µs"):
        assert label in told, label
    assert {"all_reduce", "objects", "allranks", "torch.distributed", "left", "right"} <= {*told}
    assert "Bandwidth of pairs, 4 KiB; slowest pair, 0.50 GB/s:" in told
    assert "Latency of pairs, 4 B; highest latency, 90.0 µs:" in told
    wanted = ["rank 2 on right to rank 1 on left", "rank 3 on right to rank 0 on left"]
    assert [text for text in told if text.startswith("rank ")] == wanted


def test_equal_figures_make_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw(report(), tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_a_row_is_a_sender_and_hosts_stand_together() -> None:
    """Ranks 0 and 2 are on one host, as with Slurm's -m cyclic: the slow pair is 2 to 1."""
    from matplotlib.figure import Figure

    told = report(hosts=("left", "right", "left", "right"))
    axis = Figure().subplots()
    draw_pair_bandwidths(axis, told.pairs, told.setting)
    (image,) = axis.images
    cells = image.get_array().filled(0)
    order = [0, 2, 1, 3]
    assert [label.get_text() for label in axis.get_xticklabels()] == [*map(str, order)]
    slow = [
        (order[row], order[column]) for row, column in zip(*np.where(cells == 0.5), strict=True)
    ]
    assert slow == [(2, 1)]
    (frame,) = axis.patches
    assert frame.get_xy() == (1.5, 0.5)


@pytest.mark.parametrize(("count", "named"), [(2, 2), (3, 3), (40, 20)])
def test_any_number_of_hosts_can_be_drawn(tmp_path: Path, count: int, named: int) -> None:
    """Of many hosts, so many are named as there is room for."""
    hosts = tuple(f"node-{i // 2}.of.a.cluster" for i in range(2 * count))
    draw(report(hosts=hosts), tmp_path / "one")
    short = {host.partition(".")[0] for host in hosts}
    assert len(short & {*texts(tmp_path / "one.svg")}) == named


@pytest.mark.parametrize("name", ["here", "here.png", "here.svg"])
def test_a_name_stands_for_both_files(name: str) -> None:
    assert files(Path("a.b", name)) == [Path("a.b/here.png"), Path("a.b/here.svg")]


def test_a_name_with_dots_is_kept() -> None:
    assert files(Path("run.1")) == [Path("run.1.png"), Path("run.1.svg")]


def test_labels_are_kept_apart_and_in_order() -> None:
    moved = spread([0.5, 0.5, 0.1, 0.98, 0.97], 0.1)
    order = sorted(range(5), key=lambda i: moved[i])
    assert [moved[i] for i in order] == sorted(moved)
    gaps = [moved[b] - moved[a] for a, b in pairwise(order)]
    assert min(gaps) >= 0.1 - 1e-9
    assert max(moved) <= 1
    assert moved[2] == 0.1
