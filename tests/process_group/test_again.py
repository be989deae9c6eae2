"""A session after another one, whatever of the first is left, and after a set-up that failed."""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

import allranks
from allranks._process_group import bring_up
from allranks.errors import RendezvousError
from harness import PATIENCE, Ranks, env_environs, free_port, private_environs


@contextlib.contextmanager
def at_a_port(ranks: int):
    yield env_environs(ranks, free_port())


@contextlib.contextmanager
def in_a_shared_directory(ranks: int):
    with tempfile.TemporaryDirectory() as directory:
        yield env_environs(ranks, free_port(), SHARED=directory)


@contextlib.contextmanager
def under_torchrun(ranks: int):
    agent = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    run = {"TORCHELASTIC_RUN_ID": "j", "TORCHELASTIC_USE_AGENT_STORE": "True"}
    here = {"LOCAL_WORLD_SIZE": str(ranks), "GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"}
    yield env_environs(ranks, agent.port, **run, **here)


WAYS = {
    "file": private_environs,
    "port": at_a_port,
    "directory": in_a_shared_directory,
    "agent": under_torchrun,
}
"""In a file of their parent's, in a store of rank 0's, whose port is given or posted, and in that
of torchrun's agent."""


def where() -> dict[str, str]:
    """The settings that go with the environment."""
    shared = os.environ.get("SHARED")
    return {"init_method": "file", "shared_file_dir": shared} if shared else {}


@pytest.fixture(params=WAYS)
def two_environs(request):
    with WAYS[request.param](2) as environs:
        yield environs


def keeping_what_is_left() -> list[int]:
    """The process groups of each session outlive it, in what the program keeps of them."""
    kept, sums = [], []
    for _ in range(3):
        with allranks.session(cpu=True, rendezvous_timeout=PATIENCE, **where()):
            model = DistributedDataParallel(torch.nn.Linear(2, 1))
            model(torch.ones(1, 2)).sum().backward()
            kept += [model, allranks.split(0), dist.group.WORLD]
            sums.append(allranks.all_reduce(1))
    return sums


def failing_twice() -> list[str]:
    """What a rank hears of two set-ups that fail, and of the third, which does not."""
    record, kept = bring_up.own_record, []
    for attempt in range(3):
        if allranks.get_rank() == 1:
            why = f"no device at attempt {attempt}" if attempt < 2 else None
            bring_up.own_record = lambda *given, why=why: replace(record(*given), error=why)
        try:
            allranks.setup(cpu=True, rendezvous_timeout=PATIENCE, **where())
        except RendezvousError as error:
            kept.append(error)  # And with it all that its frames hold.
    told = [str(error).partition("take part: ")[2] for error in kept]
    return [*told, str(allranks.all_reduce(1))]


def ended_well(function, environs) -> list[object]:
    ended = Ranks(function, environs).results()
    assert [one.error for one in ended] == [None] * len(ended), ended[0].error.__notes__
    return [one.value for one in ended]


def test_a_group_that_outlives_its_session_does_not_hold_the_next_one_up(two_environs) -> None:
    assert ended_well(keeping_what_is_left, two_environs) == [[2, 2, 2]] * 2


def test_a_set_up_that_failed_may_be_tried_again(two_environs) -> None:
    heard = ["no device at attempt 0", "no device at attempt 1", "2"]
    assert ended_well(failing_twice, two_environs) == [heard] * 2
