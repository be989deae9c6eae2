"""``setup(bind="numa")`` under a Slurm that binds tasks by itself, as most clusters' do."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

import slurm_cluster
from geometries import PYTHON
from hosts import network, numbered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from slurm_cluster import Slurm

pytestmark = [
    pytest.mark.timeout(400),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is nothing to divide"),
]

LIMIT = 200.0
"""Seconds that a job may take on a machine with other work."""

CPUS = sorted(os.sched_getaffinity(0))[:2]

BOUND = """
import json, os, allranks
before = sorted(os.sched_getaffinity(0))
with allranks.session(cpu=True, rendezvous_timeout=150) as world:
    print(json.dumps(["rank", world.rank, before, sorted(os.sched_getaffinity(0))]), flush=True)
"""


@pytest.fixture(scope="module")
def binding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Two hosts, whose Slurm has the plugin that binds."""
    with pytest.MonkeyPatch.context() as patch:
        affine = slurm_cluster.CONFIGURATION.replace("task/none", "task/affinity")
        patch.setattr(slurm_cluster, "CONFIGURATION", affine)
        patch.setattr(slurm_cluster, "CPUS", 2)
        with (
            network(tmp_path_factory.mktemp("hosts"), numbered(2)) as net,
            slurm_cluster.slurm(tmp_path_factory.mktemp("slurm"), net) as running,
        ):
            yield running


def bound(slurm: Slurm, how: str) -> tuple[list[tuple[int, list[int], list[int]]], str]:
    """Each rank's CPUs before and during, of two on each host, and all that was said."""
    srun = ("srun", "-N2", "-n4", f"--cpu-bind={how}", PYTHON, "-c", BOUND)
    ended = slurm.run(*srun, timeout=LIMIT, environ={"ALLRANKS_BIND": "numa"})
    lines = [line for line in ended.out.splitlines() if line.startswith('["rank"')]
    assert len(lines) == 4, ended.out
    return sorted(tuple(json.loads(line)[1:]) for line in lines), ended.out


def test_where_slurm_does_not_bind_each_host_divides_its_cores(binding: Slurm) -> None:
    ranks, said = bound(binding, "none")
    for rank, before, during in ranks:
        assert set(before) >= set(CPUS)
        assert len(during) <= (len(before) + 1) // 2, ranks
        assert set(during) != set(ranks[rank ^ 1][2])
    assert "note: bind" not in said


def test_what_slurm_has_bound_stays_and_each_host_says_so(binding: Slurm) -> None:
    one, other = CPUS
    ranks, said = bound(binding, f"map_cpu:{other},{one}")
    assert ranks == [(rank, *[[(other, one)[rank % 2]]] * 2) for rank in range(4)]
    for host, first in (("h1", 0), ("h2", 2)):
        told = f"rank {first} to CPUs {other} and rank {first + 1} to CPUs {one}"
        assert said.count(f"leaves the ranks on {host} as they are") == 1
        assert told in said
