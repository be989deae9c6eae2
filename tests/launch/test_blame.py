"""``allranks run`` blames the rank that failed, not those that lost it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness import PATIENCE

ALLRANKS = [sys.executable, "-m", "allranks._cli"]

LOOP = """
import os, signal, sys, threading, time
import torch, allranks
allranks.setup(cpu=True)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
for step in range(400):
    if step == 3 and allranks.get_rank() == 1:
        {ending}
    model(torch.ones(4)).sum().backward()
"""


def run(tmp_path: Path, script: str, *options: str) -> subprocess.CompletedProcess[str]:
    path = tmp_path / "script.py"
    path.write_text(script)
    command = [*ALLRANKS, "run", "-n", "3", *options, str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, "rank 1 (pid {}) was killed by SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", 139, "rank 1 (pid {}) was killed by SIGSEGV"),
        ("sys.exit('no data')", 1, "rank 1 (pid {}) left with exit code 1"),
        ("raise LookupError('x')", 1, "rank 1 (pid {}) failed: LookupError: x"),
    ],
)
def test_the_culprit_is_named_last(tmp_path: Path, ending: str, code: int, said: str) -> None:
    done = run(tmp_path, LOOP.format(ending=ending))
    _, found, after = done.stderr.rpartition("allranks: rank 1 (pid ")
    assert found, done.stderr
    assert said.partition(" (pid {}) ")[2] in after.splitlines()[0]
    assert done.returncode == code
    assert "allranks: rank" not in after


def test_a_rank_that_left_in_peace_is_mentioned(tmp_path: Path) -> None:
    done = run(tmp_path, LOOP.format(ending="sys.exit(0)"))
    assert done.returncode == 1
    assert "rank 1 had left with exit code 0" in done.stderr


LINGERING = "threading.Thread(target=time.sleep, args=(600,)).start(); raise LookupError('deep')"


def test_a_failure_is_told_where_its_process_cannot_leave(tmp_path: Path) -> None:
    done = run(tmp_path, LOOP.format(ending=LINGERING))
    assert done.returncode == 1
    assert done.stderr.rstrip().endswith("LookupError: deep")


def test_a_fork_of_the_programs_own_is_no_rank(tmp_path: Path) -> None:
    done = run(tmp_path, "import os\nos.fork()\nraise LookupError('twice')")
    assert done.stderr.rstrip().endswith("LookupError: twice")
    assert "JSON" not in done.stderr


def test_a_note_is_not_taken_for_the_message(tmp_path: Path) -> None:
    script = "error = LookupError('deep')\nerror.__notes__ = ['of shard 7']\nraise error"
    done = run(tmp_path, script)
    assert re.search(
        r"^allranks: rank \d \(pid \d+\) failed: LookupError: deep$", done.stderr, re.MULTILINE
    )
