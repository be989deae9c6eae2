"""Beside other libraries, on two ranks: they adopt the group of allranks, and it theirs."""

from __future__ import annotations

import pytest

import company
from geometries import PYTHON, by_hand, mpirun, run, srun, torchrun
from hosts import all_ended
from jobs import ADOPTED, COMPANY

pytestmark = pytest.mark.timeout(150)

# Fabric refuses Slurm's -n: it asks for --ntasks-per-node.
LAUNCHERS = {
    "allranks": run(PYTHON, "-m", "allranks._cli", "run", "-n2", "--no-fold"),
    "torchrun": torchrun(1, "--standalone"),
    "slurm": srun("-N2", "--ntasks-per-node=1"),
    "openmpi": mpirun("openmpi", {"MASTER_ADDR": "h1"}, h1=1, h2=1),
    "mpich": mpirun("mpich", {"MASTER_ADDR": "h1"}, h1=1, h2=1),
    "env": by_hand(MASTER_ADDR="h1", MASTER_PORT="29700"),
}
CHECKS = [check.__name__ for check in company.CHECKS]


@pytest.fixture(scope="module", params=LAUNCHERS)
def told(request, lab) -> list[str]:
    """What both ranks say of each check, under one launcher."""
    ended = all_ended(LAUNCHERS[request.param](lab, COMPANY), 90)
    lines = [line for each in ended for line in each.out.splitlines()]
    return [line.partition("CHECK ")[2] for line in lines if "CHECK " in line]


@pytest.mark.parametrize("check", [*CHECKS, "session"])
def test_other_libraries_work_after_setup(told, check) -> None:
    mine = [line for line in told if line.startswith(f"{check} ")]
    assert mine == [f"{check} ok"] * 2, "\n".join(mine or told).replace(" | ", "\n")


@pytest.mark.parametrize("library", ["torch", "accelerate", "fabric"])
def test_a_group_of_another_library_is_adopted(lab, library) -> None:
    ended = all_ended(torchrun(1, "--standalone")(lab, (*ADOPTED, library)))
    out = "".join(each.out for each in ended)
    assert out.count("ADOPTED") == 2, out


@pytest.mark.parametrize("library", ["torch", "accelerate"])
def test_a_program_that_knows_only_env_runs_under_mpi(lab, library) -> None:
    """By the variables that `allranks env --export` prints; then its group is adopted."""
    script = " ".join((PYTHON, *ADOPTED, library))
    exported = f'v=$({PYTHON} -m allranks._cli env --export) && eval "$v" && exec {script}'
    command = ("bash", "-c", exported)
    ended = lab.mpi.start("mpich", {"h1": 1, "h2": 1}, command, {"MASTER_ADDR": "h1"}).ended()
    assert ended.out.count("ADOPTED") == 2, ended.out
