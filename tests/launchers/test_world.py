"""``detect``: recorded environments, hand-written ones, faults, and what holds for any."""

import json
import os
import pickle
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allranks._launchers.detect import READERS, detect
from allranks._launchers.world import Launcher, World
from allranks.errors import DetectionError
from environments import ENDPOINT, RANK_1_OF_4, TORCHRUN

RECORDINGS = {
    path.stem: json.loads(path.read_text())["processes"]
    for path in sorted(Path(__file__).parent.glob("recordings/*.json"))
}
SEVERAL_JOBS = {"slurm-array-srun"}
BATCH_BODY = RECORDINGS["slurm-sbatch-body"][0]["environ"]
ALLRANKS = {
    "ALLRANKS_RANK": "1",
    "ALLRANKS_WORLD_SIZE": "4",
    "ALLRANKS_STORE": "/dev/shm/allranks-x/store",
    "ALLRANKS_RUN_ID": "x",
}
OPENMPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_NODE_RANK": "1",
    "PMIX_RANK": "1",
    "PMIX_NAMESPACE": "77",
}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
MVAPICH = {
    "MV2_COMM_WORLD_RANK": "1",
    "MV2_COMM_WORLD_SIZE": "4",
    "MV2_COMM_WORLD_LOCAL_RANK": "1",
    "MV2_COMM_WORLD_LOCAL_SIZE": "2",
    "PMI_ID": "1",
}
JSM = {
    **OPENMPI,
    "JSM_NAMESPACE_RANK": "1",
    "JSM_NAMESPACE_SIZE": "4",
    "JSM_NAMESPACE_LOCAL_RANK": "1",
    "JSM_NAMESPACE_LOCAL_SIZE": "2",
    "LSB_JOBID": "5",
}
FLUX = {
    "FLUX_TASK_RANK": "1",
    "FLUX_JOB_SIZE": "4",
    "FLUX_TASK_LOCAL_ID": "1",
    "FLUX_JOB_NNODES": "2",
    "FLUX_JOB_ID": "f38rBqEWT",
    "PMI_RANK": "1",
    "PMI_SIZE": "4",
}
PALS = {
    "PALS_RANKID": "1",
    "PALS_LOCAL_RANKID": "1",
    "PALS_NODEID": "0",
    "PALS_APID": "a-1",
    "PMI_RANK": "1",
    "PMI_SIZE": "4",
    "PMI_LOCAL_SIZE": "2",
}
RAY_WORKER = {"RAY_JOB_ID": "01000000", "RAY_RAYLET_PID": "7"}
RAY_TRAIN = {
    **RAY_WORKER,
    **RANK_1_OF_4,
    **ENDPOINT,
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "NODE_RANK": "0",
}
PYTORCHJOB = {
    **RANK_1_OF_4,
    **ENDPOINT,
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "PET_NODE_RANK": "1",
    "PET_NNODES": "1:4",
    "PET_NPROC_PER_NODE": "auto",
}
TRAINJOB = {
    "JOB_COMPLETION_INDEX": "1",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "PET_NODE_RANK": "1",
    "PET_NNODES": "4",
    "PET_NPROC_PER_NODE": "1",
    "PET_MASTER_ADDR": "job-node-0-0.job",
    "PET_MASTER_PORT": "29400",
}
INDEXED_JOB = {"JOB_COMPLETION_INDEX": "1", "HOSTNAME": "train-1", "KUBERNETES_SERVICE_HOST": "k"}
SUBMITIT = {
    "SUBMITIT_EXECUTOR": "local",
    "SUBMITIT_LOCAL_JOB_ID": "31",
    "SUBMITIT_LOCAL_NTASKS": "2",
    "SUBMITIT_LOCAL_GLOBALID": "1",
    "SUBMITIT_LOCAL_LOCALID": "1",
    "SUBMITIT_LOCAL_NODEID": "0",
    "SUBMITIT_LOCAL_JOB_NUM_NODES": "1",
}
HOROVODRUN = {
    "HOROVOD_HOSTNAME": "h2",
    "HOROVOD_RANK": "2",
    "HOROVOD_SIZE": "3",
    "HOROVOD_LOCAL_RANK": "0",
    "HOROVOD_LOCAL_SIZE": "1",
    "HOROVOD_CROSS_RANK": "1",
    "HOROVOD_CROSS_SIZE": "2",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.9",
    "HOROVOD_GLOO_RENDEZVOUS_PORT": "41000",
}
LWS = {
    "LWS_LEADER_ADDRESS": "train-1.train.default",
    "LWS_GROUP_SIZE": "4",
    "LWS_WORKER_INDEX": "1",
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
}
LIGHTNING_CHILD = {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
    "NODE_RANK": "0",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "2",
}
TORCH_DISTRIBUTOR = {
    **TORCHRUN,
    "MASTER_ADDR": "10.0.0.4",
    "NODE_RANK": "1",
    "SPARK_ENV_LOADED": "1",
    "DATABRICKS_RUNTIME_VERSION": "15.4",
}
POD = {"local_rank": 0, "local_world_size": 1, "node_rank": 1, "num_nodes": 4}


def without(environ, *names):
    return {name: value for name, value in environ.items() if name not in names}


