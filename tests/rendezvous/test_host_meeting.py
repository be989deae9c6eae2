"""Ranks of one host meet before they go to the store: real processes, and what befalls them."""

from __future__ import annotations

import os
import resource
import signal
import socket
from pathlib import Path

import pytest

import allranks
from allranks._rendezvous import gathering, host_meeting, judge
from allranks._system import host_sockets
from allranks.errors import MissingRanksError, RendezvousError
from harness import PATIENCE, Ranks, env_environs, free_port, wait_until

pytestmark = pytest.mark.skipif(not host_sockets.allowed(), reason="needs abstract unix sockets")


def observed(directory: str) -> None:
    """Leave a file where this process becomes its host's agent, or has visited it."""
    found = host_meeting.find

    def find(*given):
        role = found(*given)
        name = type(role).__name__
        (Path(directory) / f"{name} {os.getpid()}").touch()
        return role

    said = host_meeting.HostVisitor.say

    def say(self, me):
        said(self, me)
        (Path(directory) / f"said {os.getpid()}").touch()

    host_meeting.find, host_meeting.HostVisitor.say = find, say


def total(directory: str, seconds: float = PATIENCE) -> int:
    observed(directory)
    with allranks.session(cpu=True, rendezvous_timeout=seconds):
        return allranks.all_reduce(1)


def roles(directory: Path, name: str) -> list[Path]:
    return list(directory.glob(f"{name} *"))


def agent_and_visitor(environs, directory: Path, seconds: float) -> tuple[Ranks, Ranks]:
    """Ranks 1 and 2, of which the first waits for rank 0, and the second for the first."""
    agent = Ranks(total, environs[1:2], str(directory), seconds)
    wait_until(lambda: roles(directory, "HostAgent"))
    visitor = Ranks(total, environs[2:3], str(directory), seconds)
    wait_until(lambda: roles(directory, "said"))
    return agent, visitor


def test_one_rank_goes_for_the_others(tmp_path: Path) -> None:
    ended = Ranks(total, env_environs(4, free_port()), str(tmp_path)).results()
    assert [one.value for one in ended] == [4] * 4
    assert len(roles(tmp_path, "HostAgent")) == 1
    assert len(roles(tmp_path, "said")) == 2


def test_an_agent_that_is_killed_is_replaced(tmp_path: Path) -> None:
    environs = env_environs(3, free_port())
    agent, visitor = agent_and_visitor(environs, tmp_path, PATIENCE)
    os.kill(agent.processes[0].pid, signal.SIGKILL)
    wait_until(lambda: len(roles(tmp_path, "HostAgent")) == 2)
    others = Ranks(total, environs[:2], str(tmp_path))
    assert [one.value for one in [*visitor.results(), *others.results()]] == [3] * 3
    agent.results()


def test_an_agent_that_is_stopped_is_the_only_one_that_is_missing(tmp_path: Path) -> None:
    environs = env_environs(3, free_port())
    agent, visitor = agent_and_visitor(environs, tmp_path, 15)
    os.kill(agent.processes[0].pid, signal.SIGSTOP)
    first = Ranks(total, environs[:1], str(tmp_path), 10)
    ended = [*first.results(), *visitor.results()]
    agent.results(never=0)  # Ends it: one that is stopped heeds no other signal.
    for one in ended:
        assert isinstance(one.error, MissingRanksError), one.text
        assert one.error.missing == (1,), one.text
        assert "Present: 0, 2 on " in one.text


def test_another_release_s_ranks_are_not_among_an_agent_s_visitors(tmp_path: Path) -> None:
    environs = env_environs(3, free_port())
    ranks = [Ranks(total, environs[:2], str(tmp_path))]
    ranks += [Ranks(of_the_next, environs[2:], str(tmp_path))]
    assert [one.value for each in ranks for one in each.results()] == [3] * 3
    assert (len(roles(tmp_path, "HostAgent")), roles(tmp_path, "said")) == (2, [])


def of_the_next(directory: str) -> int:
    host_meeting.__version__ = "99"
    return total(directory)


def test_who_is_not_this_user_is_not_believed(monkeypatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert host_sockets.process_at(one) is None
        monkeypatch.undo()
        assert host_sockets.process_at(one) == os.getpid()


def answer_when_it_has_moved(directory: str) -> int:
    """Rank 1 joins the store, and answers only when rank 0 has left it for another."""
    joined, moved = Path(directory) / "joined", Path(directory) / "moved"
    judge_all, gathered = judge.Judge.judge, host_meeting.HostAgent.gathered

    def judge_late(self):
        wait_until(joined.exists)
        return judge_all(self)

    def gathered_late(*given):
        joined.touch()
        wait_until(moved.exists)
        return gathered(*given)

    judge.NEAR_PATIENCE = 0.1
    judge.Judge.judge, host_meeting.HostAgent.gathered = judge_late, gathered_late
    gathering.tell = lambda _: moved.touch()
    return total(directory, 120)


def test_a_rank_that_was_about_to_answer_in_a_store_that_moves(tmp_path: Path) -> None:
    """Rank 0's address means its own host, and it is heard elsewhere once not all have come."""
    environs = env_environs(2, free_port())
    ended = Ranks(answer_when_it_has_moved, environs, str(tmp_path)).results()
    assert [one.value for one in ended] == [2, 2], [one.text for one in ended]


def with_few_descriptors(hard: int) -> int:
    if allranks.get_rank() == 0:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with allranks.session(cpu=True, rendezvous_timeout=60):
        return allranks.all_reduce(1)


def assert_the_limit_is_told(ended, hard: int) -> None:
    for one in ended:
        assert isinstance(one.error, RendezvousError), one.text
        assert not isinstance(one.error, MissingRanksError), one.text
        assert f"may have {hard} files and connections open at once, its limit, and a" in one.text
        assert "a world of 40 ranks needs 133 there" in one.text
        assert "`ulimit -n 133`" in one.text


def test_a_limit_of_descriptors_that_cannot_do_is_named_by_all() -> None:
    """Rank 0's; and nobody is called missing."""
    ended = Ranks(with_few_descriptors, env_environs(40, free_port()), 64).results()
    assert_the_limit_is_told(ended, 64)


def test_a_limit_that_cannot_do_for_the_roll_call_itself() -> None:
    """Each rank has a connection of its own, and some find none left."""
    environs = env_environs(40, free_port(), ALLRANKS_HOST_SOCKETS="0")
    ended = Ranks(with_few_descriptors, environs, 40).results()
    assert_the_limit_is_told(ended[:1], 40)
    told = [one for one in ended if "its limit" in one.text]
    assert len(told) > 3
    assert not any("did not come" in one.text for one in ended)


def with_a_low_soft_limit() -> tuple[int, int]:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (48, hard))
    with allranks.session(cpu=True, rendezvous_timeout=PATIENCE):
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return allranks.all_reduce(1), soft


def test_rank_0_raises_its_soft_limit() -> None:
    ended = Ranks(with_a_low_soft_limit, env_environs(16, free_port())).results()
    assert [one.value and one.value[0] for one in ended] == [16] * 16, ended[0].text
    assert ended[0].value[1] >= 48 + 15 * 3 + 16
