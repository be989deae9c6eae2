"""Real Slurm: several steps and jobs at once, jobs that run again, and scripts without srun."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest

import words
from geometries import ON_TWO, PYTHON
from hosts import all_ended
from jobs import EXAMPLES, PROBE, reports, wrong

pytestmark = pytest.mark.timeout(120)

LINE = " ".join((PYTHON, *PROBE))


def test_two_steps_of_one_job_at_once(lab) -> None:
    """Each with its own ranks, on the same two hosts."""
    base = lab.slurm.base
    step = f"srun --exact --mem=100 -N2 -n2 {LINE}"
    both = f"{step} > {base}/a & {step} > {base}/b & wait -n && wait -n"
    ended = lab.slurm.run("salloc", *ON_TWO, "-n4", "bash", "-c", both)
    assert ended.code == 0, ended.out
    told = {name: (base / name).read_text() for name in "ab"}
    for out in told.values():
        assert not wrong(out, "slurm", ["h1", "h2"]), out
    jobs = {reports(out)[0]["job"] for out in told.values()}
    assert len(jobs) == 2


def test_two_jobs_share_a_host(lab) -> None:
    running = [lab.slurm.start("srun", "-N2", "-n2", "-w", "h1,h2", PYTHON, *PROBE) for _ in "ab"]
    for ended in all_ended(running):
        assert ended.code == 0, ended.out
        assert not wrong(ended.out, "slurm", ["h1", "h2"]), ended.out


def test_a_job_array(lab) -> None:
    """Both elements run at once, each a world of its own."""
    job = lab.slurm.sbatch(f"srun {LINE}", "--array=0-1", "-N2", "-n2")
    told = reports(lab.slurm.output(job))
    assert [report["rank"] for report in told] == [0, 0, 1, 1]
    assert all(report["world_size"] == 2 and report["total"] == 3 for report in told)
    assert len({report["job"] for report in told}) == 2


def test_a_requeued_job(lab) -> None:
    """The second run is another job, though Slurm gives it the same ids."""
    script = f'srun {LINE}; [ "$SLURM_RESTART_COUNT" ] || sleep 60'
    job = lab.slurm.sbatch(script, "-N2", "-n2", "--requeue")
    lab.slurm.wait_for(job, "REPORT", 2)
    lab.slurm.requeue(job)
    out = lab.slurm.output(job)
    told = reports(out)
    assert [report["rank"] for report in told] == [0, 0, 1, 1], out
    assert {report["attempt"] for report in told} == {0, 1}
    assert len({report["job"] for report in told}) == 2


@pytest.mark.timeout(360)
def test_the_batch_script_of_the_examples(lab, tmp_path) -> None:
    """As it is, but for where it writes, and which python it finds."""
    (tmp_path / "examples").symlink_to(EXAMPLES)
    found = f"PATH={Path(PYTHON).parent}:{os.environ['PATH']}"
    script = (EXAMPLES / "slurm" / "digits.sbatch").read_text()
    job = lab.slurm.sbatch(script, f"--chdir={tmp_path}", f"--export=ALL,{found}")
    out = lab.slurm.output(job, 300)
    assert "4 ranks, started by slurm" in out
    assert "of 450 misclassified" in out


def test_plain_python_in_a_batch_script(lab) -> None:
    """A world of one, and a note that says what srun would do."""
    job = lab.slurm.sbatch(f"{LINE}; {PYTHON} -m allranks._cli env", *ON_TWO, "-n4")
    out = lab.slurm.output(job)
    assert not wrong(out, "single", ["h1"]), out
    text = " ".join(out.split())
    assert f"In Slurm job {job}, {words.ONE_BATCH_PROCESS}" in text
    assert "would start the job's tasks, 4 in all" in text


@pytest.mark.timeout(360)
def test_the_terminal_of_a_step_of_several_tasks(lab) -> None:
    """One process of four: said at once, and in the error; not of the ranks started from there."""
    code = "import allranks; allranks.setup(cpu=True, rendezvous_timeout=20)"
    typed = [
        f"{PYTHON} -m allranks env",
        f"{PYTHON} -c '{code}'",
        f"srun --overlap -n4 {' '.join((PYTHON, *PROBE))} < /dev/null",
        "exit",
    ]
    shell = "srun -N1 -n4 --pty bash --norc"
    lines = " ".join(shlex.quote(line) for line in typed)
    terminal = f"script --quiet --return --command {shlex.quote(shell)} /dev/null"
    ended = lab.slurm.run("bash", "-c", f"printf '%s\\n' {lines} | {terminal}", timeout=300)
    text = " ".join(ended.out.split())
    told = "SLURM_PTY_PORT is set. In a shell of `srun --pty`, only one of the 4 tasks"
    assert f"allranks: warning: {told}" in text
    assert text.count(f"warning: {told}") == 2  # Of allranks env, too.
    assert "MissingRanksError: 3 of 4 ranks did not come" in text, ended.out
    error = text.partition("MissingRanksError: ")[2]
    assert "`srun --overlap -n 4 python ...` starts all of them" in error
    assert not wrong(ended.out, "slurm", ["h1"] * 4), ended.out


def test_a_task_of_srun_with_the_variables_of_mpi(lab) -> None:
    """Both say the same of it; Slurm knows the hosts, MPI does not."""
    export = (
        "export OMPI_COMM_WORLD_RANK=$SLURM_PROCID OMPI_COMM_WORLD_SIZE=$SLURM_NTASKS "
        "OMPI_COMM_WORLD_LOCAL_RANK=$SLURM_LOCALID"
    )
    step = (*ON_TWO, "--ntasks-per-node=2")
    ended = lab.slurm.run("srun", *step, "bash", "-c", f"{export}; exec {LINE}")
    assert ended.code == 0, ended.out
    assert not wrong(ended.out, "slurm", ["h1", "h1", "h2", "h2"]), ended.out


ENV_ONLY = """
import os, torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
os.write(1, f"SUM {total.item()} of {os.environ['RANK']}\\n".encode())
dist.destroy_process_group()
"""


def test_a_program_that_knows_only_env_runs_under_srun(lab, tmp_path) -> None:
    script = tmp_path / "env_only.py"
    script.write_text(ENV_ONLY)
    exported = f'v=$({PYTHON} -m allranks._cli env --export) && eval "$v" && exec {PYTHON} {script}'
    ended = lab.slurm.run("srun", "-N2", "-n4", "bash", "-c", exported)
    assert ended.code == 0, ended.out
    assert ended.out.count("SUM 4.0") == 4, ended.out
