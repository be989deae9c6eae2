"""What the other ranks hear when one fails, leaves, dies, stops, or does not come."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import allranks
from allranks._process_group import lifecycle
from allranks._system import processes, stacks
from allranks._watch import blocked_program, failures, flight_recorder, torch_groups
from allranks._watch.config import WatchConfig
from allranks._watch.event_log import EventLog, LogEntry, left_note
from allranks._watch.progress import CollectiveProgress
from allranks.errors import ConfigError, PeerFailedError, StalledError
from harness import PATIENCE, Ranks, env_environs, free_port, private_environs, wait_until
from torch_versions import records_gloo


def _heard(function, place: str):
    rank = os.environ.get("RANK") or os.environ["ALLRANKS_RANK"]
    with Path(place, f"err{rank}").open("w") as file:
        os.dup2(file.fileno(), 2)
        sys.stderr = file
        return function()


def session(timeout: float = 20.0, stall_after: float = 10.0):
    return allranks.session(cpu=True, timeout=timedelta(seconds=timeout), stall_after=stall_after)


def meet(world) -> None:
    """All have come."""
    assert world.world_size == allranks.all_reduce(1)


def raising() -> None:
    with session() as world:
        if world.rank == 2:
            raise LookupError("no shard 7")
        allranks.all_reduce({"loss": 1.0})


def raising_and_living_on() -> None:
    if allranks.get_rank() != 2:
        raising()
    with pytest.raises(LookupError):
        raising()
    time.sleep(3)
    raise LookupError("no shard 7")


def raising_elsewhere_in_torch() -> None:
    with session() as world:
        if world.rank == 2:
            raise LookupError("no shard 7")
        dist.all_reduce(torch.ones(4))


def exiting() -> None:
    with session() as world:
        if world.rank == 2:
            sys.exit(0)
        allranks.all_reduce({"loss": 1.0})


def cleaning_up() -> None:
    with session() as world:
        if world.rank == 2:
            allranks.cleanup()
            return
        allranks.all_reduce({"loss": 1.0})


def leaving_without_a_word() -> None:
    with session() as world:
        meet(world)
        if world.rank == 2:
            os._exit(7)
        allranks.all_reduce(torch.ones(1))


def dying() -> None:
    with session() as world:
        meet(world)
        if world.rank == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        allranks.all_reduce({"loss": 1.0})


def dying_as_rank_0() -> None:
    with session() as world:
        meet(world)
        if world.rank == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        allranks.all_reduce({"loss": 1.0})


def stalling() -> None:
    with session(timeout=4, stall_after=0.5) as world:
        meet(world)
        if world.rank == 2:
            load_shard(6.5)
        allranks.all_reduce(torch.ones(3, 5))


def load_shard(seconds: float) -> None:
    time.sleep(seconds)


def stopping() -> None:
    with session(timeout=4, stall_after=0.5) as world:
        meet(world)
        if world.rank == 2:
            os.kill(os.getpid(), signal.SIGSTOP)
        allranks.all_reduce(torch.ones(3, 5))


def stopping_rank_0() -> None:
    with session(timeout=5, stall_after=0.5) as world:
        meet(world)
        if world.rank == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
        dist.all_reduce(torch.ones(3, 5))


def calling_another() -> None:
    with session(timeout=4, stall_after=0.5) as world:
        meet(world)
        call = dist.broadcast if world.rank == 2 else dist.reduce
        call(torch.ones(3, 5), 1)
        dist.barrier()


def skipping() -> None:
    with session(timeout=4, stall_after=0.5) as world:
        meet(world)
        if world.rank != 2:
            allranks.all_reduce(torch.ones(2))
        allranks.all_reduce(torch.ones(2))
        load_shard(6.5 if world.rank == 2 else 0)


def deaf() -> None:
    blocked_program.SPEAK, blocked_program.GRACE = 0.3, 0.5
    with session() as world:
        meet(world)
        if world.rank != 1:
            dist.all_reduce(torch.ones(3))
        failures.announce(LookupError("no shard 7"))
        time.sleep(5)


def uncaught() -> None:
    """As a script does it that calls no cleanup, without a session."""
    allranks.setup(cpu=True)
    assert sys.excepthook is not failures.programs_hook()
    try:
        print({}["no shard 7"] if allranks.get_rank() else dist.all_reduce(torch.ones(3)))
    except (LookupError, RuntimeError) as error:
        sys.excepthook(type(error), error, error.__traceback__)
    allranks.cleanup()
    assert sys.excepthook is failures.programs_hook()


def slow() -> float:
    with session(stall_after=0.5) as world:
        meet(world)
        if world.rank == 1:
            load_shard(3)
        return allranks.all_reduce(1.0)


def rank_0_first() -> float:
    with session() as world:
        began = time.monotonic()
    if world.rank:
        time.sleep(1.0)
    return time.monotonic() - began


def unwatched() -> str:
    with session(timeout=2) as world:
        if world.rank == 1:
            return ""
        with pytest.raises(RuntimeError) as caught:
            allranks.all_reduce(torch.ones(1))
        assert failures.active_watch is None
        return type(caught.value).__name__


def looks() -> int:
    """How often the store is looked at in three seconds, by a rank that only works."""
    seen = []
    fetch = EventLog.fetch
    EventLog.fetch = lambda self, store: [seen.append(1), fetch(self, store)][1]
    with session() as world:
        meet(world)
        seen.clear()
        time.sleep(3)
        return len(seen)


def forking() -> int:
    """A fork of the program's own has no watch, and speaks for no rank."""
    with session() as world:
        pid = os.fork()
        if pid == 0:
            sys.excepthook(LookupError, LookupError("mine"), None)
            active = failures.active_watch
            lifecycle._leave()  # As at the end of an interpreter.
            os._exit(0 if active is None else 1)
        status = os.waitpid(pid, 0)[1]
        left = lifecycle.store().check([left_note(world.rank)])
        allranks.all_reduce(world.rank)
        return status + 1000 * left


