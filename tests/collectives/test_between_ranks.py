"""To one rank, from one to another, from each to each."""

from __future__ import annotations

import os
import re
import sys
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import allranks
from allranks.errors import CollectiveError, MismatchError, PeerFailedError, StalledError
from harness import PATIENCE

SIZES = [1, 40_000]


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("size", SIZES)
def test_reduce_gives_one_rank_what_all_reduce_gives_all(world, size: int) -> None:
    last, count = world.world_size - 1, world.world_size
    total = sum(range(count))
    for dst in {0, last}:
        mine = world.rank == dst
        tensor = torch.full((size,), float(world.rank))
        assert allranks.reduce(tensor, dst) is (tensor if mine else None)
        assert tensor.tolist() == [float(total if mine else world.rank)] * size
        tree = {"a": world.rank, "b": [torch.ones(size), np.full(2, world.rank)]}
        reduced = allranks.reduce(tree, dst, average=True)
        if mine:
            assert reduced["a"] == total / count
            assert reduced["b"][0].tolist() == [1.0] * size
            assert reduced["b"][1].tolist() == [total / count] * 2
        else:
            assert reduced is None
        assert allranks.reduce(world.rank, dst, op="max") == (last if mine else None)


@pytest.mark.ranks(4)
def test_a_group_without_rank_0(world) -> None:
    group = allranks.split(world.rank > 0)
    dst = 2 if world.rank else 0
    members = [1, 2, 3] if world.rank else [0]
    mine = world.rank == dst
    assert allranks.reduce(world.rank, dst, group) == (sum(members) if mine else None)
    assert allranks.gather(world.rank, dst, group) == (members if mine else None)
    assert allranks.gather_objects(world.rank, group, dst=dst) == (members if mine else None)
    made = allranks.all_to_all([f"{world.rank}-{rank}" for rank in members], group)
    assert made == [f"{rank}-{world.rank}" for rank in members]
    if world.rank == 1:
        allranks.send("one", 3, group=group)
    if world.rank == 3:
        assert allranks.recv(1, group=group) == "one"
    with pytest.raises(CollectiveError, match="dst=9 is not in this group"):
        allranks.gather(1, 9, group)


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("size", SIZES)
def test_ragged_tensors_are_gathered_on_one_rank(world, size: int) -> None:
    dst = world.world_size - 1
    tensor = torch.full((world.rank * size, 3), world.rank, dtype=torch.bfloat16)
    made = allranks.gather(tensor, dst)
    if world.rank != dst:
        assert made is None
        return
    assert [one.shape[0] for one in made] == [rank * size for rank in range(world.world_size)]
    assert all((one == rank).all() for rank, one in enumerate(made))
    assert made[-1] is not tensor
    assert made[-1].data_ptr() != tensor.data_ptr() or not tensor.numel()


@pytest.mark.ranks(1, 3)
def test_any_data_are_gathered_on_one_rank(world) -> None:
    data = {"rank": world.rank, "tensor": torch.ones(world.rank)}
    for made in (allranks.gather(data), allranks.gather_objects(data, dst=0)):
        if world.rank:
            assert made is None
        else:
            assert [one["rank"] for one in made] == list(range(world.world_size))
            assert made[0] is data


WRONG_ON_ONE = {
    "reduce: no number": lambda last: allranks.reduce("x" if last else 1, 0),
    "reduce: a graph": lambda last: allranks.reduce(
        torch.ones(1, requires_grad=True) * 2 if last else torch.ones(1)
    ),
    "reduce: no such rank": lambda last: allranks.reduce(1, 7 if last else 0),
    "reduce: no such op": lambda last: allranks.reduce(1, op="xor" if last else "sum"),
    "gather: a lambda": lambda last: allranks.gather((lambda: 1) if last else 1),
    "gather: sparse": lambda last: allranks.gather(
        torch.eye(2).to_sparse() if last else torch.eye(2)
    ),
    "gather: no such rank": lambda last: allranks.gather(1, "x" if last else 0),
    "gather_objects: no such rank": lambda last: allranks.gather_objects(1, dst=-1 if last else 0),
    "all_to_all: too few": lambda last: allranks.all_to_all([1] if last else [1, 2, 3]),
    "all_to_all: no list": lambda last: allranks.all_to_all(5 if last else [1, 2, 3]),
    "all_to_all: a lambda": lambda last: allranks.all_to_all([1, (lambda: 1) if last else 2, 3]),
    "all_to_all: mixed": lambda last: allranks.all_to_all(
        [torch.ones(1), 1 if last else torch.ones(1), torch.ones(1)]
    ),
    "all_to_all: dtypes": lambda last: allranks.all_to_all(
        [torch.ones(1), torch.ones(1).int() if last else torch.ones(1), torch.ones(1)]
    ),
    "all_to_all: a graph": lambda last: allranks.all_to_all(
        torch.ones(3, requires_grad=True) * 2 if last else torch.ones(3)
    ),
    "all_to_all: objects with cat": lambda last: allranks.all_to_all([1, 2, last], cat=True),
}


