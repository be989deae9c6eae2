"""A report whose figures nobody has measured."""

from __future__ import annotations

from allranks._bench.results import Pair, PairMatrix, Report, Row, Setting, Timing

SIZES = (4, 1024, 2**20)


def timing(seconds: float, size: int) -> Timing:
    algbw = size / seconds / 1e9
    return Timing(seconds, seconds * 0.9, seconds * 1.1, algbw, algbw * 1.5)


def report(hosts: tuple[str, ...] = ("left", "left", "right", "right"), **changed: str) -> Report:
    """Rank 2 sends slowly to rank 1, and from rank 3 to rank 0 it takes long."""
    ranks = range(len(hosts))
    rows = tuple(
        Row(name, size, timing(1e-4, size), timing(2e-4, size), 2.0)
        for name in ("all_reduce", "objects")
        for size in SIZES
    )
    pairs = tuple(
        Pair(i, j, 9e-5 if (i, j) == (3, 0) else 1e-5, 0.5 if (i, j) == (2, 1) else 20.0)
        for i in ranks
        for j in ranks
        if i != j
    )
    nodes = tuple(dict.fromkeys(hosts))
    told = {"allranks": "1", "torch": "2", "launcher": "slurm", "backend": "gloo", "device": "cpu"}
    setting = Setting(**told | changed, hosts=hosts, nodes=tuple(map(nodes.index, hosts)))
    return Report(setting, 0.0, rows, PairMatrix(tuple(ranks), 4, 4096, pairs), ())
