"""A rank waits in its device's backend, where Python hears nothing, and the other never comes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpus import ON_STAND_IN, needs_gpus
from harness import PATIENCE, clean_environ, env_environs, free_port

pytestmark = pytest.mark.gpu

ON_GPUS = pytest.param("cuda", id="gpus", marks=needs_gpus(2))
BEFALLEN = Path(__file__).with_name("befallen.py")


@contextmanager
def two_ranks(kind: str, fault: str, directory: Path):
    """Both, and the files with what they say."""
    support = Path(__file__).parents[1] / "support"
    path = os.pathsep.join([str(support), *filter(None, [os.environ.get("PYTHONPATH")])])
    started, files = [], [directory / "0", directory / "1"]
    for environ, file in zip(env_environs(2, free_port()), files, strict=True):
        with file.open("w") as into:
            whole = {**os.environ, **environ, "PYTHONPATH": path}
            command = [sys.executable, str(BEFALLEN), kind, fault]
            started.append(subprocess.Popen(command, env=whole, stdout=into, stderr=into))
    try:
        yield started, files
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("kind", [ON_STAND_IN, ON_GPUS])
@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("SIGKILL", r"rank 1 \(pid \d+ on \S+\) was killed by SIGKILL"),
        ("exception", r"rank 1 \(pid \d+ on \S+\) failed: LookupError: no shard 7, at befallen"),
    ],
)
def test_the_rank_that_is_gone_is_named_and_the_other_ends(kind, fault, told, tmp_path) -> None:
    """Its program is ended 12 s after the news, if it does not come back by itself."""
    clean_environ()
    with two_ranks(kind, fault, tmp_path) as (started, files):
        codes = [process.wait(PATIENCE) for process in started]
        assert all(codes), codes
        said = files[0].read_text()
        assert re.search(told, said), said


@pytest.mark.parametrize("kind", [ON_GPUS])
def test_a_stall_is_explained_by_nccl_s_recorder(kind, tmp_path) -> None:
    clean_environ()
    with two_ranks(kind, "stall", tmp_path) as (_, files):
        end = time.monotonic() + PATIENCE
        while "in elsewhere" not in (said := files[0].read_text()):
            assert time.monotonic() < end, said
            time.sleep(0.1)
        assert re.search(r"[Rr]ank 1: in no collective, at befallen.py:\d+ in elsewhere", said), (
            said
        )
        assert re.search(r"all_?reduce", said), said
