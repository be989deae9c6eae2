"""One process in each pod of a PyTorchJob, a TrainJob, a JobSet or an Indexed Job.

Last of the launchers: Kubernetes starts the container that everything else runs in. Not recorded:
names from the Kubernetes page on Indexed Jobs, JobSet's examples, and the sources of Kubeflow's
training operator (PyTorchJob) and trainer (TrainJob).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, fault, first_set, joined, place
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess


def read(environ: Environ) -> WorldFields | None:
    """One process in each pod of a PyTorchJob, a TrainJob, a JobSet or an Indexed Job."""
    kubeflow = "PET_NODE_RANK" in environ and "KUBERNETES_SERVICE_HOST" in environ
    if "LOCAL_RANK" in environ or not (kubeflow or "JOB_COMPLETION_INDEX" in environ):
        return None  # with LOCAL_RANK, something inside the pod has numbered its processes
    names = VariableNames(
        first_set(environ, "RANK", "PET_NODE_RANK", "JOB_COMPLETION_INDEX"),
        first_set(environ, "WORLD_SIZE", "PET_NNODES", "WORLD_SIZE"),
        master_addr=first_set(environ, "MASTER_ADDR", "PET_MASTER_ADDR"),
        master_port=first_set(environ, "MASTER_PORT", "PET_MASTER_PORT"),
    )
    indexed = names.rank == "JOB_COMPLETION_INDEX"
    if indexed and names.world_size not in environ and names.master_addr not in environ:
        return None  # the usual Indexed Job: its pods work each for itself
    if (processes := environ.get("PET_NPROC_PER_NODE", "1")).isdecimal() and processes != "1":
        problem = "This pod is to run several processes, and this one is not numbered"
        fix = "Start the script with torchrun, which reads the PET_ variables."
        raise fault(environ, ("PET_NPROC_PER_NODE",), problem, fix)
    return _pod(environ, names)


def _pod(environ: Environ, names: VariableNames) -> WorldFields:
    here = place(environ, names, local_world_size=1)
    here["local_rank"] = 0
    here["node_rank"], here["num_nodes"] = here["rank"], here["world_size"]
    job: object = here["master_port"]
    if not here["master_addr"] and names.rank == "JOB_COMPLETION_INDEX":
        # A pod of an Indexed Job is called after the job and its index.
        job = environ.get("HOSTNAME", "").removesuffix("-" + environ[names.rank])
    here["job"] = joined("kubernetes", job)
    return here


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    told = process.variables(VariableNames("JOB_COMPLETION_INDEX", "WORLD_SIZE"))
    return {**told, "KUBERNETES_SERVICE_HOST": "10.0.0.1"}


READER = Reader(
    "kubernetes",
    read,
    simulate,
    ("JOB_COMPLETION_INDEX", "RANK", "WORLD_SIZE"),
    prefixes=("JOBSET_", "JOB_COMPLETION_", "KUBERNETES_", "PET_"),
)
