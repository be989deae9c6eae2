"""Networks that lead others astray: names that mean loopback, IPv6 alone, a firewall."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import pytest

import words
from geometries import PYTHON, TORCHRUN
from hosts import Network, all_ended, network, numbered
from jobs import PROBE, RESTARTED, reports

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = pytest.mark.timeout(120)

OPEN = "20000-20100"
SYSCTL = "net.ipv4.ip_local_port_range"
KNOWN = {"MASTER_ADDR": "h1", "MASTER_PORT": "20007"}
FIREWALL = f"""
table inet filter {{
    chain input {{
        type filter hook input priority 0; policy drop;
        iif lo accept
        ct state established,related accept
        tcp dport {OPEN} accept
    }}
}}
"""


def together(net: Network, *command: str, **environ: str) -> str:
    """What ranks write that are started by hand, one on each host."""
    size = str(len(net.hosts))
    running = [
        host.start(*command, environ={"RANK": str(rank), "WORLD_SIZE": size, **environ})
        for rank, host in enumerate(net.hosts)
    ]
    return "".join(ended.out for ended in all_ended(running))


def torchrun(
    net: Network, port: int, *options: str, script: Sequence[str] = PROBE, **environ: str
) -> str:
    """What ranks write that one torchrun starts on each host."""
    where = ("--rdzv-backend=c10d", f"--rdzv-endpoint=h1:{port}", "--rdzv-id=x")
    command = (f"--nnodes={len(net.hosts)}", "--nproc-per-node=2", *where, *options, *script)
    running = [host.start(*TORCHRUN, *command, environ=environ) for host in net.hosts]
    return "".join(ended.out for ended in all_ended(running))


def total(out: str) -> int:
    """The sum that all ranks reported; each has added its rank, and 1."""
    told = reports(out)
    assert told, out
    assert [report["rank"] for report in told] == list(range(told[0]["world_size"])), out
    return int(told[0]["total"])


@pytest.fixture(scope="module")
def astray(tmp_path_factory) -> Iterator[Network]:
    """Two hosts whose own names lead to 127.0.1.1, as Debian's installer writes it."""
    with network(
        tmp_path_factory.mktemp("astray"), numbered(2), own_name_is_loopback=True
    ) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def ipv6(tmp_path_factory) -> Iterator[Network]:
    """Two hosts without IPv4."""
    with network(tmp_path_factory.mktemp("ipv6"), numbered(2), ipv6_only=True) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def walled(tmp_path_factory) -> Iterator[Network]:
    """Two hosts that let others in at some ports only."""
    base = tmp_path_factory.mktemp("walled")
    (base / "firewall").write_text(FIREWALL)
    with network(base, numbered(2)) as hosts:
        for host in hosts.hosts:
            host.must("nft", "-f", str(base / "firewall"))
        yield hosts


LISTENERS = """
import allranks, json, os, subprocess
with allranks.session(cpu=True, rendezvous_timeout=40):
    half = allranks.split(0)
    assert allranks.all_reduce(1, group=half) == 2
    rows = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True).stdout.splitlines()
    ours = [row.split()[3] for row in rows if f"pid={os.getpid()}," in row]
    os.write(1, f"LISTENS {json.dumps(ours)}\\n".encode())
"""


def listeners(out: str) -> list[str]:
    """The addresses on which two ranks listen."""
    told = [json.loads(line[8:]) for line in out.splitlines() if line.startswith("LISTENS")]
    assert len(told) == 2, out
    return [address for listening in told for address in listening]


def test_a_host_whose_name_means_loopback(astray) -> None:
    out = together(astray, PYTHON, *PROBE, MASTER_ADDR="h1", MASTER_PORT="29400")
    assert total(out) == 3


@pytest.mark.parametrize("own", ["localhost", "0.0.0.0"])
def test_rank_0_is_told_another_address_than_the_others(astray, own) -> None:
    """As older operators of Kubernetes do; it proves nothing of where the others are."""
    running = [
        host.start(
            *(PYTHON, *PROBE),
            environ={
                "RANK": str(rank),
                "WORLD_SIZE": "2",
                "MASTER_ADDR": ("10.77.0.1", own)[rank == 0],
                "MASTER_PORT": "29400",
            },
        )
        for rank, host in enumerate(astray.hosts)
    ]
    assert total("".join(ended.out for ended in all_ended(running))) == 3


def test_gloo_listens_on_the_interface_that_leads_to_the_others(astray) -> None:
    """Nowhere else: neither on loopback, where it is of no use, nor on all interfaces."""
    where = {"MASTER_ADDR": "10.77.0.1", "MASTER_PORT": "29400"}
    out = together(astray, PYTHON, "-c", LISTENERS, **where)
    assert {address.rpartition(":")[0] for address in listeners(out)} == {"10.77.0.1", "10.77.0.2"}


def test_a_second_address_of_an_interface(astray) -> None:
    """By which rank 0 is known; nothing else leads to the interface."""
    for number, host in enumerate(astray.hosts, 1):
        host.must("ip", "addr", "add", f"10.78.0.{number}/24", "dev", "eth0")
    out = together(astray, PYTHON, *PROBE, MASTER_ADDR="10.78.0.1", MASTER_PORT="29400")
    assert total(out) == 3


def test_torchrun_on_hosts_whose_names_mean_loopback(astray) -> None:
    """The agent's host knows itself by 127.0.1.1, where no other host finds rank 0."""
    assert total(torchrun(astray, 29400)) == 10


