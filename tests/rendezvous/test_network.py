"""A one-host job listens on loopback only, also where the host name leads elsewhere.

Each test runs in a network namespace of its own, whose host name resolves to an address on a
private interface: gloo and torch's store would listen there, or everywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from harness import PATIENCE

MISSING = [tool for tool in ("unshare", "ip", "ss") if not shutil.which(tool)]

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or bool(MISSING),
    reason=f"needs root, util-linux and iproute2 (missing here: {MISSING})",
)

NAMESPACE = """
set -e
hostname elsewhere
ip link set lo up
ip link add lan0 type veth peer name lan1
ip addr add 10.99.0.1/24 dev lan0
ip link set lan0 up
ip link set lan1 up
printf '127.0.0.1 localhost\\n10.99.0.1 elsewhere\\n' > "$1"/hosts
mount --bind "$1"/hosts /etc/hosts
shift
exec "$@"
"""

BY_HAND = f"""
export WORLD_SIZE=2 MASTER_ADDR=localhost MASTER_PORT=29511
RANK=1 {sys.executable} "$0" &
RANK=0 {sys.executable} "$0"
wait
"""

SCRIPT = """
import os, re, socket, subprocess
import torch.distributed as dist
import allranks
assert socket.gethostbyname(socket.gethostname()) == "10.99.0.1"
allranks.setup(cpu=True)
dist.new_group([0, 1])
assert allranks.all_reduce(1) == 2
rows = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout.splitlines()
ours = [row.split()[3] for row in rows if f"pid={os.getpid()}," in row]
allranks.synchronize()
os.write(1, " ".join(["listening", *ours, os.linesep]).encode())  # In one write.
allranks.cleanup()
"""


def in_a_namespace(tmp_path, *command: str) -> list[str]:
    """Run a command in a namespace; the addresses that its ranks listen on."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    enter = ["unshare", "--net", "--uts", "--mount", "--propagation", "private"]
    done = subprocess.run(
        [*enter, "bash", "-c", NAMESPACE, "bash", str(tmp_path), *command, str(script)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if "listening" in line]
    assert len(lines) == 2, done.stdout
    return [address for line in lines for address in line.partition("listening")[2].split()]


@pytest.mark.parametrize(
    "command",
    [
        [sys.executable, "-m", "allranks._cli", "run", "-n", "2"],
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
        [
            "bash",
            "-c",
            BY_HAND,
        ],
    ],
    ids=["allranks", "torchrun", "env"],
)
def test_a_one_host_job_listens_on_loopback_only(tmp_path, command: list[str]) -> None:
    addresses = in_a_namespace(tmp_path, *command)
    assert len(addresses) >= 2, "gloo listens on every rank"
    assert all(address.startswith("127.0.0.1:") for address in addresses), addresses