def srun(rank=1, counts=(2, 2), **changes):
    """The step environment of one task, ranks in block order over hosts n1, n2, ..."""
    node = next(n for n in range(len(counts)) if rank < sum(counts[: n + 1]))
    first = sum(counts[:node])
    return {
        "SLURMD_NODENAME": f"n{node + 1}",
        "SLURM_CLUSTER_NAME": "lab",
        "SLURM_JOB_ID": "9",
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NODELIST": f"n[1-{len(counts)}]",
        "SLURM_STEP_NUM_TASKS": str(sum(counts)),
        "SLURM_STEP_TASKS_PER_NODE": ",".join(map(str, counts)),
        "SLURM_PROCID": str(rank),
        "SLURM_LOCALID": str(rank - first),
        "SLURM_NODEID": str(node),
        "SLURM_GTIDS": ",".join(str(first + local) for local in range(counts[node])),
        **changes,
    }


def _openmpi_rank(rank, local_rank):
    """Open MPI's variables of a rank of four on two hosts."""
    return {
        "OMPI_COMM_WORLD_RANK": str(rank),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(local_rank),
        "PMIX_RANK": str(rank),
    }


def fields(world, names):
    return {name: getattr(world, name) for name in names}


@pytest.mark.parametrize("case", RECORDINGS)
def test_recorded_environments(case):
    """Every process of every recorded run gets the world that it was in."""
    for process in RECORDINGS[case]:
        expected = process["expected"]
        assert fields(detect(process["environ"]), expected) == expected


@pytest.mark.parametrize("case", [case for case in RECORDINGS if case not in SEVERAL_JOBS])
def test_the_ranks_of_a_job_agree_on_its_identity(case):
    """Also on where rank 0 may run, and on the number of nodes: all rendezvous from these."""
    worlds = [detect(process["environ"]) for process in RECORDINGS[case]]
    assert len({(world.job, world.hosts, world.num_nodes) for world in worlds}) == 1


def test_array_elements_and_parallel_steps_are_different_jobs():
    """Elements of one array have their own job id, parallel steps only a step id."""
    elements = {detect(p["environ"]).job for p in RECORDINGS["slurm-array-srun"]}
    steps = {detect(RECORDINGS[f"slurm-step-par-{x}"][0]["environ"]).job for x in "ab"}
    assert (len(elements), len(steps)) == (2, 2)


