"""Which GPU a rank has, and that it touches no other one."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

import allranks
from gpus import needs_gpus, number, seen, world_on

pytestmark = pytest.mark.gpu

ONE = pytest.mark.ranks(1, setup=False, timeout=300)
TWO = pytest.mark.ranks(2, setup=False, timeout=300)


@needs_gpus(1)
@ONE
@pytest.mark.parametrize("prefix", ["GPU-", ""], ids=["by-name", "by-number"])
def test_a_gpu_is_chosen_by_the_variable(prefix, monkeypatch) -> None:
    """The last one, by its name or its number; the rank sees one, and calls it 0."""
    last = len(seen()) - 1
    visible = f"{prefix}{seen()[last].uuid}" if prefix else number(last)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with world_on("cuda", None) as device:
        assert device == torch.device("cuda", 0)
        assert str(torch.cuda.get_device_properties(device).uuid) == seen()[last].uuid
        assert allranks.all_reduce(torch.ones(2, device=device)).tolist() == [1.0, 1.0]


@needs_gpus(1)
@ONE
@pytest.mark.skipif(
    not seen() or "MIG" not in seen()[0].name, reason="needs a slice of a GPU (MIG)"
)
def test_a_slice_of_a_gpu_is_a_gpu() -> None:
    with world_on("cuda", None) as device:
        assert allranks.all_reduce(torch.ones(2, device=device)).tolist() == [1.0, 1.0]


@needs_gpus(1)
@ONE
def test_a_world_of_one_has_nccl() -> None:
    with world_on("cuda", None) as device:
        assert dist.get_backend_config() == "cpu:gloo,cuda:nccl"
        tensor = torch.ones(3, device=device)
        assert allranks.all_reduce(tensor) is tensor
        assert allranks.all_gather(tensor)[0].tolist() == [1.0] * 3
        assert allranks.all_reduce({"a": tensor, "n": 2}, op="mean")["n"] == 2.0
        allranks.synchronize()


@needs_gpus(1)
@ONE
def test_asking_for_the_device_makes_no_context() -> None:
    assert allranks.get_device_for_local_rank() == "cuda:0"
    assert not torch.cuda.is_initialized()


@needs_gpus(2, apart=True)
@TWO
@pytest.mark.parametrize("backend", [None, "gloo"])
def test_no_rank_has_a_context_on_another_s_gpu(backend) -> None:
    """After each kind of call. CUDA is asked: NVML knows no processes of a container."""
    with world_on("cuda", backend, check=True) as device:
        rank = allranks.get_rank()
        tensor = torch.ones(300_000, device=device)
        allranks.all_reduce(tensor)
        allranks.all_gather(tensor)
        allranks.all_reduce({"there": tensor, "n": 1})
        allranks.all_gather_objects({"there": tensor, "p": torch.nn.Parameter(tensor)})
        allranks.broadcast_object(tensor if rank else None, 1)
        if rank:
            allranks.send(tensor, 0)
        else:
            assert allranks.recv(1).device == device
        part = allranks.split(rank)
        allranks.all_reduce(tensor, part)
        allranks.synchronize()
        has = [torch._C._cuda_hasPrimaryContext(index) for index in range(2)]
        assert has == [rank == 0, rank == 1]


@needs_gpus(2, apart=True)
@TWO
def test_each_task_may_see_one_gpu(monkeypatch) -> None:
    """As Slurm and Ray show each task its own: all call it 0, and NCCL tells them apart."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", number(allranks.get_rank()))
    with world_on("cuda", None) as device:
        assert device == torch.device("cuda", 0)
        uuid = str(torch.cuda.get_device_properties(0).uuid)
        assert allranks.all_gather_objects(uuid) == [gpu.uuid for gpu in seen()[:2]]
        assert allranks.all_reduce(torch.ones(2, device=device)).tolist() == [2.0, 2.0]


@needs_gpus(2)
@TWO
def test_over_nccl_a_wrong_call_is_named_with_check() -> None:
    with world_on("cuda", None, check=True) as device:
        mine = torch.ones(2 + allranks.get_rank(), device=device)
        with pytest.raises(allranks.errors.MismatchError, match=r"\[2\].*\[3\]"):
            allranks.all_reduce(mine)
        assert allranks.all_reduce(torch.ones(1, device=device)).tolist() == [2.0]
