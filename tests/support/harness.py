"""Runs a function on several ranks: real processes, forked from a server that holds torch."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import re
import socket
import tempfile
import time
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path

from allranks._launch.template import PRELOADED
from allranks._system import private_directory

LAUNCHERS = re.compile(
    r"^(ALLRANKS|SLURM|OMPI|PMI|PMIX|MPI|MV2|HYDI|PALS|FLUX|LSB|JSM|RAY|PET|TORCHELASTIC|GLOO|KUBERNETES|"
    r"JOB_COMPLETION|JOBSET)[A-Z_]*_|^(RANK|WORLD_SIZE|LOCAL_RANK|LOCAL_WORLD_SIZE|MASTER_ADDR|"
    r"MASTER_PORT|NODE_RANK|GROUP_RANK|CURRRENT_DEVICE_TYPE)$"
)

_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(
    [*(name for name in PRELOADED if name != "torch._dynamo"), "pytest"]
)


PATIENCE = 300
"""Seconds after which a test gives up on what must come; it measures nothing."""


def wait_until(condition) -> None:
    """Wait for what must come."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@dataclass
class Ended:
    """How one rank ended: with a value or an error; else silently, with an exit code."""

    value: object
    error: BaseException | None
    seconds: float
    exit_code: int | None

    @property
    def text(self) -> str:
        return f"{type(self.error).__name__}: {self.error}"


def clean_environ() -> None:
    """Forget every launcher's variables, so that a test sees only its own."""
    for name in list(os.environ):
        if LAUNCHERS.match(name):
            del os.environ[name]


def _become(pipe, function, arguments, environ) -> None:
    import torch

    torch.set_num_threads(1)
    clean_environ()
    os.environ.update({"ALLRANKS_STATUS": "0", **environ})  # Other tests ask all jobs of the host.
    began = time.monotonic()
    value, error = None, None
    try:
        value = function(*arguments)
    except BaseException as raised:  # noqa: BLE001 - the test looks at it
        raised.__notes__ = [traceback.format_exc()]
        error = raised
    seconds = time.monotonic() - began
    try:
        pipe.send((value, error, seconds))
    except Exception as unsendable:  # noqa: BLE001
        pipe.send((None, RuntimeError(f"{value!r} {error!r}: {unsendable}"), seconds))


class Ranks:
    """Started ranks; ``results`` waits for them."""

    def __init__(self, function, environs, *arguments) -> None:
        self.processes, self.pipes = [], []
        for environ in environs:
            reader, writer = _processes.Pipe(duplex=False)
            process = _processes.Process(
                target=_become, args=(writer, function, arguments, environ), daemon=True
            )
            process.start()
            writer.close()
            self.processes.append(process)
            self.pipes.append(reader)

    def results(self, timeout: float = PATIENCE, never: int | None = None) -> list[Ended]:
        """How the ranks ended; one that never does is killed, and left out."""
        end = time.monotonic() + timeout
        pairs = zip(self.processes, self.pipes, strict=True)
        try:
            return [self._result(*pair, end) for i, pair in enumerate(pairs) if i != never]
        finally:
            for process in self.processes:
                process.kill()
                process.join()

    @staticmethod
    def _result(process, pipe, end) -> Ended:
        if not pipe.poll(max(0.0, end - time.monotonic())):
            raise TimeoutError(f"rank with pid {process.pid} neither returned nor raised")
        try:
            value, error, seconds = pipe.recv()
        except EOFError:
            value, error, seconds = None, None, 0.0
        process.join(max(0.0, end - time.monotonic()))
        if process.exitcode is None:
            raise TimeoutError(f"rank with pid {process.pid} did not leave")
        return Ended(value, error, seconds, process.exitcode)


@contextlib.contextmanager
def private_environs(ranks: int):
    """The environments that ``allranks run`` gives its ranks."""
    with tempfile.TemporaryDirectory(prefix="allranks-test-") as directory:
        job = uuid.uuid4().hex
        yield [
            {
                "ALLRANKS_RANK": str(rank),
                "ALLRANKS_WORLD_SIZE": str(ranks),
                "ALLRANKS_STORE": str(Path(directory) / "store"),
                "ALLRANKS_RUN_ID": job,
            }
            for rank in range(ranks)
        ]


def free_port() -> int:
    """A free port, of those that the kernel gives to no connection and to no listener of gloo's."""
    while True:
        port = random.SystemRandom().randrange(10_000, 30_000)
        with socket.socket() as bound, contextlib.suppress(OSError):
            bound.bind(("", port))
            return port


def env_environs(ranks: int, port: int, **more: str) -> list[dict[str, str]]:
    """The environments of a job on this host that only knows ``env://``."""
    return [
        {
            "RANK": str(rank),
            "WORLD_SIZE": str(ranks),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RES_OPTIONS": "timeout:1 attempts:1",  # torch's store looks up the names of its peers.
            **more,
        }
        for rank in range(ranks)
    ]


def run_ranks(function, ranks: int, *arguments, timeout: float = PATIENCE) -> list[Ended]:
    """How each rank ended that ran ``function(*arguments)`` in a world of its own."""
    with private_environs(ranks) as environs:
        return Ranks(function, environs, *arguments).results(timeout)


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def unlocked_directories() -> set[Path]:
    """Private directories whose ranks are gone; other jobs on this host lock theirs."""
    found = set()
    for directory in Path("/dev/shm").glob(".allranks-*/*"):
        with contextlib.suppress(OSError):
            os.close(private_directory.lock_of(directory))
            found.add(directory)
    return found
