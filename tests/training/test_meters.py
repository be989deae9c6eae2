"""Meters: numbers over a window and over all, one exchange for all of them."""

from __future__ import annotations

import copy
import math
import pickle
import random
import subprocess
import sys
from collections import deque

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import allranks
from allranks._transport import headers
from allranks.errors import CollectiveError, MismatchError, PeerFailedError
from allranks.meters import MetricLogger, SmoothedValue
from expectations import everyone_works_on, rank_and_size, refusal
from harness import run_ranks

NAMES = ("loss", "acc1", "lr")

NUMBERS = st.integers(-(2**20), 2**20).map(lambda number: number / 64)
"""Sums of these are exact, in whatever order."""


def shown(meter):
    """All that a meter tells."""
    names = ("median", "avg", "global_avg", "max", "value", "count", "total")
    return {name: getattr(meter, name) for name in names}


def logger_of(**totals):
    logger = MetricLogger()
    logger.update(**totals)
    return logger


class Original:
    """What the family of DETR computes for a meter, in 64 bits."""

    def __init__(self, window: int) -> None:
        self.window = deque(maxlen=window)
        self.count, self.total = 0, 0.0

    def update(self, value: float, n: int) -> None:
        self.window.append(value)
        self.count += n
        self.total += value * n

    def shown(self):
        tensor = torch.tensor(list(self.window), dtype=torch.float64)
        return {
            "median": tensor.median().item(),
            "avg": tensor.mean().item(),
            "global_avg": self.total / self.count,
            "max": tensor.max().item(),
            "value": self.window[-1],
            "count": self.count,
            "total": self.total,
        }


@given(st.integers(1, 30), st.lists(st.tuples(NUMBERS, st.integers(1, 64)), min_size=1))
def test_a_meter_shows_what_the_original_shows(window, updates) -> None:
    ours, original = SmoothedValue(window), Original(window)
    for value, n in updates:
        ours.update(value, n)
        original.update(value, n)
        assert shown(ours) == pytest.approx(original.shown(), rel=1e-15)
    assert list(ours.deque) == list(original.window)
    assert str(ours) == f"{ours.median:.4f} ({ours.global_avg:.4f})"


def test_the_default_window_and_a_format() -> None:
    meter = SmoothedValue()
    assert (meter.deque.maxlen, meter.fmt) == (20, "{median:.4f} ({global_avg:.4f})")
    assert SmoothedValue(None).deque.maxlen is None
    meter = SmoothedValue(
        window_size=3, fmt="{median:.0f} {avg:.1f} {max:g} {value:d} {global_avg}"
    )
    for value in (9, 4, 1, 3):
        meter.update(value)
    assert str(meter) == "3 2.7 4 3 4.25"


def test_an_even_window_has_the_lower_of_the_middle_two() -> None:
    meter = SmoothedValue()
    for value in (4.0, 1.0, 3.0, 2.0):
        meter.update(value)
    assert meter.median == 2.0


def test_a_meter_without_numbers_shows_nan() -> None:
    meter = SmoothedValue(fmt="{median} {avg} {global_avg} {max} {value}")
    assert str(meter) == "nan nan nan nan nan"
    assert (meter.count, meter.total) == (0, 0.0)
    meter.update(5.0, n=0)
    assert str(meter) == "5.0 5.0 nan 5.0 5.0"
    assert str(MetricLogger().meters["loss"]) == "nan (nan)"


@pytest.mark.parametrize("place", range(3))
def test_nan_passes_through(place) -> None:
    meter = SmoothedValue(3)
    for number in range(3):
        meter.update(math.nan if number == place else number)
    assert all(math.isnan(one) for one in (meter.median, meter.avg, meter.max, meter.global_avg))
    for number in range(3):
        meter.update(number)
    assert (meter.median, meter.avg, meter.max) == (1, 1, 2)
    assert math.isnan(meter.total)


def test_infinities_are_numbers() -> None:
    meter = SmoothedValue()
    meter.update(math.inf)
    assert (meter.avg, meter.median, meter.max, meter.global_avg) == (math.inf,) * 4
    meter.update(-math.inf)
    assert math.isnan(meter.avg)
    assert (meter.median, meter.max) == (-math.inf, math.inf)


