"""The control groups of this process, in which Linux and containers limit what it may use."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def folders(controller: str) -> list[Path]:
    """The folders of this process's group and of all above it; in a container some are not there.

    Args:
        controller: what is limited, as "cpu": version 1 has a tree for it, version 2 one for all.
    """
    found: list[Path] = []
    with suppress(OSError):
        for line in MEMBERSHIP.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                found += _with_those_above(CGROUPS / controllers, path)
    return found


def _with_those_above(root: Path, path: str) -> list[Path]:
    here = root / path.lstrip("/")
    return [folder for folder in (here, *here.parents) if folder.is_relative_to(root)]


def number_in(file: Path) -> int | None:
    """The number that a file of a group holds; None where it is not there, or "max"."""
    with suppress(OSError, ValueError):
        return int(file.read_text())
    return None
