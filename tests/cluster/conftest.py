"""What the cluster tests need of the machine, and the hosts that they share."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from geometries import Lab
from hosts import Network, network, numbered
from mpi import mpi
from slurm_cluster import slurm

if TYPE_CHECKING:
    from collections.abc import Iterator

TOOLS = {
    "unshare": "util-linux",
    "ip": "iproute2",
    "nft": "nftables",
    "ethtool": "ethtool",
    "faketime": "faketime",
    "srun": "slurm-wlm",
    "slurmctld": "slurm-wlm",
    "munged": "munge",
    "mpirun.openmpi": "openmpi-bin",
    "mpiexec.hydra": "mpich",
}


def pytest_sessionstart() -> None:
    """Say why the tests cannot run here, rather than skip them."""
    absent = sorted({package for tool, package in TOOLS.items() if not shutil.which(tool)})
    if absent:
        pytest.exit(f"the cluster tests need {', '.join(absent)}: `make test-cluster` installs", 1)
    if os.geteuid() != 0:
        pytest.exit("the cluster tests make network namespaces, and must run as root", 1)


@pytest.fixture(scope="session")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """Four hosts."""
    with network(tmp_path_factory.mktemp("hosts"), numbered(4)) as hosts:
        yield hosts


@pytest.fixture(scope="session")
def lab(net: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Slurm and both MPIs on the four hosts."""
    with (
        slurm(tmp_path_factory.mktemp("slurm"), net) as running,
        mpi(tmp_path_factory.mktemp("mpi"), net) as both,
    ):
        yield Lab(net, running, both)
