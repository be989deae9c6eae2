"""A rank of ``scale_real.py``: each part tells when what happened, on the clock of the host."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

import allranks
from allranks import errors
from allranks._transport import process_groups
from allranks._transport.socket_channel import SocketChannel
from allranks._watch import store_client
from counting_store import CountingStore
from forked_ranks import sockets

if TYPE_CHECKING:
    from collections.abc import Callable

TURNS = 10
"""How often each call is made."""

QUIET = 10.0
"""Seconds in which a quiet rank's operations are counted."""

SETTLED = 5.0
"""Seconds after which the watches know each other."""

PATIENCE = timedelta(minutes=5)

INLINE = 64 * 1024
"""Bytes that a rank may tell with its header."""


def steady() -> dict[str, Any]:
    """Up, some calls of each kind, a quiet time, and down."""
    told: dict[str, Any] = {"began": time.time()}
    stores = _count_the_watch()
    torch.set_num_threads(1)
    with allranks.session(cpu=True, timeout=PATIENCE, stall_after=120) as world:
        told |= {"up": time.time(), "wrong": "", "calls": {}}
        for name, call, expected in _calls(world.rank, world.world_size):
            told["calls"][name] = times = []
            for _ in range(TURNS):
                dist.barrier()
                began = time.perf_counter()
                found = call()
                times.append(time.perf_counter() - began)
                if found != expected:
                    told["wrong"] = f"{name}: {found!r}, not {expected!r}"
        told["messages"] = _messages()
        time.sleep(SETTLED)
        dist.barrier()
        before = sum(one.operations for one in stores)
        time.sleep(QUIET)
        told["quiet"] = sum(one.operations for one in stores) - before
        told["sockets"] = sockets()
        dist.barrier()
        told["quiet until"] = time.time()
    return {**told, "down": time.time()}


def _calls(rank: int, size: int) -> tuple[tuple[str, Callable[[], Any], Any], ...]:
    """What is called, and what it returns: torch's own calls stand beside ours."""
    one, floats, flat = torch.zeros(1), torch.zeros(200), torch.zeros(INLINE // 4)
    large = {f"t{i}": torch.zeros(INLINE // 4 // 16) for i in range(16)}
    tree = {f"metric/{i}": float(i) for i in range(200)}
    summed = {name: value * size for name, value in tree.items()}
    own = torch.full((1 + rank % 2,), rank)
    everybody = [[of] * (1 + of % 2) for of in range(size)]
    return (
        ("agree", lambda: allranks.agree(bool(size)), True),
        ("torch, 1 float", lambda: dist.all_reduce(one), None),
        ("a number", lambda: allranks.all_reduce(1), size),
        ("dict of 200", lambda: allranks.all_reduce(tree), summed),
        ("torch, 200 floats", lambda: dist.all_reduce(floats), None),
        ("64 KiB", lambda: len(allranks.all_reduce(large)), len(large)),
        ("torch, 64 KiB", lambda: dist.all_reduce(flat), None),
        ("broadcast_object", lambda: allranks.broadcast_object(("epoch", 7)), ("epoch", 7)),
        ("all_gather_objects", lambda: allranks.all_gather_objects(rank), list(range(size))),
        ("all_gather, ragged", lambda: [of.tolist() for of in allranks.all_gather(own)], everybody),
        ("synchronize", allranks.synchronize, None),
    )


def _messages() -> int:
    """How many messages this rank sends and receives for one small exchange."""
    channel, count = process_groups.members_of("scale", None).cache["channel"], 0
    if not isinstance(channel, SocketChannel):
        raise TypeError(f"the headers go over {channel}")
    patiently = channel._patiently  # noqa: SLF001 - each message passes it

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        return patiently(*arguments)

    vars(channel)["_patiently"] = counted
    allranks.all_reduce(1)
    del vars(channel)["_patiently"]
    return count


def _count_the_watch() -> list[CountingStore]:
    """The stores that the watch asks, as soon as it has them."""
    stores: list[CountingStore] = []
    asked = store_client.StoreClient.__init__

    def counting(self: Any, store: Any, wake: Any = None) -> None:
        stores.append(CountingStore(store))
        asked(self, stores[-1], wake)  # type: ignore[arg-type]

    store_client.StoreClient.__init__ = counting  # type: ignore[method-assign]
    return stores


def failing() -> dict[str, Any]:
    """The last rank raises, while the others wait for it."""
    told: dict[str, Any] = {"wrong": "no error"}
    try:
        with allranks.session(cpu=True, timeout=PATIENCE, stall_after=120) as world:
            culprit = world.world_size - 1
            for _ in range(TURNS):
                allranks.all_reduce(1)
            if world.rank == culprit:
                told["raised"] = time.time()
                [].pop()
            _hear(told)
    except errors.PeerFailedError as error:
        right = error.rank == culprit and "pop from empty list" in str(error)
        told["wrong"] = "" if right else str(error)
    except IndexError:
        told["wrong"] = ""
    return told


def _hear(told: dict[str, Any]) -> None:
    """Wait in a call, and keep when it raised."""
    try:
        allranks.all_reduce(1)
    finally:
        told["heard"] = time.time()


def stalling() -> dict[str, Any]:
    """The last rank does not come; after the timeout, all say that it is the one."""
    told: dict[str, Any] = {"wrong": "no error"}
    limit = timedelta(seconds=30)
    try:
        with allranks.session(cpu=True, timeout=limit, stall_after=3) as world:
            culprit = world.world_size - 1
            allranks.all_reduce(1)
            if world.rank == culprit:
                time.sleep(limit.total_seconds() + 5)
                return {"wrong": ""}
            allranks.all_reduce(1)
    except (errors.StalledError, errors.PeerFailedError) as error:
        right = f"rank {culprit}" in str(error).lower()
        told["wrong"] = "" if right else str(error)
    return told


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "steady": steady,
    "failing": failing,
    "stalling": stalling,
}
