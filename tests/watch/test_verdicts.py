"""Verdicts on real ranks: what they say of calls, and that they accuse nobody falsely."""

from __future__ import annotations

import re
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._watch import flight_recorder
from harness import PATIENCE, Ranks, private_environs
from torch_versions import records_gloo

if TYPE_CHECKING:
    from pathlib import Path

RANKS = 4

WAYS = {
    "host sockets": {},
    "gloo": {"ALLRANKS_HOST_SOCKETS": "0"},
}


def send_objects(_rank: int) -> None:
    for _ in range(5):
        allranks.gather_objects(b"x" * 1_600_000)


def send_tensors(rank: int) -> None:
    """Messages of the program's own, to rank 0 alone."""
    for sender in range(1, RANKS):
        if rank == 0:
            dist.recv(torch.empty(4), sender)
        elif rank == sender:
            dist.send(torch.ones(4), 0)


def late(rank: int) -> None:
    if rank == 2:
        load_shard()
    allranks.all_reduce(torch.ones(3))


def late_for_a_header(rank: int) -> None:
    """Over gloo some ranks are in the first half of the exchange, others in the second."""
    if rank == 2:
        load_shard()
    allranks.all_gather_objects(rank)


def another_call(rank: int) -> None:
    call = dist.broadcast if rank == 2 else dist.reduce
    call(torch.ones(3), 1)
    dist.barrier()


def skipped_call(rank: int) -> None:
    if rank != 2:
        allranks.all_reduce(torch.ones(2))
    allranks.all_reduce(torch.ones(2))
    if rank == 2:
        load_shard()


def many_calls(_rank: int) -> None:
    """More than are remembered."""
    for _ in range(int(flight_recorder.REMEMBERED) + 20):
        dist.all_reduce(torch.ones(1))


def load_shard() -> None:
    time.sleep(600)


def stall(before, call) -> None:
    with allranks.session(cpu=True, timeout=timedelta(seconds=120), stall_after=0.5) as world:
        for each in before:
            each(world.rank)
        call(world.rank)


def verdict_on(place: Path, way: str, before, call) -> str:
    """The first verdict after all ranks have come to where they stay."""
    more = {"ALLRANKS_PEER_MEMORY": "0", "ALLRANKS_LOG_DIR": str(place), **WAYS[way]}
    with private_environs(RANKS) as environs:
        ranks = Ranks(stall, [{**one, **more} for one in environs], before, call)
        try:
            return told_in(place / "verdict.txt")
        finally:
            for process in ranks.processes:
                process.kill()
                process.join()


def told_in(file: Path) -> str:
    text, end = "", time.monotonic() + PATIENCE
    while time.monotonic() < end:
        text = file.read_text() if file.exists() else ""
        away = len(re.findall("in no collective|no answer", text))
        if away == len(re.findall("in load_shard, for", text)) and "test_verdicts" in text:
            return text
        time.sleep(0.1)
    raise TimeoutError(text)


MESSAGES = {
    "objects": (send_objects,),
    "tensors": (send_tensors,),
    "forgotten objects": (send_objects, many_calls),
}

each_way = pytest.mark.parametrize("way", WAYS)
after_messages = pytest.mark.parametrize("before", MESSAGES.values(), ids=MESSAGES)

after_objects = pytest.mark.parametrize("before", [(send_objects,), (send_objects, many_calls)])

AWAY = r"Rank 2: in no collective, at test_verdicts\.py:\d+ in load_shard, for \d+ s\."

STANDS = (
    r"Rank 2 stands at test_verdicts\.py:\d+ in load_shard < test_verdicts\.py:\d+ in late < "
    r"test_verdicts\.py:\d+ in stall < harness\.py:\d+ in _become\.$"
)
"""It ends where the process's program ends."""


@each_way
@after_messages
def test_a_late_rank_is_not_in_another_collective(tmp_path, way, before) -> None:
    told = verdict_on(tmp_path, way, before, late)
    here = r"Ranks 0-1, 3: in all_reduce.*, test_verdicts\.py:\d+ in late\."
    assert re.search(rf"{here} {AWAY} {STANDS}", told), told


@each_way
def test_the_halves_of_one_exchange_are_not_different_collectives(tmp_path, way) -> None:
    told = verdict_on(tmp_path, way, (), late_for_a_header)
    assert re.search(rf"{AWAY} Rank 2 stands at test_verdicts", told), told
    assert "iffer" not in told


@records_gloo
@each_way
@after_objects
def test_another_call_is_found_after_messages(tmp_path, way, before) -> None:
    told = verdict_on(tmp_path, way, before, another_call)
    differ = r"Their calls first differ at #\d+: ranks 0-1, 3: reduce float32\[3\] at .*; "
    assert re.search(differ + r"rank 2: broadcast float32\[3\] at ", told), told


@records_gloo
@each_way
@after_objects
def test_a_skipped_call_is_found_after_messages(tmp_path, way, before) -> None:
    told = verdict_on(tmp_path, way, before, skipped_call)
    differ = r"Their calls are alike, but their lines differ from #\d+: ranks 0-1, 3: "
    assert re.search(rf"{AWAY} {differ}.* at test_verdicts\.py:\d+ in skipped_call; rank 2", told)


def dump(first: int, **called: int) -> dict[str, object]:
    """Of a recorder that has recorded ``first`` calls before the one that it remembers."""
    entry = {"pg_id": 0, "collective_seq_id": 3, "is_p2p": False, "record_id": first}
    status = {group[1:]: {"last_enqueued_collective": count} for group, count in called.items()}
    return {"entries": [entry], "pg_status": {"0": {"last_enqueued_collective": 9}, **status}}


def test_calls_that_are_forgotten_are_counted_where_no_message_can_be_among_them() -> None:
    assert flight_recorder._forgotten(dump(2)) == {}
    assert flight_recorder._forgotten(dump(6, g1=4)) == {"1": 4}
    assert flight_recorder._forgotten(dump(6, g1=3, g2=1)) == {"1": 3, "2": 1}
    assert flight_recorder._forgotten(dump(6, g1=5)) == {"1": None}
