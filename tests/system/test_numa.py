"""What Linux tells of NUMA nodes, cores and devices, on machines that are not here."""

from __future__ import annotations

import os

import pytest

from allranks._system import cpus, numa
from allranks._system.numa import Core
from machines import ALTERNATING, FOUR_NODES, MEMORY_NODES, ONE_NODE, SILENT, TWO_SOCKETS


def test_the_threads_of_a_core_are_one_core_and_nodes_come_one_after_the_other(on) -> None:
    on(TWO_SOCKETS)
    found = numa.cores(range(224))
    assert len(found) == 112
    assert found[:2] == [Core(0, (0, 112)), Core(0, (1, 113))]
    assert found[55:57] == [Core(0, (55, 167)), Core(1, (56, 168))]
    assert [core.node for core in found] == [0] * 56 + [1] * 56


def test_a_cpuset_leaves_out_threads_and_whole_nodes(on) -> None:
    on(TWO_SOCKETS)
    assert numa.cores([170, 58, 57]) == [Core(1, (57,)), Core(1, (58, 170))]


def test_a_processor_may_be_several_nodes(on) -> None:
    on(FOUR_NODES)
    found = numa.cores(range(128))
    assert [core.node for core in found] == [0] * 16 + [1] * 16 + [2] * 16 + [3] * 16
    assert [numa.node_of_pci(address) for address in FOUR_NODES.gpus] == [
        *(3, 3, 1, 1),
        *(0, 0, 2, 2),
    ]


def test_nodes_without_cpus_are_none(on) -> None:
    on(MEMORY_NODES)
    assert sorted(numa.nodes()) == [0, 1]
    assert numa.cores([0, 143]) == [Core(0, (0,)), Core(1, (143,))]
    assert numa.node_of_pci("0019:01:00.0") == 1


def test_a_device_of_a_machine_with_one_node_is_there(on) -> None:
    on(ONE_NODE)
    assert numa.node_of_pci("0000:01:00.0") == 0


def test_what_is_not_told_is_not_guessed(on) -> None:
    on(SILENT)
    assert numa.cores([3, 1]) == [Core(None, (1,)), Core(None, (3,))]
    assert numa.node_of_pci("0000:01:00.0") is None
    on(ALTERNATING)
    assert numa.node_of_pci("0000:01:00.0") is None
    assert numa.node_of_pci("0000:02:00.0") is None


@pytest.mark.parametrize(
    ("machine", "cpus", "told"),
    [
        (TWO_SOCKETS, [0, 1, 112], "0-1, 112 on NUMA node 0"),
        (TWO_SOCKETS, [0, 60], "0, 60 on NUMA nodes 0-1"),
        (SILENT, [0, 1], "0-1"),
    ],
)
def test_cpus_for_people(on, machine, cpus, told) -> None:
    on(machine)
    assert numa.described(cpus) == told


@pytest.mark.skipif(not cpus.can_be_chosen(), reason="Linux alone tells it")
def test_this_machine_tells_of_each_cpu_once() -> None:
    found = numa.cores(cpus.affinity())
    assert sorted(cpu for core in found for cpu in core.cpus) == sorted(os.sched_getaffinity(0))
