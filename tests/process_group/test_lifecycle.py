"""setup, cleanup, session: idempotent, adopting, and leaving the environment as it was."""

from __future__ import annotations

import enum
import gc
import os
import re
import subprocess
import sys
import time
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._transport import process_groups
from allranks.errors import CollectiveError, ConfigError, DetectionError, MismatchError
from harness import PATIENCE, Ranks, env_environs, free_port, run_ranks


def environ_now() -> dict[str, str]:
    return dict(os.environ)


def test_a_world_of_one_is_a_world() -> None:
    before = environ_now()
    allranks.setup(cpu=True)
    assert allranks.initialized()
    assert (allranks.get_rank(), allranks.get_world_size(), allranks.is_master()) == (0, 1, True)
    assert (allranks.get_local_rank(), allranks.get_local_world_size()) == (0, 1)
    assert (allranks.get_node_rank(), allranks.get_num_nodes()) == (0, 1)
    assert os.environ[allranks.CURRENT_DEVICE_TYPE_STR] == "cpu"
    assert dist.get_world_size() == 1
    allranks.cleanup()
    assert not allranks.initialized()
    assert environ_now() == before


def test_setup_twice_does_nothing_and_other_settings_are_refused() -> None:
    allranks.setup(cpu=True, timeout=5)
    group = dist.group.WORLD
    allranks.setup({"cpu": True, "timeout": 5.0})
    assert dist.group.WORLD is group
    with pytest.raises(ConfigError, match="cleanup"):
        allranks.setup(cpu=True, timeout=6)


def test_cleanup_is_idempotent_and_setup_works_again() -> None:
    allranks.cleanup()
    for _ in range(3):
        allranks.setup(cpu=True)
        assert allranks.all_reduce(2) == 2
        allranks.cleanup()
        allranks.cleanup()


def test_the_reference_callers_configuration() -> None:
    """All of the reference's keys, init_method as an enumeration, and keys of other programs."""

    class InitMethod(str, enum.Enum):
        FILE = "file"

        def __str__(self) -> str:
            return self.value

    config = OrderedDict(
        submit=False,
        world_size=1,
        cpu=True,
        distributed_backend="gloo",
        timeout=30,
        init_method=InitMethod.FILE,
        shared_file_dir="/nowhere",
        array_job_num=0,
        optimizer={},
    )
    allranks.setup(config)
    assert allranks.initialized()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"world_size": 4}, "allranks run -n 4"),
        ({"world_size": 0}, "at least 1"),
        ({"world_size": "4"}, "integer"),
        ({"submit": True}, "srun"),
        ({"init_method": "carrier-pigeon"}, "carrier-pigeon"),
        ({"init_method": "udp://x"}, "tcp://host:port"),
        ({"init_method": "tcp://host:99999"}, "99999"),
        ({"timeout": -1}, "minutes"),
        ({"timeout": True}, "minutes"),
        ({"rendezvous_timeout": "soon"}, "seconds"),
        ({"cpu": "yes"}, "True or False"),
        ({"check": "line"}, "True or False"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_changed(settings: dict, said: str) -> None:
    before = environ_now()
    with pytest.raises(ConfigError, match=said):
        allranks.setup(settings)
    assert not allranks.initialized()
    assert environ_now() == before


@pytest.mark.parametrize(
    "key", ["wrold_size", "time_out", "init_methd", "Timeout", "distributed_backnd"]
)
def test_a_misspelt_key_is_refused(key: str) -> None:
    with pytest.raises(ConfigError, match="did you mean"):
        allranks.setup({key: 1})


@pytest.mark.parametrize(
    "key", ["seed", "checkpoint", "model", "timestamp", "devices", "num_workers"]
)
def test_another_programs_key_is_ignored(key: str) -> None:
    allranks.setup({key: object(), "cpu": True})


def test_an_unknown_keyword_is_refused() -> None:
    with pytest.raises(ConfigError, match="known: world_size"):
        allranks.setup(seed=1)


@pytest.mark.parametrize(
    ("keyword", "hint"),
    [
        ("backend", "that is distributed_backend here"),
        ("device_id", "cpu=False takes an accelerator"),
        ("store", "the ranks make a store of their own"),
        ("group_name", "leave it out"),
        ("pg_options", "make the group by init_process_group, and setup() adopts it"),
    ],
)
def test_what_torchs_call_names_otherwise_is_told(keyword: str, hint: str) -> None:
    """``init_method``, ``timeout``, ``world_size`` and ``rank`` have torch's names."""
    for call in (allranks.setup, lambda **given: allranks.session(**given).__enter__()):
        with pytest.raises(ConfigError, match=re.escape(f"unknown setting '{keyword}': {hint}")):
            call(**{keyword: "nccl"})


def test_a_backend_where_the_configuration_stands() -> None:
    """As ``init_process_group("nccl")`` has it."""
    with pytest.raises(ConfigError, match=r"config='nccl': .* distributed_backend are keywords"):
        allranks.setup("nccl")


def timeouts(settings: dict) -> list[timedelta]:
    from allranks._transport import process_groups

    allranks.setup(cpu=True, **settings)
    found = process_groups.timeout(dist.group.WORLD)
    allranks.cleanup()
    return [found]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (2, timedelta(minutes=2)),
        (0.5, timedelta(seconds=30)),
        (timedelta(seconds=7), timedelta(seconds=7)),
        (None, timedelta(minutes=30)),
    ],
)
def test_the_timeout_is_in_minutes(given: object, meant: timedelta) -> None:
    assert timeouts({"timeout": given}) == [meant]


