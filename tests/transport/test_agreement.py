"""Ranks that do not make the same call: one verdict on all of them, and the group works on."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._transport import group_operations
from allranks.errors import CollectiveError, MismatchError, StalledError
from expectations import everyone_works_on, refusal


def what_ranks_do_differently(odd, call, other):
    """The error when the odd rank makes another call than the rest; None where there is none."""
    if allranks.get_rank() == odd:
        call = other
    try:
        call()
    except CollectiveError as error:
        told = (type(error), str(error))
    else:
        told = None
    everyone_works_on()
    return told


def tree(**leaves):
    return lambda: allranks.all_reduce(leaves)


def gather(value):
    return lambda: allranks.all_gather(value)


MISMATCHES = {
    "all_gather and gather_objects": (gather(1), lambda: allranks.gather_objects(1)),
    "all_gather and all_reduce": (gather(1), lambda: allranks.all_reduce(1)),
    "all_gather and all_gather_objects": (gather(1), lambda: allranks.all_gather_objects(1)),
    "a tensor and a number": (gather(torch.ones(2)), gather(1)),
    "dtypes": (gather(torch.ones(2)), gather(torch.arange(2))),
    "dimensions": (gather(torch.ones(2)), gather(torch.ones(2, 1))),
    "synchronize and all_gather": (allranks.synchronize, gather(1)),
    "keys": (tree(a=1, b=2), tree(a=1, c=2)),
    "one key more": (tree(a=1), tree(a=1, b=2)),
    "shapes in a tree": (tree(a=torch.ones(2)), tree(a=torch.ones(3))),
    "transposed shapes": (tree(a=torch.ones(2, 3)), tree(a=torch.ones(3, 2))),
    "dtypes in a tree": (tree(a=torch.ones(2)), tree(a=torch.ones(2).double())),
    "a tensor and an array": (tree(a=torch.ones(2)), tree(a=np.ones(2, dtype=np.float32))),
    "a number and an array": (tree(a=1.0), tree(a=np.array(1.0))),
    "integer and float arrays": (tree(a=np.ones(2)), tree(a=np.ones(2, dtype=int))),
    "averages of them": (
        lambda: allranks.all_reduce(np.ones(2), average=True),
        lambda: allranks.all_reduce(np.ones(2, dtype=int), average=True),
    ),
    "list and tuple": (tree(a=[1]), tree(a=(1,))),
    "lengths": (tree(a=[1]), tree(a=[1, 1])),
    "operations": (tree(a=1), lambda: allranks.all_reduce({"a": 1}, op="max")),
    "average": (tree(a=1), lambda: allranks.all_reduce({"a": 1}, average=True)),
    "large trees": (tree(a=[1] * 1000, b=1), tree(a=[1] * 1000, c=1)),
    "a large and a small tree": (tree(a=[1] * 1000), tree(a=1)),
    "all_gather and a large tree": (tree(a=[1] * 1000), gather(1)),
    "senders": (
        lambda: allranks.broadcast_object(1, 0),
        lambda: allranks.broadcast_object(1, 1),
    ),
    "lengths of object lists": (
        lambda: allranks.broadcast_object_list([1], 0),
        lambda: allranks.broadcast_object_list([1, 2], 0),
    ),
    "an object and a list of one": (
        lambda: allranks.broadcast_object(1, 0),
        lambda: allranks.broadcast_object_list([1], 0),
    ),
}


def all_mismatches(odd):
    return {
        name: what_ranks_do_differently(odd, *calls) for name, calls in sorted(MISMATCHES.items())
    }


@pytest.mark.parametrize(
    ("odd", "ranks"),
    [
        pytest.param(1, "rank 0", marks=pytest.mark.ranks(2, setup=False)),
        pytest.param(2, "ranks 0-1, 3", marks=pytest.mark.ranks(4, setup=False)),
    ],
)
def test_different_calls_are_one_error_on_every_rank(odd, ranks, unchecked):
    """It is the same on all, and names who did what."""
    results = allranks.all_gather_objects(all_mismatches(odd))
    assert all(result == results[0] for result in results)
    for name, told in results[0].items():
        assert told, name
        kind, text = told
        assert kind is MismatchError, name
        assert text.startswith("the ranks made different calls: ")
        assert f"{ranks}: " in text, name
        assert f"; rank {odd}: " in text, name
        assert len(text) < 800, name
    assert results[0]["shapes in a tree"][1] == (
        "the ranks made different calls: "
        f"{ranks}: all_reduce(sum) of dict('a': tensor torch.float32[2]); "
        f"rank {odd}: all_reduce(sum) of dict('a': tensor torch.float32[3]). "
        "Every rank of the group must make the same call, with data that fit together."
    )
    assert "'b': number" in results[0]["large trees"][1]


def overflow():
    return allranks.all_reduce(2**63)


def typed_overflow():
    return allranks.all_reduce(np.int8(100) if allranks.get_rank() else 100)


def unknown_device():
    return allranks.all_gather(torch.ones(2), device="meta" if allranks.get_rank() == 1 else None)


LOCAL_ERRORS = {
    "a string": (tree(a=1), tree(a="text"), "data['a']: 'text' (str) is neither"),
    "a bad operation": (
        tree(a=1),
        lambda: allranks.all_reduce({"a": 1}, op="xor"),
        "op=xor is none of",
    ),
    "an integer mean": (
        lambda: allranks.all_reduce([torch.ones(1)], average=True),
        lambda: allranks.all_reduce([torch.ones(1).int()], average=True),
        "data[0]: a tensor of torch.int32 cannot hold the mean",
    ),
    "a sparse tensor": (
        gather(torch.ones(2, 2)),
        lambda: allranks.all_gather(torch.eye(2).to_sparse()),
        "a tensor of layout torch.sparse_coo; pass tensor.to_dense()",
    ),
    "a device that holds no data": (unknown_device, unknown_device, "holds no data"),
    "an unknown device": (
        gather(torch.ones(2)),
        lambda: allranks.all_gather(torch.ones(2), device="nowhere"),
        "nowhere",
    ),
    "a sender outside": (
        lambda: allranks.broadcast_object(1, 0),
        lambda: allranks.broadcast_object(1, 7),
        "src=7 is not in this group",
    ),
    "no list": (
        lambda: allranks.broadcast_object_list([1], 1),
        lambda: allranks.broadcast_object_list((1,), 1),
        "(1,) is no list",
    ),
    "what cannot be pickled": (gather(1), gather(lambda: 1), "its function cannot be pickled"),
}


def all_local_errors():
    results = {
        name: what_ranks_do_differently(1, call, other)
        for name, (call, other, _) in sorted(LOCAL_ERRORS.items())
    }
    results["overflow"] = what_ranks_do_differently(1, overflow, overflow)
    results["typed overflow"] = what_ranks_do_differently(1, typed_overflow, typed_overflow)
    return results


@pytest.mark.ranks(2, 3, setup=False)
def test_one_ranks_error_is_every_ranks_error(unchecked):
    """Not a mismatch, although the others made another call; and it names the rank."""
    results = allranks.all_gather_objects(all_local_errors())
    assert all(result == results[0] for result in results)
    for name, (kind, text) in results[0].items():
        assert kind is CollectiveError, name
        if name in LOCAL_ERRORS:
            assert text.startswith("rank 1: "), name
            assert LOCAL_ERRORS[name][2] in text, name
    assert results[0]["overflow"][1].startswith(f"the sum of {2**63}, {2**63}")
    assert results[0]["typed overflow"][1].endswith("does not fit in int8; pass floats")


@pytest.mark.ranks(2, setup=False)
def test_a_stalled_call_is_named(unchecked):
    """A rank that does not come: by our clock, by gloo's, and point to point."""
    group = dist.new_group(timeout=timedelta(seconds=2))
    others = [dist.new_group(timeout=timedelta(seconds=2)) for _ in range(2)]
    told = []
    if allranks.get_rank() == 0:
        told.append(refusal(StalledError, allranks.all_reduce, {"a": 1}, group))
        tensor = torch.ones(1)
        work = dist.all_reduce(tensor, group=others[0], async_op=True)
        time.sleep(2.5)
        told.append(
            refusal(
                StalledError, group_operations.wait_for_collective, others[0], work, tensor, "this"
            )
        )
        told.append(
            refusal(
                StalledError,
                group_operations.send_and_receive,
                others[1],
                [],
                [(tensor, 1)],
                "that",
            )
        )
    allranks.synchronize()
    calls = ["all_reduce(sum) of dict('a': number)", "this", "that"]
    assert [text.partition(";")[0] for text in told] == [
        f"{call} did not complete within 2 s" for call in calls[: len(told)]
    ]
    assert len(told) == (0 if allranks.get_rank() else 3)


