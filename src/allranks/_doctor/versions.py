"""Versions of what the ranks run, which should be the same everywhere."""

from __future__ import annotations

import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._doctor.checks import FAILURE, OK, WARNING, Check
from allranks._system.version import __version__
from allranks._system.words import named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from allranks._doctor.checks import Place

DRIVER = Path("/sys/module/nvidia/version")
"""Where Linux tells the version of NVIDIA's driver, while it is loaded."""

REFUSED = ("NCCL",)
"""Where two versions end the job: NCCL compares its own, and refuses."""


def own_versions() -> dict[str, str]:
    """This process's, by what they are of; "" where there is none of it."""
    import torch

    return {
        "allranks": __version__,
        "Python": platform.python_version(),
        "torch": str(torch.__version__),
        "CUDA": torch.version.cuda or "",
        "NCCL": _nccl(),
        "driver": _driver(),
        "interpreter": sys.executable,
    }


def _nccl() -> str:
    import torch

    if not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        return ""
    return ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]


def _driver() -> str:
    with suppress(OSError):
        return DRIVER.read_text().strip()
    return ""


def version_rows(of: Mapping[Place, Mapping[str, str]]) -> list[Check]:
    """A row for each thing of which there are two versions; one for all where there are none."""
    first = of[min(of)]
    compared = [name for name in first if name != "interpreter"]
    wrong = [row for name in compared if (row := _row(name, of))]
    told = ", ".join(f"{name} {first[name]}" for name in compared if first[name])
    return wrong or [Check("versions", OK, told)]


def _row(name: str, of: Mapping[Place, Mapping[str, str]]) -> Check | None:
    """The row of a thing whose versions differ; None where they do not."""
    ranks: dict[str, list[int]] = {}
    for place in sorted(of):
        ranks.setdefault(of[place].get(name, ""), []).append(place.rank)
    if len(ranks) == 1:
        return None
    seen = "; ".join(f"{version or 'none'} on {named(on)}" for version, on in ranks.items())
    status = FAILURE if name in REFUSED else WARNING
    return Check("versions", status, f"{name} {seen}", _remedy(name, of[min(of)]))


def _remedy(name: str, first: Mapping[str, str]) -> str:
    """Have all ranks take what the lowest one has."""
    if name == "allranks":
        return f"python -m pip install allranks=={first[name]}"
    if name == "Python":
        return f"export PATH={Path(first['interpreter']).parent}:$PATH"
    if name == "driver":
        return f"apt-get install --only-upgrade 'nvidia-driver-{first[name].partition('.')[0]}*'"
    return f"python -m pip install torch=={first['torch'].partition('+')[0]}"  # CUDA comes with it.