WORLDS = {
    "a world size of one": ({"WORLD_SIZE": "1"}, {"launcher": "single", "world_size": 1}),
    "nothing": ({}, {"launcher": "single", "job": "single", "notes": ()}),
    "allranks run": (
        ALLRANKS,
        {
            "launcher": "allranks",
            "job": "allranks:x",
            "store_path": "/dev/shm/allranks-x/store",
            "local_rank": 1,
            "local_world_size": 4,
            "node_rank": 0,
            "num_nodes": 1,
        },
    ),
    "torchrun": (
        TORCHRUN,
        {
            "launcher": "torchrun",
            "job": "torchrun:j1:29500",
            "attempt": 3,
            "agent_store": True,
            "master_addr": "h1",
            "master_port": 29500,
        },
    ),
    "torchrun without a run id": (
        {**TORCHRUN, "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_USE_AGENT_STORE": "False"},
        {"job": "torchrun:none:29500", "agent_store": False},
    ),
    "jsrun": (JSM, {"launcher": "lsf", "job": "lsf:5:77", "local_world_size": 2, "notes": ()}),
    "mpirun, nodes unknown": (
        OPENMPI,
        {"launcher": "openmpi", "job": "openmpi:77", "num_nodes": None, "node_rank": None},
    ),
    "mpirun, one host": (
        {**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4"},
        {"num_nodes": 1, "node_rank": 0},
    ),
    "mpirun, daemons without ranks": (
        {**OPENMPI, "OMPI_MCA_orte_num_nodes": "8"},
        {"num_nodes": None},
    ),
    "mpirun, one daemon": (
        {**without(OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE"), "OMPI_MCA_orte_num_nodes": "1"},
        {"local_world_size": 4, "num_nodes": 1},
    ),
    "mpirun with an address": (
        {**OPENMPI, **ENDPOINT},
        {"master_addr": "h1", "master_port": 29500},
    ),
    "MVAPICH": (
        {**MVAPICH, **ENDPOINT},
        {"launcher": "mvapich", "job": "mvapich:29500", "local_world_size": 2, "notes": ()},
    ),
    "MVAPICH's size, set for another program": (
        {"MV2_COMM_WORLD_LOCAL_SIZE": "16"},
        {"launcher": "single", "notes": ()},
    ),
    "Intel MPI, two hosts": (
        {**HYDRA, "I_MPI_ROOT": "/opt/intel"},
        {"launcher": "mpich", "job": "mpich", "local_rank": 1, "num_nodes": None},
    ),
    "Hydra with an address": ({**HYDRA, **ENDPOINT}, {"job": "mpich:29500"}),
    "PMI without local ranks": (
        {"PMI_RANK": "1", "PMI_SIZE": "4"},
        {"launcher": "mpich", "local_rank": None},
    ),
    "flux run": (
        FLUX,
        {
            "launcher": "flux",
            "job": "flux:f38rBqEWT",
            "local_rank": 1,
            "local_world_size": None,
            "num_nodes": 2,
            "notes": (),
        },
    ),
    "flux run on one host": (
        {**FLUX, "FLUX_JOB_NNODES": "1"},
        {"local_world_size": 4, "node_rank": 0},
    ),
    "flux run -o pmi=cray-pals": ({**PALS, **FLUX}, {"launcher": "flux", "notes": ()}),
    "PALS": (
        PALS,
        {"launcher": "pals", "job": "pals:a-1", "local_world_size": 2, "node_rank": 0, "notes": ()},
    ),
    "PALS with PMIx": (
        {
            **without(PALS, "PMI_RANK", "PMI_SIZE", "PMI_LOCAL_SIZE"),
            "PALS_LOCAL_SIZE": "4",
            "WORLD_SIZE": "4",
            "PMIX_RANK": "1",
            "PMIX_NAMESPACE": "n",
        },
        {"launcher": "pals", "num_nodes": 1},
    ),
    "PMIx alone": (
        {"PMIX_RANK": "1", "PMIX_NAMESPACE": "prte@1", "WORLD_SIZE": "4"},
        {"launcher": "pmix", "job": "pmix:prte@1"},
    ),
    "Ray Train": (
        RAY_TRAIN,
        {"launcher": "ray", "job": "ray:29500", "local_rank": 1, "node_rank": 0},
    ),
    "PyTorchJob": (PYTORCHJOB, {"launcher": "kubernetes", "job": "kubernetes:29500", **POD}),
    "TrainJob": (
        TRAINJOB,
        {"launcher": "kubernetes", "job": "kubernetes:29400", **POD},
    ),
    "JobSet": (
        {**INDEXED_JOB, "JOB_COMPLETION_INDEX": "0", **RANK_1_OF_4, **ENDPOINT},
        {"launcher": "kubernetes", "job": "kubernetes:29500", **POD},
    ),
    "Indexed Job": (
        {**INDEXED_JOB, "WORLD_SIZE": "4"},
        {"launcher": "kubernetes", "job": "kubernetes:train", **POD},
    ),
    "a numbered process in a pod": (
        {**INDEXED_JOB, **RANK_1_OF_4, "LOCAL_RANK": "1"},
        {"launcher": "env", "local_rank": 1, "num_nodes": None},
    ),
    "env://": (
        {**RANK_1_OF_4, **ENDPOINT},
        {"launcher": "env", "job": "env:29500", "local_rank": None, "num_nodes": None},
    ),
    "env:// of a pyxis hook in a batch container": (
        {"RANK": "0", "WORLD_SIZE": "1", "MASTER_PORT": "61175"},
        {"launcher": "env", "rank": 0, "world_size": 1, "local_rank": 0, "num_nodes": 1},
    ),
    "Lightning's child": (
        LIGHTNING_CHILD,
        {"launcher": "env", "rank": 1, "world_size": 2, "local_rank": 1, "node_rank": 0},
    ),
    "submitit's local executor": (
        SUBMITIT,
        {
            "launcher": "submitit",
            "job": "submitit:31",
            "rank": 1,
            "world_size": 2,
            "local_rank": 1,
            "local_world_size": 2,
            "num_nodes": 1,
        },
    ),
    "submitit's local executor in a Slurm job": (
        {**BATCH_BODY, **SUBMITIT},
        {"launcher": "submitit", "rank": 1},
    ),
    "horovodrun": (
        HOROVODRUN,
        {
            "launcher": "horovod",
            "job": "horovod:10.0.0.9:41000",
            "rank": 2,
            "world_size": 3,
            "local_rank": 0,
            "local_world_size": 1,
            "node_rank": None,
            "num_nodes": None,
            "hosts": (),
        },
    ),
    "LeaderWorkerSet": (
        LWS,
        {
            "launcher": "lws",
            "job": "lws:train-1.train.default",
            "hosts": ("train-1.train.default",),
            **POD,
        },
    ),
    "torchrun in a pod of a LeaderWorkerSet": ({**LWS, **TORCHRUN}, {"launcher": "torchrun"}),
    "numbered processes of a LeaderWorkerSet": (
        {**LWS, "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"},
        {"launcher": "env", "rank": 5, "local_rank": 1},
    ),
    "Databricks' TorchDistributor": (TORCH_DISTRIBUTOR, {"launcher": "torchrun"}),
    "mpirun on AzureML": (
        {**OPENMPI, "AZ_BATCH_MASTER_NODE": "10.0.0.4:6000"},
        {"launcher": "openmpi", "hosts": ("10.0.0.4",), "master_port": None},
    ),
    "mpirun on AzureML, one host": (
        {**OPENMPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "AZ_BATCH_MASTER_NODE": "10.0.0.4:6000"},
        {"num_nodes": 1, "hosts": ()},
    ),
    "srun with Open MPI's variables": (
        {**srun(2, (2, 2)), **OPENMPI, **_openmpi_rank(2, 0)},
        {
            "launcher": "slurm",
            "rank": 2,
            "hosts": ("n1",),
            "job": "slurm:lab:9.0",
            "num_nodes": 2,
            "notes": (),
        },
    ),
    "srun with Hydra's variables": (
        {**srun(1, (1, 3)), **HYDRA, "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "3"},
        {"launcher": "slurm", "hosts": ("n1",), "job": "slurm:lab:9.0"},
    ),
    "mpirun's rank in another srun task": (
        {**srun(1, (2, 2)), **OPENMPI, **_openmpi_rank(2, 0)},
        {"launcher": "openmpi", "rank": 2, "hosts": (), "job": "openmpi:77"},
    ),
    "RANK and WORLD_SIZE beside a PALS that tells no size": (
        {
            "PALS_RANKID": "0",
            "PMIX_RANK": "0",
            "PMIX_NAMESPACE": "z",
            "RANK": "1",
            "WORLD_SIZE": "2",
            **ENDPOINT,
        },
        {"launcher": "env", "rank": 1, "world_size": 2},
    ),
    "RANK and WORLD_SIZE beside a PMIx that tells no size": (
        {"PMIX_RANK": "0", "PMIX_NAMESPACE": "z", "RANK": "1", "WORLD_SIZE": "2"},
        {"launcher": "env", "rank": 1},
    ),
    "a step's only task, in a container that was given little": (
        {
            "SLURM_JOB_ID": "9",
            "SLURM_STEP_ID": "0",
            "SLURM_PROCID": "0",
            "SLURM_STEP_NUM_TASKS": "1",
        },
        {"launcher": "slurm", "rank": 0, "world_size": 1, "local_rank": 0, "num_nodes": 1},
    ),
    "an only task without the number of its step": (
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
        {"launcher": "single", "notes": ()},
    ),
    "env:// without an address": (RANK_1_OF_4, {"launcher": "env", "job": "env"}),
    "env:// of a second host": (
        {**RANK_1_OF_4, **ENDPOINT, "GROUP_RANK": "1"},
        {"node_rank": 1},
    ),
    "env:// with an address that each host has": (
        {**RANK_1_OF_4, "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"job": "env:1", "local_rank": None, "local_world_size": None, "num_nodes": None},
    ),
    "env:// on one host, by size": (
        {**RANK_1_OF_4, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"},
        {"local_rank": 0, "num_nodes": 1},
    ),
    "env:// with hosts behind one address": (
        {**RANK_1_OF_4, "NODE_RANK": "1", "MASTER_ADDR": "::1", "MASTER_PORT": "1"},
        {"node_rank": 1, "num_nodes": None, "local_rank": None},
    ),
    "a job with a name": (
        {**ALLRANKS, "ALLRANKS_JOB": "mine"},
        {"job": "allranks:x:mine"},
    ),
    "srun": (
        srun(3, (2, 1, 1)),
        {
            "launcher": "slurm",
            "rank": 3,
            "local_rank": 0,
            "local_world_size": 1,
            "node_rank": 2,
            "num_nodes": 3,
            "hosts": ("n1",),
            "job": "slurm:lab:9.0",
        },
    ),
    "srun in a requeued job": (
        srun(SLURM_RESTART_COUNT="2"),
        {"job": "slurm:lab:9.0:restart2", "attempt": 2},
    ),
    "srun with an address": (
        srun(MASTER_ADDR="h9", ALLRANKS_JOB="mine"),
        {"master_addr": "h9", "master_port": None, "job": "slurm:lab:9.0:mine"},
    ),
    "srun, counts that say nothing": (
        srun(SLURM_STEP_TASKS_PER_NODE="1(x2)"),
        {"launcher": "slurm", "local_world_size": 2, "num_nodes": None},
    ),
    "srun --mpi=cray_shasta": (
        {**srun(), **PALS},
        {"launcher": "slurm", "hosts": ("n1",), "notes": ()},
    ),
    "srun -m arbitrary": (
        RECORDINGS["slurm-arbitrary"][0]["environ"],
        {"rank": 2, "hosts": ("n1", "n2")},
    ),
    "PMIx of salloc's shell": (
        {**BATCH_BODY, "PMIX_RANK": "0", "PMIX_NAMESPACE": "slurm.pmix.9.0"},
        {"launcher": "single"},
    ),
    "a Ray driver in an srun task": (srun(RAY_JOB_ID="01000000"), {"launcher": "slurm"}),
    "a Ray actor in an only srun task": (
        srun(0, (1,), **RAY_WORKER),
        {"launcher": "slurm", "world_size": 1},
    ),
    "srun, heterogeneous": (
        srun(
            SLURM_HET_SIZE="2",
            SLURM_STEP_NODELIST="b[1-2],a1",
            SLURM_JOB_NODELIST_HET_GROUP_0="a1",
            SLURM_JOB_NODELIST_PACK_GROUP_1="b[1-2]",
            SLURMD_NODENAME="a1",
        ),
        {"hosts": ("a1", "b1", "b2")},
    ),
    "srun, second of two het groups": (
        srun(
            SLURM_HET_SIZE="2",
            SLURM_JOB_NODELIST_HET_GROUP_0="a1",
            SLURM_JOB_NODELIST_HET_GROUP_1="n[1-2]",
        ),
        {"hosts": ("n1", "n2")},
    ),
}


@pytest.mark.parametrize("case", WORLDS)
def test_hand_written_environments(case):
    """Launchers and options without a recording, as their documents have them."""
    environ, expected = WORLDS[case]
    assert fields(detect(environ), expected) == expected


NOTES = {
    "batch script": (BATCH_BODY, "Slurm job 9, but not started by srun.*tasks, 4 in all"),
    "batch script without -n": (without(BATCH_BODY, "SLURM_NTASKS"), "start the job's tasks[.]"),
    "salloc's shell": (srun(SLURM_STEP_ID="4294967290"), "not started by srun"),
    "torchrun under srun": ({**srun(), **TORCHRUN}, "Ignored SLURM_JOB_ID=9, .*torchrun started"),
    "mpirun under srun": ({**srun(2), **OPENMPI}, "Ignored SLURM_JOB_ID=9, .*openmpi started"),
    "env:// in a batch script": ({**BATCH_BODY, **RANK_1_OF_4}, "SLURM_JOB_ID=9.*RANK and WORLD_S"),
    "Ray Train under srun": ({**srun(), **RAY_TRAIN}, "Ignored SLURM_JOB_ID=9, .*ray started"),
    "torchrun in a pod": ({**INDEXED_JOB, **TORCHRUN}, "Ignored JOB_COMPLETION_INDEX=1 .kubern"),
    "mpiexec's torchrun": ({**HYDRA, **TORCHRUN}, "Ignored MPI_LOCALRANKID=1, PMI_RANK=1"),
    "address alone": (ENDPOINT, "Ignored MASTER_ADDR=h1, MASTER_PORT=29500: no RANK"),
    "Indexed Job alone": (INDEXED_JOB, "JOB_COMPLETION_INDEX=1, .* Set WORLD_SIZE"),
    "Ray actor": (RAY_WORKER, "A Ray worker without RANK"),
}


DOUBTS = {
    "batch script of several tasks": (BATCH_BODY, "Slurm job 9, but not started by srun"),
    "SkyPilot": (
        {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "a\nb"},
        "SkyPilot names 2 hosts.*torchrun --nnodes=.SKYPILOT_NUM_NODES",
    ),
    "dstack": (
        {"DSTACK_NODE_RANK": "0", "DSTACK_NODES_NUM": "3", "DSTACK_MASTER_NODE_IP": "10.0.0.1"},
        "dstack names 3 hosts.*--master-addr=.DSTACK_MASTER_NODE_IP",
    ),
    "AWS Batch": (
        {"AWS_BATCH_JOB_NODE_INDEX": "0", "AWS_BATCH_JOB_NUM_NODES": "2"},
        "AWS Batch names 2 hosts",
    ),
    "SageMaker": ({"SM_HOSTS": '["algo-1", "algo-2"]'}, "SageMaker names 2 hosts"),
    "Volcano": (
        {"VC_TASK_INDEX": "0", "VC_MASTER_HOSTS": "m", "VC_WORKER_HOSTS": "w0,w1"},
        "Volcano names 3 hosts",
    ),
    "Vertex AI": (
        {"CLUSTER_SPEC": '{"cluster": {"workerpool0": ["a:1"], "workerpool1": ["b:1"]}}'},
        "Vertex AI names 2 hosts",
    ),
    "the launcher of an MPIJob": ({"K_MPI_JOB_ROLE": "launcher"}, "MPIJob.*mpirun"),
    "torchrun's settings without torchrun": ({"PET_NNODES": "2"}, "PET_NNODES=2 is for torchrun"),
    "the shell of srun --pty": (
        srun(0, (4,), SLURM_PTY_PORT="41431"),
        "srun --pty.*4 tasks of step 9[.]0.*srun --overlap -n 4",
    ),
}


@pytest.mark.parametrize("case", DOUBTS)
def test_what_is_likely_meant_otherwise_is_a_doubt_and_a_note(case):
    """Traces of more ranks than this process can know of: it is told, and not only on demand."""
    environ, pattern = DOUBTS[case]
    world = detect(environ)
    assert re.search(pattern, world.doubt)
    assert world.notes == (world.doubt,)


MEANT = {
    "batch script of one task": {**BATCH_BODY, "SLURM_NTASKS": "1"},
    "SkyPilot, one host": {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "1"},
    "SageMaker, one host": {"SM_HOSTS": '["algo-1"]'},
    "SageMaker's name for something else": {"SM_HOSTS": "[" * 100_000},
    "another program's CLUSTER_SPEC": {"CLUSTER_SPEC": "[1, 2]"},
    "Vertex AI, one host": {"CLUSTER_SPEC": '{"cluster": {"workerpool0": ["a:1"]}}'},
    "Volcano, one host": {"VC_TASK_INDEX": "0", "VC_WORKER_HOSTS": "w0"},
    "a worker of an MPIJob": {"K_MPI_JOB_ROLE": "worker"},
    "Indexed Job alone": INDEXED_JOB,
    "Ray actor": RAY_WORKER,
    "srun --pty of one task": srun(0, (1,), SLURM_PTY_PORT="41431"),
    "another rank, started from the shell of srun --pty": srun(1, (4,), SLURM_PTY_PORT="41431"),
}


@pytest.mark.parametrize("case", MEANT)
def test_what_is_mostly_meant_is_no_doubt(case):
    """A world of one that is meant as one says nothing by itself."""
    assert detect(MEANT[case]).doubt == ""


@pytest.mark.parametrize("case", NOTES)
def test_one_note_tells_what_was_not_believed(case):
    """Leftovers of other launchers, and what looks like more than a world of one."""
    environ, pattern = NOTES[case]
    (note,) = detect(environ).notes
    assert re.search(pattern, note)


FAULTS = {
    "rank alone": ({"RANK": "0"}, ["RANK", "WORLD_SIZE"]),
    "size alone": ({"WORLD_SIZE": "2"}, ["RANK", "WORLD_SIZE"]),
    "local rank alone": ({"LOCAL_RANK": "0"}, ["LOCAL_RANK", "RANK", "WORLD_SIZE"]),
    "rank empty": ({"RANK": "", "WORLD_SIZE": "2"}, ["RANK", "WORLD_SIZE"]),
    "rank negative": ({"RANK": "-1", "WORLD_SIZE": "2"}, ["RANK"]),
    "rank no number": ({"RANK": "zero", "WORLD_SIZE": "2"}, ["RANK"]),
    "rank of 5,000 digits": ({"RANK": "1" * 5000, "WORLD_SIZE": "2"}, ["RANK"]),
    "size of 10 digits": ({"RANK": "1", "WORLD_SIZE": "1" * 10}, ["WORLD_SIZE"]),
    "rank in other digits": ({"RANK": "\u0661", "WORLD_SIZE": "2"}, ["RANK"]),
    "rank too large": ({"RANK": "2", "WORLD_SIZE": "2"}, ["RANK", "WORLD_SIZE"]),
    "size zero": ({"RANK": "0", "WORLD_SIZE": "0"}, ["WORLD_SIZE"]),
    "address without a port": (
        {**RANK_1_OF_4, "MASTER_ADDR": "h1"},
        ["MASTER_ADDR", "MASTER_PORT"],
    ),
    "port without an address": (
        {**RANK_1_OF_4, "MASTER_PORT": "1"},
        ["MASTER_ADDR", "MASTER_PORT"],
    ),
    "port too large": ({**RANK_1_OF_4, **ENDPOINT, "MASTER_PORT": "65536"}, ["MASTER_PORT"]),
    "port zero": ({**RANK_1_OF_4, **ENDPOINT, "MASTER_PORT": "0"}, ["MASTER_PORT"]),
    "local rank too large": (
        {**RANK_1_OF_4, "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "2"},
        ["LOCAL_RANK", "LOCAL_WORLD_SIZE"],
    ),
    "local rank beyond the world": (
        {**RANK_1_OF_4, "LOCAL_RANK": "4"},
        ["LOCAL_RANK", "WORLD_SIZE"],
    ),
    "local size too large": (
        {**RANK_1_OF_4, "LOCAL_WORLD_SIZE": "5"},
        ["LOCAL_WORLD_SIZE", "WORLD_SIZE"],
    ),
    "node beyond the world": ({**RANK_1_OF_4, "NODE_RANK": "4"}, ["NODE_RANK", "WORLD_SIZE"]),
    "a second host without ranks": (
        {**RANK_1_OF_4, "LOCAL_WORLD_SIZE": "4", "NODE_RANK": "1"},
        ["NODE_RANK", "LOCAL_WORLD_SIZE", "WORLD_SIZE"],
    ),
    "half of torchrun": (without(TORCHRUN, "RANK"), ["RANK", "WORLD_SIZE"]),
    "torchrun, node too large": (
        {**TORCHRUN, "GROUP_RANK": "2"},
        ["GROUP_RANK", "GROUP_WORLD_SIZE"],
    ),
    "torchrun, one host of two sizes": (
        {**TORCHRUN, "GROUP_WORLD_SIZE": "1"},
        ["GROUP_WORLD_SIZE", "LOCAL_WORLD_SIZE", "WORLD_SIZE"],
    ),
    "half of allranks run": (without(ALLRANKS, "ALLRANKS_STORE"), [*ALLRANKS]),
    "half of mpirun": (without(OPENMPI, "OMPI_COMM_WORLD_RANK"), ["OMPI_COMM_WORLD_RANK"]),
    "half of mpiexec": (without(HYDRA, "PMI_SIZE"), ["PMI_RANK", "PMI_SIZE"]),
    "half of flux run": (without(FLUX, "FLUX_JOB_SIZE"), ["FLUX_TASK_RANK", "FLUX_JOB_SIZE"]),
    "half of srun": (without(srun(), "SLURM_GTIDS"), ["SLURM_GTIDS", "SLURM_PROCID"]),
    "a rank of srun in a container": (
        {"SLURM_PROCID": "1", "SLURM_NTASKS": "4"},
        ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID"],
    ),
    "rank 0 of srun in a container": (
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},
        ["SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_ID"],
    ),
    "srun without the number of its step": (
        without(srun(0), "SLURM_STEP_ID"),
        ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID"],
    ),
    "a size of PMI without a rank": ({"PMI_SIZE": "4"}, ["PMI_SIZE", "PMI_RANK"]),
    "a rank of PMIx without its job": ({"PMIX_RANK": "1"}, ["PMIX_RANK", "PMIX_NAMESPACE"]),
    "a rank of srun --mpi=pmi2 in a container": (
        {"PMI_RANK": "1", "PMI_SIZE": "4", "SLURM_JOB_ID": "9"},
        ["PMI_RANK", "PMI_SIZE", "SLURM_STEP_ID"],
    ),
    "Lightning's child on a second host": (
        {**LIGHTNING_CHILD, "NODE_RANK": "1", "WORLD_SIZE": "4"},
        ["RANK", "WORLD_SIZE", "LOCAL_RANK"],
    ),
    "half of submitit's local executor": (
        without(SUBMITIT, "SUBMITIT_LOCAL_NTASKS"),
        ["SUBMITIT_LOCAL_GLOBALID", "SUBMITIT_LOCAL_NTASKS"],
    ),
    "half of horovodrun": (without(HOROVODRUN, "HOROVOD_SIZE"), ["HOROVOD_SIZE"]),
    "half of a LeaderWorkerSet": (without(LWS, "LWS_GROUP_SIZE"), ["LWS_GROUP_SIZE"]),
    "half of a JobSet": ({**INDEXED_JOB, "RANK": "1"}, ["RANK", "WORLD_SIZE"]),
    "address of an Indexed Job": (
        {**INDEXED_JOB, **ENDPOINT},
        ["JOB_COMPLETION_INDEX", "WORLD_SIZE"],
    ),
    "several processes for a pod": (
        {**TRAINJOB, "PET_NPROC_PER_NODE": "8"},
        ["PET_NPROC_PER_NODE"],
    ),
    "elastic pods": ({**TRAINJOB, "PET_NNODES": "1:4"}, ["PET_NNODES"]),
    "PMIx without a size": ({"PMIX_RANK": "1", "PMIX_NAMESPACE": "n"}, ["PMIX_RANK", "WORLD_SIZE"]),
    "PALS without a size": (without(PALS, "PMI_SIZE"), ["PALS_RANKID", "WORLD_SIZE"]),
    "srun, rank too large": (
        srun(SLURM_PROCID="4"),
        ["SLURM_PROCID", "SLURM_STEP_NUM_TASKS"],
    ),
    "srun, node too large": (
        srun(SLURM_NODEID="2"),
        ["SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE"],
    ),
    "srun, local rank too large": (srun(SLURM_LOCALID="2"), ["SLURM_LOCALID", "SLURM_GTIDS"]),
    "srun, rank on another node": (
        srun(SLURM_GTIDS="2,3"),
        ["SLURM_PROCID", "SLURM_LOCALID", "SLURM_GTIDS"],
    ),
    "srun, more ranks here than tasks": (
        srun(SLURM_STEP_TASKS_PER_NODE="1,3"),
        ["SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_GTIDS"],
    ),
    "srun, a step on other nodes": (
        srun(SLURMD_NODENAME="n7"),
        ["SLURMD_NODENAME", "SLURM_STEP_NODELIST"],
    ),
    "srun, nodes malformed": (srun(SLURM_STEP_NODELIST="n[1-2"), ["SLURM_STEP_NODELIST"]),
    "srun, counts malformed": (
        srun(SLURM_STEP_TASKS_PER_NODE="2(x2"),
        ["SLURM_STEP_TASKS_PER_NODE"],
    ),
    "srun against RANK": (srun(RANK="0", WORLD_SIZE="4"), ["SLURM_PROCID", "RANK"]),
    "srun against WORLD_SIZE": (srun(WORLD_SIZE="8"), ["SLURM_STEP_NUM_TASKS", "WORLD_SIZE"]),
    "mpirun against RANK": ({**OPENMPI, "RANK": "3"}, ["OMPI_COMM_WORLD_RANK", "RANK"]),
    "srun -n1 against half of env://": (
        srun(0, (1,), WORLD_SIZE="4"),
        ["SLURM_PROCID", "WORLD_SIZE"],
    ),
    "a Ray actor in an srun task": ({**srun(), **RAY_WORKER}, ["RAY_JOB_ID", "SLURM_PROCID"]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_name_each_variable_and_the_value_seen(case):
    """Half an environment, or two that disagree: never a guess, always the fix."""
    environ, names = FAULTS[case]
    with pytest.raises(DetectionError) as caught:
        detect(environ)
    for name in names:
        assert name in str(caught.value)
        assert caught.value.variables[name] == environ.get(name)
    assert any(word in str(caught.value).lower() for word in ("set", "start", "ports go"))


def test_the_children_of_an_only_task_number_themselves():
    """A spawner under ``srun -n1`` sets RANK and WORLD_SIZE for each of its processes."""
    world = detect(srun(0, (1,), RANK="3", WORLD_SIZE="4", LOCAL_RANK="3"))
    assert (world.launcher, world.rank, world.world_size) == ("env", 3, 4)
    assert world.notes[0].startswith("Ignored SLURM_JOB_ID=9")


def test_a_second_opinion_that_agrees_is_no_fault_and_no_note():
    """A wrapper that sets RANK from SLURM_PROCID changes nothing."""
    world = detect(srun(RANK="1", WORLD_SIZE="4", LOCAL_RANK="0"))
    assert (world.launcher, world.local_rank, world.notes) == ("slurm", 1, ())


def test_launchers_can_be_ignored():
    """``setup(submit=False)`` means not Slurm, whatever the environment says."""
    world = detect({**srun(), **PALS, "SLURM_GTIDS": "garbage"}, ignore={"slurm"})
    assert (world.launcher, world.world_size) == ("single", 1)
    assert world.notes == (
        "Ignored SLURM_JOB_ID=9, SLURM_PROCID=1, SLURM_STEP_NUM_TASKS=4 (slurm): asked to.",
    )


def test_what_is_ignored_contradicts_nothing():
    """With ``env`` ignored, RANK has no say; with all ignored, it is a world of one."""
    assert detect(srun(RANK="3"), ignore=("env",)).rank == 1
    assert detect(srun(), ignore=get_args(Launcher)).launcher == "single"


def test_environ_tells_torchrun_style_programs_the_same_place():
    """What is known comes back; what is not known stays out."""
    world = detect(TORCHRUN)
    names = ("rank", "world_size", "local_rank", "local_world_size", "node_rank", "num_nodes")
    assert fields(detect(world.environ()), names) == fields(world, names)
    assert World("mpich", 1, 4).environ() == {"RANK": "1", "WORLD_SIZE": "4"}


def test_the_place_of_rank_0_is_told_where_it_is_certain():
    """A port that nobody gave follows from the job, so that all ranks tell the same."""
    told = [detect(srun(rank)).environ() for rank in range(4)]
    assert {one["MASTER_ADDR"] for one in told} == {"n1"}
    assert len({one["MASTER_PORT"] for one in told}) == 1
    assert World("slurm", 0, 4, num_nodes=1, job="j").environ()["MASTER_ADDR"] == "127.0.0.1"
    assert "MASTER_ADDR" not in World("slurm", 0, 4, num_nodes=2, hosts=("a", "b")).environ()
    in_range = World("slurm", 0, 4, hosts=("a",), job="j").environ(range(7, 8))
    assert in_range["MASTER_PORT"] == "7"


def test_a_world_can_be_pickled():
    """It travels to processes that are launched."""
    world = detect(srun())
    assert pickle.loads(pickle.dumps(world)) == world


def test_detect_reads_nothing_but_its_argument(monkeypatch):
    """Not ``os.environ``, and no file."""
    monkeypatch.setattr(os, "environ", None)
    monkeypatch.setattr("builtins.open", None)
    worlds = [detect(environ) for environ, _ in WORLDS.values()]
    monkeypatch.undo()
    assert len(worlds) == len(WORLDS)


def test_detect_imports_no_torch_and_warns_of_nothing():
    """In a fresh interpreter in which any warning is an error."""
    script = """
        import sys
        from allranks._launchers.detect import detect
        detect({"RANK": "0", "WORLD_SIZE": "2"})
        sys.exit("torch" in sys.modules)
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


KNOWN = sorted(
    {
        name
        for environ, _ in (*WORLDS.values(), *FAULTS.values(), *DOUBTS.values())
        for name in environ
    }
    | {name for process in RECORDINGS["slurm-arbitrary"] for name in process["environ"]}
)
VALUES = st.sampled_from(
    (
        *("", "0", "1", "2", "3", "4", "8", "none", "h1", "n[1-2]", "2(x2)", "0,1", "1:4", " 1"),
        *("-1", "+1", "1_0", "\u0661", "\u00b2", "9" * 30, "x", "n[", "[1-999999]", ",", "2(x0)"),
    )
)


@settings(deadline=None)
@given(
    st.sampled_from([environ for environ, _ in (*WORLDS.values(), *FAULTS.values())]),
    st.dictionaries(
        st.sampled_from(KNOWN),
        VALUES,
        max_size=6,
    ),
    st.sets(st.sampled_from(KNOWN), max_size=3),
    st.sets(st.sampled_from([row.name for row in READERS]), max_size=2),
)
def test_any_environment_is_a_world_or_a_detection_error(base, changes, unset, ignore):
    """Whatever is set: never another exception, never a place outside the world."""
    try:
        world = detect(without({**base, **changes}, *unset), ignore=ignore)
    except DetectionError:
        return
    assert 0 <= world.rank < world.world_size
    assert (world.local_rank or 0) < (world.local_world_size or world.world_size)
    assert (world.local_world_size or 1) <= world.world_size
    assert (world.node_rank or 0) < (world.num_nodes or world.world_size)
    assert world.master_port is None or 0 < world.master_port < 65536
    assert world.job


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(KNOWN), VALUES))
def test_any_mix_of_variables_is_a_world_or_a_detection_error(environ):
    """Nothing to start from: most variables missing, the others at odds."""
    try:
        world = detect(environ)
    except DetectionError:
        return
    assert 0 <= world.rank < world.world_size


def test_every_launcher_has_a_row():
    """And every row a launcher's name."""
    assert {row.name for row in READERS} == set(get_args(Launcher))
