"""Which device a rank gets, with torch's accelerators replaced by fakes."""

from __future__ import annotations

import os

import pytest
import torch

import allranks
from accelerators import FakeAccelerator
from allranks._process_group import devices
from allranks._process_group.init_group import backend_for
from allranks._process_group.settings import Settings
from allranks.errors import ConfigError, DeviceError
from gpus import needs_gpus

VARIABLE = allranks.CURRENT_DEVICE_TYPE_STR


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    """Replaces torch.accelerator and torch.cuda."""
    return lambda kind, count=0: FakeAccelerator(kind, count).put_in(monkeypatch.setattr)


def test_a_rank_gets_the_gpu_of_its_local_rank(fake) -> None:
    gpus = fake("cuda", 4)
    allranks.assign_device_for_local_rank(False, 3, local_world_size=4)
    assert gpus.made_current == [3]
    assert os.environ[VARIABLE] == "cuda"
    assert allranks.get_device_for_local_rank() == "cuda:3"
    assert allranks.get_device_type() == "cuda"
    assert devices.uuid() == "GPU-3"


@pytest.mark.parametrize("local_rank", [0, 3])
def test_one_visible_gpu_a_task_means_index_0(fake, local_rank: int) -> None:
    gpus = fake("cuda", 1)
    allranks.assign_device_for_local_rank(False, local_rank, local_world_size=4)
    assert gpus.made_current == [0]
    assert allranks.get_device_for_local_rank() == "cuda:0"


def test_more_ranks_than_gpus_names_both_numbers(fake, monkeypatch) -> None:
    """And the variable, which may hold anything, is shown but never read."""
    gpus = fake("cuda", 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b1a2,GPU-77,2,3")
    with pytest.raises(DeviceError, match=r"8 ranks .* 4 cuda devices .*MIG-b1a2"):
        allranks.assign_device_for_local_rank(False, 0, local_world_size=8)
    with pytest.raises(DeviceError, match="6 ranks"):
        allranks.assign_device_for_local_rank(False, 5)
    assert gpus.made_current == []
    assert VARIABLE not in os.environ


def test_no_accelerator_is_an_error_that_says_what_to_do(fake) -> None:
    fake(None)
    with pytest.raises(DeviceError, match="cpu=True"):
        allranks.assign_device_for_local_rank(False, 0)
    allranks.assign_device_for_local_rank(True, 0)
    assert allranks.get_device_for_local_rank() == "cpu"


@pytest.mark.parametrize(("kind", "device"), [("xpu", "xpu:1"), ("mps", "mps")])
def test_other_accelerators(fake, kind: str, device: str) -> None:
    fake(kind, 2)
    allranks.assign_device_for_local_rank(False, 1, local_world_size=2)
    assert os.environ[VARIABLE] == kind
    assert allranks.get_device_for_local_rank() == device


def test_cpu_is_chosen_beside_a_gpu(fake) -> None:
    gpus = fake("cuda", 2)
    allranks.assign_device_for_local_rank(True, 1)
    assert (allranks.get_device_for_local_rank(), gpus.made_current) == ("cpu", [])


def test_asking_changes_nothing_and_initialises_nothing(fake) -> None:
    gpus = fake("cuda", 4)
    assert [allranks.get_device_for_local_rank() for _ in range(2)] == ["cuda:0", "cuda:0"]
    assert VARIABLE not in os.environ
    assert not gpus.initialised


def test_the_variable_is_authoritative(fake, monkeypatch) -> None:
    """Other code writes it: a type, or another process's device."""
    gpus = fake("cuda", 4)
    gpus.make_current(2)
    for text in ("cuda", "cuda:0"):
        monkeypatch.setenv(VARIABLE, text)
        assert allranks.get_device_for_local_rank() == "cuda:2"
    monkeypatch.setenv(VARIABLE, "cpu")
    assert allranks.get_device_for_local_rank() == "cpu"


def test_a_wrong_variable_shows_its_value(fake, monkeypatch) -> None:
    fake(None)
    monkeypatch.setenv(VARIABLE, "abacus")
    with pytest.raises(ConfigError, match="abacus"):
        allranks.get_device_for_local_rank()
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(DeviceError, match="no cuda device is visible"):
        allranks.get_device_for_local_rank()


def test_cleanup_takes_the_variable_away_and_keeps_the_users(fake, monkeypatch) -> None:
    fake(None)
    os.environ[VARIABLE] = "cpu"
    allranks.cleanup()
    assert VARIABLE not in os.environ
    monkeypatch.setenv(VARIABLE, "cuda")
    allranks.setup(cpu=True)
    assert os.environ[VARIABLE] == "cpu"
    allranks.cleanup()
    assert os.environ[VARIABLE] == "cuda"


@pytest.mark.parametrize(
    ("kind", "there", "backend"),
    [
        ("cuda", "nccl", "cpu:gloo,cuda:nccl"),
        ("cuda", "", "gloo"),
        ("xpu", "xccl", "cpu:gloo,xpu:xccl"),
        ("npu", "", "gloo"),
        ("mps", "", "gloo"),
        ("cpu", "nccl", "gloo"),
    ],
)
def test_gloo_is_always_there_for_the_cpu(monkeypatch, kind: str, there: str, backend: str) -> None:
    """With the backend of the device beside it, where this build of torch has one."""
    monkeypatch.setattr(torch.distributed, "is_backend_available", lambda name: name == there)
    assert backend_for(Settings(), kind) == backend
    assert backend_for(Settings(distributed_backend="nccl"), kind) == "nccl"


@pytest.mark.gpu
@needs_gpus(1)
def test_a_real_gpu() -> None:
    allranks.setup()
    tensor = allranks.all_reduce(torch.ones(2, device=allranks.get_device_for_local_rank()))
    assert tensor.tolist() == [1.0, 1.0]
    assert torch.cuda.current_device() == 0
    allranks.synchronize()
