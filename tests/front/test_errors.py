"""The tree of errors: every one is caught by its root and survives pickle."""

from __future__ import annotations

import pickle
import traceback

import pytest

import allranks
from allranks import errors
from allranks._collectives.pickling import load
from allranks._launch.remote_call import dump_error

FIELDS = {
    "DetectionError": {"variables": {"RANK": "x"}},
    "MissingRanksError": {"missing": (1, 2)},
    "DuplicateRankError": {"rank": 3},
    "PeerFailedError": {"rank": 5, "traceback": "Traceback ..."},
    "RankFailedError": {"rank": 1, "exit_code": -9},
}


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_survives_pickle_with_its_fields(name: str) -> None:
    kind = getattr(errors, name)
    error = kind("what happened", **FIELDS.get(name, {}))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == "what happened"
    assert vars(copy) == vars(error) == FIELDS.get(name, {})
    assert isinstance(copy, errors.AllranksError)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_sends_nothing_that_a_terminal_obeys(name: str) -> None:
    error = getattr(errors, name)(
        "of rank 1:\n\t\x1b[2J\x1b]0;title\x07\u202e", **FIELDS.get(name, {})
    )
    assert str(error) == "of rank 1:\n\t\\x1b[2J\\x1b]0;title\\x07\\u202e"


@pytest.mark.ranks(2)
def test_what_another_rank_says_is_shown_without_escapes(world) -> None:
    class Unfit:
        def __reduce__(self):
            raise ValueError("\x1b[2J\x1b]0;title\x07")

    with pytest.raises(errors.CollectiveError, match=r"\\x1b\[2J\\x1b]0;title\\x07") as caught:
        allranks.all_gather_objects(Unfit() if world.rank else 1)
    assert "\x1b" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("DetectionError", RuntimeError),
        ("ConfigError", ValueError),
        ("DeviceError", RuntimeError),
        ("RendezvousError", ConnectionError),
        ("RendezvousError", RuntimeError),
        ("MissingRanksError", TimeoutError),
        ("CollectiveError", RuntimeError),
        ("MismatchError", ValueError),
        ("StalledError", TimeoutError),
    ],
)
def test_an_error_is_what_callers_expect(name: str, builtin: type) -> None:
    assert issubclass(getattr(errors, name), builtin)


def test_the_drawn_tree_names_every_error() -> None:
    assert all(name in (errors.__doc__ or "") for name in errors.__all__)


@pytest.mark.parametrize("name", errors.__all__)
def test_an_error_is_carried_to_the_parent_as_it_is(name: str) -> None:
    """By what launch() and on_master() send, which make it without its arguments."""
    kind = getattr(errors, name)
    copy = load([bytes(part) for part in dump_error(kind("what", **FIELDS.get(name, {})), 0)])
    assert (type(copy), str(copy), vars(copy)) == (kind, "what", FIELDS.get(name, {}))
