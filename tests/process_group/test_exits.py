"""The interpreter's end: the program's exit code and no abort, whatever is still under way."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness import PATIENCE, env_environs, free_port

ROUNDS = 5

FAILED_SETUP = """
import sys, allranks
try:
    allranks.setup(cpu=True, rendezvous_timeout=1)
except allranks.errors.RendezvousError:
    sys.exit(3)
"""
DAEMON_IN_A_CALL = """
import os, sys, threading, time, torch, torch.distributed as dist, allranks
allranks.setup(cpu=True)
allranks.all_reduce(1)
def call():
    try:
        dist.all_reduce(torch.ones(3))
    except RuntimeError:
        pass
if allranks.get_rank() == 0:
    threading.Thread(target=call, daemon=True).start()
time.sleep(1 + allranks.get_rank() / 2)
sys.exit(3)
"""


def started(program: str, environ: dict[str, str]) -> subprocess.Popen:
    environ = {**os.environ, **environ}
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen([sys.executable, "-c", program], env=environ, **told)


@pytest.mark.parametrize(
    ("program", "starting"), [(FAILED_SETUP, 1), (FAILED_SETUP, 2), (DAEMON_IN_A_CALL, 2)]
)
def test_what_is_under_way_does_not_abort_the_interpreter(program: str, starting: int) -> None:
    """Several jobs at once: none but some of their exits would meet the moment."""
    jobs = []
    for number in range(ROUNDS):
        size = 3 if program is FAILED_SETUP else 2
        environs = env_environs(size, free_port(), ALLRANKS_JOB=str(number))
        jobs += [started(program, environ) for environ in environs[:starting]]
    ended = [(job.communicate(timeout=PATIENCE)[0], job.returncode) for job in jobs]
    assert [code for _, code in ended] == [3] * len(jobs), ended
    assert not any("terminate called" in text for text, _ in ended)
