"""The order of pairs: each once, and no host in two at a time."""

from __future__ import annotations

from collections import Counter
from itertools import combinations

import pytest

from allranks._bench.schedule import number_of_steps, rounds, steps, thinned

WORLDS = [[1, 1], [2, 2], [3, 1, 2], [4], [1, 2, 3, 4, 5], [8] * 4, [1] * 9]


def hosts_of(counts: list[int]) -> list[list[int]]:
    """Hosts of so many ranks each; ranks go round, as with Slurm's -m cyclic."""
    hosts: list[list[int]] = [[] for _ in counts]
    rank = 0
    while any(len(host) < count for host, count in zip(hosts, counts, strict=True)):
        for host, count in zip(hosts, counts, strict=True):
            if len(host) < count:
                host.append(rank)
                rank += 1
    return hosts


@pytest.mark.parametrize("count", range(1, 10))
def test_in_a_tournament_each_meets_every_other_once(count: int) -> None:
    all_rounds = list(rounds(range(count)))
    met = Counter(frozenset(pair) for each in all_rounds for pair in each)
    assert met == Counter(map(frozenset, combinations(range(count), 2)))
    for each in all_rounds:
        players = [player for pair in each for player in pair]
        assert len(set(players)) == len(players)
    assert len(all_rounds) <= count


@pytest.mark.parametrize("counts", WORLDS, ids=str)
def test_each_pair_is_measured_once_and_no_host_is_in_two_at_a_time(counts: list[int]) -> None:
    hosts = hosts_of(counts)
    host_of = {rank: number for number, ranks in enumerate(hosts) for rank in ranks}
    all_steps = list(steps(hosts))
    found = Counter(frozenset(pair) for step in all_steps for pair in step)
    assert found == Counter(map(frozenset, combinations(host_of, 2)))
    for step in all_steps:
        busy = [number for pair in step for number in {host_of[rank] for rank in pair}]
        assert len(set(busy)) == len(busy), step
    assert len(all_steps) <= number_of_steps(hosts)
    if len(set(counts)) == 1:
        assert len(all_steps) == number_of_steps(hosts)


def test_hosts_go_side_by_side() -> None:
    """64 ranks of 8 hosts need about 8 times the steps of one pair of hosts, not 2016."""
    hosts = hosts_of([8] * 8)
    assert len(list(steps(hosts))) == 8 * 7 // 2 + 7 * 64


def test_of_a_large_world_the_first_ranks_of_each_host_are_taken() -> None:
    hosts = hosts_of([8] * 128)
    few = thinned(hosts, 2100)
    assert few == [ranks[:4] for ranks in hosts]
    assert number_of_steps(few) <= 2100 < number_of_steps([ranks[:5] for ranks in hosts])


@pytest.mark.parametrize(("counts", "left"), [([100], 2), ([3] * 50, 1)])
def test_at_least_one_pair_is_left(counts: list[int], left: int) -> None:
    assert [len(ranks) for ranks in thinned(hosts_of(counts), 1)] == [left] * len(counts)


def test_a_small_world_is_left_whole() -> None:
    hosts = hosts_of([4, 2])
    assert thinned(hosts, 2048) == hosts
