"""What is told of a time: bandwidths, units, sizes, and what has changed since an earlier run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from allranks._bench import compare, memory
from allranks._bench.cases import CASES
from allranks._bench.measure import timing, why_lacking
from allranks._bench.plan import COLLECTIVES, Plan, bytes_of
from allranks._bench.results import Timing, read_report
from allranks._system import cgroups
from allranks._system.streams import console
from allranks._system.typed_json import written
from allranks.errors import ConfigError
from bench_report import report

GIB = 2**30


def case(name: str):
    return next(case for case in CASES if case.name == name)


@pytest.mark.parametrize(
    ("name", "busbw"),
    [
        ("all_reduce", 3.5),
        ("all_gather", 1.75),
        ("reduce_scatter", 1.75),
        ("all_to_all", 1.75),
        ("objects", 1.75),
        ("broadcast", 2.0),
    ],
)
def test_bandwidths_are_those_of_nccl_tests(name: str, busbw: float) -> None:
    """8 ranks, 1 GB in half a second: 2 GB/s by the algorithm, times 14/8, 7/8 or 1."""
    told = timing(np.array([0.5, 0.5, 0.5]), 10**9, case(name).bus_factor(8))
    assert told == Timing(0.5, 0.5, 0.5, 2.0, busbw)


def test_the_median_and_the_middle_half_of_the_turns_are_told() -> None:
    told = timing(np.array([5.0, 1.0, 4.0, 2.0, 3.0]), 10**9, 1.0)
    assert (told.low, told.seconds, told.high) == (2.0, 3.0, 4.0)


def test_the_names_are_those_that_can_be_asked_for() -> None:
    assert tuple(case.name for case in CASES) == COLLECTIVES


def test_sizes_rise_by_the_factor() -> None:
    plan = Plan(COLLECTIVES, 4, 256 * 2**20, 4, 1.0, pairs=True)
    assert plan.sizes() == [4**i for i in range(1, 15)]
    assert replace(plan, most=100, factor=3).sizes() == [4, 12, 36]


@pytest.mark.parametrize(
    ("name", "sizes"), [("all_reduce", [4, 8, 16, 20]), ("all_gather", [12, 24])]
)
def test_a_call_has_whole_elements_and_parts_of_one_size(name: str, sizes: list[int]) -> None:
    assert case(name).sizes([1, 8, 16, 17], 3) == sizes


@pytest.mark.parametrize(
    ("text", "count"),
    [("4", 4), ("64K", 65536), ("64KB", 65536), ("1 MiB", 2**20), ("2g", 2**31), ("7B", 7)],
)
def test_sizes_are_read_as_nccl_tests_read_them(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "K", "0", "-4", "1.5M", "4T", "four"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size; write bytes"):
        bytes_of(text)


def test_sizes_that_do_not_fit_the_memory_are_left_out() -> None:
    assert memory.fitting([2**20, 2**28, 2**30], 2 * GIB) == [2**20, 2**28]


def test_a_rank_may_take_its_share_of_the_host() -> None:
    cpu = torch.device("cpu")
    alone, shared = (memory.available_to_rank(cpu, ranks) for ranks in (1, 1024))
    assert 0 < shared < alone / 500


def test_a_limit_of_the_control_group_counts(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(cgroups, "folders", lambda _: [tmp_path])
    assert memory.available_to_rank(torch.device("cpu"), 2) == 300_000
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_to_rank(torch.device("cpu"), 2) > 300_000


def test_a_call_that_the_backend_lacks_is_told_and_an_error_is_raised() -> None:
    def lacking() -> None:
        raise RuntimeError("ProcessGroupGloo does not support alltoall\nmore")

    def failing() -> None:
        raise RuntimeError("Connection closed by peer")

    assert why_lacking(lacking) == "ProcessGroupGloo does not support alltoall"
    assert not why_lacking(lambda: None)
    with pytest.raises(RuntimeError, match="closed by peer"):
        why_lacking(failing)


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(written(report()))
    assert read_report(path) == report()


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"setting": 3}', written(report())[:-9]])
def test_what_is_no_report_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"was not written by `allranks bench --json`"):
        read_report(path)
    with pytest.raises(ConfigError, match=r"cannot be read: No such file"):
        read_report(tmp_path / "absent.json")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (report(hosts=("a", "b")), "world_size 2, and now 4"),
        (report(backend="nccl"), "backend 'nccl', and now 'gloo'"),
        (report(device="cuda"), "device 'cuda', and now 'cpu'"),
    ],
)
def test_runs_that_say_nothing_about_each_other_are_refused(other, told: str) -> None:
    assert told in compare.why_not_comparable(other.setting, report().setting)
    assert not compare.why_not_comparable(report().setting, report().setting)


@pytest.mark.parametrize(
    ("now", "verdict"), [(1.0, ""), (1.15, ""), (1.3, "slower"), (0.9, ""), (0.7, "faster")]
)
def test_only_what_is_beyond_both_spreads_is_a_change(now: float, verdict: str) -> None:
    """Both runs spread by a tenth to each side."""
    old, new = Timing(1.0, 0.9, 1.1, 1.0, 1.0), Timing(now, now * 0.9, now * 1.1, 1.0, 1.0)
    assert compare.verdict(old, new) == verdict


def test_a_comparison_says_what_has_changed(capsys) -> None:
    old = report()
    slow = old.rows[-1]
    worse = replace(slow, ours=replace(slow.ours, seconds=3e-4, low=3e-4, high=3e-4))
    pairs = replace(
        old.pairs,
        pairs=tuple(
            replace(pair, bandwidth=2.0) if (pair.source, pair.target) == (0, 3) else pair
            for pair in old.pairs.pairs
        ),
    )
    new = replace(old, rows=(*old.rows[1:-1], worse), pairs=pairs)
    at = console(stderr=False)
    at.width = 120
    at.print(compare.compared(old, new, Path("old.json")))
    out = capsys.readouterr().out
    (changed,) = (line for line in out.splitlines() if "slower" in line and "1 MiB" in line)
    assert "slower 3.00x" in changed
    assert "100" in changed
    assert "300" in changed
    assert "1 of the calls are in one of the runs only" in out
    assert "1.00x the bandwidth of before in the median" in out
    assert "0.10x from rank 0 on left to rank 3 on right" in out