def test_before_setup_the_launcher_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """N processes are never N rank 0s, and a collective asks for setup()."""
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (allranks.get_rank(), allranks.get_world_size()) == (2, 3)
    assert not allranks.is_master()
    with pytest.raises(CollectiveError, match=r"allranks\.setup\(\)"):
        allranks.all_reduce(1)
    with pytest.raises(DetectionError, match="setup"):
        allranks.get_local_rank()
    monkeypatch.delenv("WORLD_SIZE")
    with pytest.raises(DetectionError, match="WORLD_SIZE"):
        allranks.get_rank()


def test_rank_queries_import_no_torch() -> None:
    code = "import sys, allranks; allranks.get_rank(); allranks.initialized()\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_contradicts_the_launcher_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(ConfigError, match=r"world_size=2.*env says 1"):
        allranks.setup(world_size=2)


def test_submit_false_ignores_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    step = {
        "SLURM_JOB_ID": "1",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_TASKS_PER_NODE": "4",
        "SLURM_STEP_NODELIST": "n1",
        "SLURM_NODEID": "0",
        "SLURM_GTIDS": "0,1,2,3",
        "SLURM_PROCID": "3",
        "SLURM_LOCALID": "3",
    }
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    assert allranks.get_rank() == 3
    allranks.setup(submit=False, cpu=True)
    assert (allranks.get_rank(), allranks.get_world_size()) == (0, 1)


def test_a_foreign_group_is_adopted_and_destroyed_by_cleanup() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with pytest.raises(ConfigError, match="already up with 1"):
        allranks.setup(world_size=2)
    with allranks.session(cpu=True) as world:
        assert world.world_size == 1
    assert dist.is_initialized()
    allranks.setup(cpu=True)
    allranks.cleanup()
    assert not dist.is_initialized()


def verified_in_an_adopted_group() -> str:
    dist.init_process_group("gloo")
    with (
        allranks.session(cpu=True, check=True) as world,
        pytest.raises(MismatchError, match="all_reduce") as caught,
    ):
        allranks.all_reduce(torch.ones(2 + world.rank))
    dist.destroy_process_group()
    return str(caught.value)


def test_an_adopted_group_is_verified_as_asked() -> None:
    environs = env_environs(2, free_port())
    one, other = Ranks(verified_in_an_adopted_group, environs).results()
    assert one.value == other.value, (one.error, other.error)
    assert one.value


def test_a_session_cleans_up_but_not_on_an_error() -> None:
    with allranks.session(cpu=True) as world:
        assert world == allranks.world()
        assert allranks.initialized()
    assert not allranks.initialized()
    with pytest.raises(KeyError), allranks.session(cpu=True):
        raise KeyError
    assert dist.is_initialized()


def test_setup_env_local_then_setup() -> None:
    """As the reference's local launcher does."""
    before = environ_now()
    allranks.setup_env_local()
    assert allranks.os_environ_get_or_throw("RANK") == "0"
    assert int(os.environ["MASTER_PORT"]) > 0
    allranks.setup({"world_size": 1, "cpu": True, "distributed_backend": "gloo", "submit": False})
    assert allranks.all_reduce(3) == 3
    allranks.cleanup()
    assert environ_now() == before


def ray_like(rank: int, port: int) -> float:
    """As the reference's Ray workers do: variables, device, and a raw process group."""
    allranks.setup_env_local_multi_gpu(rank, port, "127.0.0.1")
    allranks.assign_device_for_local_rank(True, 0)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    assert (allranks.get_rank(), allranks.get_world_size()) == (rank, 2)
    tensor = allranks.all_reduce(torch.ones(1))
    allranks.cleanup()
    assert "RANK" not in os.environ
    return tensor.item()


