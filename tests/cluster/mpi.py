"""MPI's launchers on the hosts of a network, with a remote shell between the hosts."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hosts import Network, Running, name_in_pages, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Kind = Literal["openmpi", "mpich"]

RSH = Path(__file__).with_name("rsh.py")
MPICH_LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libmpich.so.12")


@dataclass
class Mpi:
    """Open MPI and MPICH over all hosts.

    Attributes:
        net: the hosts.
        base: a directory that all hosts share.
    """

    net: Network
    base: Path

    @property
    def remote_shell(self) -> str:
        """The command that starts a daemon on another host."""
        return str(self.base / "rsh.sh")

    def start(
        self,
        kind: Kind,
        per_host: Mapping[str, int],
        program: tuple[str, ...],
        environ: Mapping[str, str] | None = None,
    ) -> Running:
        """Start a program under an MPI from the first host.

        Args:
            kind: whose launcher.
            per_host: how many ranks on each host.
            program: the command line of each rank.
            environ: what all ranks find in their environments.
        """
        line = self._openmpi if kind == "openmpi" else self._mpich
        command = line(per_host, environ or {})
        return self.net[0].start(*command, *program, environ=environ)

    def _openmpi(self, per_host: Mapping[str, int], environ: Mapping[str, str]) -> list[str]:
        slots = [f"{host} slots={count}" for host, count in per_host.items()]
        remote = ["--mca", "plm", "rsh", "--mca", "plm_rsh_agent", self.remote_shell]
        exported = [part for name in environ for part in ("-x", name)]
        hosts = ["--hostfile", self._hostfile(slots), "-np", str(sum(per_host.values()))]
        return ["mpirun.openmpi", "--allow-run-as-root", *remote, *hosts, *exported]

    def _mpich(self, per_host: Mapping[str, int], environ: Mapping[str, str]) -> list[str]:
        slots = [f"{host}:{count}" for host, count in per_host.items()]
        remote = ["-launcher", "rsh", "-launcher-exec", self.remote_shell]
        exported = [part for pair in environ.items() for part in ("-genv", *pair)]
        hosts = ["-f", self._hostfile(slots), "-n", str(sum(per_host.values()))]
        return ["mpiexec.hydra", *remote, *hosts, *exported]

    def _hostfile(self, lines: list[str]) -> str:
        path = self.base / f"hosts-{time.monotonic_ns()}"
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    def mpi4py(self, kind: Kind) -> dict[str, str]:
        """What mpi4py's wheel needs to find this MPI, as Debian has it."""
        if kind == "openmpi":
            return {"MPI4PY_MPIABI": "openmpi"}
        alias = self.base / "libmpi.so.12"
        if not alias.exists():
            alias.symlink_to(MPICH_LIBRARY)
        return {"MPI4PY_MPIABI": "mpich", "LD_LIBRARY_PATH": str(self.base)}


@contextlib.contextmanager
def mpi(base: Path, net: Network) -> Iterator[Mpi]:
    """A remote shell's server on each host.

    Args:
        base: an empty directory, which all hosts share.
        net: the hosts.
    """
    python = shlex.quote(sys.executable)
    script = base / "rsh.sh"
    script.write_text(f'#!/bin/sh\nRSH_DIRECTORY={base} exec {python} {RSH} "$@"\n')
    script.chmod(0o755)
    with contextlib.ExitStack() as stack:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        for host in net.hosts:
            serve = (sys.executable, str(RSH), "--serve", str(base))
            stack.callback(host.start(*serve, environ={"PATH": path}).cut_short)
            (base / name_in_pages(host.name)).symlink_to(base / host.name)
        wait_until(
            lambda: all((base / host.name).exists() for host in net.hosts),
            10,
            lambda: f"no remote shell: {list(base.iterdir())}",
        )
        yield Mpi(net, base)
