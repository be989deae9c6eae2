"""How many GPUs there are for tests, and worlds whose ranks use them or the stand-in for one."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import NamedTuple

import pytest
import torch

import stand_in

TIMEOUT = timedelta(seconds=60)


TELL = """import torch
for index in range(torch.cuda.device_count()):
    seen = torch.cuda.get_device_properties(index)
    print(seen.uuid, seen.name)
"""


class Gpu(NamedTuple):
    """A GPU: its identity as CUDA_VISIBLE_DEVICES takes it, without the prefix; and its name."""

    uuid: str
    name: str


@cache
def seen() -> list[Gpu]:
    """The GPUs that torch sees; asked in a process of its own.

    torch counts devices by CUDA, after which a process that was forked from this one can have none.
    """
    if torch.version.cuda is None:
        return []
    asked = [sys.executable, "-c", TELL]
    ended = subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=False)
    return [Gpu(*line.split(" ", 1)) for line in ended.stdout.splitlines()]


def number(index: int) -> str:
    """How CUDA_VISIBLE_DEVICES names a GPU that torch sees."""
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    return shown.split(",")[index] if shown else str(index)


def needs_gpus(count: int, *, apart: bool = False) -> pytest.MarkDecorator:
    """Skips a test where torch sees fewer GPUs.

    Args:
        count: how many ranks use one.
        apart: whether each needs its own even where NCCL lets them share one, which it does from
            2.30 on with NCCL_MULTI_RANK_GPU_ENABLE=1.
    """
    some = "a GPU" if count == 1 else f"{count} GPUs"
    shared = os.environ.get("NCCL_MULTI_RANK_GPU_ENABLE", "0") != "0" and not apart
    enough = 1 if shared else count
    return pytest.mark.skipif(
        len(seen()) < enough, reason=f"needs {some}, and torch sees {len(seen())}"
    )


def _stand_in() -> pytest.MarkDecorator:
    why = stand_in.why_not()
    return pytest.mark.skipif(why is not None, reason=str(why))


ON_STAND_IN = pytest.param(stand_in.KIND, id="stand-in", marks=_stand_in())
ON_GPU = pytest.param("cuda", id="gpu", marks=needs_gpus(1))
ON_BOTH = pytest.mark.parametrize("kind", [ON_STAND_IN, ON_GPU])


@contextmanager
def world_on(kind: str, backend: str | None = "gloo", *, devices: int = 1, **settings):
    """A session on devices of this type; gives this rank's device.

    Args:
        kind: "cuda", or that of the stand-in.
        backend: of the process group; None for the default, with a backend of the device's own.
        devices: how many stand-ins each rank sees.
        **settings: as for ``allranks.session``.
    """
    import allranks

    if kind == stand_in.KIND:
        stand_in.put_in(devices, with_backend=backend != "gloo")
    settings = {"timeout": TIMEOUT, "distributed_backend": backend, **settings}
    with allranks.session(cpu=False, **settings):
        yield torch.device(allranks.get_device_for_local_rank())
