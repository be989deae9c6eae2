"""``allranks bench`` on two hosts: the pairs by host, and a slow card that is found."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from allranks._bench.results import Report, read_report
from geometries import C10D, TWO, srun, torchrun
from hosts import all_ended

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from geometries import Lab, Start
    from hosts import Host

pytestmark = pytest.mark.timeout(300)

LIMIT = 200.0

SHORT = ("-b", "64K", "-e", "64K", "--seconds", "0.001", "--collective", "broadcast")

STARTS = {
    "torchrun": torchrun(2, *C10D),
    "slurm": srun("-N2", "--ntasks-per-node=2", "-w", "h1,h2"),
}


def bench(lab: Lab, start: Start, place: Path) -> tuple[Report, str]:
    """What a run tells, in its file and on the terminal."""
    files = ("--json", str(place / "run.json"), "--picture", str(place / "run"))
    running = start(lab, ("-m", "allranks", "bench", *SHORT, *files))
    ended = all_ended(running, LIMIT)
    out = "".join(each.out for each in ended)
    assert not any(each.code for each in ended), out
    return read_report(place / "run.json"), out


@contextlib.contextmanager
def slow_card(host: Host) -> Iterator[None]:
    """A host that sends 2 million bits a second, and receives as fast as ever."""
    slow = ("tbf", "rate", "2mbit", "burst", "16kb", "latency", "2s")
    host.must("tc", "qdisc", "add", "dev", "eth0", "root", *slow)
    try:
        yield
    finally:
        host.must("tc", "qdisc", "del", "dev", "eth0", "root")


@pytest.mark.parametrize("launcher", STARTS)
def test_the_pairs_are_shown_by_host(lab: Lab, tmp_path: Path, launcher: str) -> None:
    report, out = bench(lab, STARTS[launcher], tmp_path)
    assert report.setting.launcher == launcher
    assert report.setting.hosts == TWO
    assert report.setting.nodes == (0, 0, 1, 1)
    assert "4 ranks on 2 hosts" in out
    svg = ET.fromstring((tmp_path / "run.svg").read_text())
    told = [text for each in svg.iter() if each.tag.endswith("}text") for text in each.itertext()]
    # Both axes of both maps.
    assert [told.count(host) for host in ("h1", "h2")] == [4, 4]


def test_a_host_that_sends_slowly_is_in_the_slowest_pair(lab: Lab, tmp_path: Path) -> None:
    with slow_card(lab.net[1]):
        report, out = bench(lab, STARTS["torchrun"], tmp_path)
    slow = {(pair.source, pair.target) for pair in report.pairs.pairs if pair.bandwidth < 0.01}
    assert slow == {(2, 0), (2, 1), (3, 0), (3, 1)}
    slowest = report.pairs.slowest
    named = f"rank {slowest.source} on h2 to rank {slowest.target} on h1"
    assert f"slowest pair: {named}, " in out
