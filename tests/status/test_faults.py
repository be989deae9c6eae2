"""The faults of ``make faults`` that leave a job waiting: ``allranks status`` names each."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

import faults_worker
from allranks._status.jobs import jobs
from allranks._system import host_sockets
from allranks._watch.status_report import JobReport
from faults import EXPECTED
from harness import PATIENCE, env_environs, free_port, wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not host_sockets.allowed(), reason="needs abstract unix sockets"),
]

WAIT = [
    "an exception is caught, the rank lives on",
    "SIGSTOP",
    "a slow rank",
    "another collective",
    "groups in another order",
    "a skipped call",
    "DDP, uneven batches",
    "rank 0 prepares for long",
]
"""Where the ranks end, or never come up, there is nothing to ask."""

SAID = {name: EXPECTED[name][0] for name in WAIT} | {
    "rank 0 prepares for long": r"^Rank 0 is running at faults_worker\.py:\d+ in <lambda>;",
}
"""What the verdict says; of the last one there is none, as the job goes on."""


def told(job: JobReport) -> str:
    rows = "; ".join(f"Rank {row.rank} is {row.state} at {row.doing}" for row in job.rows)
    return job.verdict or rows


@pytest.mark.parametrize("fault", WAIT)
def test_the_verdict_names_what_holds_the_job_up(fault: str) -> None:
    name, seen = uuid.uuid4().hex, []
    ranks = [
        subprocess.Popen(
            [sys.executable, faults_worker.__file__, fault, "allranks"],
            env={**os.environ, **environ, "GLOO_SOCKET_IFNAME": "lo"},
            stderr=subprocess.DEVNULL,
        )
        for environ in env_environs(4, free_port(), ALLRANKS_JOB=name, PYTHONPATH=_benchmarks())
    ]

    def is_named() -> bool:
        seen[:] = [told(one) for one in jobs(verdict=True) if name in one.job] or seen
        ended = all(rank.poll() is not None for rank in ranks)
        return bool(seen and re.search(SAID[fault], seen[0])) or ended

    try:
        wait_until(is_named)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait(PATIENCE)
    assert seen, "it told nothing"
    assert re.search(SAID[fault], seen[0]), seen


def _benchmarks() -> str:
    return str(Path(faults_worker.__file__).parent)
