"""Torchrun's agent keeps the store of one host's ranks: if it is gone, that is no rank's fault."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import allranks
from allranks._rendezvous import roll_call
from allranks._system import processes
from allranks._watch import status_answers
from allranks._watch.event_log import CLOSED
from harness import PATIENCE, Ranks, private_environs, wait_until

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

STOPPED = """
import os, signal, sys
from pathlib import Path
import allranks
from allranks._process_group import turns
from harness import wait_until

told, agent = Path(sys.argv[1]) / "told", os.getppid()

def download():
    os.kill(agent, signal.SIGSTOP)
    wait_until(told.exists)
    os.kill(agent, signal.SIGCONT)
    return 7

def tell(text):
    if "store" in text:
        told.write_text(text)

turns.tell, turns.SILENT = tell, 0.3
allranks.setup(cpu=True)
allranks.all_reduce(1)  # Else rank 1 may still tell the store that it is up.
assert allranks.on_master(download) == 7
allranks.cleanup()
"""

STALL = """
    if rank == 1:
        wait_until((place / "verdict.txt").exists)
    assert allranks.all_reduce(1) == 2
"""


def under_torchrun(script: Path, text: str) -> int:
    """How torchrun's agent ends that runs a script on two ranks."""
    script.write_text(text)
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--nproc-per-node=2",
            script,
            script.parent,
        ],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1] / "support"),
            "ALLRANKS_LOG_DIR": str(script.parent),
        },
        capture_output=True,
        timeout=PATIENCE,
    ).returncode


def bereft(place: Path, call: str) -> list[str]:
    """What two ranks of torchrun come to whose agent is killed before a call."""
    under_torchrun(place / "bereft.py", BEREFT.format(call=call.strip()))
    told = [place / f"told{rank}" for rank in range(2)]
    wait_until(lambda: all(one.exists() for one in told))
    pids = [int((place / f"pid{rank}").read_text()) for rank in range(2)]
    wait_until(lambda: all(map(processes.is_gone, pids)))
    return [one.read_text() for one in told]


def remove_the_store() -> None:
    Path(os.environ["ALLRANKS_STORE"]).unlink()


def on_master_without_a_store() -> None:
    allranks.setup(cpu=True)
    allranks.all_reduce(1)  # Else rank 1 may still tell the store that it is up.
    allranks.on_master(remove_the_store)


def a_roll_call_without_a_store() -> None:
    judge = roll_call.RollCall._judge

    def judge_without_a_store(self):
        self._store.wait(["batch/2"])  # Else rank 1 would make a store of its own.
        remove_the_store()
        return judge(self)

    roll_call.RollCall._judge = judge_without_a_store
    allranks.setup(cpu=True, rendezvous_timeout=2 * PATIENCE)


def test_a_group_cannot_be_made_without_the_store(tmp_path) -> None:
    for told in bereft(tmp_path, "allranks.split(0)"):
        assert told.startswith("CollectiveError: split: torchrun's store at "), told
        assert "The ranks may be well" in told


def test_on_master_blames_no_rank_for_the_store(tmp_path) -> None:
    told = bereft(tmp_path, "allranks.on_master(lambda: 1)")
    assert told[1].startswith("CollectiveError: on_master(<lambda>): torchrun's store"), told[1]
    assert not told[0].startswith("PeerFailedError"), told[0]


def test_a_store_that_does_not_answer_is_not_rank_0s_silence(tmp_path) -> None:
    assert under_torchrun(tmp_path / "stopped.py", STOPPED) == 0
    told = (tmp_path / "told").read_text()
    assert told.startswith("waiting for torchrun's store at "), told
    assert told.endswith("in on_master(download): it does not answer")


def test_a_private_store_that_was_removed_is_named_at_once() -> None:
    with private_environs(2) as environs:
        first, one = Ranks(on_master_without_a_store, environs).results()
    assert "store, where the ranks have met, is gone" in one.text, one.text
    assert "The ranks may be well" in one.text
    assert "PeerFailedError" not in first.text, first.text


def test_a_roll_call_whose_store_was_removed_blames_no_rank() -> None:
    with private_environs(2) as environs:
        for rank in Ranks(a_roll_call_without_a_store, environs).results():
            assert rank.text.startswith("RendezvousError: rank "), rank.text
            assert "store closed during the roll call; no rank serves it" in rank.text
            assert "rank 0 has probably" not in rank.text


def test_a_verdict_without_the_store_says_which_store(tmp_path) -> None:
    assert bereft(tmp_path, STALL) == ["done", "done"]
    verdict = (tmp_path / "verdict.txt").read_text()
    assert "cannot be asked, since torchrun's store at " in verdict
    assert "Rank 0: its store" not in verdict


@pytest.mark.parametrize(("lost", "gone"), [("reset", "is gone"), ("", "does not answer")])
def test_what_is_said_of_ranks_that_cannot_be_asked(lost, gone) -> None:
    served_by_0 = status_answers.fates_unasked(3, "", "its process sleeps", lost)
    assert served_by_0[0].startswith(f"its store {gone}")
    assert served_by_0[0].endswith("; its process sleeps")
    assert served_by_0[1] == served_by_0[2] == "cannot be asked, without the store"
    kept = status_answers.fates_unasked(2, "torchrun's store at h:1", "its process sleeps", lost)
    assert kept == dict.fromkeys(range(2), f"cannot be asked, since torchrun's store at h:1 {gone}")


def test_a_rank_0_that_has_left_in_order_is_not_called_lost() -> None:
    fates = status_answers.fates_unasked(2, "", "its process is gone", CLOSED)
    assert fates[0] == "has left, and its store with it, and so the others cannot be asked"
    assert fates[1] == "cannot be asked, without the store"
