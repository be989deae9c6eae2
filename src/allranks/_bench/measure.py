"""The time of calls that take turns, so that what disturbs one disturbs the other alike."""

from __future__ import annotations

import math
import re
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from allranks._bench.bandwidth import algorithm_bandwidth
from allranks._bench.cases import ITEM, Buffers
from allranks._bench.results import Row, Timing
from allranks._collectives.all_reduce import all_reduce
from allranks._collectives.tensors import synchronize

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from numpy.typing import NDArray

    from allranks._bench.cases import Call, Case

WARM_UP = 3
"""Turns before those that count: in the first ones, connections and buffers are made."""

BATCH = 2e-3
"""Seconds that the calls of a turn take together, at least: the ranks do not begin at one moment,
and a turn must be long beside that."""

MOST_CALLS = 200
"""Calls of a turn, at most."""

LEAST_TURNS = 5
"""Turns that count, at least, however long they take."""

LACKING = re.compile(r"not (\w+ )?(support|implement)|unsupported", re.IGNORECASE)
"""How torch's backends say that they do not have a call."""


def measured(case: Case, size: int, ranks: int, device: torch.device, seconds: float) -> Row:
    """One collective at one size. Collective.

    Args:
        case: the collective.
        size: bytes, one of the sizes of the case.
        ranks: the number of ranks.
        device: where tensors lie.
        seconds: how long it is measured, as far as its calls allow.
    """
    calls = case.make(Buffers(ranks, size // ITEM, device))
    note = why_lacking(calls.torchs)
    turns = in_turns(calls[:1] if note else calls, seconds, device)
    factor = case.bus_factor(ranks)
    ours = timing(turns[:, 0], size, factor)
    if note:
        return Row(case.name, size, ours, None, None, note)
    ratio = float(np.median(turns[:, 1] / turns[:, 0]))
    return Row(case.name, size, ours, timing(turns[:, 1], size, factor), ratio)


def why_lacking(call: Call) -> str:
    """What the backend says where it does not have a call, the same on all ranks; else "".

    Collective, as the call is.
    """
    try:
        call()
    except RuntimeError as error:
        if not LACKING.search(str(error)):
            raise
        return str(error).splitlines()[0]
    return ""


def timing(seconds: NDArray[Any], size: int, factor: float) -> Timing:
    """What is told of the turns of one call."""
    low, median, high = map(float, np.quantile(seconds, (0.25, 0.5, 0.75)))
    algbw = algorithm_bandwidth(size, median)
    return Timing(median, low, high, algbw, algbw * factor)


def in_turns(calls: Sequence[Call], seconds: float, device: torch.device) -> NDArray[Any]:
    """Seconds of one call, for each turn and each of the calls; the slowest rank's. Collective.

    All ranks make as many turns, since they decide on the same figures.

    Args:
        calls: one after the other in each turn.
        seconds: how long it may take in all.
        device: what the calls leave work on.
    """
    fastest = _turns(calls, 1, WARM_UP, device).min(axis=0)
    many = min(math.ceil(BATCH / min(fastest)), MOST_CALLS)
    turns = max(math.ceil(seconds / (many * sum(fastest))), LEAST_TURNS)
    return _turns(calls, many, turns, device)


def _turns(calls: Sequence[Call], many: int, turns: int, device: torch.device) -> NDArray[Any]:
    """Seconds of a call, where each turn makes each of the calls so often; the slowest rank's."""
    mine = [[_timed(call, many, device) for call in calls] for _ in range(turns)]
    return all_reduce(np.array(mine), op="max")


def _timed(call: Call, many: int, device: torch.device) -> float:
    """Seconds of a call on this rank, when all ranks begin together."""
    synchronize()
    began = time.perf_counter()
    for _ in range(many):
        result = call()
    finish(device)
    seconds = (time.perf_counter() - began) / many
    del result  # Which takes time of its own, and not the call's.
    return seconds


def finish(device: torch.device) -> None:
    """Wait for what was left to the device."""
    import torch

    if device.type != "cpu":
        torch.accelerator.synchronize(device)