def overlapping() -> list[object]:
    """Of two collectives at once the second ends first: nothing is under way for all that."""
    with session() as world:
        seen = []
        for _ in range(3):
            progress = CollectiveProgress(blind=False)
            works = [dist.all_reduce(torch.ones(size), async_op=True) for size in (4_000_000, 1)]
            for work in works:
                work.wait()
            time.sleep(0.1)
            seen += [progress.stuck() and progress.stuck()]
            allranks.all_reduce(world.rank)
        return seen


def going_on() -> tuple[int, bool]:
    """How often torch's recorder is read in a program that goes on: groups make first calls."""
    looks, reads = [], []
    count, recorders = torch_groups.begun_calls, flight_recorder._recorders
    with session():
        torch_groups.begun_calls = lambda: looks.append(0) or count()
        flight_recorder._recorders = lambda: reads.append(0) or recorders()
        while not allranks.agree(len(looks) >= 4, "all"):
            group = dist.new_group([0, 1])
            dist.all_reduce(torch.ones(1), group=group)
            dist.destroy_process_group(group)
        read = len(reads)
        CollectiveProgress(blind=False).stuck()
        return read, len(reads) > read


def ending_one_by_one() -> bool:
    """Whether a rank goes on, that begins nothing, but whose calls end one after another."""
    with session() as world:
        store, progress = lifecycle.store(), CollectiveProgress(blind=False)
        if world.rank:
            store.wait(["begun"])
            dist.all_reduce(torch.ones(1))
            store.wait(["seen"])
            dist.all_reduce(torch.ones(1))
            return True
        works = [dist.all_reduce(torch.ones(1), async_op=True) for _ in range(2)]
        first = progress.stuck()
        assert progress.stuck() == first
        store.set("begun", "")
        works[0].wait()
        second = progress.stuck()
        store.set("seen", "")
        works[1].wait()
        return second.since > first.since and progress.stuck() is None


def catching() -> float:
    """A program that catches what left a session comes up anew."""
    for _ in range(2):
        with pytest.raises(LookupError), session():
            raise_error()
    with session():
        return allranks.all_reduce(1.0)


def blind() -> str:
    """With a torch that has no recorder, calls of ours are seen all the same."""
    flight_recorder._recorders = list
    return waiting_for_rank_1()


def seeing_nccl_alone() -> str:
    """With a torch that does not record gloo, too."""
    (_, *recorder), *_ = flight_recorder._recorders()
    flight_recorder._recorders = lambda: [("nccl", *recorder)]
    return waiting_for_rank_1()


def waiting_for_rank_1() -> str:
    with session(timeout=3, stall_after=0.5) as world:
        if world.rank == 1:
            load_shard(4)
            return ""
        with pytest.raises(StalledError) as caught:
            allranks.all_reduce(1.0)
        return str(caught.value)