@pytest.mark.ranks(3)
@pytest.mark.parametrize("call", WRONG_ON_ONE)
def test_one_wrong_rank_is_every_ranks_error(world, call: str) -> None:
    told = []
    try:
        WRONG_ON_ONE[call](world.rank == 2)
    except CollectiveError as error:
        told.append(str(error))
    everywhere = allranks.all_gather_objects(told)
    assert len(everywhere[0]) == 1, everywhere
    assert everywhere == [everywhere[0]] * 3


@pytest.mark.ranks(3)
def test_calls_that_do_not_fit(world) -> None:
    last = world.rank == 2
    for call in (
        lambda: allranks.reduce(torch.ones(2 if last else 3)),
        lambda: allranks.reduce(1, 1 if last else 0),
        lambda: allranks.reduce(1) if last else allranks.all_reduce(1),
        lambda: allranks.gather(torch.ones(1, 1) if last else torch.ones(1)),
        lambda: allranks.gather(1, 1 if last else 0),
        lambda: allranks.all_to_all(torch.ones(3).int() if last else torch.ones(3)),
        lambda: allranks.all_to_all([torch.ones(1, 2 if last else 3)] * 3, cat=True),
        lambda: allranks.all_to_all([1, 2, 3]) if last else allranks.synchronize(),
    ):
        with pytest.raises(MismatchError):
            call()
    assert allranks.all_reduce(1) == 3


@pytest.mark.ranks(1, 2, 3, 4)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_each_part_comes_to_its_rank(data) -> None:
    """Of any size, none too, small and large."""
    rank, count = allranks.get_dist_info()
    dtype = data.draw(st.sampled_from([torch.float32, torch.int8, torch.bfloat16, torch.bool]))
    rows = data.draw(
        st.lists(st.sampled_from([0, 1, 2, 700, 90_000]), min_size=count**2, max_size=count**2)
    )

    def part(sender: int, receiver: int) -> torch.Tensor:
        size = rows[sender * count + receiver]
        return torch.full((size, 2), sender + 2 * receiver).to(dtype)

    made = allranks.all_to_all([part(rank, other) for other in range(count)])
    expected = [part(other, rank) for other in range(count)]
    assert all(torch.equal(*pair) for pair in zip(made, expected, strict=True))
    joined = allranks.all_to_all([part(rank, other) for other in range(count)], cat=True)
    assert torch.equal(joined, torch.cat(expected))


@pytest.mark.ranks(1, 2, 3)
def test_one_tensor_is_split(world) -> None:
    count = world.world_size
    rows = torch.arange(count * 2 + 1) + 100 * world.rank
    made = allranks.all_to_all(rows, cat=True)
    theirs = [torch.arange(count * 2 + 1) + 100 * rank for rank in range(count)]
    assert torch.equal(made, torch.cat([one.tensor_split(count)[world.rank] for one in theirs]))
    assert torch.equal(rows, theirs[world.rank])
    scalars = allranks.all_to_all([torch.tensor(world.rank)] * count, cat=True)
    assert scalars.tolist() == list(range(count))


@pytest.mark.ranks(1, 3)
@pytest.mark.parametrize("size", [10, 300_000])
def test_objects_of_any_size(world, size: int) -> None:
    mine = [{"to": rank, "x": np.full(size, world.rank)} for rank in range(world.world_size)]
    made = allranks.all_to_all(mine)
    assert [one["to"] for one in made] == [world.rank] * world.world_size
    assert all((one["x"] == rank).all() for rank, one in enumerate(made))
    assert made[world.rank] is mine[world.rank]


MESSAGES = [
    7,
    "text" * 1000,
    {"a": torch.arange(5), "b": [np.ones((300, 300)), None]},
    torch.full((1000, 300), 2.5),
    torch.ones(3, 2).t(),
    torch.tensor(True),
    b"",
]


@pytest.mark.ranks(2)
def test_messages_arrive_whole_and_in_order(world) -> None:
    other = 1 - world.rank
    for turn in (0, 1):
        for message in MESSAGES:
            if world.rank == turn:
                allranks.send(message, other)
            else:
                made = allranks.recv(other)
                torch.testing.assert_close(made, message) if torch.is_tensor(message) else None
                assert type(made) is type(message)
                assert not isinstance(message, (int, str, bytes)) or made == message
    assert allranks.all_reduce(1) == 2


