"""The lines of the documentation that need a launcher run as they stand there, on hosts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from blocks import PAGES, Block, blocks_of

from hosts import all_ended

if TYPE_CHECKING:
    from geometries import Lab

THIS = f"tests/cluster/{Path(__file__).name}"

BLOCKS = [
    block for page in PAGES for block in blocks_of(page) if THIS in block.told.get("elsewhere", "")
]

SCRIPT = """
import allranks

with allranks.session(cpu=True) as world:
    total = allranks.all_reduce(1)
    print(f"rank {world.rank} of {world.world_size} under {world.launcher}: {total}", flush=True)
"""


def commands(place: Path) -> Path:
    """A directory in which MPI's launchers have the names that the pages use."""
    place.mkdir()
    for name, tool in {"mpirun": "mpirun.openmpi", "mpiexec": "mpiexec.hydra"}.items():
        (place / name).write_text(f'#!/bin/sh\nexec {tool} "$@"\n')
        (place / name).chmod(0o755)
    return place


def environ(lab: Lab, path: Path) -> dict[str, str]:
    """A user's on a cluster: its launchers know how to start something on another host."""
    return {
        **lab.slurm.environ,
        "PATH": f"{path}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMPI_MCA_plm_rsh_agent": lab.mpi.remote_shell,
        "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Hosts have as many slots as this machine cores.
        "HYDRA_LAUNCHER": "rsh",
        "HYDRA_LAUNCHER_EXEC": lab.mpi.remote_shell,
    }


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_the_lines_start_ranks(block: Block, lab: Lab, tmp_path: Path) -> None:
    for name in ("train.py", "hello.py"):
        (tmp_path / name).write_text(SCRIPT)
    settings = environ(lab, commands(tmp_path / "bin"))
    line = f"cd {tmp_path}\nset -e\n{block.text}".replace("\n$ ", "\n")
    on = lab.net.hosts[: int(block.told.get("hosts", "1"))]
    ended = all_ended([host.start("bash", "-c", line, environ=settings) for host in on], 300)
    told = "\n".join(one.out for one in ended)
    assert [one.code for one in ended] == [0] * len(on), told
    ranks = int(block.told.get("ranks", "8"))
    if "train.py" in block.text or "hello.py" in block.text:
        assert {f"rank {rank} of {ranks} " in told for rank in range(ranks)} == {True}, told
