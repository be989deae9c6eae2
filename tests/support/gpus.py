"""How many GPUs there are for tests, and worlds whose ranks use them or the stand-in for one."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from datetime import timedelta
from functools import cache

import pytest
import torch

import allranks
import stand_in

TIMEOUT = timedelta(seconds=60)


@cache
def names() -> list[str]:
    """The GPUs that torch sees; asked in a process of its own.

    torch counts devices by CUDA, after which a process that was forked from this one can have none.
    """
    if torch.version.cuda is None:
        return []
    told = "import torch; [print(torch.cuda.get_device_name(i)) for i in range(torch.cuda.device_count())]"
    ended = subprocess.run([sys.executable, "-c", told], stdout=subprocess.PIPE, text=True, check=False)
    return ended.stdout.splitlines()


def needs_gpus(count: int) -> pytest.MarkDecorator:
    """Skips a test where torch sees fewer GPUs."""
    some = "a GPU" if count == 1 else f"{count} GPUs"
    return pytest.mark.skipif(
        len(names()) < count, reason=f"needs {some}, and torch sees {len(names())}"
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
    if kind == stand_in.KIND:
        stand_in.put_in(devices, with_backend=backend != "gloo")
    settings = {"timeout": TIMEOUT, "distributed_backend": backend, **settings}
    with allranks.session(cpu=False, **settings):
        yield torch.device(allranks.get_device_for_local_rank())