@pytest.mark.ranks(3)
def test_messages_go_beside_collectives(world) -> None:
    """With tags of their own, while other ranks are in a collective already."""
    if world.rank == 0:
        allranks.send("first", 1, tag=1)
        allranks.send("second", 1, tag=2)
    if world.rank == 1:
        assert allranks.recv(0, tag=1) == "first"
        assert allranks.recv(0, tag=2) == "second"
    assert allranks.all_reduce(torch.ones(1)).item() == 3


def waiting_in_vain() -> str:
    with allranks.session(cpu=True, stall_after=0.5) as world:
        if world.rank == 1:
            time.sleep(5)
            return ""
        began = time.monotonic()
        with pytest.raises(StalledError) as caught:
            allranks.recv(1, timeout=2.5)
        assert time.monotonic() - began < PATIENCE / 2
        return str(caught.value)


def test_the_peer_that_sends_nothing_is_named() -> None:
    told = allranks.launch(waiting_in_vain, ranks=2, timeout=PATIENCE)[0]
    assert told.startswith("recv from rank 1 did not complete within 2.5 s; "), told
    assert "Rank 1: in no collective, at test_between_ranks.py:" in told


def losing_the_peer() -> str:
    with allranks.session(cpu=True) as world:
        allranks.all_reduce(1)
        if world.rank == 1:
            os._exit(5)
        with pytest.raises(PeerFailedError) as caught:
            allranks.recv(1)
        raise caught.value


def test_the_peer_that_dies_is_named() -> None:
    with pytest.raises(allranks.errors.RankFailedError, match="rank 1") as caught:
        allranks.launch(losing_the_peer, ranks=2, timeout=PATIENCE)
    (others,) = caught.value.__cause__.exceptions
    assert re.match(r"rank 1 \(pid \d+ on .*\) left with exit code 5", str(others))


def sending_to_one_that_is_gone() -> None:
    with allranks.session(cpu=True) as world:
        allranks.send(1, 0) if world.rank else allranks.recv(1)
        if world.rank == 1:
            os._exit(5)
        isend = dist.isend

        def late(*arguments: object, **more: object) -> object:
            time.sleep(1)  # gloo has noticed by now, and refuses the message at once.
            return isend(*arguments, **more)

        dist.isend = late
        try:
            allranks.send(1, 1)
        except PeerFailedError as error:
            raise ValueError("caught") from error


def test_a_peer_that_has_died_before_is_named() -> None:
    with pytest.raises(allranks.errors.RankFailedError, match="rank 1") as caught:
        allranks.launch(sending_to_one_that_is_gone, ranks=2, timeout=PATIENCE)
    (others,) = caught.value.__cause__.exceptions
    # At its end a rank's error of torch's is explained in any case.
    assert str(others) == "caught"
    assert re.match(r"rank 1 \(pid \d+ on .*\) left with exit code 5", str(others.__cause__))


def waiting_beside_one_that_left() -> int:
    with allranks.session(cpu=True) as world:
        allranks.all_reduce(1)
        if world.rank == 2:
            return -1
        if world.rank == 1:
            time.sleep(1)
            sys.exit(0)
        with pytest.raises(PeerFailedError) as caught:
            allranks.recv(1)
        raise caught.value


def test_one_that_left_in_order_is_not_to_blame_for_a_message() -> None:
    with pytest.raises(allranks.errors.RankFailedError, match="rank 1") as caught:
        allranks.launch(waiting_beside_one_that_left, ranks=3, timeout=PATIENCE)
    (others,) = caught.value.__cause__.exceptions
    assert re.match(r"rank 1 \(pid \d+ on .*\) has left: its program ended", str(others))


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (lambda me: allranks.send(1, me), "is this rank, which has no other end"),
        (lambda me: allranks.recv(7 + me), "src=[78] is not in this group"),
        (lambda me: allranks.send(1, 1 - me, tag=-1), "tag=-1 is no number from 0"),
        (lambda me: allranks.recv(1 - me, timeout=0), "timeout=0 is no number of seconds"),
        (lambda me: allranks.recv(1 - me, timeout="1"), "timeout='1' is no number of seconds"),
        (
            lambda me: allranks.send(lambda: 1, 1 - me),
            r"send to rank \d: a function cannot be pick",
        ),
    ],
)
def test_what_cannot_be_sent_so(world, wrong, told) -> None:
    with pytest.raises(CollectiveError, match=told):
        wrong(world.rank)
    assert allranks.all_reduce(1) == 2


def test_alone_there_is_no_other_end() -> None:
    with pytest.raises(CollectiveError, match="no other end"):
        allranks.send(1, 0)
    with pytest.raises(CollectiveError, match="no other end"):
        allranks.recv(0, timeout=timedelta(seconds=1))
