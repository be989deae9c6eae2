"""An accelerator without silicon, and a backend for it: built from C++ against torch's headers.

torch keeps a place for the accelerators of others, under a name that they choose; this one takes
``npu``, as Ascend's does. Tensors of the stand-in are on a device of that type: no address of
theirs can be read by the CPU, each thread has a current device, and gloo does not move them.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

KIND = "npu"
DEVICES = "STAND_IN_DEVICES"
TORCH = (2, 13)
DEVICE, BACKEND = "stand_in", "stand_in_backend"

_loaded: list[ctypes.CDLL] = []


def why_not() -> str | None:
    """Why there can be no stand-in here, or None."""
    if sys.platform != "linux":
        return "the stand-in maps memory as Linux does"
    if tuple(map(int, torch.__version__.split(".")[:2])) < TORCH:
        return f"the stand-in is written against torch {'.'.join(map(str, TORCH))}"
    if shutil.which("g++") is None:
        return "g++ is not installed, which builds the stand-in"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python.h is not installed, with which the stand-in is built"
    return None


def built(name: str) -> Path:
    """A library, built once for each source, Python and torch."""
    source = Path(__file__).with_name(f"{name}.cpp")
    versions = f"{sys.version} {torch.__version__}".encode()
    key = hashlib.sha256(source.read_bytes() + versions).hexdigest()[:12]
    home = Path(tempfile.gettempdir()) / f"allranks-stand-in-{os.getuid()}-{key}"
    home.mkdir(mode=0o700, exist_ok=True)
    made = home / f"{name}.so"
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            half = made.with_suffix(".half")
            subprocess.run(_command(source, half), check=True, timeout=600)
            half.rename(made)
    return made


def _command(source: Path, into: Path) -> list[str]:
    home = Path(torch.__file__).parent
    headers = [home / "include", home / "include/torch/csrc/api/include"]
    headers.append(Path(sysconfig.get_path("include")))
    how = ["-std=c++20", "-O0", "-w", "-shared", "-fPIC", f"-DTORCH_EXTENSION_NAME={source.stem}"]
    how += ["-DUSE_DISTRIBUTED", "-DUSE_C10D_GLOO", *(f"-I{path}" for path in headers)]
    libraries = [f"-L{home}/lib", "-lc10", "-ltorch_cpu", "-ltorch", "-ltorch_python"]
    return ["g++", *how, str(source), "-o", str(into), *libraries]


def build() -> None:
    """Build all of it, before ranks ask for it at once."""
    for name in (DEVICE, BACKEND):
        built(name)


def put_in(devices: int, *, with_backend: bool = False) -> None:
    """Have torch see this many of them in this process.

    Args:
        devices: how many.
        with_backend: whether they have a backend of their own, as GPUs have NCCL.
    """
    os.environ[DEVICES] = str(devices)
    if not _loaded:
        torch.ops.load_library(str(built(DEVICE)))
        _loaded.append(ctypes.CDLL(str(built(DEVICE))))
        torch.utils.rename_privateuse1_backend(KIND)
        torch._register_device_module(KIND, _module())
        torch.utils.generate_methods_for_privateuse1_backend()
    if with_backend:
        dist.Backend.register_backend(BACKEND, _backend, devices=[KIND])


def _backend(store, rank: int, size: int, timeout) -> Any:
    spec: Any = importlib.util.spec_from_file_location(BACKEND, built(BACKEND))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.StandIn(dist.ProcessGroupGloo(store, rank, size, timeout), rank, size)


def used() -> list[int]:
    """Which devices this process has allocated memory on, as a GPU's contexts would show."""
    asked = _loaded[0].stand_in_used
    asked.restype = ctypes.c_ulonglong
    return [index for index in range(64) if asked() >> index & 1]


def _module() -> Any:
    """What ``torch.npu`` is."""
    library = _loaded[0]
    module: Any = ModuleType(f"torch.{KIND}")
    module.is_available = lambda: library.stand_in_count() > 0
    module.device_count = library.stand_in_count
    module.current_device = library.stand_in_current
    module.set_device = library.stand_in_set
    module.is_initialized = lambda: True
    module.synchronize = lambda *_: None
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda _: None
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    return module
