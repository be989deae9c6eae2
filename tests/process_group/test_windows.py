"""A rank that ends between two phases: those that go on hear of it at once, and by name."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._process_group import bring_up, turns
from allranks._rendezvous import gathering, roll_call
from allranks._transport import process_groups
from allranks._watch import flight_recorder
from allranks.errors import PeerFailedError
from harness import PATIENCE, Ranks, env_environs, free_port, private_environs, wait_until
from torch_versions import records_gloo

LONG = 2.0 * PATIENCE
"""Seconds of every timeout of ours in here: whoever waits for one of them does not end in time."""


@contextlib.contextmanager
def at_a_port(ranks: int):
    """Ranks that meet in a store which goes with rank 0."""
    yield env_environs(ranks, free_port())


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def exiting() -> None:
    os._exit(3)


def leaving() -> None:
    os._exit(0)


def raising() -> None:
    raise LookupError("no shard 7")


def session():
    timeout = timedelta(seconds=LONG)
    return allranks.session(cpu=True, timeout=timeout, rendezvous_timeout=LONG, stall_after=LONG)


def ending_while_gloo_connects(culprit: int, end) -> None:
    """As if it had ended between its answer in the roll call and the last of gloo's connections."""
    if allranks.get_rank() == culprit:
        bring_up.init_process_group = lambda *_: (time.sleep(0.3), end())
    with session():
        pass


def ending_in_split(culprit: int, end) -> None:
    with session() as world:
        allranks.all_reduce(1)
        if world.rank == culprit:
            process_groups.new_group = lambda *_, **__: (time.sleep(0.3), end())
        allranks.split(0)


def ending_in_node_group(culprit: int, end) -> None:
    with session() as world:
        if world.rank == culprit:
            process_groups.new_group = lambda *_, **__: (time.sleep(0.3), end())
        allranks.node_group()


def ending_before_all_are_connected(place: str) -> None:
    """Rank 0 ends when its host's agent passes on the verdict; the other hears it, and is late."""
    gone, follow = Path(place, "gone"), gathering._follow
    told, connect = Path(place, "told"), bring_up.init_process_group

    def late(*given):
        told.touch()
        wait_until(gone.exists)
        return follow(*given)

    def end(*_):
        wait_until(told.exists)
        gone.touch()
        os._exit(3)

    gathering._follow = late
    bring_up.init_process_group = connect if allranks.get_rank() else end
    with session():
        pass


ENDS = [
    (killed, "was killed by SIGKILL"),
    (exiting, "left with exit code 3"),
    (leaving, "left with exit code 0"),
    (raising, "LookupError: no shard 7"),
]


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def interrupted(call) -> str:
    """What a rank hears of Ctrl-C in a call that does not return, and what was told before."""
    told = []
    turns.tell = told.append
    turns.SILENT = 0.3
    ctrl_c = threading.Timer(2.0, os.kill, (os.getpid(), signal.SIGINT))
    ctrl_c.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            call()
    finally:
        ctrl_c.cancel()
    return " ".join(told)


def setting_up_with_a_stopped_rank() -> str:
    if allranks.get_rank() == 0:
        bring_up.init_process_group = lambda *_: stop()
    return interrupted(lambda: allranks.setup(cpu=True, rendezvous_timeout=LONG))


def splitting_with_a_stopped_rank() -> str:
    allranks.setup(cpu=True, timeout=timedelta(seconds=LONG))
    if allranks.get_rank() == 0:
        process_groups.new_group = lambda *_, **__: stop()
    return interrupted(lambda: allranks.split(0))


def waiting_for_a_stopped_rank_0() -> str:
    allranks.setup(cpu=True, timeout=timedelta(seconds=LONG))
    allranks.all_reduce(1)
    return interrupted(lambda: allranks.on_master(stop))


def outcomes(function, culprit: int, end, environs):
    """How the ranks ended that go on."""
    ended = Ranks(function, environs, culprit, end).results(never=culprit)
    return [(type(one.error).__name__, str(one.error)) for one in ended]


