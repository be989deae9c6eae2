"""What benchmarks/chaos.py draws, expects, reads in words of ranks, and finds of what is left."""

from __future__ import annotations

import contextlib
import math
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import chaos_data
import chaos_leftovers
import chaos_values
import chaos_words
import chaos_worker
from chaos_programs import FAULTS, drawn
from chaos_steps import Step
from harness import wait_until


def test_ctrl_c_at_the_exit():
    assert chaos_words.is_pythons_own("Exception ignored in atexit callback: weakref.py")
    assert not chaos_words.is_pythons_own("Exception ignored in: /x/allranks/_groups.py")


def test_an_error_about_anothers_error():
    text = "rank 0 (pid 1 on h) failed: StalledError: x did not complete. Rank 1: no answer from h"
    error = {"kind": "PeerFailedError", "rank": 0, "text": text, "missing": None}
    assert chaos_words.ending_of(error, 1) == "stalled"
    assert chaos_words.ending_of(error, 2).startswith("PeerFailedError: rank 0")


def test_an_error_of_a_handle_is_explained_at_the_end():
    bare = {"kind": "RuntimeError", "rank": None, "text": "Connection reset", "missing": None}
    said = (
        "[rank2]: RuntimeError: Connection reset\nPeerFailedError: rank 1 (pid 1 on h) was killed."
    )
    assert chaos_words.ending_of(chaos_words.explained(bare, said), 1) == "named"
    assert chaos_words.ending_of(chaos_words.explained(bare, said), 0) != "named"
    assert chaos_words.explained(bare, "[rank2]: RuntimeError: Connection reset") is bare


def ending(kind: str, text: str, **more) -> str:
    return chaos_words.ending_of(
        {"kind": kind, "text": text, "rank": None, "missing": None, **more}, 1
    )


MADE = "the ranks made different calls:"


@pytest.mark.parametrize(
    ("calls", "right"),
    [
        ("ranks 0, 2: agree; rank 1: synchronize", True),
        ("rank 0: agree; rank 1: synchronize at x.py:3", True),
        ("ranks 0-2: agree; rank 3: synchronize", False),
        ("ranks 0, 2: agree; rank 1: agree", False),
        ("rank 1: agree", False),
    ],
)
def test_a_mismatch_shows_the_faulty_rank_apart(calls, right):
    told = ending("MismatchError", f"{MADE} {calls}. Every rank of the group must make the same")
    assert (told == "mismatch") is right


def test_a_verdict_accuses_the_faulty_rank():
    assert ending("StalledError", "x has waited 12 s. Rank 1: no answer from h.") == "stalled"
    assert ending("StalledError", "x has waited 12 s. Ranks 0-2: in x.") != "stalled"


def test_a_missing_rank_is_told():
    assert ending("MissingRanksError", "1 of 3 did not come: 1", missing=[1]) == "missing"
    assert ending("MissingRanksError", "some did not come", missing=[]) != "missing"
    assert ending("MissingRanksError", "2 of 3 did not come: 1-2", missing=[1, 2]) != "missing"


def test_a_rendezvous_that_fails_names_the_faulty_rank_alone():
    told = "rank 0 on h: gloo did not connect them within 12 s."
    assert ending("RendezvousError", f"{told} Rank 1: no answer from h.") == "named"
    assert ending("RendezvousError", f"{told} Ranks 1-2: no answer from h.") != "named"
    asked = "does a firewall let the hosts reach each other there?"
    assert ending("RendezvousError", f"{told} Rank 1: is asleep; {asked}") != "named"


@contextlib.contextmanager
def sleeper(directory: Path):
    process = subprocess.Popen(["sleep", "600"], cwd=directory)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_processes_that_are_left(tmp_path):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    with sleeper(real) as pid:
        wait_until(lambda: "sleep" in chaos_leftovers.state(pid))
        assert chaos_leftovers.processes_in(real) == [pid]
        assert chaos_leftovers.processes_in(link) == [pid]
        assert chaos_leftovers.processes_in(tmp_path / "other") == []
    assert chaos_leftovers.processes_in(link) == []


