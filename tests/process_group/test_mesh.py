"""Meshes, whose dimensions are groups in every call; ranks and sizes of groups."""

from __future__ import annotations

import pytest
import torch.distributed as dist

import allranks
from allranks.errors import CollectiveError, MismatchError


@pytest.mark.ranks(4)
def test_a_dimension_is_a_group_in_every_call(world) -> None:
    mesh = allranks.mesh({"dp": 2, "tp": -1})
    assert mesh.mesh_dim_names == ("dp", "tp")
    row, column = divmod(world.rank, 2)
    across, along = mesh["dp"], mesh["tp"]
    assert allranks.all_gather(world.rank, across) == [column, column + 2]
    assert allranks.all_gather(world.rank, along) == [2 * row, 2 * row + 1]
    assert allranks.all_reduce({"a": 1.5}, group=along) == {"a": 3.0}
    assert allranks.broadcast_object(world.rank, 2 * row, along) == 2 * row
    assert allranks.agree(world.rank == 0, group=across) == (column == 0)
    allranks.synchronize(group=along)
    assert (allranks.get_rank(across), allranks.get_world_size(across)) == (row, 2)
    assert allranks.all_gather(world.rank, allranks.split(0, group=along)) == [2 * row, 2 * row + 1]


@pytest.mark.ranks(4)
def test_several_dimensions_are_no_group(world) -> None:
    mesh = allranks.mesh({"dp": 2, "tp": 2})
    with pytest.raises(CollectiveError, match=r"mesh of 2 dimensions .*as mesh\['dp'\]"):
        allranks.all_reduce(1, mesh)


@pytest.mark.ranks(1, 2, 3)
def test_a_mesh_of_one_dimension_is_a_group(world) -> None:
    mesh = allranks.mesh({"all": -1})
    assert allranks.all_reduce(1, mesh) == world.world_size
    assert allranks.get_rank(mesh) == world.rank


WRONG = [
    ({"dp": 3, "tp": 2}, "3 x 2 = 6 ranks, and there are 4"),
    ({"dp": 3, "tp": -1}, "3 does not divide the 4 ranks"),
    ({"dp": -1, "tp": -1}, "only one size can be -1"),
    ({"dp": 0}, "dp=0 is neither a number of ranks nor -1"),
    ({"dp": 2.0}, "dp=2.0 is neither"),
    ({"dp": True}, "dp=True is neither"),
    ({}, "expected names and sizes"),
    ([2, 2], "expected names and sizes"),
    ({4: 4}, "4 is no name"),
]


@pytest.mark.ranks(4)
@pytest.mark.parametrize(("dims", "told"), WRONG)
def test_what_does_not_fit_is_refused_on_all(world, dims, told) -> None:
    wrong = dims if world.rank == 3 else {"dp": 4}
    with pytest.raises(CollectiveError, match=told):
        allranks.mesh(wrong)
    assert allranks.all_reduce(1) == 4


@pytest.mark.ranks(2)
def test_other_meshes_on_other_ranks(world) -> None:
    with pytest.raises(MismatchError, match="different calls"):
        allranks.mesh({"dp": 2} if world.rank else {"tp": 2})


def test_a_mesh_needs_a_group() -> None:
    with pytest.raises(CollectiveError, match=r"Call allranks.setup\(\) first"):
        allranks.mesh({"dp": 1})


@pytest.mark.ranks(3)
def test_ranks_and_sizes_within_groups(world) -> None:
    """As torch says it: -1 on a rank that is in no such group."""
    group = allranks.split(0 if world.rank else None)
    expected = (world.rank - 1, 2) if world.rank else (-1, -1)
    assert (allranks.get_rank(group), allranks.get_world_size(group)) == expected
    assert (dist.get_rank(group), dist.get_world_size(group)) == expected
    assert allranks.get_dist_info() == (world.rank, 3)
    if world.rank:
        dist.destroy_process_group(group)
        with pytest.raises(CollectiveError, match="destroyed"):
            allranks.get_rank(group)


def test_a_rank_that_was_described_without_its_world() -> None:
    allranks.setup_env_local_multi_gpu(1, 23456)
    assert (allranks.get_rank(), allranks.is_master()) == (1, False)
    allranks.cleanup()
    assert allranks.is_master()


def test_ray_is_shut_down_where_it_is_up(monkeypatch) -> None:
    """A stand-in: Ray is no dependency."""
    import sys
    from types import SimpleNamespace

    shut = []
    ray = SimpleNamespace(is_initialized=lambda: not shut, shutdown=lambda: shut.append(1))
    monkeypatch.setitem(sys.modules, "ray", ray)
    from allranks import distutils

    allranks.setup(cpu=True)
    distutils.cleanup_gp_ray()
    distutils.cleanup_gp_ray()
    assert shut == [1]
    assert not allranks.initialized()
