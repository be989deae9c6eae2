"""Starts the examples as their first lines say, each in a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness import PATIENCE

EXAMPLES = Path(__file__).parents[2] / "examples"

ALLRANKS_RUN = (sys.executable, "-m", "allranks", "run", "-n")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")

ALONE = {"ALLRANKS_STATUS": "0", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
"""Not seen by tests that ask all jobs of this host; on the CPU, with one order of sums."""


def output(*command: str | Path, cwd: Path) -> str:
    """What a command writes that must succeed."""
    done = subprocess.run(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, **ALONE},
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