def test_large_counts_and_small_changes_are_kept_in_64_bits() -> None:
    meter = SmoothedValue()
    meter.update(16777217, n=3)
    meter.update(1e-9)
    assert (meter.max, meter.total) == (16777217, 3 * 16777217 + 1e-9)
    assert meter.avg == (16777217 + 1e-9) / 2


TWO = {
    "int": 2,
    "float": 2.0,
    "numpy": np.float32(2),
    "numpy int": np.int64(2),
    "array": np.array([2.0]),
    "tensor": torch.tensor(2.0, requires_grad=True),
    "shaped": torch.full((1, 1), 2, dtype=torch.uint8),
    "bfloat16": torch.tensor(2, dtype=torch.bfloat16),
}


@pytest.mark.parametrize("two", TWO.values(), ids=list(TWO))
def test_whatever_is_one_number_is_taken_as_a_number(two) -> None:
    logger = logger_of(loss=two)
    logger.loss.update(two, n=two)
    assert logger.loss.total == 6
    assert {type(value) for value in (*logger.loss.deque, logger.loss.count)} <= {int, float}


BAD = {
    "text": "3",
    "list": [1.0],
    "complex": 1j,
    "two elements": torch.ones(2),
    "no element": np.ones(0),
    "no data": torch.ones((), device="meta"),
    "tensor of a complex": torch.tensor(1j),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_anything_else_is_refused_before_anything_is_changed(bad) -> None:
    logger = logger_of(loss=1.0)
    before = shown(logger.loss)
    with pytest.raises(TypeError, match=r"^acc1=.* is neither a number nor a tensor of one el"):
        logger.update(loss=2.0, acc1=bad, new=1)
    for arguments in ((bad,), (1.0, bad)):
        with pytest.raises(TypeError, match=r"^(value|n)=.* is neither a number"):
            logger.loss.update(*arguments)
    assert list(logger.meters) == ["loss"]
    assert shown(logger.loss) == before
    assert list(logger.loss.deque) == [1.0]


def test_a_logger_has_meters_by_name() -> None:
    logger = MetricLogger(delimiter="; ")
    logger.add_meter("lr", SmoothedValue(window_size=1, fmt="{value:.6f}"))
    logger.update(loss=1.0, lr=0.5, skipped=None)
    logger.meters["acc@1"].update(3.0, n=4)
    assert logger.loss is logger.meters["loss"]
    assert str(logger) == "lr: 0.500000; loss: 1.0000 (1.0000); acc@1: 3.0000 (3.0000)"
    with pytest.raises(AttributeError, match="MetricLogger has no attribute and no meter 'none'"):
        _ = logger.none
    assert not hasattr(logger, "skipped")
    assert list(logger.meters) == ["lr", "loss", "acc@1"]
    with pytest.raises(TypeError, match="add_meter: meter 'odd' is a deque, no SmoothedValue: de"):
        logger.add_meter("odd", deque())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_a_logger_can_be_copied(copied) -> None:
    logger = logger_of(loss=1.0)
    other = copied(logger)
    other.update(loss=3.0, new=1)
    assert (other.loss.total, logger.loss.total) == (4.0, 1.0)
    assert str(other) == "loss: 1.0000 (2.0000)\tnew: 1.0000 (1.0000)"


def test_to_assign_zero_begins_anew() -> None:
    """As the ``reset`` does that many copies have."""
    meter = SmoothedValue()
    meter.update(2.0, n=3)
    meter.synchronize_between_processes()
    meter.count += 1
    meter.total += 4
    assert (meter.count, meter.total) == (4, 10.0)
    meter.count, meter.total = 0, 0
    meter.update(5.0)
    assert (meter.count, meter.total) == (1, 5.0)


def test_meters_and_loops_need_neither_torch_nor_numpy() -> None:
    program = (
        "import sys; from allranks.meters import MetricLogger; logger = MetricLogger()\n"
        "for i in logger.log_every(range(3), 1): logger.update(loss=i)\n"
        "assert not {'torch', 'numpy', 'rich'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)


# On several ranks.


@pytest.mark.ranks(1, 2, 3, 4)
def test_count_and_total_become_those_of_all_ranks(world) -> None:
    logger = MetricLogger()
    logger.meters["acc"].update(10.0 * world.rank, n=world.rank + 1)
    logger.update(loss=world.rank)
    logger.synchronize_between_processes()
    ranks = range(world.world_size)
    assert logger.acc.count == sum(rank + 1 for rank in ranks)
    assert logger.acc.total == sum(10.0 * rank * (rank + 1) for rank in ranks)
    assert type(logger.acc.count) is int
    assert logger.loss.global_avg == sum(ranks) / world.world_size
    assert list(logger.loss.deque) == [world.rank]
    assert logger.loss.median == logger.loss.value == world.rank


@pytest.mark.ranks(1, 2, 3, 4)
def test_a_second_synchronisation_sums_only_what_came_since(world) -> None:
    size, logger, meter = world.world_size, MetricLogger(), SmoothedValue()
    for epoch in range(1, 4):
        logger.update(loss=1.0)
        meter.update(2.0, n=3)
        for _ in range(2):
            logger.synchronize_between_processes()
            meter.synchronize_between_processes()
            assert (logger.loss.count, logger.loss.total) == (epoch * size, epoch * size)
            assert (meter.count, meter.total) == (3 * epoch * size, 6 * epoch * size)
    meter.update(math.nan)
    for _ in range(2):
        meter.synchronize_between_processes()
        assert meter.count == 10 * size
        assert math.isnan(meter.total)


@pytest.mark.ranks(2, 3, 4)
def test_a_meter_that_began_anew_is_that_of_all_ranks_again(world) -> None:
    """On all ranks, or on one: what the others have in common still counts, and once."""
    meter = SmoothedValue()
    meter.update(1.0)
    meter.synchronize_between_processes()
    meter.count = meter.total = 0
    meter.update(2.0)
    meter.synchronize_between_processes()
    assert (meter.count, meter.total) == (world.world_size, 2.0 * world.world_size)
    if world.rank == 1:
        meter = SmoothedValue()
        meter.update(0.5)
    meter.synchronize_between_processes()
    assert (meter.count, meter.total) == (world.world_size + 1, 2.0 * world.world_size + 0.5)


@pytest.mark.ranks(1, 2, 3, 4)
def test_ranks_may_have_different_meters(world) -> None:
    """All have all of them afterwards; the windows stay where they were."""
    logger = logger_of(**{f"of {world.rank}": world.rank + 1.0}, all=1)
    for _ in range(2):
        logger.synchronize_between_processes()
        ranks = range(world.world_size)
        assert {name: one.total for name, one in logger.meters.items()} == {
            "all": world.world_size,
            **{f"of {rank}": rank + 1.0 for rank in ranks},
        }
        assert all(logger.meters[f"of {rank}"].count == 1 for rank in ranks)
    others = [f"of {rank}" for rank in ranks if rank != world.rank]
    assert list(logger.meters) == [f"of {world.rank}", "all", *others]
    assert all(not logger.meters[name].deque for name in others)
    logger.update(**{"of 0": 1.0})
    logger.synchronize_between_processes()
    assert logger.meters["of 0"].total == world.world_size + 1


@pytest.mark.ranks(1, 3)
def test_a_logger_without_meters(world) -> None:
    logger = MetricLogger()
    logger.synchronize_between_processes()
    assert not logger.meters


PROGRAMS = st.lists(
    st.one_of(
        st.just(None),
        st.tuples(st.integers(0, 3), st.sampled_from(NAMES), NUMBERS, st.integers(1, 64)),
    ),
    max_size=40,
)
"""None synchronises; else this rank updates this meter."""


@pytest.mark.ranks(1, 2, 3, 4)
@settings(max_examples=30, deadline=None)
@given(PROGRAMS)
def test_random_programs_give_what_one_process_computes(program) -> None:
    """After a synchronisation, as if one process had all numbers; in between, all and one's own."""
    (here, size), logger, everyone, mine = rank_and_size(), MetricLogger(), {}, {}
    for step in [*program, None, None]:
        if step is None:
            logger.synchronize_between_processes()
            mine = dict(everyone)
        elif step[0] < size:
            rank, name, value, n = step
            if rank == here:
                logger.meters[name].update(value, n)
                mine[name] = added(mine, name, value, n)
            everyone[name] = added(everyone, name, value, n)
        assert {name: (one.count, one.total) for name, one in logger.meters.items()} == mine


def added(sums, name, value, n):
    count, total = sums.get(name, (0, 0.0))
    return count + n, total + value * n


@pytest.mark.ranks(2, 3, 4)
def test_all_ranks_get_the_same_bits(world) -> None:
    """The sum is rounded once, whatever the order of the ranks."""
    values = (1e16, 1.0, -1e16, 0.1)[: world.world_size]
    draw = random.Random(world.rank)
    logger = logger_of(cancels=values[world.rank])
    for _ in range(100):
        logger.update(**{name: draw.gauss(0, 10.0 ** draw.randrange(-9, 9)) for name in NAMES})
    logger.synchronize_between_processes()
    assert logger.cancels.total == math.fsum(values)
    bits = {name: one.total.hex() for name, one in sorted(logger.meters.items())}
    assert allranks.all_gather_objects(bits) == [bits] * world.world_size


@pytest.mark.ranks(1, 2, 4)
def test_infinities_of_several_ranks(world) -> None:
    last = world.rank == world.world_size - 1
    logger = logger_of(up=math.inf, both=-math.inf if last else math.inf, big=1e308)
    logger.synchronize_between_processes()
    assert logger.up.total == math.inf
    assert math.isnan(logger.both.total) or world.world_size == 1
    assert logger.big.total == 1e308 * world.world_size


@pytest.mark.ranks(1, 2, 4)
def test_twenty_meters_take_one_exchange(world, monkeypatch) -> None:
    logger = logger_of(**{f"metric {i}": i for i in range(20)})
    logger.synchronize_between_processes()  # The first one opens the group's channel.
    asked = []
    original = headers._ask
    monkeypatch.setattr(headers, "_ask", lambda *a, **k: asked.append(a[1]) or original(*a, **k))
    logger.update(**{f"metric {i}": i for i in range(20)})
    logger.synchronize_between_processes()
    assert len(asked) == 1
    assert logger.meters["metric 19"].total == 2 * 19 * world.world_size


@pytest.mark.ranks(1, 2)
def test_many_meters_with_long_names(world) -> None:
    """More than fits into a first message."""
    names = [f"{i} {'x' * 200}" for i in range(1000)]
    logger = logger_of(**dict.fromkeys(names[world.rank :], 1.0))
    logger.synchronize_between_processes()
    assert sorted(logger.meters) == sorted(names)
    assert logger.meters[names[0]].total == 1
    assert logger.meters[names[-1]].total == world.world_size


@pytest.mark.ranks(1, 2, 3)
def test_one_ranks_error_is_raised_on_all(world) -> None:
    last = world.world_size - 1
    logger = logger_of(loss=1.0)
    if world.rank == last:
        logger.meters["odd"] = "no meter"
    told = refusal(CollectiveError, logger.synchronize_between_processes)
    assert f"rank {last}: MetricLogger.synchronize_between_processes: meter 'odd' is a str" in told
    assert (logger.loss.count, next(iter(logger.meters))) == (1, "loss")
    logger.meters.pop("odd", None)
    logger.synchronize_between_processes()
    assert logger.loss.count == world.world_size
    everyone_works_on()


@pytest.mark.ranks(2, 3)
def test_ranks_that_call_something_else_find_out(world) -> None:
    logger, one = logger_of(loss=1.0), SmoothedValue()
    calls = [logger.synchronize_between_processes, lambda: allranks.all_reduce(1)]
    told = refusal(MismatchError, calls[world.rank > 0])
    assert "rank 0: MetricLogger.synchronize_between_processes;" in told
    calls[1] = one.synchronize_between_processes
    told = refusal(MismatchError, calls[world.rank > 0])
    assert "SmoothedValue.synchronize_between_processes" in told
    assert (logger.loss.count, one.count) == (1, 0)
    everyone_works_on()


@pytest.mark.ranks(2, setup=False)
def test_several_ranks_are_set_up_first(world) -> None:
    logger = logger_of(loss=1.0)
    for call in (logger.synchronize_between_processes, logger.loss.synchronize_between_processes):
        assert "Call allranks.setup() first" in refusal(CollectiveError, call)


def _raising() -> None:
    with allranks.session(cpu=True) as world:
        logger = MetricLogger()
        for step in logger.log_every(range(3), 1):
            logger.update(loss=step)
            if (world.rank, step) == (1, 1):
                raise ValueError("a bad batch")
        logger.synchronize_between_processes()


def test_one_rank_that_raises_is_named_by_the_others() -> None:
    first, culprit, last = run_ranks(_raising, 3)
    assert culprit.text == "ValueError: a bad batch"
    for other in (first, last):
        assert type(other.error) is PeerFailedError
        assert other.error.rank == 1
        assert "a bad batch" in other.text
