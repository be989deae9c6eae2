"""``stragglers``: who comes last is named, with what it costs the others, by real ranks."""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import allranks
from allranks._stragglers import merging
from allranks._stragglers.asked import asked
from allranks._stragglers.lateness import ROW, Lateness, Stays, folded
from allranks._transport import process_groups
from allranks._watch import flight_recorder, waits
from allranks.errors import ConfigError, RendezvousError
from harness import run_ranks
from torch_versions import records_gloo

CALLS = 12


def late(world, rank: int, seconds: float) -> None:
    """One rank is late; it sleeps at least so long, however busy the machine is."""
    if world.rank == rank:
        time.sleep(seconds)


def line_here() -> str:
    frame = sys._getframe(1)
    return f"{Path(__file__).name}:{frame.f_lineno + 1} in {frame.f_code.co_name}"


@pytest.mark.ranks(4)
def test_the_late_rank_is_named_with_its_line_and_what_it_costs(world) -> None:
    for _ in range(CALLS):
        late(world, 2, 0.05)
        line = line_here()
        allranks.all_reduce({"loss": 1.0})
    found = allranks.stragglers()
    worst = found.ranks[0]
    assert (worst.rank, worst.host, worst.line) == (2, socket.gethostname(), line)
    assert CALLS // 2 < worst.last <= CALLS
    assert 0.05 * CALLS / 2 < worst.waited <= found.seconds
    assert f"rank 2 on {worst.host} came last in " in str(found)
    assert allranks.all_gather_objects(found) == [found] * 4


@pytest.mark.ranks(4)
def test_each_line_has_its_own_straggler(world) -> None:
    for _ in range(CALLS):
        late(world, 1, 0.02)
        first = line_here()
        allranks.all_reduce(1)
        late(world, 3, 0.06)
        second = line_here()
        allranks.synchronize()
    lines = {one.rank: one.line for one in allranks.stragglers().ranks}
    assert next(iter(lines)) == 3
    assert (lines[1], lines[3]) == (first, second)


@pytest.mark.ranks(2)
@pytest.mark.parametrize("culprit", [0, 1])
def test_two_ranks_that_swap_their_headers(world, culprit: int) -> None:
    for _ in range(CALLS):
        late(world, culprit, 0.03)
        allranks.all_reduce(1)
    assert allranks.stragglers().ranks[0].rank == culprit


def without_sockets_of_the_host() -> tuple[int, str]:
    os.environ["ALLRANKS_HOST_SOCKETS"] = "0"
    with allranks.session(cpu=True) as world:
        for _ in range(CALLS):
            late(world, 3, 0.03)
            allranks.all_reduce(1)
        worst = allranks.stragglers().ranks[0]
        assert worst.last <= CALLS
        return worst.rank, worst.line


def test_headers_over_gloo_are_counted_alike() -> None:
    for one in run_ranks(without_sockets_of_the_host, 4):
        assert one.error is None, one.text
        assert one.value[0] == 3
        assert "test_stragglers.py" in one.value[1]


@records_gloo
@pytest.mark.ranks(4)
def test_calls_of_ddp_are_counted_by_what_torch_has_recorded(world) -> None:
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(4, 4))
    for _ in range(CALLS):
        late(world, 1, 0.05)
        model(torch.ones(2, 4)).sum().backward()
    found = allranks.stragglers()
    assert found.ranks[0].rank == 1
    assert found.ranks[0].last > CALLS // 2
    assert "test_stragglers.py" in found.ranks[0].line
    again = allranks.stragglers()
    assert again.ranks[0].last == found.ranks[0].last
    assert again.calls == found.calls


@records_gloo
@pytest.mark.ranks(2)
def test_bare_tensors_are_counted(world) -> None:
    for _ in range(CALLS):
        late(world, 0, 0.03)
        allranks.all_reduce(torch.ones(3))
    assert allranks.stragglers().ranks[0].rank == 0


@pytest.mark.ranks(4)
def test_a_group_has_its_own_count_in_ranks_of_the_world(world) -> None:
    group = allranks.split(world.rank % 2)
    for _ in range(CALLS):
        late(world, 3, 0.03)
        allranks.all_reduce(1, group)
    ranks = [one.rank for one in allranks.stragglers(group).ranks]
    if world.rank % 2:
        assert ranks[0] == 3
    else:
        assert {*ranks} <= {0, 2}


@pytest.mark.ranks(2)
def test_a_clock_that_is_wrong_accuses_nobody(world, monkeypatch) -> None:
    """Torch's recorder reads the clock itself: tests/cluster sets a host's clock for that."""
    monkeypatch.setattr(flight_recorder, "why_blind", lambda: "not asked in this test")
    clock = time.time
    monkeypatch.setattr(time, "time", lambda: clock() + 90 * world.rank)
    for _ in range(CALLS):
        late(world, 0, 0.03)
        allranks.all_reduce(1)
    found = allranks.stragglers()
    assert found.ranks[0].rank == 0
    assert all(one.waited < 60 for one in found.ranks)


@pytest.mark.ranks(2)
def test_more_calls_than_are_kept(world) -> None:
    for _ in range(waits.KEPT + 100):
        allranks.all_reduce(1)
    known = merging.counted(process_groups.members_of("test", None), torch.distributed.group.WORLD)
    known.count_exchanges()
    assert known.lateness.calls == waits.KEPT
    allranks.all_reduce(1)
    known.count_exchanges()
    assert known.lateness.calls == waits.KEPT + 1


