"""Loggers that know the ranks."""

from __future__ import annotations

import io
import logging

import pytest

import allranks
from allranks.errors import PeerFailedError
from harness import PATIENCE


@pytest.fixture
def heard():
    """A logger's output, with the ranks' fields in each line."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(allranks.RankFilter())
    handler.setFormatter(logging.Formatter("%(rank)s/%(world_size)s %(funcName)s %(message)s"))
    logger = logging.getLogger("spoken")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield stream.getvalue
    logger.removeHandler(handler)


@pytest.mark.ranks(1, 2, 3)
def test_who_speaks(world, heard) -> None:
    log = allranks.get_logger("spoken")
    log.info("first %d", 1)
    log.warning("all", ranks="all")
    log.info("some", ranks=(0, world.world_size - 1))
    log.info("one", ranks=world.world_size - 1)
    log.debug("nobody", ranks="all")
    here = f"{world.rank}/{world.world_size} test_who_speaks"
    last = world.rank == world.world_size - 1
    said = [(world.rank == 0, "first 1"), (True, "all"), (last or world.rank == 0, "some")]
    said.append((last, "one"))
    assert heard() == "".join(f"{here} {text}\n" for speaks, text in said if speaks)


@pytest.mark.ranks(1, 3)
def test_one_after_the_other(world, tmp_path) -> None:
    """Those that are silent, or whose level is higher, take part all the same."""
    handler = logging.FileHandler(tmp_path / "log")  # One file for all ranks.
    log = allranks.get_logger("in order")
    log.logger.addHandler(handler)
    log.setLevel(logging.ERROR if world.rank == 1 else logging.INFO)
    for step in range(3):
        log.info("%d of %d", step, world.rank, ranks="all", in_order=True)
    log.logger.removeHandler(handler)
    handler.close()
    speakers = [rank for rank in range(world.world_size) if rank != 1]
    expected = [f"{step} of {rank}" for step in range(3) for rank in speakers]
    assert (tmp_path / "log").read_text().splitlines() == expected


@pytest.mark.ranks(2)
@pytest.mark.parametrize("ranks", ["masters", 2, -1, (0, 2), None, (True,), 1.0, object])
def test_what_names_no_ranks(world, ranks) -> None:
    with pytest.raises(ValueError, match='expected "master", "all", or ranks from 0 to 1'):
        allranks.get_logger("spoken").info("x", ranks=ranks)


def failing_in_turn() -> None:
    allranks.setup(cpu=True)
    if allranks.get_rank() == 1:
        raise LookupError("no shard 7")
    allranks.get_logger("spoken").info("x", in_order=True)


def test_a_rank_that_fails_ends_the_others_turn() -> None:
    with pytest.raises(LookupError) as caught:
        allranks.launch(failing_in_turn, ranks=3, timeout=PATIENCE)
    others = caught.value.__cause__
    assert all(isinstance(error, PeerFailedError) for error in getattr(others, "exceptions", []))


def test_before_setup(monkeypatch, heard) -> None:
    log = allranks.get_logger("spoken")
    log.info("alone", extra={"more": 1}, stacklevel=1)
    assert heard() == "0/1 test_before_setup alone\n"
    monkeypatch.setenv("RANK", "1")
    logging.getLogger("spoken").info("half")
    assert heard().endswith("?/? test_before_setup half\n")