def test_setup_env_local_multi_gpu_with_a_raw_group() -> None:
    port = free_port()
    both = [Ranks(ray_like, [{}], rank, port) for rank in range(2)]
    assert [ranks.results()[0].value for ranks in both] == [2.0, 2.0]


def setup_from_variables(port: int) -> int:
    rank = int(os.environ.pop("RANK"))
    allranks.setup_env_local_multi_gpu(rank, port, "127.0.0.1")
    allranks.setup(world_size=2, cpu=True)
    summed = allranks.all_reduce(rank + 1)
    allranks.cleanup()
    return summed


def test_setup_env_local_multi_gpu_with_setup() -> None:
    port = free_port()
    ended = Ranks(setup_from_variables, [{"RANK": "0"}, {"RANK": "1"}], port).results()
    assert [one.value for one in ended] == [3, 3], [one.text for one in ended]


def explicit_rank(rank: int, url: str) -> int:
    allranks.setup(rank=rank, world_size=2, init_method=url, cpu=True)
    summed = allranks.all_reduce(rank + 1)
    allranks.cleanup()
    return summed


def test_rank_and_world_size_may_be_given() -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    both = [Ranks(explicit_rank, [{}], rank, url) for rank in range(2)]
    assert [ranks.results()[0].value for ranks in both] == [3, 3]


def described() -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    """The environment before, during and after a session."""
    before = environ_now()
    with allranks.session(cpu=True):
        during = environ_now()
    return before, during, environ_now()


def test_several_ranks_are_described_to_other_libraries_and_nobody_is_overruled() -> None:
    """As torchrun does it, where the launcher said nothing; cleanup forgets it."""
    environs = [
        {
            "OMPI_COMM_WORLD_RANK": rank,
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_MCA_orte_num_nodes": "1",
            "NODE_RANK": "7",
            "PMIX_NAMESPACE": f"described{os.getpid()}",
        }
        for rank in "01"
    ]
    for rank, ended in enumerate(Ranks(described, environs).results()):
        assert ended.error is None, ended.text
        before, during, after = ended.value
        assert after == before
        assert (during["RANK"], during["WORLD_SIZE"]) == (str(rank), "2")
        assert (during["LOCAL_RANK"], during["LOCAL_WORLD_SIZE"]) == (str(rank), "2")
        assert (during["MASTER_ADDR"], during["NODE_RANK"]) == ("127.0.0.1", "7")


def test_one_rank_is_not_described() -> None:
    """A library that sees RANK may expect others."""
    with allranks.session(cpu=True):
        assert "RANK" not in os.environ


def several_worlds(sizes: list[int], ports: list[int]) -> list[int]:
    found = []
    rank = int(os.environ["RANK"])
    for size, port in zip(sizes, ports, strict=True):
        if rank < size:
            os.environ.update(WORLD_SIZE=str(size), MASTER_PORT=str(port))
            allranks.setup(cpu=True)
            found.append(allranks.all_reduce(1))
            allranks.cleanup()
    return found


def test_setup_again_with_another_world_size() -> None:
    sizes = [2, 3, 1, 2]
    ports = [free_port() for _ in sizes]
    ended = Ranks(several_worlds, env_environs(3, 1), sizes, ports).results()
    assert [one.value for one in ended] == [[2, 3, 1, 2], [2, 3, 2], [3]], [o.text for o in ended]


@pytest.mark.ranks(2, setup=False)
def test_the_timeout_reaches_the_group_on_all_ranks() -> None:
    from allranks._transport import process_groups

    with allranks.session(timeout=timedelta(seconds=77)):
        assert process_groups.timeout(dist.group.WORLD).total_seconds() == 77.0


EXIT_CODE = """
import sys, allranks
allranks.setup(cpu=True)
allranks.all_reduce(1)
{ending}
"""


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("sys.exit(3)", 3), ("raise KeyError", 1)])
def test_an_interpreter_that_ends_without_cleanup_ends_well(ending: str, code: int) -> None:
    environs = env_environs(2, free_port())
    script = EXIT_CODE.format(ending=ending)
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", script],
            env={**os.environ, **environ},
            stderr=subprocess.PIPE,
            text=True,
        )
        for environ in environs
    ]
    said = [process.communicate(timeout=PATIENCE)[1] for process in running]
    assert [process.returncode for process in running] == [code, code], said
    assert "destroy_process_group" not in "".join(said)