def test_files_that_are_left(tmp_path):
    store = tmp_path / "job" / "store"
    for name in ("work", "tmp", "job"):
        (tmp_path / name).mkdir()
    assert [*chaos_leftovers.files_left(tmp_path, [])] == []
    (tmp_path / "tmp" / "x").touch()
    left = [*chaos_leftovers.files_left(tmp_path, [store])]
    assert left == ["file tmp/x", f"directory {store.parent}"]


def test_descriptors_and_threads_are_counted(tmp_path):
    before, over = chaos_leftovers.held(), threading.Event()
    thread = threading.Thread(target=over.wait)
    with (tmp_path / "x").open("w"):
        thread.start()
        now = chaos_leftovers.held()
        over.set()
        thread.join()
    assert {what: now[what] - before[what] for what in now} == {"descriptors": 1, "threads": 1}


def test_ranks_named():
    assert chaos_words.named("1 of 4 ranks did not come: 2. Ranks 0-1, 3 did; rank 5 too") == {
        *(0, 1, 3, 5)
    }
    assert chaos_words.accused("rank 1 failed: PeerFailedError: rank 2 has died") == {2}
    told = "Rank 0: its store does not answer. Ranks 1-2: cannot be asked, without the store."
    assert chaos_words.accused(told) == {0}
    assert chaos_words.accused("Rank 2: is stopped. Rank 1: cannot be asked") == {1}


def test_a_timer_that_cannot_be_made_is_an_error():
    with pytest.raises(OSError, match="no timer for the fault"):
        chaos_worker.signal_after(9999, 1.0)


def test_a_seed_is_a_program():
    assert drawn(5) == drawn(5)
    for first in (0, 1, 70020):
        kinds = {drawn(seed).fault.kind for seed in range(first, first + 17)}
        assert kinds == set(FAULTS)


def test_values_are_compared_exactly():
    step = Step("all_reduce", kind="tree", size=4)
    right = chaos_values.wanted(step, 0, (0, 1))
    assert chaos_values.same(right, chaos_values.wanted(step, 1, (0, 1)))
    right["loss"] += 0.25
    assert not chaos_values.same(right, chaos_values.wanted(step, 0, (0, 1)))
    ones = torch.ones(2)
    assert not chaos_values.same(ones, ones.double())
    assert not chaos_values.same(ones.numpy(), ones)
    assert not chaos_values.same(np.ones(2), np.ones(3))
    assert not chaos_values.same([1], [1, 2])
    assert not chaos_values.same(1, 1.0)


def test_values_are_compared_bit_by_bit():
    nan, zero = torch.tensor([math.nan]), torch.zeros(1)
    assert chaos_values.same(nan, nan.clone())
    assert chaos_values.same(nan.numpy(), nan.clone().numpy())
    assert chaos_values.same(math.nan, math.nan)
    assert chaos_values.same(torch.ones(1).as_strided((1,), (0,)), torch.ones(1))
    assert not chaos_values.same(zero, -zero)
    assert not chaos_values.same(zero.numpy(), -zero.numpy())
    assert not chaos_values.same(0.0, -0.0)


@pytest.mark.parametrize("dtype", ["bool", "complex64", "bfloat16", "float32", "int64"])
def test_tensors_of_each_dtype(dtype):
    step = Step("all_gather", kind="tensor", dtype=dtype, size=300, way="cat")
    mine, both = chaos_data.given(step, 0, 2), chaos_values.wanted(step, 0, (0, 1))
    assert mine.dtype == both.dtype == getattr(torch, dtype)
    assert chaos_values.same(both[:300], mine)
    assert mine.is_floating_point() == bool(mine.isnan().any() and not dtype.startswith("complex"))


def test_a_split_orders_its_ranks_by_their_keys():
    made = Step("split", "s", colors=(0, 0, None, 0), keys=(2, 1, 0, 0))
    ordered = replace(drawn(0), ranks=4, steps=(made,))
    assert ordered.members("s", 0) == (3, 1, 0)
    assert ordered.members("s", 2) == ()
    plain = replace(ordered, steps=(replace(made, keys=()),))
    assert plain.members("s", 0) == (0, 1, 3)
    reduced = Step("reduce_scatter", "s", "tensor", size=4, way="one")
    parts = chaos_data.given(reduced, 3, 3).tensor_split(3)
    wanted = chaos_values.wanted(reduced, 3, (3, 1, 0))
    assert wanted.shape == parts[0].shape
