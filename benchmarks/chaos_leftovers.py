"""What a job has left behind: processes, files, descriptors and threads."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def state(pid: int) -> str:
    """How a process is, and what it is, as the kernel says."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    letter, parent = text.rpartition(")")[2].split()[:2]
    return f"{letter} (parent {parent}): {command[:100]}"


def processes_in(top: Path) -> list[int]:
    """The processes that work in a directory: all that a job has started, and their forks."""
    found, place = [], top.resolve()  # The kernel tells a process's directory without links.
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and (entry / "cwd").readlink().is_relative_to(place):
                found.append(int(entry.name))
    return found


def files_left(top: Path, stores: Iterable[Path]) -> Iterator[str]:
    """What a job has left in its own directories, and the directories of its stores."""
    for name in ("work", "tmp"):
        for path in (top / name).rglob("*"):
            yield f"file {path.relative_to(top)}"
    for store in stores:
        if store.parent.exists():
            yield f"directory {store.parent}"


def held() -> dict[str, int]:
    """How many descriptors and threads this process holds."""
    listed = list(Path("/proc/self/fd").iterdir())
    return {"descriptors": len(listed), "threads": len(list(Path("/proc/self/task").iterdir()))}
