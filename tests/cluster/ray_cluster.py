"""A Ray cluster on the first two hosts of a network."""

from __future__ import annotations

import contextlib
import secrets
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hosts import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hosts import Ended, Network

REPOSITORY = Path(__file__).parents[2]
PYTHON = REPOSITORY / ".venv-ray" / "bin" / "python"
"""An interpreter with Ray, in an environment of its own; all else it takes from the tests'."""

PORT = 6379
READY = 60.0
"""Seconds that a node of Ray may take to come up."""


@dataclass
class Ray:
    """A running cluster.

    Attributes:
        net: its hosts.
        environ: what its nodes and drivers need to know.
    """

    net: Network
    environ: dict[str, str]

    def run(self, *script: str, timeout: float = 90) -> Ended:
        """Run a driver on the first host."""
        address = {"RAY_ADDRESS": f"{self.net[0].address}:{PORT}"}
        environ = {**self.environ, **address}
        return self.net[0].run(str(PYTHON), *script, timeout=timeout, environ=environ)


@contextlib.contextmanager
def ray(base: Path, net: Network) -> Iterator[Ray]:
    """Ray over two hosts, one CPU each.

    Args:
        base: an empty directory, which the hosts share; its path must be short.
        net: the hosts.
    """
    token = base / "token"
    token.write_text(secrets.token_hex(32))
    token.chmod(0o600)
    paths = (REPOSITORY / "src", REPOSITORY / "examples", sysconfig.get_paths()["purelib"])
    environ = {
        "HOME": str(base),
        "PYTHONPATH": ":".join(map(str, paths)),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    }
    head = ("--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={base}")
    joins = (f"--address={net[0].address}:{PORT}",)
    with contextlib.ExitStack() as stack:
        for host, options in zip(net.hosts[:2], (head, joins), strict=True):
            log = base / f"{host.name}.log"
            log.touch()
            common = (f"--node-ip-address={host.address}", "--num-cpus=2", "--block")
            memory = "--object-store-memory=100000000"
            ray_start = (str(PYTHON), "-m", "ray.scripts.scripts", "start", *common, memory)
            script = f'exec "$0" "$@" > {log} 2>&1'
            node = host.start("sh", "-c", script, *ray_start, *options, environ=environ)
            stack.callback(node.cut_short)
            _await_node(log)
        yield Ray(net, environ)


def _await_node(log: Path) -> None:
    wait_until(lambda: "Ray runtime started" in log.read_text(), READY, log.read_text)
