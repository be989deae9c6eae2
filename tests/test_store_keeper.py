"""Torchrun's agent keeps the store of one host's ranks: if it is gone, that is no rank's fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from allranks import _inquiry, _processes
from harness import PATIENCE, wait_until

BEREFT = """
import os, signal, sys
from pathlib import Path
import allranks
from harness import wait_until

place = Path(sys.argv[1])
allranks.setup(cpu=True, stall_after=1)
rank = allranks.get_rank()
(place / f"pid{{rank}}").write_text(str(os.getpid()))
agent = os.getppid()
allranks.all_reduce(1)
if rank == 0:
    os.kill(agent, signal.SIGKILL)
wait_until(lambda: os.getppid() != agent)
try:
    {call}
    told = "done"
except BaseException as error:
    told = f"{{type(error).__name__}}: {{error}}"
draft = place / f".told{{rank}}"
draft.write_text(told)
draft.rename(place / f"told{{rank}}")
"""

STALL = """
    if rank == 1:
        wait_until((place / "verdict.txt").exists)
    assert allranks.all_reduce(1) == 2
"""


def bereft(place: Path, call: str) -> list[str]:
    """What two ranks of torchrun come to whose agent is killed before a call."""
    script = place / "bereft.py"
    script.write_text(BEREFT.format(call=call.strip()))
    subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", script, place],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parent),
            "ALLRANKS_LOG_DIR": str(place),
        },
        capture_output=True,
        timeout=PATIENCE,
    )
    told = [place / f"told{rank}" for rank in range(2)]
    wait_until(lambda: all(one.exists() for one in told))
    pids = [int((place / f"pid{rank}").read_text()) for rank in range(2)]
    wait_until(lambda: all(map(_processes.is_gone, pids)))
    return [one.read_text() for one in told]


def test_a_group_cannot_be_made_without_the_store(tmp_path) -> None:
    for told in bereft(tmp_path, "allranks.split(0)"):
        assert told.startswith("CollectiveError: split: torchrun's store at "), told
        assert "The ranks may be well" in told


def test_on_master_blames_no_rank_for_the_store(tmp_path) -> None:
    told = bereft(tmp_path, "allranks.on_master(lambda: 1)")
    assert told[1].startswith("CollectiveError: on_master(<lambda>): torchrun's store"), told[1]
    assert not told[0].startswith("PeerFailedError"), told[0]


def test_a_verdict_without_the_store_says_which_store(tmp_path) -> None:
    assert bereft(tmp_path, STALL) == ["done", "done"]
    verdict = (tmp_path / "verdict.txt").read_text()
    assert "cannot be asked, since torchrun's store at " in verdict
    assert "Rank 0: its store" not in verdict


@pytest.mark.parametrize(("lost", "gone"), [(True, "is gone"), (False, "does not answer")])
def test_what_is_said_of_ranks_that_cannot_be_asked(lost, gone) -> None:
    served_by_0 = _inquiry.fates_unasked(3, "", "its process sleeps", lost=lost)
    assert served_by_0[0].startswith(f"its store {gone}")
    assert served_by_0[0].endswith("; its process sleeps")
    assert served_by_0[1] == served_by_0[2] == "cannot be asked, without the store"
    kept = _inquiry.fates_unasked(2, "torchrun's store at h:1", "its process sleeps", lost=lost)
    assert kept == dict.fromkeys(range(2), f"cannot be asked, since torchrun's store at h:1 {gone}")
