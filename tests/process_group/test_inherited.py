"""A process that a rank has started has the rank's variables, and is no rank."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

import pytest

import allranks
from allranks._process_group.inherited import RANK_PROCESS
from harness import Ranks, env_environs, free_port, private_environs
from torch_versions import without_chatter

TRYING = """
    import os, allranks
    from allranks.errors import DetectionError
    try:
        allranks.setup(cpu=True, rendezvous_timeout=100)
    except DetectionError as error:
        print(error)
    else:
        print("up with", allranks.get_world_size())
"""


def told_by_child(**changes: str | None) -> str:
    environ = {**os.environ, **changes}
    environ = {name: value for name, value in environ.items() if value is not None}
    command = [sys.executable, "-c", textwrap.dedent(TRYING)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return without_chatter(done.stdout)


def starting_a_child() -> tuple[int, str]:
    with allranks.session(cpu=True):
        told = told_by_child()
        allranks.synchronize()
    assert RANK_PROCESS not in os.environ
    return os.getpid(), told


def environs_of(kind: str, ranks: int = 2):
    if kind == "env":
        return env_environs(ranks, free_port())
    torchrun = {
        "TORCHELASTIC_RUN_ID": "x",
        "LOCAL_WORLD_SIZE": str(ranks),
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
    }
    return env_environs(ranks, free_port(), **torchrun)


@pytest.mark.parametrize("kind", ["env", "torchrun", "allranks"])
def test_a_child_of_a_rank_is_told_whose_it_is(kind) -> None:
    """At once, and not that there are two jobs on one port."""
    if kind == "allranks":
        with private_environs(2) as environs:
            ended = Ranks(starting_a_child, environs).results()
    else:
        ended = Ranks(starting_a_child, environs_of(kind)).results()
    for rank, one in enumerate(ended):
        assert one.value, one
        pid, told = one.value
        assert f"is a child of rank {rank} (pid {pid})" in told
        assert "if __name__ == '__main__':" in told
        assert "start it without" in told


def starting_worlds_of_their_own() -> list[str]:
    """A child without the rank's place, and one with another, are worlds of their own."""
    with allranks.session(cpu=True):
        here = ("LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "GROUP_WORLD_SIZE")
        without: dict[str, str | None] = dict.fromkeys(here)
        alone = told_by_child(**without, RANK=None, WORLD_SIZE=None)
        other = told_by_child(**without, RANK="0", WORLD_SIZE="1")
        allranks.synchronize()
    return [alone.strip(), other.strip()]


def test_a_child_may_be_a_world_of_its_own() -> None:
    ended = Ranks(starting_worlds_of_their_own, environs_of("env")).results()
    assert [one.value for one in ended] == [["up with 1"] * 2] * 2, ended


def alone_with_a_child() -> str:
    with allranks.session(cpu=True):
        return told_by_child()


def test_a_child_of_a_world_of_one_is_a_world_of_one() -> None:
    (one,) = Ranks(alone_with_a_child, [{}]).results()
    assert one.value.strip() == "up with 1"