@pytest.mark.ranks(2, setup=False)
def test_a_stalled_group_is_given_up(unchecked):
    """The next call says so, where it would take what is left of the last one for its own."""
    group = dist.new_group(timeout=timedelta(seconds=1))
    if allranks.get_rank() == 0:
        for call in (lambda: allranks.all_reduce(1, group), lambda: allranks.all_gather(1, group)):
            with pytest.raises(CollectiveError) as caught:
                call()
        told = str(caught.value)
        assert type(caught.value) is CollectiveError
        assert told.startswith("all_gather of objects: this group is no longer usable, since ")
        assert "all_reduce(sum) of number did not complete within 1 s" in told
    everyone_works_on()


CALLS = {
    "number": lambda group: allranks.all_reduce(1, group),
    "tensor": lambda group: allranks.all_reduce(torch.ones(3), group),
    "gather": lambda group: allranks.all_gather(torch.ones(3), group),
    "objects": lambda group: allranks.gather_objects(3, group),
    "broadcast": lambda group: allranks.broadcast(torch.ones(3), 1, group),
    "synchronize": lambda group: allranks.synchronize(group=group),
}


@pytest.mark.ranks(3, setup=False)
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_control_c_works_in_every_call_and_gives_the_group_up(call, unchecked):
    """Rank 1 never comes."""
    group = dist.new_group()
    if allranks.get_rank() != 1:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        began = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            call(group)
        assert time.monotonic() - began < 25  # The timeout is 30 s.
        with pytest.raises(CollectiveError, match=r"no longer usable, since .* ended early"):
            call(group)
    everyone_works_on()
