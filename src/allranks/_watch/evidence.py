"""What is kept of a rank's last moments, in the directory that ALLRANKS_LOG_DIR names."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

from allranks._system import stacks
from allranks._system.words import tell

DIRECTORY = "ALLRANKS_LOG_DIR"


def wanted() -> bool:
    """Whether records are to be kept."""
    return bool(os.environ.get(DIRECTORY))


def keep(rank: int, why: str, record: dict[str, Any]) -> None:
    """Write a rank's record, ``rank-N.json``: its last one stays.

    Args:
        rank: the rank.
        why: what made it write the record.
        record: what it has to tell besides where its threads stand.
    """
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    told = {"why": why, "at": now, **record, "threads": stacks.all_threads()}
    _write(f"rank-{rank}.json", json.dumps(told, indent=1))


def keep_verdict(text: str) -> None:
    """Write the verdict, ``verdict.txt``: the same from each rank."""
    _write("verdict.txt", f"{text}\n")


def _write(name: str, text: str) -> None:
    """Whole or not at all, since the process may end at any moment."""
    if not wanted():
        return
    directory = Path(os.environ[DIRECTORY])
    part = directory / f".{name}.{os.getpid()}.{threading.get_ident()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        part.write_text(text, errors="backslashreplace")
        part.replace(directory / name)
    except OSError as error:
        tell(f"warning: {name} cannot be kept in {DIRECTORY}={directory}: {error}")
