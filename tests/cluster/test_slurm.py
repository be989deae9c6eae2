"""Real Slurm, on four hosts: ranks come up with no setting, wherever Slurm puts them."""

from __future__ import annotations

import pytest

from geometries import STEPS
from jobs import PROBE, reports, wrong

pytestmark = pytest.mark.timeout(120)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step(cluster, step) -> None:
    hosts = step.hosts(cluster)
    ended = step.start(cluster, PROBE).ended()
    assert ended.code == 0, ended.out
    assert not wrong(ended.out, "slurm", hosts), ended.out


def test_rank_0_is_on_the_last_host(cluster) -> None:
    """The geometry is what it says: else the test above would show nothing."""
    arbitrary = next(step for step in STEPS if step.hostfile)
    assert arbitrary.hosts(cluster) == list(arbitrary.hostfile)


def test_a_step_on_part_of_the_job(cluster) -> None:
    command = ("salloc", "-N4", "--ntasks-per-node=2", "srun", "-N2", "-n4", "-w", "h3,h4", *PROBE)
    ended = cluster.run(*command)
    assert ended.code == 0, ended.out
    assert not wrong(ended.out, "slurm", ["h3", "h3", "h4", "h4"]), ended.out


def test_two_steps_of_one_job_at_once(cluster) -> None:
    """Each with its own ranks, on the same two hosts."""
    step = f"srun --exact --mem=100 -N2 -n2 {' '.join(PROBE)}"
    both = f"{step} > {cluster.base}/a & {step} > {cluster.base}/b & wait -n && wait -n"
    ended = cluster.run("salloc", "-N2", "-n4", "bash", "-c", both)
    assert ended.code == 0, ended.out
    told = {name: (cluster.base / name).read_text() for name in "ab"}
    for out in told.values():
        assert not wrong(out, "slurm", ["h1", "h2"]), out
    jobs = {reports(out)[0]["job"] for out in told.values()}
    assert len(jobs) == 2, "the steps ran one after the other"


def test_two_jobs_share_a_node(cluster) -> None:
    running = [cluster.start("srun", "-N2", "-n2", "-w", "h1,h2", *PROBE) for _ in "ab"]
    for job in running:
        ended = job.ended()
        assert ended.code == 0, ended.out
        assert not wrong(ended.out, "slurm", ["h1", "h2"]), ended.out


def test_a_job_array(cluster) -> None:
    """Both elements run at once, each a world of its own."""
    job = cluster.sbatch(f"srun {' '.join(PROBE)}", "--array=0-1", "-N2", "-n2")
    told = reports(cluster.output(job))
    assert [report["rank"] for report in told] == [0, 0, 1, 1]
    assert all(report["world_size"] == 2 and report["total"] == 3 for report in told)
    assert len({report["job"] for report in told}) == 2


def test_a_heterogeneous_job(cluster) -> None:
    ended = cluster.run("srun", "-N1", "-n1", ":", "-N2", "-n2", *PROBE, timeout=90)
    assert ended.code == 0, ended.out
    hosts = [report["host"] for report in reports(ended.out)]
    assert len(set(hosts)) == 3, ended.out
    assert not wrong(ended.out, "slurm", hosts), ended.out


def test_a_requeued_job(cluster) -> None:
    """The second run is another job, though Slurm gives it the same ids."""
    script = f'srun {" ".join(PROBE)}; [ "$SLURM_RESTART_COUNT" ] || sleep 60'
    job = cluster.sbatch(script, "-N2", "-n2", "--requeue")
    cluster.wait_for(job, "REPORT", 2)
    cluster.requeue(job)
    out = cluster.output(job)
    told = reports(out)
    assert [report["rank"] for report in told] == [0, 0, 1, 1], out
    assert {report["attempt"] for report in told} == {0, 1}
    assert len({report["job"] for report in told}) == 2


def test_plain_python_in_a_batch_script(cluster) -> None:
    """A world of one, and a note that says what srun would do."""
    allranks = f"{PROBE[0]} -m allranks._cli env"
    job = cluster.sbatch(f"{' '.join(PROBE)}; {allranks}", "-N2", "-n4")
    out = cluster.output(job)
    assert not wrong(out, "single", ["h1"]), out
    text = " ".join(out.split())
    assert f"In Slurm job {job}, but not started by srun: a world of one." in text
    assert "would start the job's tasks, 4 in all" in text
