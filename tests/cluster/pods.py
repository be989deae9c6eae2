"""The pods of a Kubernetes manifest: their host names, their names in DNS, their environments.

What the manifest says is taken from it; what Kubernetes and its operators add is added here, as
the pages of Kubernetes on Indexed Jobs and JobSet and the source of Kubeflow's operator have it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

MANIFESTS = Path(__file__).parents[2] / "examples" / "kubernetes"

PYTORCHJOB_PORT = "23456"

ANY_POD = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "KUBERNETES_SERVICE_PORT": "443",
    "KUBERNETES_PORT": "tcp://10.96.0.1:443",
}


@dataclass(frozen=True)
class Pod:
    """One pod.

    Attributes:
        name: its host name.
        domain: the service by which others find it; "" where its own name is a service.
        environ: the variables that its container finds.
        command: what its container runs.
    """

    name: str
    domain: str
    environ: dict[str, str]
    command: tuple[str, ...]


def pods(manifest: str) -> list[Pod]:
    """The pods of a manifest, by rank."""
    documents = list(yaml.safe_load_all((MANIFESTS / manifest).read_text()))
    job = next(d for d in documents if d["kind"] != "Service")
    readers = {"Job": _of_job, "JobSet": _of_jobset, "PyTorchJob": _of_pytorchjob}
    return list(readers[job["kind"]](job))


def _of_job(job: dict[str, Any]) -> Iterator[Pod]:
    name = job["metadata"]["name"]
    yield from _indexed(job["spec"], name, job["spec"]["template"]["spec"]["subdomain"])


def _of_jobset(jobset: dict[str, Any]) -> Iterator[Pod]:
    name = jobset["metadata"]["name"]
    (replicated,) = jobset["spec"]["replicatedJobs"]
    yield from _indexed(replicated["template"]["spec"], f"{name}-{replicated['name']}-0", name)


def _indexed(spec: dict[str, Any], name: str, domain: str) -> Iterator[Pod]:
    for index in range(spec["completions"]):
        added = {"JOB_COMPLETION_INDEX": str(index)}
        yield _pod(f"{name}-{index}", domain, spec["template"]["spec"], added)


def _of_pytorchjob(job: dict[str, Any]) -> Iterator[Pod]:
    replicas = job["spec"]["pytorchReplicaSpecs"]
    kinds = [(kind, i) for kind in ("Master", "Worker") for i in range(replicas[kind]["replicas"])]
    name = job["metadata"]["name"]
    for rank, (kind, index) in enumerate(kinds):
        added = {
            "PYTHONUNBUFFERED": "1",
            "MASTER_ADDR": f"{name}-master-0",
            "MASTER_PORT": PYTORCHJOB_PORT,
            "PET_MASTER_ADDR": f"{name}-master-0",
            "PET_MASTER_PORT": PYTORCHJOB_PORT,
            "WORLD_SIZE": str(len(kinds)),
            "RANK": str(rank),
            "PET_NNODES": str(len(kinds)),
            "PET_NODE_RANK": str(rank),
            "PET_NPROC_PER_NODE": job["spec"]["nprocPerNode"],
        }
        spec = replicas[kind]["template"]["spec"]
        yield _pod(f"{name}-{kind.lower()}-{index}", "", spec, added)


def _pod(name: str, domain: str, spec: dict[str, Any], added: dict[str, str]) -> Pod:
    (container,) = spec["containers"]
    written = {each["name"]: each["value"] for each in container.get("env", ())}
    environ = {**ANY_POD, "HOSTNAME": name, **written, **added}
    return Pod(name, domain, environ, tuple(container["command"]))
