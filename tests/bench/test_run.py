"""A whole run, where something is missing: memory, a call of the backend, time for all pairs."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
import torch.distributed as dist

from allranks._bench import run
from allranks._bench.cases import CASES, ITEM, Buffers
from allranks._bench.memory import COPIES
from allranks._bench.own_setting import own_device, setting_of
from allranks._bench.plan import Plan
from allranks._bench.table import shown
from allranks._system.streams import console


def measured(world, *collectives: str, pairs: bool = False, most: int = 1024):
    plan = Plan(collectives, 16, most, 4, 0.001, pairs=pairs)
    return run.measured_run(plan, setting_of(world, own_device()), own_device(), world)


@pytest.mark.ranks(3)
def test_the_rank_with_the_least_memory_bounds_the_sizes(world, monkeypatch) -> None:
    here = COPIES * (100 if world.rank == 1 else 1000)
    monkeypatch.setattr(run, "available_to_rank", lambda *_: here)
    report = measured(world, "all_reduce", most=2**20)
    assert [row.bytes for row in report.rows] == [16, 64]
    largest = "the largest that fits the memory of every rank is 64 B"
    assert report.notes == (f"sizes from 256 B on were left out: {largest}",)


@pytest.mark.ranks(2)
def test_the_smallest_size_is_measured_in_any_case(world, monkeypatch) -> None:
    monkeypatch.setattr(run, "available_to_rank", lambda *_: 0)
    assert [row.bytes for row in measured(world, "all_reduce").rows] == [16]


@pytest.mark.ranks(2)
def test_a_call_that_the_backend_lacks_leaves_ours(world, monkeypatch, capsys) -> None:
    def lacking(*_: object) -> None:
        raise RuntimeError("Backend gloo does not support reduce_scatter")

    for name in ("reduce_scatter_single", "reduce_scatter_tensor"):
        monkeypatch.setattr(dist, name, lacking, raising=False)
    report = measured(world, "reduce_scatter", "broadcast")
    missing, there = (
        [row for row in report.rows if row.collective == name]
        for name in ("reduce_scatter", "broadcast")
    )
    assert all(row.torchs is row.ratio is None and row.ours.seconds > 0 for row in missing)
    assert all(row.torchs for row in there)
    assert report.notes == (
        "torch's reduce_scatter is not there: Backend gloo does not support reduce_scatter",
    )
    console(stderr=False).print(shown(report))
    assert f"note: {report.notes[0]}" in capsys.readouterr().out


@pytest.mark.ranks(4)
def test_where_all_pairs_take_too_long_the_first_ranks_stand_for_them(world, monkeypatch) -> None:
    monkeypatch.setattr(run, "MOST_STEPS", 3)
    report = measured(world, pairs=True)
    assert report.pairs.ranks == (0, 1, 2)
    found = [(pair.source, pair.target) for pair in report.pairs.pairs]
    assert found == [*permutations(range(3), 2)]
    which = "of each host only the first 3 ranks stand in the pairs"
    assert report.notes == (f"{which}: all ranks need 6 steps",)


@pytest.mark.ranks(2)
def test_a_size_is_that_of_the_larger_buffer(world) -> None:
    """64 bytes: what all_gather gives each rank, and what reduce_scatter takes."""
    buffers = Buffers(world.world_size, 64 // ITEM, torch.device("cpu"))
    given = {case.name: case.make(buffers).ours() for case in CASES}
    assert given["all_reduce"].nbytes == given["all_gather"].nbytes == 64
    assert given["reduce_scatter"].nbytes == 32
    assert [part.nbytes for part in given["all_to_all"]] == [32, 32]
    assert [one["array"].nbytes for one in given["objects"]] == [32, 32]
