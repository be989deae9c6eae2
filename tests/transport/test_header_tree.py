"""Who tells whom, and what inner members make of what they were told."""

from __future__ import annotations

import math
import os
import re
import signal
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import allranks
from allranks._collectives import scalars
from allranks._collectives.exact_sums import fewer_rows
from allranks._system import sockets
from allranks._transport import process_groups
from allranks._transport.bundle import bundled, unbundled
from allranks._transport.header_tree import STAR, WIDTH, HeaderTree
from allranks._transport.socket_channel import SocketChannel
from allranks.errors import CollectiveError, MismatchError, PeerFailedError, StalledError
from harness import PATIENCE, run_ranks

MANY = 20
"""So many ranks of a host stand in a tree of three levels."""

INNER = 1
"""A rank between the root and others."""


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200))
def test_every_member_is_reached_once(hosts: list[int]) -> None:
    tree = HeaderTree.of(hosts)
    assert sorted(tree.order()) == list(range(len(hosts)))
    assert [member for member, parent in enumerate(tree.parents) if parent is None] == [0]
    for member, children in enumerate(tree.children):
        assert [tree.parents[child] for child in children] == [member] * len(children)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200))
def test_a_host_is_entered_once(hosts: list[int]) -> None:
    tree = HeaderTree.of(hosts)
    across = [m for m, p in enumerate(tree.parents) if p is not None and hosts[m] != hosts[p]]
    assert len(across) == len(set(hosts)) - 1
    assert all(hosts.index(hosts[member]) == member for member in across)


@pytest.mark.parametrize(("ranks", "per_host"), [(64, 64), (128, 128), (16384, 8), (4096, 16)])
def test_nobody_has_many_neighbours(ranks: int, per_host: int) -> None:
    tree = HeaderTree.of([member // per_host for member in range(ranks)])
    near = per_host - 1 if per_host <= STAR else WIDTH
    assert max(map(len, tree.children)) <= near + (WIDTH if ranks > per_host else 0)
    depth, member = 0, ranks - 1
    while (parent := tree.parents[member]) is not None:
        depth, member = depth + 1, parent
    assert depth <= 1 + math.ceil(math.log(ranks, WIDTH))


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=9))
def test_a_bundle_is_taken_apart(bodies: list[bytes]) -> None:
    assert unbundled(bundled(bodies)) == bodies
    assert unbundled(bundled(bodies[:1] * 7)) == bodies[:1] * 7


floats = st.floats(width=64) | st.sampled_from([0.0, -0.0, 1e308, -1e308, 1e-320, 0.1])


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(floats, min_size=n, max_size=n))))
def test_fewer_rows_have_the_same_sums(rows: list[list[float]]) -> None:
    if not rows:
        return
    fewer = fewer_rows(np.array(rows))
    for before, after in zip(zip(*rows, strict=True), fewer.T.tolist(), strict=True):
        if all(map(math.isfinite, before)):
            assert sum(map(_exact, before)) == sum(map(_exact, after))
            wanted = all(math.copysign(1, x) < 0 for x in before)
            assert all(math.copysign(1, x) < 0 for x in after) == wanted or any(before)


def _exact(value: float):
    from fractions import Fraction

    return Fraction(value)


numbers = st.one_of(
    st.lists(floats, min_size=2, max_size=2),
    st.tuples(st.integers(-(2**63), 2**63 - 1), floats).map(list),
    st.lists(st.integers(-100, 100), min_size=2, max_size=2),
    st.lists(st.booleans(), min_size=2, max_size=2),
    st.lists(st.complex_numbers(), min_size=2, max_size=2),
)


@given(st.lists(numbers, min_size=1, max_size=12), st.sampled_from(["sum", "mean", "min", "max"]))
def test_what_was_folded_is_reduced_to_the_same(rows: list[list[object]], op: str) -> None:
    try:
        packed = [scalars.PackedScalars.of([scalars.encode(op, x) for x in row]) for row in rows]
    except CollectiveError:
        return
    bodies = [one.body for one in packed]
    wanted = _reduced(packed[0], op, bodies, len(rows))
    half = len(rows) // 2
    parts = [part for part in (bodies[:half], bodies[half:]) if part]
    fewer = [body for part in parts for body in scalars.fold_packed(op, part, 2)]
    assert _reduced(packed[0], op, scalars.fold_packed(op, fewer, 2), len(rows)) == wanted


def _reduced(mine: scalars.PackedScalars, op: str, bodies: list[bytes], ranks: int) -> str:
    try:
        return repr(mine.results(scalars.reduce_packed(op, bodies, 2, ranks)))
    except CollectiveError as error:
        return re.sub(r" of .* (is|cannot)", r" \1", str(error))


