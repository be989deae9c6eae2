"""Ranks that were set up differently hear so before any collective, and who was set up how."""

from __future__ import annotations

import os

import pytest

import allranks
from harness import Ranks, private_environs


def checked(rank: int, how: str) -> int:
    settings = {"check": True} if how == "setting" and allranks.get_rank() == rank else {}
    if how in ("1", "lines") and allranks.get_rank() == rank:
        os.environ["ALLRANKS_CHECK"] = how
    allranks.setup(cpu=True, rendezvous_timeout=300, timeout=5, **settings)
    return allranks.all_reduce(1)


@pytest.mark.parametrize(
    ("how", "shown"), [("setting", "True"), ("1", "True"), ("lines", "'lines'")]
)
@pytest.mark.parametrize(("ranks", "rank", "others"), [(2, 0, "rank 1"), (4, 2, "ranks 0-1, 3")])
def test_a_check_on_some_ranks_only_is_named_on_all(ranks, rank, others, how, shown) -> None:
    with private_environs(ranks) as environs:
        ended = Ranks(checked, environs, rank, how).results()
    for one in ended:
        assert one.text.startswith("RendezvousError: the ranks were set up differently: "), one.text
        assert f"check={shown} on rank {rank}" in one.text
        assert f"check=None on {others}" in one.text


def backends(by_rank: list[str | None]) -> int:
    backend = by_rank[allranks.get_rank()]
    allranks.setup(cpu=True, rendezvous_timeout=300, distributed_backend=backend)
    return allranks.all_reduce(1)


def test_two_backends_are_named() -> None:
    with private_environs(2) as environs:
        ended = Ranks(backends, environs, ["gloo", "cpu:gloo,cuda:gloo"]).results()
    for one in ended:
        assert "distributed_backend='gloo' on rank 0 and " in one.text
        assert "distributed_backend='cpu:gloo,cuda:gloo' on rank 1" in one.text


def test_what_comes_to_the_same_is_no_difference() -> None:
    with private_environs(2) as environs:
        ended = Ranks(backends, environs, ["gloo", None]).results()
    assert [one.value for one in ended] == [2, 2]


def differently_timed() -> int:
    rank = allranks.get_rank()
    os.environ["ALLRANKS_PEER_MEMORY"] = os.environ["ALLRANKS_HOST_SOCKETS"] = str(rank)
    allranks.setup(cpu=True, timeout=5 + rank, stall_after=10 + rank, rendezvous_timeout=60 + rank)
    return allranks.all_reduce(1)


def test_what_does_no_harm_may_differ() -> None:
    with private_environs(2) as environs:
        ended = Ranks(differently_timed, environs).results()
    assert [one.value for one in ended] == [2, 2]
