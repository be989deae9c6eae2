"""``check=True``: bare tensors are verified too, before anything is sent."""

from __future__ import annotations

import os

import pytest
import torch

import allranks
from allranks.errors import CollectiveError, MismatchError


def caught(*calls) -> list[str]:
    """What each call raised, after which the group must still work."""
    told = []
    for call in calls:
        try:
            call()
        except CollectiveError as error:
            told.append(f"{type(error).__name__}: {error}")
        assert allranks.all_reduce(torch.ones(1)).item() == allranks.get_world_size()
    return told


def mismatches() -> list[str]:
    rank = allranks.get_rank()
    return caught(
        lambda: allranks.all_reduce(torch.ones(rank + 1)),
        lambda: allranks.all_reduce(torch.ones(2), op="max" if rank else "sum"),
        lambda: allranks.all_reduce(torch.ones(2, dtype=torch.int32 if rank else torch.float32)),
        lambda: allranks.broadcast(torch.ones(rank + 2), 0),
        lambda: allranks.broadcast(torch.ones(2), rank),
        lambda: (
            allranks.broadcast(torch.ones(2), 0) if rank else allranks.all_reduce(torch.ones(2))
        ),
        lambda: allranks.all_reduce(torch.ones(2).long(), average=rank == 0),
    )


@pytest.mark.ranks(2)
def test_bare_tensors_that_do_not_fit_are_the_same_error_on_all_ranks() -> None:
    first, second = allranks.all_gather_objects(mismatches())
    assert first == second
    assert len(first) == 7
    assert all(text.startswith(MismatchError.__name__) for text in first[:6]), first
    assert "rank 0: all_reduce(sum) of tensor torch.float32[1]" in first[0]
    assert "mean" in first[6]


def lines() -> list[str]:
    allranks.all_reduce(torch.ones(2))
    try:
        if allranks.get_rank():
            allranks.all_reduce(torch.ones(2))
        else:
            allranks.all_reduce(torch.ones(2))
    except MismatchError as error:
        return [str(error)]
    return []


@pytest.mark.ranks(2, setup=False)
def test_lines_tell_calls_from_other_lines_apart() -> None:
    with allranks.session(cpu=True, check="lines"):
        first, second = allranks.all_gather_objects(lines())
    assert "ALLRANKS_CHECK" not in os.environ
    assert first == second
    assert "test_check.py:" in first[0]


def test_the_variable_does_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from allranks._transport.headers import checking

    for value, meant in [("1", "1"), ("lines", "lines"), ("0", None), ("", None), ("False", None)]:
        monkeypatch.setenv("ALLRANKS_CHECK", value)
        assert checking() == meant
