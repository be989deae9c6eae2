"""setup(bind="numa") on real ranks: where their threads run, what is said, and what is undone."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import allranks
from accelerators import FakeAccelerator
from allranks._process_group import binding
from allranks._system import cpus, numa
from allranks._system.words import ranges
from allranks.errors import ConfigError, MissingRanksError
from harness import Ranks, env_environs, free_port, private_environs
from machines import Machine

MINE = cpus.affinity()

pytestmark = pytest.mark.skipif(
    not cpus.can_be_chosen() or len(numa.cores(MINE)) < 2, reason="there is nothing to divide"
)

LONG = 300


def started(function, ranks: int, *arguments) -> list:
    """What a function gives on each rank."""
    with private_environs(ranks) as environs:
        ended = Ranks(function, environs, *arguments).results()
    assert all(one.error is None for one in ended), [one.text for one in ended]
    return [one.value for one in ended]


def part(rank: int, ranks: int) -> set[int]:
    """The CPUs of a rank's part of this machine's cores."""
    cores = numa.cores(MINE)
    mine = cores[rank * len(cores) // ranks : (rank + 1) * len(cores) // ranks]
    return {cpu for core in mine for cpu in core.cpus}


def of_all_threads() -> list[set[int]]:
    """Where each thread of this process may run, with one that has just begun."""
    with held_thread():
        tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
        return [os.sched_getaffinity(task) for task in tasks]


@contextlib.contextmanager
def held_thread():
    """A thread that is there meanwhile."""
    leave = threading.Event()
    thread = threading.Thread(target=leave.wait)
    thread.start()
    try:
        yield thread.native_id
    finally:
        leave.set()
        thread.join()


def what_is_said(call) -> str:
    """What a call writes to the standard error stream."""
    with contextlib.redirect_stderr(io.StringIO()) as said:
        call()
    return said.getvalue()


def bound(how: dict, variable: str = ""):
    if variable:
        os.environ["ALLRANKS_BIND"] = variable
    torch.set_num_threads(64)
    with held_thread():
        allranks.setup(cpu=True, rendezvous_timeout=LONG, **how)
        during, threads = of_all_threads(), torch.get_num_threads()
        inherited = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, check=True)
        allranks.all_reduce(1)
        allranks.cleanup()
        after = of_all_threads()
    child = {int(cpu) for cpu in inherited.stdout.split()}
    return during, child, threads, after, torch.get_num_threads()


PRINT = "import os; print(*os.sched_getaffinity(0))"


@pytest.mark.parametrize("how", [({"bind": "numa"},), ({}, "numa")])
def test_each_rank_gets_its_part_and_gives_it_back(how) -> None:
    """On threads from before and since, gloo's and the watch's too, and in its children."""
    for rank, told in enumerate(started(bound, 2, *how)):
        during, child, threads, after, threads_after = told
        assert all(one == part(rank, 2) for one in during), during
        assert len(during) > 3
        assert child == part(rank, 2)
        assert threads <= len(part(rank, 2))
        assert all(one == {*MINE} for one in after), after
        assert threads_after == 64


def test_nobody_is_bound_who_does_not_ask() -> None:
    for during, _, threads, _, _ in started(bound, 2, {}):
        assert all(one == {*MINE} for one in during)
        assert threads == 64


def twice():
    allranks.setup(cpu=True, bind="numa", rendezvous_timeout=LONG)
    once = of_all_threads()
    allranks.setup(cpu=True, bind="numa", rendezvous_timeout=LONG)
    again = of_all_threads()
    with pytest.raises(ConfigError, match="bind='numa', and now with None"):
        allranks.setup(cpu=True, rendezvous_timeout=LONG)
    allranks.cleanup()
    allranks.setup(cpu=True, bind="numa", rendezvous_timeout=LONG)
    anew = of_all_threads()
    allranks.cleanup()
    return once, again, anew, of_all_threads()


def test_setup_again_binds_no_further() -> None:
    for rank, (*during, after) in enumerate(started(twice, 2)):
        assert all(one == part(rank, 2) for told in during for one in told)
        assert all(one == {*MINE} for one in after)


def asked_threads():
    os.environ["OMP_NUM_THREADS"] = "3"
    torch.set_num_threads(3)
    allranks.setup(cpu=True, bind="numa", rendezvous_timeout=LONG)
    during = torch.get_num_threads()
    allranks.cleanup()
    return during


def test_threads_that_were_asked_for_stay() -> None:
    assert started(asked_threads, 2) == [3, 3]


def rebound():
    """A thread of the program's own choice, before and since."""
    with held_thread() as chosen, held_thread() as later:
        os.sched_setaffinity(chosen, {MINE[-1]})
        allranks.setup(cpu=True, bind="numa", rendezvous_timeout=LONG)
        during = os.sched_getaffinity(chosen)
        os.sched_setaffinity(later, {MINE[-1]})
        allranks.cleanup()
        return during, os.sched_getaffinity(chosen), os.sched_getaffinity(later)