def raise_error() -> None:
    raise LookupError("pruned")


def caught_inside() -> float:
    """What leaves an inner session and is caught ends nothing."""
    with session() as world:
        with contextlib.suppress(LookupError), session():
            raise_error()
        meet(world)
        time.sleep(1.2)  # A look at the store.
        return allranks.all_reduce(1.0)


SHARD = r"rank 2 \(pid \d+ on .*\) failed: LookupError: no shard 7, at test_failures.py:\d+ in "

LOST = (
    (raising, 2, SHARD + r"raising; .* s ago, while .* in all_reduce\(sum\) of dict"),
    (raising_and_living_on, 2, SHARD),
    (raising_elsewhere_in_torch, 2, SHARD),
    (exiting, 2, r"rank 2 .* has left: its program ended with exit code 0, at test_failures"),
    (cleaning_up, 2, r"rank 2 \(pid .* has left: it called cleanup\(\)"),
    (leaving_without_a_word, 2, r"rank 2 \(pid .* left with exit code 7, without a word"),
    (dying, 2, r"rank 2 \(pid .* was killed by SIGKILL \(out of memory\?\)"),
    (dying_as_rank_0, 0, r"rank 0 (\(pid .* was killed by SIGKILL|is gone, and its store)"),
)
"""What befalls a rank, which, and what the others say."""

WAITED = r"all_reduce #\d+ on WORLD has waited \d s\. Ranks 0-1, 3: in all_reduce.*, test_failures"
AWAY = r"Rank 2: in no collective, at test_failures\.py:\d+ in load_shard, for \d s\."

DIFFER = r"Their calls first differ at #\d: ranks 0-1, 3: "

STALLED = (
    (
        stalling,
        WAITED + rf"\.py:\d+ in stalling\. {AWAY} Rank 2 stands at test_f.* in load_shard < ",
    ),
    (stopping, WAITED + r".* Rank 2: no answer from .*; its process is stopped \(SIGST"),
    (stopping_rank_0, r"Rank 0: its store does not answer; its process is stopped"),
    (calling_another, DIFFER + r"reduce float32\[3, 5\] at .*; rank 2: broadcast float32\[3, 5\]"),
    (
        skipping,
        AWAY
        + r" Their calls are alike, but their lines differ from #\d: ranks 0-1, 3: all_reduce ",
    ),
)
"""What does not go on, and what the verdict says."""


@contextlib.contextmanager
def at_a_port(ranks: int):
    """The environments of ranks that meet in a store of rank 0's."""
    yield env_environs(ranks, free_port())


STORES = {
    "file": lambda: private_environs(4),
    "port": lambda: at_a_port(4),
    "pair": lambda: private_environs(2),
}

SOUND = (overlapping, going_on, ending_one_by_one, catching, caught_inside)
PAIRS = (
    blind,
    seeing_nccl_alone,
    deaf,
    uncaught,
    slow,
    rank_0_first,
    looks,
    forking,
    unwatched,
    *SOUND,
)
"""What two ranks are enough for."""

CASES = [(function, "port" if "rank_0" in function.__name__ else "file") for function, _ in STALLED]
CASES += [(function, "pair") for function in PAIRS]
CASES += [(function, store) for function, *_ in LOST for store in ("file", "port")]

NEXT = CASES[4::5]

NEVER = {"stopping": 2, "stopping_rank_0": 0}


@pytest.fixture(scope="module")
def befallen(tmp_path_factory):
    """How the ranks of all these ended, which wait at the same time."""
    with contextlib.ExitStack() as places:
        jobs = {}
        for case in CASES:
            place = tmp_path_factory.mktemp(case[0].__name__)
            environs = places.enter_context(STORES[case[1]]())
            more = {
                "ALLRANKS_LOG_DIR": str(place),
                "ALLRANKS_WATCH": str(int(case[0] != unwatched)),
            }
            environs = [{**one, **more} for one in environs]
            jobs[case] = place, Ranks(_heard, environs, case[0], str(place))
            if case in NEXT:
                time.sleep(1.0)  # Two cores cannot start all of them at once.
        yield {
            case: (place, ranks.results(never=NEVER.get(case[0].__name__)))
            for case, (place, ranks) in jobs.items()
        }