@pytest.mark.ranks(2, 4)
def test_nobody_asks_and_nothing_is_exchanged(world) -> None:
    group = allranks.split(0)
    allranks.all_reduce(1, group)
    assert waits.of_group(group.group_name).made == 2  # Of split(), and this one: no opening.
    allranks.all_reduce(1)
    made = waits.of_group("WORLD").made
    for _ in range(100):
        allranks.all_reduce(1)
    assert waits.of_group("WORLD").made == made + 100


def test_a_world_of_one_has_no_stragglers() -> None:
    found = allranks.stragglers()
    assert (found.calls, found.ranks) == (0, ())
    assert str(found) == "no rank holds the others up, in 0 calls"


def reported(place: str, every: str, calls: int) -> None:
    os.environ["ALLRANKS_REPORT"] = every
    with Path(place, os.environ["ALLRANKS_RANK"]).open("w") as sys.stderr:
        with allranks.session(cpu=True) as world:
            for _ in range(calls):
                late(world, 2, 0.02)
                allranks.all_reduce(1)
        sys.stderr.flush()


@pytest.mark.parametrize(("every", "calls", "lines"), [("600", 20, 1), ("0.01", 100, 2)])
def test_rank_0_tells_now_and_then_and_at_the_end(
    tmp_path: Path, every: str, calls: int, lines: int
) -> None:
    ended = run_ranks(reported, 4, str(tmp_path), every, calls)
    assert [one.error for one in ended] == [None] * 4
    told = (tmp_path / "0").read_text().splitlines()
    assert len(told) == lines
    for line in told:
        assert line.startswith(f"allranks: rank 2 on {socket.gethostname()} came last in ")
        assert "mostly at test_stragglers.py:" in line
    assert [(tmp_path / str(rank)).read_text() for rank in (1, 2, 3)] == [""] * 3


def asked_on_rank(rank: int, text: str) -> None:
    if os.environ["ALLRANKS_RANK"] == str(rank):
        os.environ["ALLRANKS_REPORT"] = text
    with allranks.session(cpu=True):
        allranks.all_reduce(1)


def test_ranks_that_ask_for_different_reports_are_told_so() -> None:
    for one in run_ranks(asked_on_rank, 2, 1, "600"):
        assert isinstance(one.error, RendezvousError)
        assert "ALLRANKS_REPORT" in one.text
        assert "600" in one.text


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_what_is_no_number_of_seconds_is_refused(monkeypatch, text: str) -> None:
    monkeypatch.setenv("ALLRANKS_REPORT", text)
    with pytest.raises(ConfigError, match=f"ALLRANKS_REPORT='{text}': expected seconds"):
        allranks.setup(cpu=True)
    assert not allranks.initialized()


def test_the_shortest_stay_is_the_last_to_come() -> None:
    told = [
        Stays.of_rank(rank, stays).packed()
        for rank, stays in enumerate([[0.5, 0.1], [0.25, 0.1], [0.75, 0.1]])
    ]
    whole = Stays.unpacked(folded(told)[0])
    assert whole.rows.tolist() == [(0.25, 1, 1.5), (0.1, 0, pytest.approx(0.3))]
    assert folded([*folded(told[:2]), told[2]]) == folded(told)
    lateness = Lateness(3)
    lateness.add(whole, ["a.py:1", "a.py:2"])
    assert lateness.last == {1: 1}
    assert lateness.waited == {1: pytest.approx((0.25 + 0.5) / 2)}
    assert lateness.line_of(1) == "a.py:1"
    assert lateness.calls == 2
    assert ROW.itemsize == 24


def test_less_than_a_millisecond_is_nobodys_fault() -> None:
    lateness = Lateness(2)
    told = [Stays.of_rank(0, [0.0014]).packed(), Stays.of_rank(1, [0.0005]).packed()]
    lateness.add(Stays.unpacked(folded(told)[0]), [None])
    assert lateness.last == {}


def test_reports_are_off_where_nobody_asks(monkeypatch) -> None:
    for text in ("", "0"):
        monkeypatch.setenv("ALLRANKS_REPORT", text)
        assert asked() is None


@pytest.mark.parametrize("made", [0, 1, 4095, 4096, 4097, 10_000])
@pytest.mark.parametrize("since", [0, 1, 4096, 9_000])
def test_the_last_stays_are_kept_in_their_order(made: int, since: int) -> None:
    kept = waits.Waits()
    for number in range(made):
        kept.note(float(number), 2.0 * number, None)
    found = kept.past(min(since, made))
    expected = [*range(max(min(since, made), made - waits.KEPT), made)]
    assert found.seconds.tolist() == expected
    assert len(found.lines) == len(expected)
    assert found.since == (expected[0] if expected else 0.0)


def test_the_worst_are_the_same_on_all_ranks_whatever_their_lines() -> None:
    """Else one would ask for the hosts of others than the rest."""
    stays = np.array([[0.1, 0.0, 0.7], [0.0, 0.1, 0.7]])
    rows = [Stays.of_rank(rank, stays[:, rank]).packed() for rank in range(3)]
    told = Stays.unpacked(folded(rows)[0])
    orders = []
    for lines in (["a", "b"], ["a", "a"], ["b", "a"]):
        lateness = Lateness(3)
        for _ in range(3):
            lateness.add(told, lines)
        orders.append((lateness.worst(2), lateness.waited))
    assert orders[0][0] == [0, 1]
    assert orders == [orders[0]] * 3
