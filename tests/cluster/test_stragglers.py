"""``stragglers`` on hosts whose clocks differ: nobody is accused for a clock."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from geometries import PYTHON
from hosts import CLOCK_AHEAD, all_ended
from jobs import reports

if TYPE_CHECKING:
    from geometries import Lab

pytestmark = pytest.mark.timeout(300)

PORTS = itertools.count(29900)
SLOW = str(Path(__file__).parent / "slow.py")


@pytest.mark.parametrize("calls", ["numbers", "tensors"])
def test_a_host_whose_clock_is_wrong_is_not_slow(lab: Lab, calls: str) -> None:
    port = str(next(PORTS))
    hosts = (lab.net[0], lab.net[0], lab.net[1], lab.net[1])
    address = {"MASTER_ADDR": hosts[0].address, "MASTER_PORT": port, "WORLD_SIZE": "4"}
    running = [
        host.start(
            *(CLOCK_AHEAD if rank > 1 else ()),
            PYTHON,
            SLOW,
            calls,
            environ={**address, "RANK": str(rank)},
        )
        for rank, host in enumerate(hosts)
    ]
    ended = all_ended(running, 120)
    told = reports("".join(one.out for one in ended))
    assert [one.code for one in ended] == [0] * 4, ended
    assert told[3]["at"] - told[0]["at"] > 60
    for one in told:
        assert (one["worst"], one["host"]) == (1, hosts[1].name)
        assert 6 <= one["last"] <= 14
        assert one["waited"] <= one["seconds"] < 60
