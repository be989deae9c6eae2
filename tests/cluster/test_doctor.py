"""``allranks doctor`` on hosts: it finds each fault that is made, and none on healthy hosts."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import allranks
from geometries import C10D, PYTHON, run, srun, torchrun
from hosts import CLOCK_AHEAD, Running, all_ended, network, numbered, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from geometries import Lab, Start
    from hosts import Ended, Host, Network

pytestmark = pytest.mark.timeout(400)

DOCTOR = ("-m", "allranks", "doctor", "--json")
LIMIT = 200.0
"""Seconds that a job may take on a machine with other work."""

WHERE = (0, 0, 1, 2)
"""The hosts of the ranks: two share one."""

PORTS = itertools.count(29700)
OFFLOADS = ("tso", "gso", "gro")


@dataclass
class Rank:
    """What is special of a rank: the command before it, and variables."""

    before: tuple[str, ...] = ()
    environ: Mapping[str, str] | None = None


def examined(net: Network, timeout: int = 120, **special: Rank) -> list[Ended]:
    """How the doctor ended on each rank; ``rank2=Rank(...)`` says what is special of one."""
    shared = {"WORLD_SIZE": str(len(WHERE)), "MASTER_ADDR": "h1", "MASTER_PORT": str(next(PORTS))}
    running = []
    for rank, host in enumerate(WHERE):
        mine = special.get(f"rank{rank}", Rank())
        environ = {"RANK": str(rank), **shared, **(mine.environ or {})}
        command = (*mine.before, PYTHON, *DOCTOR, f"--timeout={timeout}")
        running.append(net[host].start(*command, environ=environ))
    return all_ended(running, LIMIT)


def reports(ended: list[Ended]) -> list[dict[str, Any]]:
    """What was written, a report a line."""
    lines = [line for one in ended for line in one.out.splitlines()]
    return [json.loads(line) for line in lines if line.startswith('{"of"')]


def rows(ended: list[Ended]) -> list[dict[str, str]]:
    """All rows of all reports."""
    found = [row for report in reports(ended) for row in report["checks"]]
    assert found, "\n".join(one.out for one in ended)
    return found


@dataclass(frozen=True)
class Fault:
    """A fault, and the row that tells it.

    Attributes:
        make: makes it while the job runs, and gives how the job ended.
        what: the row's subject.
        status: the row's status.
        seen: what it says, as a pattern.
        remedy: what to type, as a pattern.
        more: other rows that may be bad for the same reason.
    """

    make: Callable[[Network, Path], list[Ended]]
    what: str
    status: str
    seen: str
    remedy: str
    more: tuple[str, ...] = ()


def no_name(net: Network, _: Path) -> list[Ended]:
    return examined(net, 40, rank2=Rank(environ={"MASTER_ADDR": "nohost"}))


@contextlib.contextmanager
def filtered(host: Host, rules: str, base: Path) -> Iterator[None]:
    """A firewall on a host."""
    file = base / "rules"
    chain = f"chain input {{\n type filter hook input priority 0;\n{rules}\n}}"
    file.write_text(f"table inet doctor {{\n{chain}\n}}\n")
    host.must("nft", "-f", str(file))
    try:
        yield
    finally:
        host.must("nft", "delete", "table", "inet", "doctor")


def firewall(net: Network, base: Path) -> list[Ended]:
    """h2 may not come to h3, and all else may."""
    rules = f"ct state established accept\nip saddr {net[1].address} drop"
    with filtered(net[2], rules, base):
        return examined(net)


def small_packets(net: Network, base: Path) -> list[Ended]:
    """Nothing larger comes to h3, and nobody is told."""
    rules = "iif lo accept\nmeta length > 1300 drop"
    with without_offloading(net), filtered(net[2], rules, base):
        return examined(net)


@contextlib.contextmanager
def without_offloading(net: Network) -> Iterator[None]:
    """Packets go over the virtual cables as they would over others, and not many in one."""

    def switch(state: str) -> None:
        for host in net.hosts:
            host.must("ethtool", "-K", "eth0", *(w for o in OFFLOADS for w in (o, state)))

    switch("off")
    try:
        yield
    finally:
        switch("on")


def full_memory(net: Network, _: Path) -> list[Ended]:
    net[1].must("mount", "-o", "remount,size=2M", "/dev/shm")
    net[1].must("sh", "-c", "cat /dev/zero > /dev/shm/full 2>/dev/null || true")
    try:
        return examined(net)
    finally:
        net[1].must("rm", "/dev/shm/full")
        net[1].must("mount", "-o", "remount,size=50%", "/dev/shm")


def few_descriptors(net: Network, _: Path) -> list[Ended]:
    return examined(net, rank1=Rank(("prlimit", "--nofile=64:64")))


def two_versions(net: Network, base: Path) -> list[Ended]:
    """Another release of allranks, whole, on one rank."""
    package = base / "other" / "allranks"
    shutil.copytree(Path(allranks.__file__).parent, package)
    version = package / "_system" / "version.py"
    version.write_text(version.read_text().replace(allranks.__version__, "9.9.9"))
    return examined(net, rank3=Rank(environ={"PYTHONPATH": str(base / "other")}))


def wrong_clock(net: Network, _: Path) -> list[Ended]:
    return examined(net, rank2=Rank(CLOCK_AHEAD))


def one_cpu(net: Network, _: Path) -> list[Ended]:
    cpu = str(min(os.sched_getaffinity(0)))
    bound = Rank(("taskset", "-c", cpu))
    return examined(net, rank0=bound, rank1=bound)


def taken_port(net: Network, _: Path) -> list[Ended]:
    port = str(next(PORTS))
    holder = net[0].start(PYTHON, "-m", "http.server", port)
    try:
        listens = lambda: f":{port} " in net[0].must("ss", "-ltnH")  # noqa: E731
        wait_until(listens, LIMIT, lambda: "it does not listen")
        given = Rank(environ={"MASTER_PORT": port})
        return examined(net, 40, rank0=given, rank1=given, rank2=given, rank3=given)
    finally:
        holder.cut_short()


def no_interface(net: Network, _: Path) -> list[Ended]:
    return examined(net, rank2=Rank(environ={"GLOO_SOCKET_IFNAME": "eth9"}))


def no_ptrace(net: Network, _: Path) -> list[Ended]:
    script = str(Path(__file__).with_name("without_ptrace.py"))
    return examined(net, rank0=Rank((PYTHON, script)), rank1=Rank((PYTHON, script)))


def one_too_many(net: Network, _: Path) -> list[Ended]:
    more = Rank(environ={"WORLD_SIZE": "5"})
    return examined(net, 40, rank0=more, rank1=more, rank2=more, rank3=more)


FAULTS = {
    "a name": Fault(
        no_name, "names", "failure", r"^nohost, .* not known", "/etc/hosts$", ("rendezvous",)
    ),
    "a firewall": Fault(
        firewall, "routes", "failure", r"^h2 to h3 \(10.77.0.3:\d+\): no answer", "^iptables.*h3"
    ),
    "a full /dev/shm": Fault(
        full_memory, "/dev/shm", "failure", "^rank 2 on h2: 0 B of 2 MiB", "^mount -o remount,size="
    ),
    "few descriptors": Fault(
        few_descriptors, "descriptors", "warning", "^rank 1 on h1: at most 64 ", "^ulimit -n 65536"
    ),
    "two versions": Fault(
        two_versions,
        "versions",
        "warning",
        f"allranks {allranks.__version__} on ranks 0-2; 9.9.9 on rank 3",
        f"pip install allranks=={allranks.__version__}",
    ),
    "a clock": Fault(
        wrong_clock, "clocks", "warning", r"^h2 is (89|90)\.\d s ahead of h1", "^chronyc makestep"
    ),
    "few CPUs": Fault(
        one_cpu, "CPUs", "warning", "^ranks 0-1 on h1: 1 CPU for 2 ranks", "^(taskset|allranks run)"
    ),
    "a port": Fault(
        taken_port, "rendezvous", "failure", r"port \d+ is held by", r"^export MASTER_PORT=\d+"
    ),
    "an interface": Fault(
        no_interface,
        "interface",
        "failure",
        "^rank 2 on h2: GLOO_SOCKET_IFNAME=eth9: there is no such interface",
        "^export GLOO_SOCKET_IFNAME=eth0",
    ),
    "an MTU": Fault(
        small_packets, "routes", "failure", "^h1, h2 to h3 .* at most 1280 bytes", "mtu 1280"
    ),
    "no ptrace": Fault(
        no_ptrace, "peer memory", "warning", "by a filter of system calls", "SYS_PTRACE"
    ),
    "a world size": Fault(
        one_too_many,
        "rendezvous",
        "failure",
        "1 of 5 ranks did not come within 20 s: 4",
        "WORLD_SIZE=4",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_it_finds(net, tmp_path, name) -> None:
    fault = FAULTS[name]
    ended = fault.make(net, tmp_path)
    found = rows(ended)
    bad = [row for row in found if row["status"] != "ok"]
    mine = [row for row in bad if row["what"] == fault.what and re.search(fault.seen, row["seen"])]
    assert mine, bad
    assert mine[0]["status"] == fault.status, mine
    assert re.search(fault.remedy, mine[0]["remedy"]), mine
    assert {row["what"] for row in bad} <= {fault.what, *fault.more}, bad
    fails = fault.status == "failure"
    assert [one.code for one in ended] == [int(fails)] * len(WHERE)
    assert any(report["fails"] for report in reports(ended)) == fails


def test_a_firewall_before_rank_0(net, tmp_path) -> None:
    """Nobody can say it but the host that is kept out."""
    with filtered(net[0], f"ip saddr {net[2].address} drop", tmp_path):
        ended = examined(net, 40)
    told = {report["of"]: report["checks"] for report in reports(ended)}
    row = told["rank 3 of 4, on h3"][-1]
    assert (row["what"], row["status"]) == ("rendezvous", "failure")
    assert re.search(r"did not find rank 0.* h1:\d+", row["seen"])
    assert re.match(r"iptables -I INPUT -p tcp --dport \d+ -j ACCEPT  # on h1", row["remedy"])
    assert "1 of 4 ranks did not come" in told["rank 0 of 4, on h1"][-1]["seen"]
    assert len(told) == 2


HEALTHY = {
    "alone": run(PYTHON),
    "torchrun on one host": torchrun(1, "--standalone"),
    "torchrun on two hosts": torchrun(2, *C10D),
    "srun on two hosts": srun("-N2", "--ntasks-per-node=2", "-w", "h1,h2"),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_it_finds_nothing_on_healthy_hosts(lab: Lab, name: str) -> None:
    start: Start = HEALTHY[name]
    running: list[Running] = start(lab, (*DOCTOR, "--timeout=120"))
    ended = all_ended(running, LIMIT)
    found = rows(ended)
    assert len(reports(ended)) == 1
    assert not [row for row in found if row["status"] != "ok"]
    assert not any(one.code for one in ended)
    assert {"rendezvous", "group", "all_reduce", "barrier", "CPUs"} <= {r["what"] for r in found}


def test_hosts_without_ipv4(tmp_path) -> None:
    """Where each interface has another address, which leads nowhere else."""
    with network(tmp_path, numbered(3), ipv6_only=True) as hosts:
        ended = examined(hosts)
    assert not [row for row in rows(ended) if row["status"] != "ok"]


def test_it_leaves_nothing_behind(tmp_path) -> None:
    look = "ss -ltnH; ls -A /dev/shm; ls /proc | grep -c '^[0-9]'"
    with network(tmp_path, numbered(3)) as fresh:
        before = [host.must("sh", "-c", look) for host in fresh.hosts]
        examined(fresh)
        assert [host.must("sh", "-c", look) for host in fresh.hosts] == before


def test_slurm_and_a_world_size_that_was_set_by_hand(lab: Lab) -> None:
    start = srun("-N2", "-n2", "-w", "h1,h2", "--export=ALL,WORLD_SIZE=3")
    ended = all_ended(start(lab, DOCTOR), LIMIT)
    (row,) = rows(ended)
    assert (row["what"], row["status"]) == ("launcher", "failure")
    assert "WORLD_SIZE='3'" in row["seen"]
    assert row["remedy"] == "unset WORLD_SIZE"
    assert ended[0].code == 1
