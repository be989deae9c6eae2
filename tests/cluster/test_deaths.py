"""A rank that dies on another host, in a window between two phases: the others name it."""

from __future__ import annotations

import re

import pytest

from geometries import PYTHON
from hosts import all_ended
from jobs import DYING, told_by

pytestmark = pytest.mark.timeout(120)

STALLED = r"(PeerFailedError: rank \d .* failed: )?StalledError: split did not complete within 12 s"
"""What the ranks raise: whoever's clock is late hears it of the other one."""


def test_a_rank_that_dies_on_another_host_between_two_phases_is_named(net) -> None:
    """No process of this host, no connection and no firewall tells of it."""
    running = []
    for phase, port in (("setup", "20007"), ("split", "20008")):
        for rank, host in enumerate(net.hosts[:3]):
            known = {"RANK": str(rank), "WORLD_SIZE": "3", "MASTER_ADDR": "h1", "MASTER_PORT": port}
            running.append(host.start(PYTHON, *DYING, phase, environ=known))
    ended = [one.out for one in all_ended(running)]
    in_setup, in_split = told_by("".join(ended[:3])), told_by("".join(ended[3:]))
    assert in_setup.keys() == in_split.keys() == {0, 1}
    for error in in_setup.values():
        assert error.startswith("RendezvousError"), error
        assert "rank 2 (pid " in error
        assert "on h3) does not answer: died, or cut off" in error
    for error in in_split.values():
        assert re.match(STALLED, error), error
        assert "Rank 2: no answer from h3" in error
