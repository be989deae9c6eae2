"""A directory where the ranks were to meet, that is not there."""

from __future__ import annotations

import threading

import pytest

import allranks
from allranks._rendezvous import store_search
from allranks.errors import ConfigError, MissingRanksError
from harness import Ranks, env_environs, free_port


def meeting_in(directory: str) -> int:
    settings = {"init_method": "file", "shared_file_dir": directory, "rendezvous_timeout": 300}
    with allranks.session(cpu=True, **settings):
        return allranks.all_reduce(1)


def test_it_is_the_same_error_on_all_ranks_at_once(tmp_path) -> None:
    """None of them waits for the others, who cannot come."""
    place = tmp_path / "nowhere"
    ended = Ranks(meeting_in, env_environs(3, free_port()), str(place)).results()
    for one in ended:
        assert isinstance(one.error, ConfigError), one
        assert f"were to meet in {place}, and there is no such directory on " in one.text
    assert len({one.text for one in ended}) == 1


def test_one_that_a_rank_has_just_made_is_waited_for(tmp_path) -> None:
    place = tmp_path / "late"
    ranks = Ranks(meeting_in, env_environs(2, free_port()), str(place))
    threading.Timer(0.2, place.mkdir).start()
    assert [one.value for one in ranks.results()] == [2, 2]


def waiting_in(directory: str) -> tuple[str, list[str]]:
    told = []
    store_search.PROGRESS_FIRST, store_search.tell = 0.2, told.append
    settings = {"init_method": "file", "shared_file_dir": directory, "rendezvous_timeout": 2}
    with pytest.raises(MissingRanksError) as caught:
        allranks.setup(cpu=True, **settings)
    return str(caught.value), told


def test_who_waits_says_where(tmp_path) -> None:
    """Rank 0 never comes."""
    (one,) = Ranks(waiting_in, env_environs(2, free_port())[1:], str(tmp_path)).results()
    error, told = one.value
    place = f"it posted no address at {tmp_path}/.allranks-"
    assert place in error
    assert told[0].startswith(f"still waiting for rank 0: {place}")
