"""What ranks decide together, and what rank 0 does for all."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch

import allranks
from allranks._process_group import turns
from allranks.errors import CollectiveError, MismatchError, PeerFailedError, RankFailedError
from harness import PATIENCE

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


@pytest.mark.ranks(1, 2, 3)
def test_one_answer_of_all(world) -> None:
    alone = world.world_size == 1
    assert allranks.agree(world.rank == 0) is True
    assert allranks.agree(world.rank == 0, "all") is alone
    assert allranks.agree(torch.tensor(1), "all") is True
    assert allranks.agree([]) is False
    even = allranks.split(world.rank % 2)
    assert allranks.agree(world.rank == 1, group=even) is bool(world.rank % 2)
    with pytest.raises(CollectiveError, match="rank 0: agree: RuntimeError: Boolean value of Tens"):
        allranks.agree(torch.ones(2) if world.rank == 0 else True)
    with pytest.raises(CollectiveError, match='how=\'most\' is neither "any" nor "all"'):
        allranks.agree(1, "most")
    if not alone:
        with pytest.raises(MismatchError, match=r"rank 0: agree\(any\)"):
            allranks.agree(1, "all" if world.rank else "any")
    assert allranks.agree(0) is False


@pytest.mark.ranks(1, 3)
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1])
def test_one_ranks_signal_stops_all_at_the_same_step(world, signum, capfd) -> None:
    heard = []
    signal.signal(signal.SIGUSR1, lambda *_: heard.append(1))
    last = world.world_size - 1
    answers = []
    for step in range(6):
        answers.append(allranks.should_stop())
        if step == 2 and world.rank == last:
            os.kill(os.getpid(), signum)
    assert answers == [False] * 3 + [True] * 3
    assert heard == [1] * (signum == signal.SIGUSR1 and world.rank == last)
    told = f"stopping all ranks together: rank {last} got {signum.name}"
    assert capfd.readouterr().err.count(told) == (world.rank == 0)
    allranks.cleanup()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    os.kill(os.getpid(), signal.SIGUSR1)
    assert len(heard) == 1 + (signum == signal.SIGUSR1 and world.rank == last)


@pytest.mark.ranks(1)
def test_signals_are_the_main_threads(world) -> None:
    errors = []

    def ask() -> None:
        try:
            allranks.should_stop()
        except allranks.errors.ConfigError as error:
            errors.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert errors == ["should_stop: the first call must be made by the main thread"]


@pytest.mark.ranks(1, 3, setup=False)
def test_rank_0_works_for_all_however_long(tmp_path) -> None:
    """Longer than the group's timeout, since no collective waits."""
    with allranks.session(cpu=True, timeout=timedelta(seconds=1)) as world:

        def prepare() -> dict[str, object]:
            (tmp_path / str(os.getpid())).touch()
            time.sleep(1.5)
            return {"weights": torch.ones(100_000), "rank": allranks.get_rank()}

        made = allranks.on_master(prepare)
        assert made["rank"] == 0
        assert made["weights"].sum() == 100_000
        assert len(list(tmp_path.iterdir())) == 1
        assert allranks.all_reduce(1) == world.world_size


@pytest.mark.ranks(1, 2)
def test_what_rank_0_raises_is_raised_on_all(world) -> None:
    def fail() -> None:
        raise LookupError("no such file")

    for _ in range(2):
        with pytest.raises(LookupError, match="no such file") as caught:
            allranks.on_master(fail)
        assert "fail" in [entry.name for entry in caught.traceback]
    assert allranks.all_reduce(1) == world.world_size


@pytest.mark.ranks(2)
def test_a_result_that_cannot_be_pickled_is_an_error_on_all(world) -> None:
    with pytest.raises(CollectiveError, match="rank 0: its tuple cannot be pickled"):
        allranks.on_master(lambda: lambda: 1)
    assert allranks.all_reduce(1) == 2


@pytest.mark.ranks(1, 3)
def test_rank_0_goes_first(world, tmp_path) -> None:
    built = tmp_path / "built"
    for _ in range(2):
        with allranks.master_first():
            if world.rank == 0 and not built.exists():
                time.sleep(0.3)
                built.touch()
            assert built.exists()
    allranks.synchronize()


@pytest.mark.ranks(2)
def test_the_others_hear_how_rank_0_failed(world) -> None:
    expected = KeyError if world.rank == 0 else PeerFailedError
    with pytest.raises(expected) as caught, allranks.master_first():
        raise KeyError("weights")
    if world.rank:
        assert str(caught.value) == "rank 0 failed in master_first: KeyError: 'weights'"
        assert caught.value.rank == 0
    assert allranks.all_reduce(1) == 2


@pytest.mark.parametrize(
    ("ending", "own_store"), [("os.kill(os.getpid(), 9)", True), ("os._exit(3)", False)]
)
def test_the_death_of_rank_0_is_told(ending, own_store) -> None:
    """By its process, or by its store, which goes with it."""

    def work() -> None:
        if not own_store:
            del os.environ["ALLRANKS_STORE"], os.environ["ALLRANKS_RANK"]
            del os.environ["ALLRANKS_WORLD_SIZE"], os.environ["ALLRANKS_RUN_ID"]
        allranks.setup(cpu=True)
        allranks.all_reduce(1)  # All are up; else the others would lose it while they come up.
        allranks.on_master(lambda: exec(ending))

    with pytest.raises(RankFailedError, match="rank 0") as caught:
        allranks.launch(work, ranks=3, timeout=PATIENCE)
    others = caught.value.__cause__
    assert isinstance(others, BaseExceptionGroup)
    assert [type(error) for error in others.exceptions] == [PeerFailedError] * 2
    told = {str(error) for error in others.exceptions}
    assert all("in on_master(<lambda>)" in text and "rank 0" in text for text in told), told


def test_silence_is_told_and_is_no_death(monkeypatch, capfd, tmp_path) -> None:
    """A rank 0 that gives no sign is waited for."""
    from allranks._rendezvous.private_store import private_store

    monkeypatch.setattr(turns, "SILENT", 0.3)
    place = private_store(str(tmp_path / "store"))
    threading.Timer(1.0, place.set, (turns.DONE, "")).start()
    turns._wait_for_first(place, "on_master(prepare)", turns.FirstRank(0, None))
    assert "waiting for rank 0, in on_master(prepare): silent for 0.3 s" in capfd.readouterr().err
