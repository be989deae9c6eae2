"""Starts one command of ``startup.py``, measures it from outside, and leaves nothing of it."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 300.0
"""Seconds for a job to come up, or to leave."""

TORCH_LIBRARY = "libtorch_cpu.so"

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH")
"""The variables that a job inherits; any other may be a launcher's, or steer torch."""


@dataclass(frozen=True)
class Sample:
    """What one run of a command took.

    Attributes:
        collective: seconds from the command to the first collective of the slowest rank, or nan.
        step: seconds from the command to the first optimizer step of the slowest rank.
        memory: the proportional set size of all the job's processes, in 10^6 bytes.
        leave: seconds from the leave to go to the command's end.
        strangers: processes of other programs that shared torch's library in memory.
    """

    collective: float
    step: float
    memory: float
    leave: float
    strangers: int


def measure(command: list[str], ranks: int) -> Sample:
    """Run a command whose ranks run ``startup_worker.py``.

    Args:
        command: the command line.
        ranks: how many ranks report.
    """
    with tempfile.TemporaryDirectory(prefix="startup-") as name:
        directory = Path(name)
        token = uuid.uuid4().hex
        begin = time.monotonic()
        with _job(command, directory, token) as process:
            times = _await_all(process, directory, ranks)
            memory = sum(one.memory_full_info().pss for one in _processes_of(token))
            strangers = _strangers(token)
            released = time.monotonic()
            (directory / "go").touch()
            if process.wait(PATIENCE):
                raise _failure(process, directory)
            leave = time.monotonic() - released
    collective, step = (max(t.get(of, math.nan) for t in times) for of in ("collective", "step"))
    return Sample(collective - begin, step - begin, memory / 1e6, leave, strangers)


@contextmanager
def _job(command: list[str], directory: Path, token: str) -> Iterator[subprocess.Popen[bytes]]:
    """A running command; afterwards none of its processes is left."""
    with (directory / "output").open("wb") as output:
        process = subprocess.Popen(
            command,
            env=_environ(directory, token),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        _end(process, token)


def _environ(directory: Path, token: str) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    return {
        **kept,
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(directory),
        "STARTUP_DIRECTORY": str(directory),
        "STARTUP_TOKEN": token,
    }


def _await_all(
    process: subprocess.Popen[bytes], directory: Path, ranks: int
) -> list[dict[str, float]]:
    """What all ranks tell, once the last one has told it."""
    files = [directory / f"{rank}.json" for rank in range(ranks)]
    give_up = time.monotonic() + PATIENCE
    while not all(file.exists() for file in files):
        if process.poll() is not None or time.monotonic() > give_up:
            raise _failure(process, directory)
        time.sleep(0.01)
    return [json.loads(file.read_text()) for file in files]


def _failure(process: subprocess.Popen[bytes], directory: Path) -> RuntimeError:
    output = (directory / "output").read_text(errors="replace")
    return RuntimeError(f"{process.args!r} failed ({process.returncode}):\n{output}")


def _processes_of(token: str) -> list[psutil.Process]:
    """All processes of a job, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("STARTUP_TOKEN") == token:
                found.append(process)
    return found


def _strangers(token: str) -> int:
    """How many processes of other programs share torch's library, and so lower our PSS."""
    ours = {process.pid for process in _processes_of(token)}
    found = 0
    for process in psutil.process_iter():
        with suppress(OSError):
            maps = Path(f"/proc/{process.pid}/maps").read_text()
            found += process.pid not in ours and TORCH_LIBRARY in maps
    return found


def _end(process: subprocess.Popen[bytes], token: str) -> None:
    """End what is left of a job: nothing, unless it failed or was interrupted."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    for left in _processes_of(token):
        with suppress(psutil.Error):
            left.kill()
    process.wait()
