"""Torch's libraries listen where ALLRANKS_PORT_RANGE allows it, though they ask for any port."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from allranks._launchers.detect import detect
from allranks._launchers.world import World
from allranks._rendezvous import bind_hook
from allranks._rendezvous.plan import plan
from allranks._system import elf, sockets
from allranks.errors import ConfigError
from environments import TORCHRUN
from harness import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE = """
import random, sys
import torch.distributed as dist
from allranks._rendezvous import bind_hook
assert bind_hook.keeps_to_the_range("gloo")
assert bind_hook.keeps_to_the_range("gloo"), "a second time changes nothing"
before = random.getstate()
try:
    dist.TCPStore("127.0.0.1", int(sys.argv[1]), is_master=True, wait_for_workers=False)
except RuntimeError as error:
    assert "already in use" in str(error), error
    print("refused")
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
other = dist.TCPStore("127.0.0.1", store.port, is_master=False)
other.set("key", "value")
assert store.get("key") == b"value"
assert random.getstate() == before, "the program's seed gives other numbers"
print(store.port)
"""


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody listens on."""
    with sockets.listen("", 0) as listener:
        yield sockets.port_of(listener)


def stored(taken: int, ports: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The end of a program whose torch listens on all interfaces.

    At first on a port that is taken, which it says; then on any.
    """
    return subprocess.run(
        [sys.executable, "-c", STORE, str(taken)],
        capture_output=True,
        text=True,
        env={**os.environ, "ALLRANKS_PORT_RANGE": ports, **environ},
        check=False,
    )


@pytest.mark.parametrize("lazily", ["", "1"])
def test_torch_gets_a_port_of_the_range(taken, lazily) -> None:
    """Also where the linker looks for a function when it is called first."""
    port = free_port()
    ended = stored(taken, f"{port}-{port}", TORCH_USE_RTLD_GLOBAL=lazily)
    assert (ended.stdout, ended.returncode) == (f"refused\n{port}\n", 0), ended.stderr


def test_without_a_range_the_kernel_chooses(taken) -> None:
    ended = stored(taken, "")
    assert int(ended.stdout.removeprefix("refused\n")) > 0, ended.stderr


def test_a_range_that_is_taken_is_told(taken) -> None:
    ended = stored(taken, f"{taken}-{taken}")
    assert (ended.stdout, ended.returncode) == ("refused\n", 1)
    assert f"allranks: ALLRANKS_PORT_RANGE={taken}-{taken}: no port of it is free" in ended.stderr
    assert "address already in use" in ended.stderr.lower()


@pytest.mark.parametrize("error", [OSError(errno.EACCES, ""), ConfigError(""), KeyboardInterrupt()])
def test_nothing_is_raised_into_c(monkeypatch, error) -> None:
    def refuse(*_: object) -> None:
        raise error

    monkeypatch.setattr(bind_hook, "_bound", refuse)
    monkeypatch.setattr(sys, "stderr", None)
    assert bind_hook.Bind(bind_hook._bind)(0, 0, 0) == -1


@pytest.mark.parametrize(
    ("address", "host"),
    [
        (struct.pack("=H2x4s8x", socket.AF_INET, b"\x0a\x4d\0\1"), "10.77.0.1"),
        (struct.pack("=H6x16sI", socket.AF_INET6, b"\xfe\x80" + bytes(13) + b"\1", 3), "fe80::1%3"),
        (struct.pack("=H6x16sI", socket.AF_INET6, bytes(16), 0), "::"),
        (struct.pack("=H2s12x", socket.AF_INET, b"\0\1"), None),
        (struct.pack("=H2x", socket.AF_UNIX), None),
    ],
)
def test_an_address_of_any_port_is_read(address, host) -> None:
    assert bind_hook._of_any_port(address) == host


def test_what_cannot_listen_is_bound_as_it_was() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        assert not bind_hook._is_stream(datagrams.fileno())
    with socket.socket() as stream:
        assert bind_hook._is_stream(stream.fileno())


def test_a_library_calls_the_c_library_through_its_slots() -> None:
    import torch  # noqa: F401 - it loads the library

    found = {slot.value for slot in elf.slots(bind_hook.LIBRARIES["gloo"], "listen")}
    assert found == {ctypes.cast(ctypes.CDLL(None).listen, ctypes.c_void_p).value}


@pytest.mark.parametrize(
    ("library", "function"), [("libelsewhere.so", "bind"), ("libtorch_cpu.so", "no_such_function")]
)
def test_what_is_not_called_has_no_slots(library, function) -> None:
    assert elf.slots(library, function) == []


def agent(port: int) -> World:
    """A rank under torchrun on two hosts, whose agents share a store at this port."""
    return detect({**TORCHRUN, "MASTER_PORT": str(port)})


def test_under_torchrun_rank_0_is_looked_for_in_the_range() -> None:
    """Its agent's store is where the kernel let it, to which a firewall may let nobody."""
    found = plan(agent(40123), port_range=range(20000, 20005))
    assert found.hosts == ("h1",)
    assert sorted(found.ports) == list(range(20000, 20005))


@pytest.mark.parametrize("allowed", [None, range(20000, 20005)])
def test_an_agents_store_in_the_range_is_used(allowed) -> None:
    found = plan(agent(20001), port_range=allowed)
    assert found.board
    assert found.board[:2] == ("h1", 20001)
    assert found.port_range == allowed


def test_two_runs_of_one_id_look_in_different_places() -> None:
    allowed = range(20000, 21000)
    assert agent(40001).job != agent(40002).job
    assert (
        plan(agent(40001), port_range=allowed).ports != plan(agent(40002), port_range=allowed).ports
    )
