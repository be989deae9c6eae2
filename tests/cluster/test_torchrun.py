"""torchrun on two hosts: restarts, which plain torch does not survive with gloo."""

from __future__ import annotations

import pytest

from geometries import C10D, TWO, torchrun
from hosts import all_ended
from jobs import RESTARTED, wrong

pytestmark = pytest.mark.timeout(150)

RESTARTS = 3


def test_two_hosts_restart_again_and_again(lab, tmp_path) -> None:
    start = torchrun(2, *C10D, f"--max-restarts={RESTARTS}", "--monitor-interval=0.1")
    ended = all_ended(start(lab, (*RESTARTED, str(tmp_path), str(RESTARTS))), 120)
    out = "".join(each.out for each in ended)
    assert not any(each.code for each in ended), out
    assert len(list(tmp_path.glob("failed*"))) == RESTARTS
    assert not wrong(out, "torchrun", TWO), out
