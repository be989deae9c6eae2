"""Starts the examples as their first lines say, each in a directory of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from harness import PATIENCE

EXAMPLES = Path(__file__).parents[2] / "examples"

ALLRANKS_RUN = (sys.executable, "-m", "allranks", "run", "-n")
TORCHRUN = (
    *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"),
)


def start(*command: str | Path, cwd: Path, **environ: str) -> subprocess.Popen[str]:
    """Start a command, its output in one pipe."""
    return subprocess.Popen(
        [str(part) for part in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environ},
    )


def output(*command: str | Path, cwd: Path, **environ: str) -> str:
    """What a command writes that must succeed."""
    process = start(*command, cwd=cwd, **environ)
    try:
        text, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
    assert process.returncode == 0, text
    return text
