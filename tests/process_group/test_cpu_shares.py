"""The CPUs of each rank of a host, on machines that are not here."""

from __future__ import annotations

import pytest

from allranks._process_group.cpu_shares import Device, Host, Share, share_of
from allranks._system import numa
from machines import ALTERNATING, FOUR_NODES, MEMORY_NODES, ONE_NODE, SILENT, TWO_SOCKETS

CPU = Device("cpu")


def shares(cpus, ranks: int, quota: float = float("inf")) -> list[Share | str]:
    """Those of ranks on the CPU."""
    host = Host(numa.cores(cpus), ranks, quota)
    return [share_of(place, CPU, host) for place in range(ranks)]


def beside(cpus, machine) -> list[Share | str]:
    """Those of ranks with a GPU each, all of the machine."""
    host = Host(numa.cores(cpus), len(machine.gpus))
    nodes = [numa.node_of_pci(address) for address in machine.gpus]
    devices = [Device(f"cuda:{i}", node, nodes.count(node)) for i, node in enumerate(nodes)]
    return [share_of(place, device, host) for place, device in enumerate(devices)]


@pytest.mark.parametrize(
    ("machine", "cpus", "ranks"),
    [
        (TWO_SOCKETS, range(224), 8),
        (TWO_SOCKETS, range(224), 3),
        (TWO_SOCKETS, [*range(10), *range(112, 117)], 4),
        (FOUR_NODES, range(128), 64),
        (MEMORY_NODES, range(144), 5),
        (ONE_NODE, range(8), 4),
        (SILENT, [1, 3, 5], 2),
    ],
)
def test_every_cpu_is_one_rank_s_and_every_core_too(on, machine, cpus, ranks) -> None:
    on(machine)
    got = shares(cpus, ranks)
    assert sorted(cpu for share in got for cpu in share.cpus) == sorted(cpus)
    for core in numa.cores(cpus):
        assert sum(bool({*core.cpus} & {*share.cpus}) for share in got) == 1
    threads = [share.threads for share in got]
    assert max(threads) - min(threads) <= 1
    assert sum(threads) == len(numa.cores(cpus))


@pytest.mark.parametrize(("machine", "cpus"), [(FOUR_NODES, range(128)), (ALTERNATING, range(8))])
def test_as_many_ranks_as_nodes_get_a_node_each(on, machine, cpus) -> None:
    """However the CPUs are numbered."""
    on(machine)
    got = shares(cpus, len(machine.nodes))
    assert [list(share.cpus) for share in got] == [numa.nodes()[node] for node in machine.nodes]


def test_fewer_cores_than_ranks_are_not_divided(on) -> None:
    """However many hardware threads there are."""
    on(ONE_NODE)
    said = "5 ranks on a host, which may use 4 cores"
    assert shares(range(8), 5) == [said] * 5


def test_a_quota_allows_fewer_threads_than_cores(on) -> None:
    on(TWO_SOCKETS)
    assert {share.threads for share in shares(range(224), 4, quota=10)} == {2}
    assert {share.threads for share in shares(range(224), 4, quota=1.5)} == {1}


def test_ranks_with_gpus_share_the_node_of_theirs(on) -> None:
    on(TWO_SOCKETS)
    near, far = (tuple(numa.nodes()[node]) for node in (0, 1))
    assert beside(range(224), TWO_SOCKETS) == [Share(near, 14)] * 4 + [Share(far, 14)] * 4


def test_gpus_need_not_be_in_the_order_of_the_nodes(on) -> None:
    on(FOUR_NODES)
    got = beside(range(128), FOUR_NODES)
    assert [share.cpus[0] for share in got] == [48, 48, 16, 16, 0, 0, 32, 32]
    assert {share.threads for share in got} == {8}


def test_a_gpu_whose_node_the_job_may_not_use(on) -> None:
    on(TWO_SOCKETS)
    got = beside(range(8), TWO_SOCKETS)
    assert got[0] == Share(tuple(range(8)), 2)
    assert got[7] == "cuda:7 is on NUMA node 1, of which no CPU may be used here"


def test_a_gpu_whose_node_nobody_knows(on) -> None:
    on(SILENT)
    (said,) = beside(range(8), SILENT)
    assert said == "the system does not tell on which NUMA node cuda:0 is"
