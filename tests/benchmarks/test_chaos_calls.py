"""The calls of benchmarks/chaos.py: how they are drawn and made, what they must give, who waits."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

import allranks
import chaos
import chaos_calls
import chaos_data
import chaos_values
from chaos_calls import Call
from chaos_oracle import Case, Rank, expected
from chaos_programs import FAULTS, Fault, drawn, range_of
from chaos_steps import (
    ANSWERS,
    CALLS,
    KINDS,
    MAKERS,
    NOT_TO_BE_SKIPPED,
    OF_THE_WORLD,
    TURNS,
    WAYS,
    WAYS_OF_TENSORS,
    Step,
)

EVERY = (*CALLS, *OF_THE_WORLD)


def steps_of(call: str) -> list[Step]:
    """A step of each kind and way, with operations that differ."""
    kinds = dict.fromkeys(KINDS.get(call, ("float", "object")))
    ways = {kind: WAYS_OF_TENSORS.get(call) if kind == "tensor" else None for kind in kinds}
    pairs = [(k, way) for k in kinds for way in ways[k] or WAYS.get(call, ("",))]
    return [
        Step(call, kind=kind, size=7, op=op, src=src, seed=11 * src, way=way)
        for (kind, way), (src, op) in product(pairs, enumerate(("sum", "mean"), 1))
    ]


@pytest.mark.ranks(3)
@pytest.mark.parametrize("call", EVERY)
def test_each_call_gives_what_is_wanted(call, tmp_path):
    directory = Path(allranks.broadcast_object(str(tmp_path)))
    rank, world = allranks.get_rank(), (0, 1, 2)
    for number, step in enumerate(steps_of(call)):
        callers = step.pair(world) if call == "send" else world
        if rank in callers:
            right = chaos_values.wanted(step, rank, callers)
            mine = chaos_data.given(step, rank, len(callers))
            got = Call(step, number, rank, callers, None, mine, directory).make()
            assert call in ANSWERS or chaos_values.same(got, right), (step, got, right)


def test_each_call_is_drawn_and_known():
    programs = [drawn(seed) for seed in range(300)]
    called = {step.call for program in programs for step in program.steps}
    assert called == {*EVERY, *MAKERS}
    assert set(chaos_calls.MADE) == set(chaos_values.WANTED) == set(EVERY)
    for program in programs:
        fault = program.fault
        if fault.kind in ("another call", "a skipped call"):
            assert program.steps[fault.step].call not in NOT_TO_BE_SKIPPED
        assert not any(s.call in OF_THE_WORLD and s.group != "world" for s in program.steps)


def wanted(step: Step, ranks: int = 3) -> list:
    return [chaos_values.wanted(step, rank, range(ranks)) for rank in range(ranks)]


def given(step: Step, ranks: int = 3) -> list:
    return [chaos_data.given(step, rank, ranks) for rank in range(ranks)]


def same(one: object, other: object) -> bool:
    return chaos_values.same(one, other)


def test_what_one_rank_alone_gets():
    for call, way in (("gather", ""), ("gather_objects", "dst"), ("gather_objects", "")):
        step = Step(call, kind="float", src=4, way=way)
        at = 0 if call == "gather_objects" and not way else 1
        assert wanted(step) == [given(step) if rank == at else None for rank in range(3)]
    step = Step("reduce", kind="int", src=2)
    assert wanted(step) == [None, None, sum(given(step))]
    step = replace(step, kind="tensor", size=5)
    data, (first, _, last) = given(step), wanted(step)
    assert same(first, [None, data[0]])
    assert same(last, [data[0] + data[1] + data[2]] * 2)
    shards = wanted(Step("gather_shards", kind="list", size=7, src=1, way="dst"))
    assert [whole is None for _, whole in shards] == [True, False, True]


def test_parts_that_go_to_all():
    for kind, way in (("tensor", ""), ("object", ""), ("tensor", "one"), ("tensor", "cat")):
        step = Step("all_to_all", kind=kind, size=7, way=way, seed=3)
        data = given(step)
        sent = [one.tensor_split(3) if way == "one" else one for one in data]
        received = [[sent[other][rank] for other in range(3)] for rank in range(3)]
        right = [torch.cat(parts) if way == "cat" else parts for parts in received]
        assert same(wanted(step), right)
    sizes = {len(part) for parts in given(Step("all_to_all", kind="tensor")) for part in parts}
    assert len(sizes) > 3
    few = chaos_data.given(Step("all_to_all", kind="tensor", size=10**6), 0, 32)
    assert sum(map(len, few)) < 10**6


def test_a_pair():
    step = Step("send", src=4, seed=1)
    assert step.pair((5, 6, 7)) == (6, 5)
    assert step.pair((5,)) == ()
    pairs = {
        Step("send", src=src, seed=seed).pair((0, 1, 2)) for src in range(3) for seed in (0, 1)
    }
    assert len(pairs) == 6
    assert all(one != other for one, other in pairs)
    there = [chaos_values.wanted(step, rank, (2, 0)) for rank in (2, 0)]
    assert there == [None, chaos_data.given(step, 2, 2)]
    both = [chaos_values.wanted(replace(step, way="both"), rank, (2, 0)) for rank in (2, 0)]
    assert both == [chaos_data.given(step, 0, 2), chaos_data.given(step, 2, 2)]


def test_trees_that_are_overwritten():
    step = Step("broadcast", kind="object", size=4, src=1)
    sent, arrays, kept = wanted(step)[0]
    assert same(sent, given(step)[1])
    assert [type(one).__name__ for one in arrays] == ["Tensor", "ndarray", "Tensor"]
    assert kept


def test_modules():
    step = Step("sync_module", kind="module", size=4, src=1)
    assert same(wanted(step), [given(step)[1]] * 3)
    data, means = given(step), wanted(replace(step, call="average_buffers"))
    for one, mine in zip(means, data, strict=True):
        total = sum(each["norm.running_var"] for each in data)
        assert same(one.pop("norm.running_var"), total / 3)
        assert not same(one.pop("norm.running_mean"), mine["norm.running_mean"])
        assert same(one, {name: mine[name] for name in one})
    assert set(chaos_calls.Net(4).tensors()) == set(data[0])


def test_data_that_are_alike():
    for kind in KINDS["check_same"]:
        first, *others = given(Step("check_same", kind=kind, size=9))
        assert all(same(first, one) for one in others)


@pytest.mark.parametrize("kind", KINDS["gather_shards"])
@pytest.mark.parametrize("size", [1, 7])
def test_samples(kind, size):
    step = Step("gather_shards", kind=kind, size=size, way="indices")
    samples, whose = given(step)[0]
    assert sorted(place for some in whose for place in some) == list(range(size))
    places = (whose[1], range(1, size, 3))
    for one, some in zip((step, replace(step, way="")), places, strict=True):
        mine, whole = wanted(one)[1]
        assert same(whole, samples)
        assert same(mine, chaos_data.taken(samples, list(some)))


def test_meters():
    step = Step("synchronize_between_processes", seed=5)
    data, (first, second) = given(step), wanted(step)[0]
    numbers = [one for updates in data for one in updates[0]["loss"]]
    later = [one for updates in data for one in updates[1]["loss"]]
    assert first["loss"] == [len(numbers), sum(numbers)]
    assert second["loss"] == [len(numbers + later), sum(numbers + later)]
    assert all(count for told in (first, second) for count, _ in told.values())


def test_gradients():
    step = Step("autograd.all_gather", kind="tensor", size=2, src=1, way="one asks")
    (every, none), (_, gradient), _ = wanted(step)
    assert none is None
    assert same(every, given(step))
    weights = [chaos_data.weight(step, rank, 1, len(every[1])) for rank in range(3)]
    assert same(gradient, weights[0] + weights[1] + weights[2])
    step = Step("autograd.all_reduce", kind="tensor", size=2, op="mean")
    (mean, gradient), *_ = wanted(step)
    weights = [chaos_data.weight(step, rank, 0, 2) for rank in range(3)]
    assert same(mean, sum(given(step)) / 3)
    assert same(gradient, sum(weights) / 3)


def test_a_range_of_ranks():
    assert (range_of("4-32"), range_of("8")) == ((4, 32), (8, 8))
    for text in ("1-4", "8-4", "4-", "x"):
        with pytest.raises(ValueError):  # noqa: PT011 - argparse shows its own words
            range_of(text)
    many = [drawn(seed, (4, 32)) for seed in range(60)]
    assert many == [drawn(seed, (4, 32)) for seed in range(60)]
    assert {program.ranks for program in many} > {4, 32}
    assert {program.fault.kind for program in many} == set(FAULTS)
    assert {drawn(seed).ranks for seed in range(60)} == {2, 3, 4}
    # Products of many ranks are not exact.
    assert not any(s.op == "prod" for p in many if p.ranks > 4 for s in p.steps)
    assert chaos.command((2, 4), 1, 7).endswith("--programs 1 --seed 7")
    assert chaos.command((4, 32), 1, 7).endswith("--seed 7 --ranks 4-32")


def ends(*steps: Step, kind: str = "kill", rank: int = 1, other: int = 0, ranks: int = 3) -> str:
    """How a rank may end where another one fails in the first step."""
    fault = Fault(kind, rank, "step", 0)
    program = replace(drawn(0), ranks=ranks, steps=steps, fault=fault, check=None)
    told = ({"at": 0.0, "what": "phase", "phase": "step", "step": 0},)
    return expected(Case(program, Rank(rank, told), other)).ends


def test_send_waits_for_the_other_one_alone():
    first, step = Step("send", src=1, seed=0), Step("send", src=0, seed=0)
    assert (first.pair(range(3)), step.pair(range(3))) == ((1, 2), (0, 1))
    assert ends(first, other=2) == "named"
    assert ends(first, other=0) == "named done"
    assert ends(first, step, other=0) == "named"
    assert ends(first, kind="stop", other=0) == "stalled done"


def test_a_turn_of_the_host_waits_for_its_first_rank_alone():
    first, turn = Step("synchronize"), Step("master_first", way="node")
    made = replace(drawn(0), ranks=3, steps=(turn, turn, Step("node_group", "node")))
    assert [made.makes_group(number) for number in range(3)] == [True, False, False]
    assert made.callers(turn, 2) == (0, 1, 2)
    assert ends(turn, other=2) == "named"  # It makes the group of the host first.
    late = replace(drawn(0), ranks=3, steps=(turn, first, turn))
    later = Fault("kill", 1, "step", 2)
    told = ({"at": 0.0, "what": "phase", "phase": "step", "step": 2},)
    case = Case(replace(late, fault=later), Rank(1, told), 2)
    assert expected(case).ends == "named done"


def test_a_stopped_rank_never_has_others_wait_for_its_turn():
    for seed in range(2000):
        program = drawn(seed)
        if program.fault.kind == "stop":
            turns = [step for step in program.steps if step.call in TURNS]
            firsts = [program.callers(step, program.fault.rank)[:1] for step in turns]
            assert (program.fault.rank,) not in firsts


def test_a_fault_comes_only_where_its_rank_is():
    for seed in range(1000):
        program = drawn(seed, (2, 6))
        fault = program.fault
        if fault.phase in ("step", "new_group") and fault.step >= 0:
            assert program.callers(program.steps[fault.step], fault.rank)
            assert fault.phase == "step" or program.makes_group(fault.step)
