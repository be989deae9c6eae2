"""Rows that follow from facts: what this machine has no hardware for, and how they are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allranks._doctor.capacity import Capacity, capacity_rows
from allranks._doctor.checks import FAILURE, OK, WARNING, Check, Place, merged
from allranks._doctor.gpus import Gpus, gpu_rows
from allranks._doctor.limits import Limits, limit_rows
from allranks._doctor.neighbours import Neighbour, neighbour_rows
from allranks._doctor.network import Interface, Name, Network, network_rows
from allranks._doctor.routes import Endpoint, Route, route_rows
from allranks._doctor.start import Start, start_rows
from allranks._doctor.storage import Storage, storage_rows
from allranks._doctor.versions import version_rows

A, B, C = Place(0, "a", 0), Place(1, "a", 0), Place(2, "b", 1)

GPUS = Gpus("cuda", 2, "x", 2, has_cuda=True, hidden=None, pairs=1, peers=1)
NO_GPU = Gpus("", 0, "", 0, has_cuda=False, hidden=None)
LIMITS = Limits(1024, 80, 20, None, 18, None, ())
CAPACITY = Capacity((0, 1), 2, None, 2**34, 2**28, cores=2)
STORAGE = Storage(2**34, 2**34, 2**20, "/tmp", "", 2**30)
ETH0 = Interface("eth0", "", exists=True, up=True, addresses=("10.0.0.1",), mtu=1500)
NETWORK = Network((), (ETH0,), ("eth0",), "", None, 1)
ROUTE = Route(Endpoint(1, "b", "10.0.0.2", 4000, "eth0"), "10.0.0.1", answered=True, ahead=0.0)
VERSIONS = {"torch": "2.13.0+cu126", "NCCL": "2.27.3", "driver": "550.1", "Python": "3.12.1"}
VERSIONS |= {"interpreter": "/opt/py/bin/python"}


def only(rows: list[Check], status: str = OK) -> list[Check]:
    return [row for row in rows if row.status == status]


def test_what_is_well_is_said_once_and_what_is_not_with_its_ranks() -> None:
    well, other, ill = Check("x", OK, "5"), Check("x", OK, "6"), Check("x", WARNING, "1", "do")
    assert merged({A: [well], B: [other], C: [well]}) == [well]
    assert merged({A: [ill], B: [ill], C: [well]}) == [replace(ill, seen="ranks 0-1 on a: 1")]
    assert merged({A: [ill], C: [ill]}) == [ill]


def test_no_gpu_is_no_fault() -> None:
    (row,) = gpu_rows({A: NO_GPU, B: NO_GPU})
    assert (row.status, row.seen) == (OK, "none: the ranks use the CPU")


def test_gpus_that_are_well() -> None:
    (row,) = gpu_rows({A: GPUS, B: replace(GPUS, own="y"), C: GPUS})
    assert (row.status, row.seen) == (OK, "2 cuda visible to a rank; 1 of 1 pair read each other")


def test_two_ranks_on_one_gpu() -> None:
    (row,) = gpu_rows({A: GPUS, B: GPUS, C: replace(GPUS, own="y")})
    assert row.status == FAILURE
    assert row.seen.startswith("ranks 0-1 on a: all use the same GPU, x")
    assert row.remedy == "unset CUDA_VISIBLE_DEVICES"


def test_a_host_with_fewer_gpus() -> None:
    (row,) = gpu_rows({A: GPUS, C: replace(GPUS, visible=1)})
    assert (row.status, row.seen) == (WARNING, "rank 2 on b: 1 visible to a rank, and 2 to rank 0")


@pytest.mark.parametrize(("has_cuda", "remedy"), [(True, "nvidia-smi"), (False, "python -m pip")])
def test_gpus_that_torch_does_not_open(has_cuda, remedy) -> None:
    unseen = replace(NO_GPU, of_driver=8, has_cuda=has_cuda)
    (row,) = gpu_rows({A: unseen})
    assert row.status == WARNING
    assert row.remedy.startswith(remedy)
    assert only(gpu_rows({A: replace(unseen, hidden="")}))


def test_two_versions_of_nccl_end_the_job() -> None:
    (row,) = version_rows({A: VERSIONS, C: {**VERSIONS, "NCCL": "2.26.2"}})
    assert (row.status, row.seen) == (FAILURE, "NCCL 2.27.3 on rank 0; 2.26.2 on rank 2")
    assert row.remedy == "python -m pip install torch==2.13.0"


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("torch", "python -m pip install torch==2.13.0"),
        ("Python", "export PATH=/opt/py/bin:$PATH"),
        ("driver", "apt-get install --only-upgrade 'nvidia-driver-550*'"),
    ],
)
def test_other_versions_are_warned_of(name, remedy) -> None:
    (row,) = version_rows({A: VERSIONS, C: {**VERSIONS, name: "9"}})
    assert (row.status, row.remedy) == (WARNING, remedy)


def test_fewer_descriptors_than_rank_0_surely_needs() -> None:
    (row,) = only(limit_rows({A: replace(LIMITS, descriptors=19)}), FAILURE)
    assert row.seen == "at most 19 files and connections may be open, and 80 may be needed"
    assert not only(limit_rows({A: replace(LIMITS, descriptors=79)}), FAILURE)


def test_too_few_threads() -> None:
    (row,) = only(limit_rows({A: replace(LIMITS, threads_left=17)}), FAILURE)
    assert row.remedy == "ulimit -u 4096"
    assert not only(limit_rows({A: replace(LIMITS, threads_left=18)}), FAILURE)


def test_infiniband_needs_locked_memory() -> None:
    little = replace(LIMITS, locked=2**16)
    assert not only(limit_rows({A: little}), WARNING)
    (row,) = only(limit_rows({A: replace(little, infiniband=("mlx5_0",))}), WARNING)
    assert (row.seen, row.remedy) == ("at most 64 KiB, for mlx5_0", "ulimit -l unlimited")


@pytest.mark.parametrize(
    ("change", "status", "remedy"),
    [
        ({"shared": 0}, FAILURE, "rm -i /dev/shm/*"),
        ({"shared": 0, "shared_size": 2**26}, FAILURE, "mount -o remount,size=8G /dev/shm"),
        ({"shared": 2**25, "shared_needed": 2**26}, WARNING, "rm -i /dev/shm/*"),
        ({"temporary": ""}, FAILURE, "export TMPDIR=$HOME"),
        ({"asked": "/scratch/me"}, WARNING, "mkdir -p /scratch/me"),
        ({"temporary_free": 0}, WARNING, "export TMPDIR=/var/tmp"),
    ],
)
def test_no_room_for_files(change, status, remedy) -> None:
    (row,) = only(storage_rows({A: replace(STORAGE, **change)}), status)
    assert row.remedy == remedy
    assert len(only(storage_rows({A: STORAGE}))) == 2


def test_ranks_that_are_bound_to_cpus_of_their_own() -> None:
    bound = [replace(CAPACITY, cpus=(number,)) for number in range(2)]
    rows = capacity_rows(dict(zip((A, B), bound, strict=True)))
    assert [row.what for row in only(rows)] == ["CPUs", "binding", "memory"]
    assert rows[1].seen == "the ranks of a host are bound, to 1 CPU or more each"


def test_ranks_that_crowd_on_one_core() -> None:
    """Though their host has others; its two hardware threads are one core."""
    crowded = replace(CAPACITY, cpus=(0, 4), of_host=8, cores=1)
    free = replace(CAPACITY, cpus=(1, 2, 3), of_host=8, cores=3)
    others = {Place(3, "a"): free, Place(4, "a"): free}
    (row,) = only(capacity_rows({A: crowded, B: crowded, **others}), WARNING)
    assert (row.what, row.remedy) == ("binding", "taskset -cp 0-7 $$")
    assert row.seen == "ranks 0-1 on a: all on one core, CPUs 0, 4"


def test_a_rank_on_another_node_than_its_gpu() -> None:
    near = replace(CAPACITY, gpu_node=0, near=2)
    far = replace(CAPACITY, cpus=(2, 3), gpu_node=0, near=0)
    (row,) = only(capacity_rows({A: near, B: far, C: CAPACITY}), WARNING)
    assert row.seen == "rank 1 on a: no CPU on the NUMA node of its GPU"


def test_ranks_that_may_leave_the_node_of_their_gpu_are_told_how_to_stay() -> None:
    rows = capacity_rows(dict.fromkeys((A, B), replace(CAPACITY, gpu_node=0, near=1)))
    assert [row.status for row in rows] == [OK] * 3
    assert rows[1].seen.endswith("ALLRANKS_BIND=numa keeps each on the NUMA node of its GPU")


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"quota": 1.5}, "docker run --cpus=2 ..."),
        ({"cpus": (1,), "cores": 1}, "taskset -cp 0-1 $$"),
        ({"cpus": (0,), "of_host": 1}, "allranks run -n 1 ..."),
        ({"memory_left": 2**28}, "srun --mem=2G ..."),
    ],
)
def test_ranks_that_share_too_little(change, remedy) -> None:
    few = replace(CAPACITY, **change)
    (row,) = only(capacity_rows({A: few, B: few, C: CAPACITY}), WARNING)
    assert row.remedy == remedy
    assert row.seen.startswith("ranks 0-1 on a: ")


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"exists": False}, "unset GLOO_SOCKET_IFNAME"),
        ({"up": False}, "ip link set dev eth0 up"),
        ({"addresses": ()}, "unset GLOO_SOCKET_IFNAME"),
        ({"exists": False, "asked_by": "NCCL_SOCKET_IFNAME"}, "unset NCCL_SOCKET_IFNAME"),
    ],
)
def test_interfaces_that_cannot_be_used(change, remedy) -> None:
    broken = replace(NETWORK, interfaces=(replace(ETH0, **change),), others=("eth0",))
    (row,) = only(network_rows({A: broken}), FAILURE)
    assert row.remedy == remedy


def test_two_mtus() -> None:
    jumbo = replace(NETWORK, interfaces=(replace(ETH0, mtu=9000),))
    (row,) = only(network_rows({A: NETWORK, B: NETWORK, C: jumbo}), WARNING)
    assert (row.seen, row.remedy) == ("1500 on a; 9000 on b", "ip link set dev eth0 mtu 1500")


def test_a_range_of_too_few_ports() -> None:
    ranged = replace(NETWORK, port_range="20000-20001", free_ports=1, ports_needed=2)
    (row,) = only(network_rows({A: ranged}), FAILURE)
    assert row.seen == "ALLRANKS_PORT_RANGE=20000-20001: 1 free; 2 are needed"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        (Name("a", False, (), 0.0), WARNING),
        (Name("a", False, ("10.0.0.1",), 4.0), WARNING),
        (Name("a", True, (), 0.0), FAILURE),
    ],
)
def test_names(name, status) -> None:
    (row,) = only(network_rows({A: replace(NETWORK, names=(name,))}), status)
    assert row.remedy.startswith("echo '")


@pytest.mark.parametrize(
    ("change", "remedy"),
    [
        ({"together": False, "yama": 1}, "docker run --pid=host"),
        ({"yama": 1}, "sysctl -w kernel.yama.ptrace_scope=0"),
        ({"filtered": True}, "docker run --cap-add=SYS_PTRACE"),
        ({}, "setpriv "),
    ],
)
def test_why_memory_is_not_read(change, remedy) -> None:
    shut = replace(Neighbour(alone=False, together=True), **change)
    (row,) = neighbour_rows({A: shut, B: shut, C: Neighbour()})
    assert row.status == WARNING
    assert row.remedy.startswith(remedy)


def test_memory_that_is_not_read_on_purpose() -> None:
    assert neighbour_rows({A: Neighbour(alone=False, off=True)})[0].status == OK
    assert neighbour_rows({A: Neighbour()}) == []


def test_clocks_are_apart_beyond_what_the_round_trip_leaves_open() -> None:
    """A slow answer is no wrong clock."""
    slow = replace(ROUTE, ahead=-3.0, give_or_take=1.5)
    assert not only(route_rows({A: (slow,), C: ()}), WARNING)
    (row,) = only(route_rows({A: (replace(slow, ahead=-9.0),), C: ()}), WARNING)
    assert row.seen == "b is 9.0 s behind a"


def test_a_route_on_which_no_size_comes_through() -> None:
    (row,) = only(route_rows({A: (replace(ROUTE, trouble="no answer in 4 s"),)}), FAILURE)
    assert row.remedy == "ping -M do -s 1400 b"


def test_a_doubt_and_a_misspelt_variable() -> None:
    doubt = "In Slurm job 7, but not started by srun. `srun python ...` would start its tasks."
    start = Start("single", "rank 0 of 1", (), doubt, ("nothing reads ALLRANKS_CHEK; did you ...",))
    launcher, variable = start_rows({A: start})
    assert (launcher.status, launcher.remedy) == (WARNING, "srun allranks doctor")
    assert variable.remedy == "unset ALLRANKS_CHEK"
