"""What comes from outside is what it should be, or an error of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

import allranks
from allranks._launchers.world import World
from allranks._rendezvous import mpi
from allranks._rendezvous.address_board import AgentAddressBoard, FileAddressBoard, PostedAddress
from allranks._rendezvous.host_meeting import AgentWord
from allranks._rendezvous.meeting import Meeting
from allranks._rendezvous.record import (
    Batch,
    HostSeat,
    HostVerdict,
    PackedError,
    RankRecord,
    RollCallResult,
    Signature,
    pack,
    read,
    revive,
)
from allranks._rendezvous.roll_call import RollCall, record_of
from allranks._rendezvous.verdicts import read_verdict, signature_of
from allranks._system import sockets
from allranks._system.peer_memory import MemoryProbe
from allranks._system.typed_json import MalformedError, parsed, plain, written
from allranks._system.waiting import Deadline
from allranks._transport.links import _Invitation
from allranks._watch import status_answers
from allranks._watch.event_log import DepartureNote, EventLog, LogEntry, first_left
from allranks._watch.local_peers import LocalPeers
from allranks._watch.status_answers import RankAnswer
from allranks.errors import DuplicateRankError, MissingRanksError, RendezvousError
from harness import Ranks

RECORD = RankRecord(
    1, 2, "j", "env", "h", "k", 3, "s", None, None, "Python 3, torch 2, allranks 0.0.9"
)
NOTICE = PostedAddress("n", ("127.0.0.1",), 5, "h", sockets.host_key(), 1, 1.0)
MPI_WORLD = World("openmpi", 1, 2, job="j")
KINDS = [
    PostedAddress,
    RankRecord,
    RollCallResult,
    PackedError,
    Signature,
    Batch,
    HostSeat,
    AgentWord,
    LogEntry,
    DepartureNote,
    RankAnswer,
]
KINDS += [MemoryProbe, _Invitation, mpi.MpiMessage, mpi.MpiAnswer]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
ODD = [
    b"",
    b"{}",
    b"[]",
    b"null",
    b"\xff\x00",
    b'{"nonce": 1}',
    b"[" * 100_000,
    b'{"x":' * 100_000,
    b'{"rank": "1"}',
    b'{"rank": 1e400}',
    b'{"kind": "\\ud800"}',
    written({**asdict(RECORD), "pid": "3"}).encode(),
    written({**asdict(RECORD), "pid": 10**30}).encode(),
]
numbers = st.integers() | st.sampled_from([0, 2**16, 2**31, 2**40, 2**63, 2**64, 10**30, 10**5000])
outside = st.sampled_from(ODD) | st.binary() | json_values.map(lambda v: json.dumps(v).encode())


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(KINDS), outside)
def test_anything_is_parsed_or_refused(kind, text: bytes) -> None:
    told = ""
    try:
        assert isinstance(parsed(kind, text), kind)
    except MalformedError as error:
        told = str(error)
    assert len(told) < 1000


@settings(deadline=None, max_examples=300)
@given(numbers, st.sampled_from(["port", "pid", "posted"]))
def test_a_notice_with_any_number_can_be_shown_and_tried(number: int, field: str) -> None:
    with suppress(MalformedError):
        notice = parsed(PostedAddress, with_number(NOTICE, field, number))
        assert str(notice)
        assert sockets.address_towards(sockets.LOOPBACK, notice.port)


@settings(deadline=None, max_examples=300)
@given(numbers, st.sampled_from(["rank", "world_size", "pid"]))
def test_a_record_with_any_number_can_be_watched_over(number: int, field: str) -> None:
    neighbours = LocalPeers()
    try:
        record = parsed(RankRecord, with_number(RECORD, field, number))
        neighbours.add([record])
        neighbours.condition(record.rank)
        neighbours.is_alive(record.rank)
        neighbours.held()
    except MalformedError:
        pass
    finally:
        neighbours.close()


def with_number(value: PostedAddress | RankRecord, field: str, number: int) -> str:
    """As another rank writes it; the number may have more digits than Python writes by itself."""
    text = json.dumps({**asdict(value), field: "NUMBER"})
    return text.replace('"NUMBER"', "1" + "0" * 5000 if number == 10**5000 else str(number))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (HostSeat, {"node": -1, "batches": [1]}),
        (HostSeat, {"node": 0, "batches": [2**31]}),
        (RollCallResult, {"num_nodes": 10**15}),
    ],
    ids=str,
)
def test_a_place_that_no_world_has_is_refused(kind, told) -> None:
    """Else a rank waits for a batch of that number, or has so many hosts."""
    with pytest.raises(MalformedError, match=r"is not in 0-2147483647"):
        parsed(kind, written(told))


def at_a_file(url: str) -> None:
    allranks.setup(cpu=True, init_method=url, rendezvous_timeout=5)


@pytest.mark.parametrize("odd", [{"port": 2**63}, {"port": 2**16}, {"pid": 2**40}], ids=str)
def test_a_rendezvous_file_with_a_number_that_nobody_has_is_named(tmp_path: Path, odd) -> None:
    path = tmp_path / "notice"
    path.write_text(written({**asdict(NOTICE), **odd}))
    (ended,) = Ranks(at_a_file, [{}], f"file://{path}?world_size=2&rank=1").results()
    assert isinstance(ended.error, RendezvousError), ended.text
    assert f"{path} exists and is no rendezvous file of allranks" in ended.text
    assert f"`{next(iter(odd))}` is not in 1-" in ended.text


class Held:
    """A store in which one text stands under every key."""

    def __init__(self, text: bytes) -> None:
        self.text = text

    def check(self, _: list[str]) -> bool:
        return True

    def get(self, _: str) -> bytes:
        return self.text

    def multi_get(self, keys: list[str]) -> list[bytes]:
        return [self.text] * len(keys)

    def wait(self, keys: list[str], timeout) -> None:
        pass

    def set(self, key: str, value: str) -> None:
        pass

    def add(self, _: str, amount: int) -> int:
        return 2 if amount == 0 else 1

    def has_extended_api(self) -> bool:
        return True


@settings(deadline=None, max_examples=300)
@given(outside, st.sampled_from([0, 1]))
def test_a_roll_call_on_any_store_ends_in_an_error_of_ours(text: bytes, rank: int) -> None:
    store, brief = Held(text), Deadline.after(0.05)
    for use in (
        lambda: RollCall(Meeting(store, "h:1"), replace(RECORD, rank=rank), brief).answer(),
        lambda: signature_of(store, "h:1", brief),
        lambda: read_verdict(store, "h:1"),
        lambda: AgentAddressBoard(store, "h", 1, "k").read(),
    ):
        with suppress(RendezvousError):
            use()
    record_of(store, 1)
    first_left(store)
    status_answers.fates(store, [1])
    status_answers.Inquiry(store, "i", 2).answers()


@settings(deadline=None, max_examples=100)
@given(outside)
def test_a_rendezvous_file_with_anything_in_it(tmp_path_factory, text: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "notice"
    path.write_bytes(text)
    with suppress(RendezvousError):
        FileAddressBoard(str(path)).read()


@pytest.mark.parametrize("line", ["", "1", "{}", "[]", "hello", '{"rank": 1, "size": "2"}'])
def test_what_mpi_answers_is_its_answer_or_an_error_of_ours(monkeypatch, line: str) -> None:
    monkeypatch.setattr(mpi, "_answer", lambda *_: line)
    with pytest.raises(RendezvousError, match="rank 1 of 2: asked where rank 0 runs, MPI ended"):
        mpi.completed(MPI_WORLD, Deadline.after(60))


@pytest.mark.parametrize("letter", ["", "1", "{}", '{"addresses": "h1", "nonce": "1"}'])
def test_a_letter_that_is_none_is_an_error_of_ours(monkeypatch, letter: str) -> None:
    monkeypatch.setattr(mpi, "_is_up", lambda: True)
    told = {"letter": letter, "rank": 1, "size": 2}
    monkeypatch.setattr(mpi.mpi_worker, "exchanged", lambda _: told)
    with pytest.raises(RendezvousError, match="rank 1 of 2: what rank 0 told through MPI is no"):
        mpi.completed(MPI_WORLD, Deadline.after(60))


def test_an_entry_that_cannot_be_read_does_not_end_the_log() -> None:
    store = dist.HashStore()
    for slot, text in enumerate(["{}", written(LogEntry("who", 1, inquiry="i")), "[["]):
        store.set(f"watch/log/{slot}", text)
    bulletin = EventLog()
    bulletin.fetch(store)
    assert [one.entry.kind for one in bulletin.unheard()] == ["unreadable", "who", "unreadable"]


@pytest.mark.parametrize(
    "value",
    [
        RECORD,
        RollCallResult(2, "10.0.0.1"),
        Signature(RECORD, "n", "v"),
        Batch((RECORD, RECORD)),
        AgentWord("n", "h", 1, "h:1", HostVerdict(0, 2, (RECORD,), RECORD, "a", "b")),
        AgentWord(error=pack(MissingRanksError("m", missing=[1]))),
        RollCallResult(error=pack(MissingRanksError("m", missing=[1]))),
        LogEntry("verdict", 1, text="ä\x1b\n"),
        DepartureNote("who", 1.5, "how"),
    ],
)
def test_what_is_written_is_read(value) -> None:
    assert parsed(type(value), written(value)) == value


def test_errors_travel_with_their_fields() -> None:
    missing = revive(pack(MissingRanksError("m", missing=[1, 2])))
    assert (type(missing), str(missing), missing.missing) == (MissingRanksError, "m", (1, 2))
    twice = revive(pack(DuplicateRankError("d", rank=3)))
    assert (type(twice), twice.rank) == (DuplicateRankError, 3)
    assert type(revive(PackedError("os", "x"))) is RendezvousError


def test_a_record_of_another_release_names_both() -> None:
    """One that tells more is read; one that tells less is not."""
    more = written({**asdict(RECORD), "new": 1}).encode()
    assert read(RankRecord, more, "batch/1", "h:1") == RECORD
    fields = asdict(RECORD)
    del fields["pid_space"]
    with pytest.raises(RendezvousError) as caught:
        read(RankRecord, written(fields).encode(), "batch/1", "h:1")
    assert "missing required field `pid_space`" in str(caught.value)
    assert f"allranks {allranks.__version__} writes" in str(caught.value)
    assert "That rank has Python 3, torch 2, allranks 0.0.9." in str(caught.value)


ENVIRONS = [
    {"RANK": b"\xff", "WORLD_SIZE": b"2"},
    {"RANK": b"0", "WORLD_SIZE": b"2", "MASTER_ADDR": b"h\xff", "MASTER_PORT": b"1234"},
    {"RANK": b"0", "WORLD_SIZE": b"2", "MASTER_ADDR": b"h", "MASTER_PORT": b"\xe9"},
    {
        "RANK": b"0",
        "WORLD_SIZE": b"2",
        "MASTER_ADDR": b"127.0.0.1",
        "MASTER_PORT": b"1",
        "ALLRANKS_JOB": b"\xe9t\xe9",
    },
    {
        "SLURM_JOB_ID": b"1\xe9",
        "SLURM_STEP_ID": b"0",
        "SLURM_STEP_NUM_TASKS": b"2",
        "SLURM_STEP_NUM_NODES": b"1",
        "SLURM_STEP_TASKS_PER_NODE": b"2",
        "SLURM_STEP_NODELIST": b"n\xff",
        "SLURM_NODEID": b"0",
        "SLURM_GTIDS": b"0,1",
        "SLURM_PROCID": b"0",
        "SLURM_LOCALID": b"0",
    },
    {"RAY_JOB_ID": b"\xff"},
    {"ALLRANKS_PORT_RANGE": b"\xff", "RANK": b"0", "WORLD_SIZE": b"2"},
    {"ALLRANKS_STALL_AFTER": b"\xff"},
    {"ALLRANKS_CHECK": b"\xff"},
]
SETTING_UP = """
import allranks
try:
    allranks.setup(cpu=True, rendezvous_timeout=0.5)
except allranks.errors.AllranksError as error:
    print(ascii(str(error)))
"""


@pytest.mark.parametrize("variables", ENVIRONS, ids=lambda v: " ".join(v)[:40])
def test_a_variable_that_is_no_utf8(variables: dict[str, bytes], tmp_path: Path) -> None:
    """Whichever: `allranks env` and setup() end well, or in an error of ours."""
    environ = {**{k.encode(): v.encode() for k, v in os.environ.items()}}
    environ |= {name.encode(): value for name, value in variables.items()}
    for arguments in (["-m", "allranks._cli", "env"], ["-c", SETTING_UP]):
        done = subprocess.run([sys.executable, *arguments], capture_output=True, env=environ)
        assert b"Traceback" not in done.stderr, done.stderr.decode(errors="replace")
        assert done.returncode in (0, 1)


def test_bytes_that_are_no_text_are_shown() -> None:
    assert plain(os.fsdecode(b"h\xff\xc3\xa9")) == "h\\xffé"
