"""How gloo connects a group: by its size, and unless the user has said something else."""

from __future__ import annotations

import contextlib
import os

import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._process_group import environment, init_group
from allranks._process_group.init_group import GLOO_BATCHES, GLOO_LAZY
from allranks._rendezvous.record import HostLayout
from harness import Ranks, env_environs, free_port, private_environs

SAID = (GLOO_LAZY, *GLOO_BATCHES)


def said() -> dict[str, str]:
    return {name: os.environ[name] for name in SAID if name in os.environ}


ON = dict.fromkeys(GLOO_BATCHES, "1")


@pytest.mark.parametrize(
    ("ranks", "users", "expected"),
    [
        (31, {}, {}),
        (32, {}, ON),
        (127, {}, ON),
        (128, {}, {GLOO_LAZY: "1"}),
        (128, {GLOO_LAZY: "0"}, {GLOO_LAZY: "0", **ON}),
        (32, {GLOO_BATCHES[0]: "0"}, {**ON, GLOO_BATCHES[0]: "0"}),
    ],
)
def test_the_size_decides_unless_the_user_has(ranks, users, expected, monkeypatch) -> None:
    for name in SAID:
        monkeypatch.delenv(name, raising=False)
    for name, value in users.items():
        monkeypatch.setenv(name, value)
    chosen: dict[str, str] = {}
    monkeypatch.setattr(environment, "put", chosen.__setitem__)
    monkeypatch.setenv(init_group.GLOO_INTERFACE, "lo")
    init_group.prepare_gloo(HostLayout(0, ranks, 0, 1), ranks)
    assert {**users, **chosen} == expected


def use(pairs: str) -> tuple[dict[str, str], dict[str, str]]:
    """Groups of several sizes, twice in one process; what was said in the group and after it."""
    setattr(init_group, pairs, 2)
    for _ in range(2):
        allranks.setup(cpu=True)
        within, size, rank = said(), allranks.get_world_size(), allranks.get_rank()
        tensor = torch.ones(5000)
        dist.all_reduce(tensor)
        assert tensor[0] == size
        half = allranks.split(rank % 2)
        assert allranks.all_reduce(1, half) == 2
        ends = dist.new_group([0, size - 1])
        if rank in (0, size - 1):
            assert allranks.all_gather(rank, ends) == [0, size - 1]
        allranks.synchronize()
        allranks.cleanup()
    return within, said()


@contextlib.contextmanager
def at_a_port(ranks: int):
    yield env_environs(ranks, free_port())


@pytest.mark.parametrize("meeting", [private_environs, at_a_port])
@pytest.mark.parametrize(
    ("pairs", "expected"), [("BATCHED_PAIRS", ON), ("LAZY_PAIRS", {GLOO_LAZY: "1"})]
)
def test_groups_of_any_size_again_and_again(meeting, pairs: str, expected) -> None:
    with meeting(4) as environs:
        ended = Ranks(use, environs, pairs).results()
    assert [one.value for one in ended] == [(expected, {})] * 4, [one.text for one in ended]