@pytest.mark.parametrize("store", ["port", "file"])
@pytest.mark.parametrize(
    ("function", "culprit", "said"), LOST, ids=lambda f: getattr(f, "__name__", "")
)
def test_the_others_name_the_rank(befallen, function, culprit, said, store) -> None:
    _, ended = befallen[function, store]
    for rank in {0, 1, 2, 3} - {culprit}:
        assert isinstance(ended[rank].error, PeerFailedError), ended[rank]
        assert re.search(said, str(ended[rank].error)), ended[rank]
        assert ended[rank].error.rank == culprit
    if function is raising:
        assert ended[2].text == "LookupError: no shard 7"
        assert 'raise LookupError("no shard 7")' in ended[0].error.traceback


@records_gloo
@pytest.mark.parametrize(("function", "said"), STALLED, ids=lambda f: getattr(f, "__name__", ""))
def test_a_verdict_tells_who_is_where(befallen, function, said) -> None:
    """In the log of rank 0, or of who asked where that cannot speak; in the error at last."""
    store = "port" if function is stopping_rank_0 else "file"
    place, ended = befallen[function, store]
    never = NEVER.get(function.__name__)
    logs = [(place / f"err{rank}").read_text() for rank in range(4) if rank != never]
    assert re.search(said, logs[0] if never != 0 else "".join(logs)), logs
    for one in ended:
        assert one.error is None or isinstance(one.error, (StalledError, PeerFailedError)), one
    errors = [one.error for one in ended if isinstance(one.error, StalledError)]
    assert errors
    assert [str(error) for error in errors if not re.search(said, str(error))] == []
    assert re.search(said, (place / "verdict.txt").read_text())
    kept = json.loads((place / "rank-1.json").read_text())
    assert kept["standing"]["rank"] == 1
    assert "MainThread" in kept["threads"]


@records_gloo
def test_a_rank_blocked_in_torch_says_so_and_leaves(befallen) -> None:
    place, (left, failed) = befallen[deaf, "pair"]
    log = (place / "err0").read_text()
    assert (left.exit_code, left.error, left.value) == (1, None, None)
    assert "is blocked in a collective at test_failures.py:" in log
    assert "First failure: rank 1 " in log
    assert failed.error is None


def test_the_end_of_a_script_says_who_was_first(befallen) -> None:
    place, ended = befallen[uncaught, "pair"]
    assert [one.error for one in ended] == [None, None]
    last = [(place / f"err{rank}").read_text().splitlines()[-1] for rank in (0, 1)]
    assert re.match(r"PeerFailedError: rank 1 \(pid .* failed: KeyError: 'no shard 7'", last[0])
    assert last[1].endswith("KeyError: 'no shard 7'")


def test_a_slow_rank_is_not_called_dead(befallen) -> None:
    place, ended = befallen[slow, "pair"]
    assert [one.value for one in ended] == [2.0, 2.0]
    logs = [(place / f"err{rank}").read_text() for rank in (0, 1)]
    assert re.search(r"Rank 1: in no collective, at .* in load_shard, for \d s\.", logs[0])
    assert not re.search("died|gone|left|failed", "".join(logs))


def test_a_file_does_not_go_with_rank_0(befallen) -> None:
    _, ended = befallen[rank_0_first, "pair"]
    assert ended[0].value < 1.0


def test_the_store_is_looked_at_once_a_second(befallen) -> None:
    _, ended = befallen[looks, "pair"]
    assert all(2 <= one.value <= 4 for one in ended), ended


def test_what_a_rank_forks_is_no_rank(befallen) -> None:
    _, ended = befallen[forking, "pair"]
    assert [one.value for one in ended] == [0, 0]


@records_gloo
def test_nothing_is_made_of_what_is_sound(befallen) -> None:
    values = {f: [one.value for one in befallen[f, "pair"][1]] for f in SOUND}
    assert values == {
        overlapping: [[None] * 3] * 2,
        going_on: [(0, True)] * 2,
        ending_one_by_one: [True] * 2,
        catching: [2.0] * 2,
        caught_inside: [2.0] * 2,
    }


@pytest.mark.parametrize("how", [blind, seeing_nccl_alone])
def test_without_a_recorder_our_own_calls_are_explained(befallen, how) -> None:
    place, ended = befallen[how, "pair"]
    told = r"all_reduce\(sum\) of number( #1)? on WORLD has waited"
    assert re.search(told, ended[0].value)
    assert "Rank 1: in no collective, at test_failures.py:" in ended[0].value
    logs = [(place / f"err{rank}").read_text() for rank in (0, 1)]
    note = "nobody can tell which: torch has no recorder"
    assert (note in logs[0]) == (how is blind)
    assert "nobody can tell which" not in logs[1]


