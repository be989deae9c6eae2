"""Which ports a job may listen on, and what its environment says of them."""

from __future__ import annotations

import socket

import pytest

from allranks._launchers import job_ports
from allranks._launchers.world import World
from allranks._rendezvous import ports
from allranks._rendezvous.plan import plan
from allranks._system import sockets
from allranks.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("20000-20100", range(20000, 20101)), (" 7 - 7 ", range(7, 8))],
)
def test_a_range_is_read(text, expected) -> None:
    assert ports.allowed({"ALLRANKS_PORT_RANGE": text}) == expected


@pytest.mark.parametrize("text", ["20000", "20100-20000", "0-5", "1-65536", "a-b", "1-2-3"])
def test_what_is_no_range_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="expected two ports, as in 20000-20100"):
        ports.allowed({"ALLRANKS_PORT_RANGE": text})


def test_candidates_are_the_jobs_own_and_the_same_on_all_ranks() -> None:
    assert job_ports.candidates("a", None) == job_ports.candidates("a", None)
    assert job_ports.candidates("a", None)[1:] != job_ports.candidates("b", None)[1:]
    assert job_ports.candidates("a", None)[0] == job_ports.DISTRIBUTED_PORT


def test_candidates_stay_in_the_range() -> None:
    allowed = range(20000, 20005)
    assert sorted(job_ports.candidates("a", allowed)) == list(allowed)
    world = World("slurm", 0, 2, num_nodes=2, hosts=("h1",))
    assert set(plan(world, port_range=allowed).ports) == set(allowed)


def test_any_port_of_the_range_that_is_free_is_taken() -> None:
    with ports.listen_on_any("127.0.0.1", None) as taken:
        port = sockets.port_of(taken)
        with pytest.raises(ConfigError, match="no port of it is free"):
            ports.listen_on_any("127.0.0.1", range(port, port + 1))
    with ports.listen_on_any("127.0.0.1", range(port, port + 1)) as free:
        assert sockets.port_of(free) == port


def test_all_interfaces_are_those_of_ipv4_and_ipv6() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("a kernel without IPv6")
    with sockets.listen("", 0) as listener:
        port = sockets.port_of(listener)
        for address in ("127.0.0.1", "::1"):
            socket.create_connection((address, port)).close()


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.1.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_told_by_its_address(address) -> None:
    assert sockets.is_loopback(address)
    assert str(sockets.interface_of(address)).startswith("lo")


def test_no_interface_has_another_hosts_address() -> None:
    assert sockets.interface_of("192.0.2.1") is None
    assert sockets.interface_of("2001:db8::1") is None


def test_without_an_address_mpi_is_asked_only_where_there_is_one() -> None:
    lost = World("openmpi", 0, 4)
    assert plan(lost, has_mpi4py=True).ask_mpi
    with pytest.raises(ConfigError, match=r"nothing says where rank 0 runs.*install mpi4py"):
        plan(lost)
    with pytest.raises(ConfigError, match="nothing says where rank 0 runs"):
        plan(World("env", 0, 4), has_mpi4py=True)
    assert plan(lost, shared_file_dir="/shared", has_mpi4py=True).board
