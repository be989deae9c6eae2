"""What befalls a job under Slurm, and that the ranks which are left name the rank."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

import words
from geometries import PYTHON
from hosts import network, numbered, wait_until
from jobs import ENDLESS, pids, told_by
from slurm_cluster import slurm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from hosts import Ended, Running
    from slurm_cluster import Slurm

pytestmark = pytest.mark.timeout(180)


@dataclass
class Job:
    """Four ranks on two hosts, each with a log of its own, as a step that does not end.

    Attributes:
        srun: the step.
        logs: the directory of its tasks' logs.
    """

    srun: Running
    logs: Path

    def written(self) -> str:
        """What all ranks have written, whether or not srun can still hear them."""
        return "".join(path.read_text() for path in sorted(self.logs.glob("task*")))

    def pids(self, timeout: float = 60) -> dict[int, int]:
        """The ranks' process ids, once all run."""
        wait_until(lambda: len(pids(self.written())) == 4, timeout, self.written)
        return pids(self.written())


def begun(cluster: Slurm, logs: Path, hosts: str) -> Job:
    """A job on two hosts."""
    logs.mkdir()
    where = ("-w", hosts, "-N2", "-n4", "--ntasks-per-node=2", f"--output={logs}/task%t")
    return Job(cluster.start("srun", *where, PYTHON, *ENDLESS), logs)


@dataclass
class Told:
    """How a job ended: what its ranks said, and how srun ended."""

    by_rank: dict[int, str]
    srun: Ended


def end_of(job: Job) -> Told:
    ended = job.srun.ended(90)
    return Told(told_by(job.written()), ended)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Slurm]:
    """A cluster on hosts of its own, which come to harm."""
    with (
        network(tmp_path_factory.mktemp("hosts"), numbered(4)) as net,
        slurm(tmp_path_factory.mktemp("slurm"), net) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def killed_task(cluster, tmp_path_factory) -> Told:
    job = begun(cluster, tmp_path_factory.mktemp("task") / "logs", "h1,h2")
    cluster.net[1].kill(job.pids()[2])
    return end_of(job)


@pytest.fixture(scope="module")
def lost_hosts(cluster, tmp_path_factory, killed_task) -> tuple[Told, Told]:
    """A job whose host loses its slurmd, and one whose host loses its cable, at once."""
    base = tmp_path_factory.mktemp("hosts-lost")
    without_daemon, without_cable = (
        begun(cluster, base / hosts, hosts) for hosts in ("h1,h2", "h3,h4")
    )
    without_daemon.pids(), without_cable.pids()
    cluster.daemons["h2"].kill()
    with cluster.net.cut(cluster.net[3]):
        without_cable.srun.ended(90)
        without_daemon.srun.ended(90)
        # Ranks that srun has lost sight of end by themselves.
        wait_until(
            lambda: told_by(without_daemon.written()).keys() >= {2, 3}, 30, without_daemon.written
        )
    return end_of(without_daemon), end_of(without_cable)


def test_a_killed_task_is_named_by_all_others(killed_task) -> None:
    assert killed_task.by_rank.keys() == {0, 1, 3}
    for error in killed_task.by_rank.values():
        assert "PeerFailedError: rank 2 (pid" in error
        assert f"on h2) {words.KILLED}" in error


def test_a_killed_task_ends_the_step(killed_task) -> None:
    assert killed_task.srun.code != 0


def test_a_host_without_slurmd_is_named(lost_hosts) -> None:
    """Slurm ends the ranks elsewhere after its SlurmdTimeout; those on the host say so."""
    told, _ = lost_hosts
    assert "Node failure on h2" in told.srun.out
    assert told.by_rank.keys() >= {2, 3}
    for rank in (2, 3):
        lost = rf"PeerFailedError: rank 0 \(pid \d+ on h1\) {words.GONE}"
        assert re.search(lost, told.by_rank[rank]), told.by_rank[rank]


def test_a_host_without_its_cable_is_named(lost_hosts) -> None:
    _, told = lost_hosts
    assert told.by_rank.keys() >= {0, 1}
    for rank in (0, 1):
        assert "StalledError" in told.by_rank[rank]
        assert f"Ranks 2-3: {words.UNPLUGGED}" in told.by_rank[rank]