def test_a_shared_directory_between_hosts_whose_names_mean_loopback(astray, tmp_path) -> None:
    """They have no default route either: only their interfaces tell their addresses."""
    shared = ("init_method=file", f"shared_file_dir={tmp_path}")
    assert total(together(astray, PYTHON, *PROBE, *shared)) == 3


def test_rank_0_whose_own_name_is_not_known_yet(tmp_path) -> None:
    """As in a pod whose name has not come into DNS."""
    with network(tmp_path, numbered(2)) as net:
        (tmp_path / "hosts.h1").write_text("127.0.0.1 localhost\n")
        out = together(net, PYTHON, *PROBE, MASTER_ADDR="h1", MASTER_PORT="29400")
    assert total(out) == 3
    assert "h1 is not known to be an address of this host" in out


def test_ipv6_alone(ipv6) -> None:
    out = together(ipv6, PYTHON, *PROBE, MASTER_ADDR="fd77::1", MASTER_PORT="29400")
    assert total(out) == 3


def test_ipv6_alone_by_name_under_torchrun(ipv6) -> None:
    assert total(torchrun(ipv6, 29400)) == 10


def test_ipv6_alone_with_a_shared_directory(ipv6, tmp_path) -> None:
    shared = ("init_method=file", f"shared_file_dir={tmp_path}")
    assert total(together(ipv6, PYTHON, *PROBE, *shared)) == 3


def test_a_firewall_that_opens_a_range(walled, tmp_path) -> None:
    """Another range than the kernel's own, which nobody needs to set."""
    shared = ("init_method=file", f"shared_file_dir={tmp_path}")
    out = together(walled, PYTHON, *PROBE, *shared, ALLRANKS_PORT_RANGE=OPEN)
    assert total(out) == 3
    assert "warning" not in out
    assert total(torchrun(walled, 20005, ALLRANKS_PORT_RANGE=OPEN)) == 10


def test_torchrun_restarts_behind_a_firewall(walled, tmp_path) -> None:
    """In its range, since the agent's store has a port that the kernel chose."""
    out = torchrun(
        walled,
        20006,
        *("--max-restarts=2", "--monitor-interval=0.1"),
        script=(*RESTARTED, str(tmp_path), "2"),
        ALLRANKS_PORT_RANGE=OPEN,
    )
    assert len(list(tmp_path.glob("failed*"))) == 2
    assert total(out) == 10


def test_all_that_listens_keeps_to_the_range(walled) -> None:
    """The store, and gloo's sockets of the world and of a group."""
    out = together(walled, PYTHON, "-c", LISTENERS, **KNOWN, ALLRANKS_PORT_RANGE=OPEN)
    ports = [int(address.rpartition(":")[2]) for address in listeners(out)]
    assert len(ports) == 5
    assert all(20000 <= port <= 20100 for port in ports), ports


@contextlib.contextmanager
def kernels_range(net: Network, first: int, last: int) -> Iterator[None]:
    """Hosts whose kernel chooses among these ports."""
    before = net[0].must("sysctl", "-n", SYSCTL).split()
    try:
        for host in net.hosts:
            host.must("sysctl", "-q", f"{SYSCTL}={first} {last}")
        yield
    finally:
        for host in net.hosts:
            host.must("sysctl", "-q", f"{SYSCTL}={' '.join(before)}")


def test_a_range_that_is_the_kernel_s_own_is_left_to_it(walled) -> None:
    unasked = (
        "from allranks._rendezvous import bind_hook; print('REPLACED', bind_hook.range_of_gloo())"
    )
    with kernels_range(walled, 20000, 20100):
        out = together(walled, PYTHON, "-c", LISTENERS + unasked, **KNOWN, ALLRANKS_PORT_RANGE=OPEN)
    assert len(listeners(out)) == 5
    assert out.count("REPLACED None") == 2


def test_a_range_that_is_too_small(walled) -> None:
    settings = (*PROBE, "rendezvous_timeout=6")
    out = together(walled, PYTHON, *settings, **KNOWN, ALLRANKS_PORT_RANGE="20007-20007")
    assert "ALLRANKS_PORT_RANGE=20007-20007: no port of it is free on this host" in out
    assert f"RendezvousError: rank 0 on h1: {words.NO_PORT}" in out


def test_a_firewall_of_which_nothing_is_told(walled) -> None:
    out = together(walled, PYTHON, *PROBE, "rendezvous_timeout=6", **KNOWN)
    assert not reports(out)
    assert f"rank 1 on h2: all ranks answered the roll call, but {words.FIREWALL}" in out
    assert "gloo listens on ports 32768-60999" in out


def test_a_torch_that_is_built_otherwise(walled) -> None:
    """Which is said before anybody waits."""
    source = (
        "import allranks\n"
        "from allranks._rendezvous import bind_hook\n"
        "bind_hook.LIBRARIES['gloo'] = 'libelsewhere.so'\n"
        "allranks.setup(cpu=True, rendezvous_timeout=6)\n"
    )
    out = together(walled, PYTHON, "-c", source, **KNOWN, ALLRANKS_PORT_RANGE=OPEN)
    assert f"ALLRANKS_PORT_RANGE={OPEN} {words.NOT_FOR_GLOO}" in out
    assert SYSCTL in out
    assert f"rank 1 on h2: all ranks answered the roll call, but {words.FIREWALL}" in out
    assert "gloo listens on ports 32768-60999" in out