AGAIN = """
import allranks
for _ in range(3):
    with allranks.session(cpu=True, rendezvous_timeout=300) as world:
        assert allranks.all_reduce(1, allranks.split(0)) == world.world_size == 2
"""


def test_setup_again_under_torchrun(tmp_path: Path) -> None:
    """What the last world left in the agent's store is not taken for its own."""
    script = tmp_path / "again.py"
    script.write_text(AGAIN)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*torchrun, str(script)], capture_output=True, text=True, timeout=PATIENCE
    )
    assert ended.returncode == 0, ended.stderr


def resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def many_worlds(own_store: bool) -> tuple[int, int, float]:
    """Threads and files at the end, and by how much memory has grown since the tenth world."""
    if not own_store:
        for name in [name for name in os.environ if name.startswith("ALLRANKS_")]:
            del os.environ[name]
    early = 0
    for cycle in range(50):
        with allranks.session(cpu=True, rendezvous_timeout=300) as world:
            for _ in range(20):
                assert allranks.all_reduce(1) == world.world_size
            group = allranks.split(world.rank % 2)
            assert allranks.all_reduce(1, group) >= 1
            del group  # It would keep rank 0's port.
        early = resident() if cycle == 9 else early
    return len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd")), resident() / early


@pytest.mark.slow
@pytest.mark.parametrize("own_store", [True, False])
def test_setup_again_and_again_leaves_nothing(own_store: bool) -> None:
    """Whether the ranks meet at a private file, or at rank 0's port."""
    for threads, files, growth in allranks.launch(
        many_worlds, (own_store,), ranks=3, timeout=PATIENCE
    ):
        assert threads <= 10
        assert files <= 60  # Connections that were refused go with the next garbage collection.
        assert growth <= 1.1


@pytest.mark.ranks(4, setup=False)
def test_a_model_that_outlives_its_group_does_not_hang() -> None:
    """Freed with the last reference to its group, it would deadlock with a thread of gloo's."""
    store = os.environ["ALLRANKS_STORE"]
    for cycle in range(60):
        os.environ["ALLRANKS_STORE"] = f"{store}{cycle}"
        allranks.setup(cpu=True)
        model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(64, 64))
        model(torch.randn(8, 64)).sum().backward()
        allranks.cleanup()
        del model


def test_an_inner_session_leaves_the_outer_group() -> None:
    with allranks.session(cpu=True):
        with allranks.session(cpu=True):
            pass
        assert allranks.all_reduce(1) == 1
    assert not allranks.initialized()


@pytest.mark.parametrize("backend", ["glooo", "cpu:gloo,cuda:nope"])
def test_an_unknown_backend_is_named(backend: str) -> None:
    with pytest.raises(ConfigError, match=r"this build of torch has no .*gloo"):
        allranks.setup(distributed_backend=backend, cpu=True)


def test_what_is_no_backend_is_not_offered() -> None:
    with pytest.raises(ConfigError, match="it has ") as caught:
        allranks.setup(distributed_backend="glooo", cpu=True)
    offered = str(caught.value).partition("it has ")[2].partition(". Leave")[0].split(", ")
    assert "gloo" in offered
    assert not {"undefined", "fake"} & {*offered}


def leave_at_once() -> float:
    """When rank 0 has left, and when rank 1, which takes longer, is connected."""
    from allranks._process_group import bring_up

    come_up = bring_up.init_process_group
    connected = []

    def slowly(*arguments) -> None:
        come_up(*arguments)
        time.sleep(0.4)
        connected.append(time.monotonic())

    if allranks.get_rank():
        bring_up.init_process_group = slowly
    allranks.setup(cpu=True)
    allranks.cleanup()
    return connected[0] if connected else time.monotonic()


def test_nobody_leaves_before_all_are_connected() -> None:
    left, connected = (one.value for one in run_ranks(leave_at_once, 2))
    assert left >= connected


def stores_that_stay_open() -> list[str]:
    """After a cleanup, though no garbage was collected."""
    gc.disable()
    with allranks.session(cpu=True):
        allranks.all_reduce(1, group=allranks.node_group())
    process_groups.release_retired()
    opened = [one.readlink() for one in Path("/proc/self/fd").iterdir() if one.is_symlink()]
    return [str(one) for one in opened if str(one) == os.environ["ALLRANKS_STORE"]]


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_cleanup_closes_the_store_at_once() -> None:
    assert allranks.launch(stores_that_stay_open, ranks=2, timeout=PATIENCE) == [[], []]