def test_a_thread_that_the_program_has_bound_stays_there() -> None:
    first, _ = started(rebound, 2)
    assert first == ({MINE[-1]},) * 3


def failing(how: str):
    """A group that does not come up after the binding, for a reason of its own."""
    if how == "init":
        dist.init_process_group = lambda *_, **__: 1 / 0
        raised = ZeroDivisionError
    else:
        raised = MissingRanksError
    seen = []
    apply = binding.bind
    binding.bind = lambda *given: (apply(*given), seen.append(os.sched_getaffinity(0)))
    with pytest.raises(raised):
        allranks.setup(cpu=True, bind="numa", rendezvous_timeout=LONG if how == "init" else 1)
    return seen, of_all_threads()


def test_a_set_up_that_fails_gives_it_back() -> None:
    for rank, (seen, after) in enumerate(started(failing, 2, "init")):
        assert seen == [part(rank, 2)]
        assert all(one == {*MINE} for one in after)


def test_a_rank_that_meets_nobody_is_not_bound() -> None:
    with private_environs(2) as environs:
        (ended,) = Ranks(failing, environs[:1], "missing").results()
    assert ended.error is None, ended.text
    assert ended.value[0] == []
    assert all(one == {*MINE} for one in ended.value[1])


def crowded(where: dict[int, list[int]] | None = None):
    """What is said; of ranks that are bound already, where that is given."""
    if where:
        os.sched_setaffinity(0, where[allranks.get_rank()])
    said = what_is_said(lambda: allranks.setup(cpu=True, bind="numa", rendezvous_timeout=LONG))
    during = of_all_threads()
    allranks.cleanup()
    return said, during


def test_fewer_cores_than_ranks_bind_nobody_and_rank_0_says_so() -> None:
    cores = len(numa.cores(MINE))
    (said, _), *others = told = started(crowded, cores + 1)
    assert "note: bind='numa' leaves the ranks on" in said
    assert f"{cores + 1} ranks on a host, which may use {cores} cores" in said
    assert all(text == "" for text, _ in others)
    assert all(one == {*MINE} for _, during in told for one in during)


def test_ranks_that_are_bound_apart_stay_so() -> None:
    """As by Slurm or taskset: the first rank gets the last CPU."""
    where = {0: [MINE[-1]], 1: [MINE[0]]}
    (said, first), (silent, second) = started(crowded, 2, where)
    assert f"has bound rank 0 to CPUs {MINE[-1]} and rank 1 to CPUs {MINE[0]}" in said
    assert silent == ""
    assert all(one == {MINE[-1]} for one in first)
    assert all(one == {MINE[0]} for one in second)


def test_ranks_that_are_bound_alike_share_what_they_have() -> None:
    where = {0: [MINE[-1]], 1: [MINE[-1]]}
    (said, first), _ = started(crowded, 2, where)
    assert "2 ranks on a host, which may use 1 core" in said
    assert all(one == {MINE[-1]} for one in first)


def refused():
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    os.sched_setaffinity = refuse
    return crowded()


def test_a_system_that_refuses_is_no_failure() -> None:
    for rank, (said, during) in enumerate(started(refused, 2)):
        assert f"note: rank {rank} (pid " in said
        assert f"cannot be bound to CPUs {ranges(part(rank, 2))}: [Errno 1] Operation not" in said
        assert all(one == {*MINE} for one in during)


def adopted():
    dist.init_process_group("gloo")
    allranks.setup(cpu=True, bind="numa", rendezvous_timeout=LONG)
    during = os.sched_getaffinity(0)
    allranks.cleanup()
    return during, os.sched_getaffinity(0)


