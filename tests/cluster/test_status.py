"""``allranks status`` on hosts of a job: each host shows all ranks, whoever started them."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from geometries import C10D, PYTHON, TWO, srun, torchrun
from jobs import WAITING

if TYPE_CHECKING:
    from collections.abc import Callable

    from geometries import Lab, Start
    from hosts import Host

pytestmark = pytest.mark.timeout(300)

LIMIT = 90.0
"""Seconds in which the job has come to where it waits."""

STARTS = {
    "torchrun": torchrun(2, *C10D),
    "slurm": srun("-N2", "--ntasks-per-node=2", "-w", "h1,h2"),
}

STATES = {
    "sleep": "running",
    "stop": "stopped",
    "deep": "silent",
    "torch": "running",
    "batches": "running",
}

AT = {"sleep": "in <lambda>", "torch": "in multiply_for_ever", "batches": "in train"}
"""Where the last rank stands, of one that runs."""


def status(host: Host) -> list[dict[str, Any]]:
    """What the command tells on a host."""
    told = host.run(PYTHON, "-m", "allranks", "status", "--json", "--verdict").out
    return json.loads(told) if told.startswith("[") else []


def seen(host: Host, right: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The one job of a host, once it stands where it will stay."""
    end = time.monotonic() + LIMIT
    found: list[dict[str, Any]] = []
    while time.monotonic() < end:
        found = status(host)
        if len(found) == 1 and right(found[0]):
            return found[0]
        time.sleep(0.2)
    raise TimeoutError(f"it never looked right: {found}")


def states(job: dict[str, Any]) -> list[str]:
    """What its ranks do, in a word each."""
    return [row["state"] for row in job["rows"]]


def stands(job: dict[str, Any]) -> bool:
    """Whether all ranks but the last have come to the call in which they will wait."""
    return all(row["doing"].startswith("all_reduce") for row in job["rows"][:3])


def end_all(hosts: list[Host], jobs: list[dict[str, Any]]) -> None:
    """End the ranks of jobs, the stopped ones, too."""
    by_name = {host.name: host for host in hosts}
    pids = {(row["host"], row["pid"]) for job in jobs for row in job["rows"]}
    for name, pid in pids:
        by_name[name].run("sh", "-c", f"kill -9 {pid}")


@pytest.mark.parametrize("fault", STATES)
@pytest.mark.parametrize("launcher", STARTS)
def test_each_host_shows_all_ranks(lab: Lab, launcher: str, fault: str) -> None:
    start: Start = STARTS[launcher]
    running = start(lab, (*WAITING, fault))
    wanted = ["waiting"] * 3 + [STATES[fault]]
    jobs: list[dict[str, Any]] = []
    try:
        for host in lab.net.hosts[:2]:
            job = seen(host, lambda job: stands(job) and states(job) == wanted)
            jobs.append(job)
            assert job["launcher"] == launcher
            assert [row["host"] for row in job["rows"]] == list(TWO)
            assert "Rank 3: " in job["verdict"]
            assert AT.get(fault, "") in job["rows"][3]["doing"]
            assert not job["trouble"]
        assert not status(lab.net[2])
    finally:
        end_all(lab.net.hosts, jobs)
        for one in running:
            one.cut_short()
    for host in lab.net.hosts[:2]:
        listening = host.must("ss", "--listening", "--unix", "--no-header")
        assert "allranks-status" not in listening