@pytest.mark.parametrize(("end", "how"), ENDS, ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("culprit", [0, 2])
def test_a_rank_that_ends_while_gloo_connects_is_named(culprit: int, end, how: str) -> None:
    """Where the ranks meet in a file, and in a store that goes with rank 0."""
    with private_environs(3) as environs:
        told = outcomes(ending_while_gloo_connects, culprit, end, environs)
    port = free_port()
    told += outcomes(ending_while_gloo_connects, culprit, end, env_environs(3, port))
    for kind, text in told:
        assert kind == "RendezvousError", text
        assert f"rank {culprit} (pid " in text
        assert how in text
        assert "firewall" not in text


def test_a_rank_0_that_ends_before_all_are_connected_to_it_is_named(tmp_path) -> None:
    environs = env_environs(3, free_port())
    ended = Ranks(ending_before_all_are_connected, environs, str(tmp_path)).results(never=0)
    told = [str(one.error) for one in ended if one.error]
    assert len(told) == 2
    assert all("rank 0 (pid " in text for text in told), told
    late = [text for text in told if "does not answer this one" in text]
    assert len(late) == 1, told
    assert "nothing listens there; its process is gone" in late[0]


@pytest.mark.parametrize("function", [ending_in_split, ending_in_node_group])
@pytest.mark.parametrize(("end", "how"), ENDS[:2], ids=lambda x: getattr(x, "__name__", ""))
@pytest.mark.parametrize("culprit", [0, 1])
def test_a_rank_that_ends_while_a_group_is_made_is_named(culprit, end, how, function) -> None:
    with private_environs(3) as environs:
        told = outcomes(function, culprit, end, environs)
    told += outcomes(function, culprit, end, env_environs(3, free_port()))
    for kind, text in told:
        assert kind == "PeerFailedError", text
        assert f"rank {culprit} (pid " in text
        assert how in text


def skipping_the_last_call(place: str) -> None:
    """Rank 0 leaves in order; then rank 2 leaves, for whom rank 1 waits in their group."""
    allranks.setup(cpu=True, timeout=timedelta(seconds=LONG))
    rank = allranks.get_rank()
    pair = allranks.split(rank > 0)
    allranks.all_reduce(1)
    if rank == 1:
        try:
            allranks.all_reduce(1, pair)
        finally:
            Path(place, "named").touch()
    if rank == 2:
        wait_until(Path(place, "left").exists)
    allranks.cleanup()
    Path(place, "left").touch()
    if rank == 2:  # Its process lives on: a connection closes before, by how long is not known.
        wait_until(Path(place, "named").exists)


@pytest.mark.parametrize("way", [private_environs, at_a_port])
def test_of_a_group_only_its_ranks_are_accused(way, tmp_path) -> None:
    with way(3) as environs:
        ended = Ranks(skipping_the_last_call, environs, str(tmp_path)).results()
    assert [type(one.error) for one in ended] == [type(None), PeerFailedError, type(None)]
    assert ended[1].error.rank == 2
    assert str(ended[1].error).startswith("rank 2 ")


def stopped_while_gloo_connects(culprit: int, place: str) -> None:
    """The others are past the roll call by then, which ends at rank 0's word."""
    connect = bring_up.init_process_group

    def connect_or_stop(*arguments) -> None:
        if allranks.get_rank() == culprit:
            wait_until(lambda: len(list(Path(place).iterdir())) == 2)
            stop()
        Path(place, str(allranks.get_rank())).touch()
        connect(*arguments)

    bring_up.init_process_group = connect_or_stop
    allranks.setup(cpu=True, rendezvous_timeout=8)


STOPPED = [
    (private_environs, 1, "no answer from "),
    (at_a_port, 1, "no answer from "),
    (at_a_port, 0, "its store does not answer"),
]


@pytest.mark.parametrize(("way", "culprit", "told"), STOPPED)
def test_a_rank_that_is_stopped_while_gloo_connects_is_named(way, culprit, told, tmp_path) -> None:
    with way(3) as environs:
        ranks = Ranks(stopped_while_gloo_connects, environs, culprit, str(tmp_path))
        ended = ranks.results(never=culprit)
    for one in ended:
        assert one.text.startswith("RendezvousError"), one.text
        assert re.search(f"Rank {culprit}: {told}.*; its process is stopped", one.text), one.text
        assert "firewall" not in one.text


def stopped_before_it_judges() -> None:
    if allranks.get_rank() == 0:
        roll_call.RollCall._judge = lambda _: stop()
    allranks.setup(cpu=True, rendezvous_timeout=10)


def test_a_rank_0_that_is_stopped_in_the_roll_call_is_named() -> None:
    with private_environs(3) as environs:
        ended = Ranks(stopped_before_it_judges, environs).results(never=0)
    for one in ended:
        assert one.text.startswith("MissingRanksError: all 3 ranks came, but not all finished")
        assert re.search(r"; rank 0 \(pid \d+ on .*\): its process is stopped", one.text), one.text
        assert one.error.missing == (0,)


def stopped_while_a_group_is_made() -> None:
    with allranks.session(cpu=True, timeout=timedelta(seconds=8), stall_after=2) as world:
        if world.rank == 1:
            process_groups.new_group = lambda *_, **__: stop()
        apart = "ALLRANKS_STORE" in os.environ  # Else rank 0 would leave, and its store with it.
        allranks.split(apart and world.rank > 0)


@pytest.mark.parametrize("way", [private_environs, at_a_port])
def test_a_rank_that_is_stopped_while_a_group_is_made_is_named(way) -> None:
    """Whichever clock ends the wait: gloo's, the store's or ours, here or on rank 0."""
    with way(3) as environs:
        first, one = Ranks(stopped_while_a_group_is_made, environs).results(never=1)
    assert (first.error is None) == (way is private_environs)
    stalled = (
        r"(PeerFailedError: rank 0 .* failed: )?StalledError: split did not complete within 8 s;"
    )
    assert re.match(stalled, one.text), one.text
    assert re.search("Rank 1: (no answer from .*; )?its process is stopped", one.text), one.text
    if way is private_environs:  # It has no part in the group.
        assert "ank 0" not in one.text.partition("did not complete")[2]


WAITS = [
    (setting_up_with_a_stopped_rank, ""),
    (splitting_with_a_stopped_rank, ""),
    (
        waiting_for_a_stopped_rank_0,
        r"rank 0 \(pid \d+ on .*\), in on_master\(stop\): silent for 0.3 s; its process is stopped",
    ),
]


@pytest.mark.parametrize(("function", "told"), WAITS, ids=lambda x: getattr(x, "__name__", ""))
def test_ctrl_c_is_heard_while_rank_0_and_its_store_are_stopped(function, told: str) -> None:
    ranks = Ranks(function, env_environs(2, free_port()))
    (one,) = ranks.results(never=0)
    assert one.error is None, one.error.__notes__
    assert re.search(told, one.value)


def timing_out_twice() -> None:
    """Of one of two calls that wait, gloo may say only that a timeout has closed the connection."""
    with allranks.session(cpu=True, timeout=timedelta(seconds=4), stall_after=0.5) as world:
        if world.rank:
            time.sleep(8)
            return
        works = [dist.all_reduce(torch.ones(3), async_op=True) for _ in range(2)]
        for work in works:
            with pytest.raises(RuntimeError, match="Timed out waiting|" + CLOSURE):
                work.wait()
        raise RuntimeError(CLOSURE)  # Whichever of the two it was.


CLOSURE = "Application timeout caused pair closure"


def timing_out_unseen() -> None:
    """With a recorder of NCCL's calls alone, which has seen none."""
    nothing = pickle.dumps({"entries": [], "pg_status": {}})
    recorder = ("nccl", lambda **_: '{"version": "2"}', lambda **_: nothing)
    flight_recorder._recorders = lambda: [recorder]
    timing_out_twice()


def test_where_torch_does_not_see_gloo_a_timeout_says_so() -> None:
    with private_environs(2) as environs:
        one, _ = Ranks(timing_out_unseen, environs).results()
    told = f"gloo says: {CLOSURE}. Which rank was missing is not known: torch .* NCCL alone"
    assert re.search(told, one.text), one.text


@records_gloo
def test_a_connection_that_a_timeout_has_closed_is_a_stall() -> None:
    with private_environs(2) as environs:
        one, _ = Ranks(timing_out_twice, environs).results()
    assert one.text.startswith("StalledError: a collective did not complete in time; all_reduce #1")
    assert CLOSURE in one.error.__notes__[0]