def alone():
    torch.set_num_threads(64)
    dist.init_process_group("gloo")
    allranks.setup(cpu=True, bind="numa")
    during = os.sched_getaffinity(0), torch.get_num_threads()
    allranks.cleanup()
    return *during, torch.get_num_threads()


def test_the_ranks_of_a_group_that_other_code_made() -> None:
    ended = Ranks(adopted, env_environs(2, free_port())).results()
    assert [one.value for one in ended] == [(part(rank, 2), {*MINE}) for rank in range(2)]


def test_a_rank_alone_has_all_cores_and_no_more_threads_than_these() -> None:
    """Of a group that other code made, which calls no roll, as well."""
    (ended,) = Ranks(alone, env_environs(1, free_port())).results()
    assert ended.value == ({*MINE}, len(numa.cores(MINE)), 64), ended.text


def beside_gpus(gpus: dict[str, int], nodes: dict[int, str]):
    """What is said and done on nodes and beside GPUs that are a fiction."""
    FakeAccelerator("cuda", 2).put_in()
    torch.set_num_threads(64)
    known, bind = [], binding.bind
    binding.bind = lambda wanted, me, peers: (
        known.extend(one.numa_node for one in (me, *peers)),
        bind(wanted, me, peers),
    )
    with tempfile.TemporaryDirectory() as folder:
        numa.SYS = Machine(nodes, gpus=gpus).written(Path(folder))
        how = {"bind": "numa", "distributed_backend": "gloo", "rendezvous_timeout": LONG}
        said = what_is_said(lambda: allranks.setup(**how))
        during, threads = of_all_threads(), torch.get_num_threads()
        allranks.cleanup()
    return said, during, threads, known


HALVES = {node: ranges(sorted(part(node, 2))) for node in range(2)}

CROSSED = {"0000:1b:00.0": 1, "0000:1c:00.0": 0}
"""The nodes of the GPUs that the fiction has, by their places on the bus."""


def beside(gpus: dict[str, int], nodes: dict[int, str] = HALVES, *, counted: bool = False):
    """Two ranks with a GPU each, whose places on their host are counted, or told."""
    environs = env_environs(2, free_port())
    for environ in environs if counted else ():
        del environ["LOCAL_RANK"]
    ended = Ranks(beside_gpus, environs, gpus, nodes).results()
    assert all(one.error is None for one in ended), [one.text for one in ended]
    return [one.value for one in ended]


@pytest.mark.parametrize("counted", [False, True])
def test_ranks_with_gpus_are_on_the_nodes_of_these(counted: bool) -> None:
    for rank, (said, during, _, known) in enumerate(beside(CROSSED, counted=counted)):
        assert known == ([None] * 2 if counted else [1 - rank, rank])
        assert all(one == part(1 - rank, 2) for one in during)
        assert said == ""


@pytest.mark.parametrize("counted", [False, True])
def test_ranks_with_gpus_on_one_node_share_it(counted: bool) -> None:
    gpus, nodes = dict.fromkeys(CROSSED, 1), {1: ranges(MINE)}
    for _, during, threads, _ in beside(gpus, nodes, counted=counted):
        assert all(one == {*MINE} for one in during)
        assert threads == len(numa.cores(MINE)) // 2


def test_each_rank_whose_gpu_is_nowhere_says_so() -> None:
    for rank, (said, during, threads, _) in enumerate(beside({})):
        assert f"leaves rank {rank} (pid " in said
        assert f"the system does not tell on which NUMA node cuda:{rank} is" in said
        assert all(one == {*MINE} for one in during)
        assert threads == 64


@pytest.mark.parametrize(
    ("settings", "variable", "said"),
    [
        ({"bind": "socket"}, "", "bind='socket': expected \"numa\""),
        ({"bind": True}, "", 'bind=True: expected "numa"'),
        ({}, "0-3", "ALLRANKS_BIND='0-3': expected \"numa\""),
    ],
)
def test_what_cannot_be_asked_for_is_refused_before_anything(settings, variable, said) -> None:
    os.environ["ALLRANKS_BIND"] = variable
    before = dict(os.environ)
    with pytest.raises(ConfigError, match=said):
        allranks.setup(settings)
    assert not allranks.initialized()
    assert dict(os.environ) == before
