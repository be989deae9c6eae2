"""Torch's libraries listen where ALLRANKS_PORT_RANGE allows it, though they ask for any port."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

from allranks import _bind, _elf, _sockets
from allranks._plan import plan
from allranks._world import World

STORE = """
import os, sys
import torch.distributed as dist
from allranks import _bind
assert _bind.keep_to_the_range()
assert _bind.keep_to_the_range(), "a second time changes nothing"
store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
other = dist.TCPStore("127.0.0.1", store.port, is_master=False)
other.set("key", "value")
assert store.get("key") == b"value"
print(store.port)
"""


def stored(ports: str) -> subprocess.CompletedProcess[str]:
    """The end of a program whose torch listens on all interfaces, on any port."""
    environ = {**os.environ, "ALLRANKS_PORT_RANGE": ports}
    return subprocess.run(
        [sys.executable, "-c", STORE], capture_output=True, text=True, env=environ, check=False
    )


def test_torch_gets_a_port_of_the_range() -> None:
    port = _sockets.free_port()
    ended = stored(f"{port}-{port}")
    assert (ended.stdout, ended.returncode) == (f"{port}\n", 0), ended.stderr


def test_without_a_range_the_kernel_chooses() -> None:
    ended = stored("")
    assert int(ended.stdout) > 0, ended.stderr


def test_a_range_that_is_taken_is_told() -> None:
    with _sockets.listen("", 0) as taken:
        port = _sockets.port_of(taken)
        ended = stored(f"{port}-{port}")
    assert ended.returncode != 0
    assert f"allranks: ALLRANKS_PORT_RANGE={port}-{port}: no port of it is free" in ended.stderr
    assert "address already in use" in ended.stderr.lower()


def test_a_library_calls_the_c_library_through_its_slot() -> None:
    import torch  # noqa: F401 - it loads the library

    slot = _elf.slot(_bind.GLOO, "listen")
    assert slot is not None
    assert slot.value == ctypes.cast(ctypes.CDLL(None).listen, ctypes.c_void_p).value


@pytest.mark.parametrize(
    ("library", "function"), [("libelsewhere.so", "bind"), (_bind.GLOO, "no_such_function")]
)
def test_what_is_not_called_has_no_slot(library, function) -> None:
    assert _elf.slot(library, function) is None


def test_under_torchrun_rank_0_is_looked_for_in_the_range() -> None:
    """Its agent's store is where the kernel let it, to which a firewall may let nobody."""
    agent = World(
        "torchrun", 0, 4, num_nodes=2, master_addr="h1", master_port=40123, agent_store=True
    )
    assert plan(agent).board == ("h1", 40123, "allranks//")
    within = plan(agent, port_range=range(20000, 20005))
    assert within.hosts == ("h1",)
    assert sorted(within.ports) == list(range(20000, 20005))
