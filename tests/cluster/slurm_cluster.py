"""A Slurm cluster on the hosts of a network: munge, a controller on the first, a node on each."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hosts import Ended, Network, Running, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONFIGURATION = """
ClusterName=harness
SlurmctldHost={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={base}/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
StateSaveLocation={base}/state
SlurmdSpoolDir={base}/spool.%n
TmpFS={base}/tmp.%n
SlurmctldPidFile={base}/slurmctld.pid
SlurmdPidFile={base}/slurmd.%n.pid
SlurmctldLogFile={base}/slurmctld.log
SlurmdLogFile={base}/slurmd.%n.log
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
SchedulerTimeSlice=5
SlurmctldTimeout=30
SlurmdTimeout={silence}
InactiveLimit=0
MinJobAge=10
KillWait=2
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE OverSubscribe=NO State=UP
"""

SILENCE = 10
"""Seconds after which the controller gives a silent node up."""

CPUS = 4
READY = 20.0
"""Seconds that the nodes may take to report for work."""


@dataclass
class Slurm:
    """A running cluster; its commands are run on the first host.

    Attributes:
        net: its hosts.
        base: its directory, which all hosts share.
        daemons: its node daemons by host name.
    """

    net: Network
    base: Path
    daemons: dict[str, Running]

    @property
    def environ(self) -> dict[str, str]:
        """What its commands need to know."""
        return {"SLURM_CONF": str(self.base / "slurm.conf")}

    def start(self, *command: str, environ: Mapping[str, str] | None = None) -> Running:
        """Start a command that may call the cluster's."""
        return self.net[0].start(*command, environ={**self.environ, **(environ or {})})

    def run(
        self, *command: str, timeout: float = 60, environ: Mapping[str, str] | None = None
    ) -> Ended:
        """Run a command to its end."""
        return self.start(*command, environ=environ).ended(timeout)

    def must(self, *command: str) -> str:
        """What a command writes that must succeed."""
        return self.net[0].must(*command, environ=self.environ)

    def sbatch(self, script: str, *options: str) -> str:
        """Submit a batch script, and give the job's id."""
        path = self.base / f"job{secrets.token_hex(4)}.sh"
        path.write_text(f"#!/bin/bash\n{script}\n")
        output = f"--output={path}.%A_%a.out"
        out = self.must("sbatch", "--parsable", output, "--open-mode=append", *options, str(path))
        return out.split(";")[0].strip()

    def output(self, job: str, timeout: float = 60) -> str:
        """What a batch job wrote, once it is done; of all its elements, if it is an array."""
        wait_until(
            lambda: self.state(job) <= {"COMPLETED"},
            timeout,
            lambda: f"job {job} is {self.state(job)}:\n{self._written(job)}",
        )
        return self._written(job)

    def _written(self, job: str) -> str:
        return "".join(path.read_text() for path in sorted(self.base.glob(f"*.sh.{job}_*.out")))

    def state(self, job: str) -> set[str]:
        """The states of a job and its elements; none once Slurm has forgotten it."""
        ended = self.run("squeue", "--noheader", "--states=all", "--jobs", job, "--format=%T")
        return set() if "Invalid job id" in ended.out else set(ended.out.split())

    def requeue(self, job: str) -> None:
        """Stop a job, and start it again after two seconds rather than the usual two minutes.

        A host refuses to start a job again in the very second in which it was stopped.
        """
        self.must("scontrol", "requeue", job)
        wait_until(lambda: "PENDING" in self.state(job), READY, lambda: self.state(job))
        self.must("scontrol", "update", f"JobId={job}", "StartTime=now+2")

    def wait_for(self, job: str, text: str, times: int, timeout: float = 60) -> None:
        """Wait until a batch job has written a text so many times."""
        wait_until(
            lambda: self._written(job).count(text) >= times,
            timeout,
            lambda: f"job {job} wrote no {text!r}:\n{self._written(job)}",
        )


@contextlib.contextmanager
def slurm(base: Path, net: Network) -> Iterator[Slurm]:
    """A Slurm cluster over all hosts of a network.

    Args:
        base: an empty directory, which all hosts share.
        net: the hosts.
    """
    names = [host.name for host in net.hosts]
    _configure(base, names)
    with contextlib.ExitStack() as stack:
        munge = [f"--{name}-file={base}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        munge += ["--foreground", "--force", f"--socket={base}/munge.socket"]
        stack.callback(net[0].start("munged", *munge).cut_short)
        wait_until((base / "munge.socket").exists, READY, lambda: "munged made no socket")
        cluster = Slurm(net, base, {})
        stack.callback(cluster.start("slurmctld", "-D").cut_short)
        for host in net.hosts:
            cluster.daemons[host.name] = host.start("slurmd", "-D", environ=cluster.environ)
            stack.callback(cluster.daemons[host.name].cut_short)
        _await_nodes(cluster)
        yield cluster


def _configure(base: Path, names: list[str]) -> None:
    for directory in ("state", *(f"{kind}.{name}" for kind in ("spool", "tmp") for name in names)):
        (base / directory).mkdir()
    nodes = [f"NodeName={name} CPUs={CPUS} RealMemory=2000 State=UNKNOWN" for name in names]
    told = {"controller": names[0], "nodes": "\n".join(nodes), "names": ",".join(names)}
    text = CONFIGURATION.format(base=base, silence=SILENCE, **told)
    (base / "slurm.conf").write_text(text)
    key = os.open(base / "munge.key", os.O_CREAT | os.O_WRONLY, 0o600)
    os.write(key, secrets.token_bytes(1024))
    os.close(key)


def _await_nodes(cluster: Slurm) -> None:
    command = ("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N")
    wait_until(
        lambda: len(cluster.run(*command).out.split()) == len(cluster.net.hosts),
        READY,
        (cluster.base / "slurmctld.log").read_text,
    )