def _channel() -> SocketChannel:
    channel = process_groups.members_of("test", None).cache["channel"]
    assert isinstance(channel, SocketChannel), channel
    return channel


def calls_on(hosts: int) -> bool:
    """All kinds of exchanges, on hosts that are as good as apart; whether a link goes across."""
    own = f"host {int(os.environ['RANK']) % hosts}"
    sockets.host_key = lambda: own  # type: ignore[assignment]
    with allranks.session(cpu=True) as world:
        n, me = world.world_size, world.rank
        total = sum(range(n))
        assert allranks.all_reduce(0.1 * me) == pytest.approx(0.1 * total)
        assert allranks.all_reduce(0.1) == math.fsum([0.1] * n)
        assert allranks.all_reduce({"n": me, "x": 1e100 * (-1) ** me}) == {
            "n": total,
            "x": 0.0 if n % 2 == 0 else 1e100,
        }
        mean = allranks.all_reduce({"t": torch.full((9,), float(me)), "x": -0.0}, average=True)
        assert mean["t"].tolist() == pytest.approx([total / n] * 9)
        assert math.copysign(1, mean["x"]) == -1
        assert allranks.all_gather_objects([me] * me) == [[rank] * rank for rank in range(n)]
        assert [t.tolist() for t in allranks.all_gather(torch.ones(me % 3))] == [
            [1.0] * (rank % 3) for rank in range(n)
        ]
        assert allranks.broadcast_object(me, n - 1) == n - 1
        assert allranks.agree(me == n - 1)
        assert not allranks.agree(me < n - 1, "all")
        long = allranks.all_gather_objects("x" * 3000 * (me == n - 1))
        assert long == [""] * (n - 1) + ["x" * 3000]
        with pytest.raises(MismatchError, match=f"rank {n - 1}: all_gather_objects"):
            allranks.all_gather_objects(1) if me == n - 1 else allranks.all_reduce(1.0)
        assert allranks.all_reduce(1) == n
        parent, children, _ = _channel()._links
        return not all(link.is_near for link in filter(None, [parent, *children]))


def _messages() -> int:
    """How many messages this rank sends and receives for one small exchange."""
    channel, count = _channel(), 0
    patiently = channel._patiently

    def counted(*arguments):
        nonlocal count
        count += 1
        return patiently(*arguments)

    channel._patiently = counted  # type: ignore[method-assign]
    allranks.agree(True)
    del channel._patiently
    return count


@pytest.mark.parametrize(("ranks", "hosts"), [(2, 2), (3, 2), (4, 4), (5, 3), (MANY, 1), (MANY, 3)])
def test_calls_on_one_host_and_on_several(ranks: int, hosts: int) -> None:
    across = allranks.launch(calls_on, (hosts,), ranks=ranks, timeout=PATIENCE)
    assert across == [hosts > 1 and rank < hosts for rank in range(ranks)]


def only_messages() -> int:
    with allranks.session(cpu=True):
        allranks.agree(True)
        return _messages()


def test_the_first_of_64_ranks_handles_16_messages() -> None:
    told = allranks.launch(only_messages, ranks=64, timeout=PATIENCE)
    assert max(told) <= 2 * WIDTH + 2
    assert told[0] == 2 * WIDTH


def ends(culprit: int, how: str) -> str:
    with allranks.session(cpu=True, timeout=timedelta(seconds=8), stall_after=3) as world:
        allranks.all_reduce(1)
        if world.rank == culprit:
            _end(how)
        allranks.all_reduce(1)
        return "went on"


def _end(how: str) -> None:
    if how == "raise":
        raise LookupError("no shard 7")
    if how == "late":
        time.sleep(14)
    else:
        os.kill(os.getpid(), getattr(signal, how))


@pytest.mark.parametrize("culprit", [0, INNER, MANY - 1])
@pytest.mark.parametrize(
    ("how", "said"),
    [("raise", "LookupError: no shard 7"), ("SIGKILL", "SIGKILL"), ("SIGINT", "KeyboardInterrupt")],
)
def test_whoever_ends_is_named_by_all(culprit: int, how: str, said: str) -> None:
    ended = run_ranks(ends, MANY, culprit, how)
    for one in (one for rank, one in enumerate(ended) if rank != culprit):
        assert isinstance(one.error, PeerFailedError), one
        assert one.error.rank == culprit, one
        assert said in one.text or "store" in one.text, one


@pytest.mark.parametrize("culprit", [INNER, MANY - 1])
def test_whoever_does_not_come_is_told_by_all(culprit: int) -> None:
    ended = run_ranks(ends, MANY, culprit, "late")
    for one in (one for rank, one in enumerate(ended) if rank != culprit):
        assert isinstance(one.error, (StalledError, PeerFailedError)), one
        assert f"Rank {culprit}: in no collective" in one.text, one
