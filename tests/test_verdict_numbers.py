"""A verdict counts what is the same on all ranks: collectives, and no messages between two."""

from __future__ import annotations

import os
import re
import time
from datetime import timedelta

import numpy as np
import pytest
import torch
import torch.distributed as dist

import allranks
from allranks import _alarm
from harness import Ranks, private_environs

DEADLINE = 90
LARGE = 200_000
"""Numbers of 8 bytes: an array that travels in messages of its own."""


def told_of(after, host_sockets: str) -> str:
    """The verdict that a rank hears of an all_reduce to which rank 3 comes late."""
    os.environ["ALLRANKS_PEER_MEMORY"] = "0"
    os.environ["ALLRANKS_HOST_SOCKETS"] = host_sockets
    timeout = timedelta(seconds=60)
    with allranks.session(cpu=True, timeout=timeout, stall_after=0.5) as world:
        after(world.rank)
        if world.rank == 3:
            late()
        allranks.all_reduce(torch.ones(3))
        return _alarm.on_duty.last_verdict


def late() -> None:
    end = time.monotonic() + DEADLINE / 2
    while not _alarm.on_duty.last_verdict and time.monotonic() < end:
        time.sleep(0.02)


def gathering_large_objects(_: int) -> None:
    for _ in range(5):
        allranks.gather_objects(np.zeros(LARGE))


def sending_messages_of_its_own(rank: int) -> None:
    """As pipelines do; gloo counts them, and nobody tells how many."""
    for _ in range(3):
        if rank == 0:
            dist.send(torch.ones(2), 1)
        if rank == 1:
            dist.recv(torch.ones(2), 0)
    allranks.all_reduce(torch.ones(1))


@pytest.mark.parametrize("host_sockets", ["1", "0"])
@pytest.mark.parametrize("after", [gathering_large_objects, sending_messages_of_its_own])
def test_messages_make_no_difference_between_ranks(after, host_sockets: str) -> None:
    with private_environs(4) as environs:
        ended = Ranks(told_of, environs, after, host_sockets).results(DEADLINE)
    (verdict,) = {one.value for one in ended}
    assert re.match(
        r"all_reduce #\d+ on WORLD has waited \d+ s\. Ranks 0-2: in all_reduce", verdict
    )
    assert re.search(r"Rank 3: in no collective, at test_verdict_numbers\.py:\d+ in late", verdict)
    assert "differ" not in verdict


def differing(host_sockets: str) -> str:
    os.environ["ALLRANKS_PEER_MEMORY"] = "0"
    os.environ["ALLRANKS_HOST_SOCKETS"] = host_sockets
    try:
        with allranks.session(cpu=True, timeout=timedelta(seconds=6), stall_after=0.5) as world:
            gathering_large_objects(world.rank)
            if world.rank == 1:
                dist.broadcast(torch.ones(2), 0)
            else:
                dist.all_reduce(torch.ones(3))
            time.sleep(5)
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("host_sockets", ["1", "0"])
def test_a_true_difference_is_found_after_messages_too(host_sockets: str) -> None:
    with private_environs(4) as environs:
        ended = Ranks(differing, environs, host_sockets).results(DEADLINE)
    told = " ".join(one.value for one in ended)
    found = r"first differ at #\d+: ranks 0, 2-3: all_reduce float32\[3\].*; rank 1: broadcast"
    assert re.search(found, told), told
