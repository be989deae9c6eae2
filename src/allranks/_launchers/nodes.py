"""Platforms that start something on each of several hosts and number the hosts, not the processes.

None is a launcher of processes: what they start is mostly torchrun, whose variables say who is who.
What they give a process without a launcher is a doubt about its world of one. Not recorded: names
from SkyPilot's page on environment variables, dstack's on distributed tasks, AWS Batch's on
multi-node parallel jobs, the SageMaker training toolkit's list of variables, Volcano's svc plugin
(VC_TASK_INDEX, VC_*_HOSTS), Vertex AI's page on CLUSTER_SPEC, and the sources of Kubeflow's MPI
operator (K_MPI_JOB_ROLE).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from allranks._launchers.fields import Environ


class Platform(NamedTuple):
    """Where a platform says how many hosts there are, and which one this is.

    Attributes:
        name: its name.
        node_rank: the variable with this host's number.
        num_nodes: the variable with the number of hosts.
        master_addr: the first host's address, as a shell writes it.
    """

    name: str
    node_rank: str
    num_nodes: str
    master_addr: str

    def doubt(self, environ: Environ) -> Iterator[str]:
        """What to do for a world of all hosts; nothing where one host is told, or none."""
        count = environ.get(self.num_nodes, "").strip()
        if count in ("", "0", "1"):
            return
        yield (
            f"{self.name} names {count:.20} hosts ({self.num_nodes}), but no ranks, so that this "
            f"is a world of one. Run `torchrun --nnodes=${self.num_nodes} "
            f"--node-rank=${self.node_rank} --master-addr={self.master_addr} --nproc-per-node=...` "
            f"on each host; or, for one process per host, set RANK=${self.node_rank}, "
            f"WORLD_SIZE=${self.num_nodes}, MASTER_ADDR and MASTER_PORT."
        )


PLATFORMS = (
    Platform(
        "SkyPilot",
        "SKYPILOT_NODE_RANK",
        "SKYPILOT_NUM_NODES",
        '$(echo "$SKYPILOT_NODE_IPS" | head -n1)',
    ),
    Platform("dstack", "DSTACK_NODE_RANK", "DSTACK_NODES_NUM", "$DSTACK_MASTER_NODE_IP"),
    Platform(
        "AWS Batch",
        "AWS_BATCH_JOB_NODE_INDEX",
        "AWS_BATCH_JOB_NUM_NODES",
        "${AWS_BATCH_JOB_MAIN_NODE_PRIVATE_IPV4_ADDRESS:-$(hostname -i)}",
    ),
)
PREFIXES = ("SKYPILOT_", "DSTACK_", "AWS_BATCH_JOB_", "SM_", "VC_", "CLUSTER_SPEC", "K_MPI_JOB_")
"""How the names of their variables begin."""


def doubts(environ: Environ) -> Iterator[str]:
    """A sentence from each platform that tells of several hosts."""
    for platform in PLATFORMS:
        yield from platform.doubt(environ)
    for name, variable, hosts in (
        ("SageMaker", "SM_HOSTS", _sagemaker),
        ("Volcano", "VC_*_HOSTS", _volcano),
        ("Vertex AI", "CLUSTER_SPEC", _vertex),
    ):
        if (count := hosts(environ)) > 1:
            yield (
                f"{name} names {count} hosts ({variable}), but no ranks, so that this is a world "
                "of one. Run torchrun on each host, with its --node-rank and one --master-addr; or "
                "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT."
            )
    if environ.get("PET_NNODES", "1").strip() != "1":
        yield (
            f"PET_NNODES={environ['PET_NNODES']:.20} is for torchrun, which did not start this "
            "process, so that this is a world of one. Run `torchrun ...`."
        )
    if environ.get("K_MPI_JOB_ROLE") == "launcher":
        yield (
            "This is the launcher of an MPIJob, and mpirun did not start this process, so that it "
            "is a world of one. `mpirun python ...` starts the ranks."
        )


def _sagemaker(environ: Environ) -> int:
    hosts = _json(environ.get("SM_HOSTS", ""))
    return len(hosts) if isinstance(hosts, list) else 0


def _volcano(environ: Environ) -> int:
    names = [name for name in environ if name.startswith("VC_") and name.endswith("_HOSTS")]
    hosts = (environ[name].split(",") for name in names if "VC_TASK_INDEX" in environ)
    return sum(len(list(filter(None, some))) for some in hosts)


def _vertex(environ: Environ) -> int:
    spec = _json(environ.get("CLUSTER_SPEC", ""))
    pools = spec.get("cluster") if isinstance(spec, dict) else None
    hosts = pools.values() if isinstance(pools, dict) else ()
    return sum(len(some) for some in hosts if isinstance(some, list))


def _json(text: str) -> object:
    try:
        return json.loads(text) if text else None
    except (ValueError, RecursionError):
        return None  # Another program's variable of that name.