def test_only_gloos_words_for_a_lost_connection_are_believed() -> None:
    theirs = (
        "[/x/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:1: Connection reset by peer"
    )
    assert failures.GLOO_LOST.search(theirs)
    assert not failures.GLOO_LOST.search("download of shard 7 failed: Connection reset by peer")


GLOOS_TIMEOUTS = [
    "[/x/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 9ms for recv operation",
    "Gloo connectFullMesh failed with [../pair.cc:144] no error: timed out connecting: SO_ERROR",
    "Gloo connectFullMesh failed with Connect timeout [none]",
    "Application timeout caused pair closure",
    "[/x/gloo/transport/tcp/unbound_buffer.cc:78] Application timeout caused pair closure",
]
PROGRAMS_OWN = [
    "S3: Connect timeout on endpoint URL",
    "Timed out waiting for the licence server",
    "the test of 'Application timeout caused pair closure' has failed",
]


@pytest.mark.parametrize("text", [*GLOOS_TIMEOUTS, *PROGRAMS_OWN])
def test_only_gloos_words_for_a_timeout_are_believed(text: str) -> None:
    assert failures.has_timed_out(RuntimeError(text)) == (text in GLOOS_TIMEOUTS)


def test_a_python_without_descriptors_of_processes(monkeypatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    assert processes.opened(os.getpid()) is None


def test_the_watch_can_be_left_out(befallen) -> None:
    _, ended = befallen[unwatched, "pair"]
    assert [one.value for one in ended] == ["RuntimeError", ""]


def test_rank_0_keeps_its_store_for_the_others_but_not_for_long(tmp_path) -> None:
    environs = env_environs(2, free_port())
    ended = Ranks(_heard, environs, staying, str(tmp_path)).results()
    assert [one.error for one in ended] == [None, None]
    assert ended[0].value >= 0.5


def staying() -> float:
    """Rank 1 leaves later."""
    allranks.setup(cpu=True)
    allranks.all_reduce(1)
    began = time.monotonic()
    if allranks.get_rank():
        time.sleep(0.5)
    allranks.cleanup()
    return time.monotonic() - began


def leaving_while_its_watch_waits() -> list[str]:
    """The watch waits for the verdict of rank 1, which never comes."""
    allranks.setup(cpu=True)
    allranks.all_reduce(1)
    if allranks.get_rank() == 0:
        WatchConfig.verdict_timeout = PATIENCE
        thread = failures.active_watch._thread

        def wait() -> None:
            asked_by_1 = LogEntry("who", 1, inquiry="never answered")
            EventLog().post(thread.client.store, asked_by_1, unless="")
            thread.judge()

        thread.request(wait)
        wait_until(lambda: "in wait_for" in str(stacks.all_threads()))
    allranks.cleanup()
    return [one.name for one in threading.enumerate()]


def test_a_watch_that_waits_ends_when_its_rank_leaves() -> None:
    with private_environs(2) as environs:
        ended = Ranks(leaving_while_its_watch_waits, environs).results()
    assert [one.error for one in ended] == [None, None]
    assert not any("allranks-watch" in one.value for one in ended)


@pytest.mark.parametrize(("size", "seconds"), [(2, 1.0), (512, 1.0), (1024, 2.0), (8192, 16.0)])
def test_large_worlds_look_less_often(size: int, seconds: float) -> None:
    post = WatchConfig(None, None, (), size, False, 60.0, 1800.0)
    assert post.look_interval == seconds
    assert post.answer_timeout > post.look_interval


def test_a_stall_is_looked_into_before_the_timeout() -> None:
    assert WatchConfig(None, None, (), 2, False, 60.0, 1800.0).stall_limit == 60.0
    assert WatchConfig(None, None, (), 2, False, 60.0, 10.0).stall_limit == 6.0


@pytest.mark.parametrize("asked", ["soon", "-1", "0"])
def test_stall_after_is_seconds(asked: str, monkeypatch) -> None:
    monkeypatch.setenv("ALLRANKS_STALL_AFTER", asked)
    with pytest.raises(ConfigError, match=f"ALLRANKS_STALL_AFTER='{asked}': expected seconds"):
        allranks.setup(cpu=True)
    assert not allranks.initialized()
