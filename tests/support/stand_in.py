"""An accelerator without silicon: built from ``stand_in.cpp``, and given to torch as ``npu``.

torch keeps a place for the accelerators of others, under a name that they choose; Ascend's takes
``npu``. Tensors of the stand-in are on a device of that type: no address of theirs can be read by
the CPU, each thread has a current device, and no backend moves them but through copies.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

KIND = "npu"
DEVICES = "STAND_IN_DEVICES"
SOURCE = Path(__file__).with_suffix(".cpp")

_loaded: list[ctypes.CDLL] = []


def why_not() -> str | None:
    """Why there can be no stand-in here, or None."""
    if sys.platform != "linux":
        return "the stand-in maps memory as Linux does"
    if shutil.which("g++") is None:
        return "g++ is not installed, which builds the stand-in"
    return None


def built() -> Path:
    """The library, built once for each source and torch."""
    key = hashlib.sha256(SOURCE.read_bytes() + torch.__version__.encode()).hexdigest()[:12]
    made = Path(tempfile.gettempdir()) / f"allranks-stand-in-{os.getuid()}-{key}.so"
    if not made.exists():
        half = made.with_suffix(f".{os.getpid()}")
        subprocess.run(_command(half), check=True, timeout=600)
        half.rename(made)  # At once: others may be building it, too.
    return made


def _command(into: Path) -> list[str]:
    home = Path(torch.__file__).parent
    include = home / "include"
    where = [f"-I{include}", f"-I{include}/torch/csrc/api/include", f"-L{home}/lib"]
    how = ["-std=c++20", "-O0", "-w", "-shared", "-fPIC"]
    return ["g++", *how, *where, str(SOURCE), "-o", str(into), "-lc10", "-ltorch_cpu", "-ltorch"]


def put_in(devices: int) -> None:
    """Have torch see this many of them in this process; for the first call only."""
    os.environ[DEVICES] = str(devices)
    if not _loaded:
        torch.ops.load_library(str(built()))
        _loaded.append(ctypes.CDLL(str(built())))
        torch.utils.rename_privateuse1_backend(KIND)
        torch._register_device_module(KIND, _module())
        torch.utils.generate_methods_for_privateuse1_backend()


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
    module.synchronize = lambda device=None: None
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None
    module.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]
    return module
