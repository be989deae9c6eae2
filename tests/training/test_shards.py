"""Shards: every sample on exactly one rank, and results back in the order of the data set."""

from __future__ import annotations

import collections
import io
import itertools
import json
import math
import re
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import allranks
from allranks._training.arguments import length_of
from allranks._training.sample_places import as_indices, check_indices, places_by_shard
from allranks._training.shards import Place, part_of
from allranks.errors import CollectiveError, ConfigError, MismatchError
from expectations import everyone_works_on, identical, refusal
from gpus import needs_gpus

SIZES = st.integers(1, 50)
LENGTHS = st.integers(0, 200)


# shard


class Squares:
    """A map-style data set, which has no slices."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < self._length:
            raise IndexError(index)
        return index**2


@given(LENGTHS, SIZES)
def test_every_sample_is_on_exactly_one_rank(length, size) -> None:
    """For a number, and for what slices and what does not."""
    shards = [part_of(length, Place(rank, size)) for rank in range(size)]
    assert sorted(number for shard in shards for number in shard) == list(range(length))
    assert [len(shard) for shard in shards] == [
        math.ceil(max(length - rank, 0) / size) for rank in range(size)
    ]
    for rank, numbers in enumerate(shards):
        assert part_of(list(range(length)), Place(rank, size)) == list(numbers)
        assert part_of(Squares(length), Place(rank, size)) == [one**2 for one in numbers]


@pytest.mark.ranks(1, 2, 3, 4)
def test_a_shard_is_of_the_kind_of_the_whole(world) -> None:
    mine = slice(world.rank, None, world.world_size)
    assert allranks.shard(10) == range(world.rank, 10, world.world_size)
    assert allranks.shard(np.int64(10)) == range(world.rank, 10, world.world_size)
    for whole in ([*"abcdefg"], tuple("abcdefg"), "abcdefg", b"abcdefg", range(3, 20, 2)):
        assert identical(allranks.shard(whole), whole[mine])
    for whole in (np.arange(14).reshape(7, 2), torch.arange(14).reshape(7, 2)):
        part = allranks.shard(whole)
        assert identical(part, whole[mine])
        part[:] = -1
        assert (whole[mine] == -1).all()  # A view.
    assert allranks.shard(collections.deque("abcde")) == list("abcde"[mine])
    assert allranks.shard(Squares(5)) == [one**2 for one in range(5)[mine]]


@pytest.mark.ranks(3)
def test_a_group_shares_its_own_samples(world) -> None:
    """Its first rank is not rank 0."""
    group = allranks.split(0 if world.rank else None)
    if world.rank:
        assert allranks.shard(7, group) == range(world.rank - 1, 7, 2)
        assert allranks.ShardSampler(7, group=group).indices.tolist() == list(
            range(world.rank - 1, 7, 2)
        )
    else:
        for call in (allranks.shard, lambda n, group: allranks.ShardSampler(n, group=group)):
            with pytest.raises(CollectiveError, match="rank 0 is not in this group"):
                call(7, group)


def test_before_setup_the_launcher_tells(fake_world) -> None:
    assert allranks.shard(5) == range(5)
    fake_world("slurm", rank=2, ranks=3)
    assert allranks.shard(5) == range(2, 5, 3)
    assert list(allranks.ShardSampler(5)) == [2]


WITHOUT_SAMPLES = [-1, 2.0, None, iter([1]), {1: 2}, {1, 2}, np.array(3), torch.tensor(3), object()]


@pytest.mark.parametrize("data", WITHOUT_SAMPLES, ids=lambda one: type(one).__name__)
def test_what_has_no_numbered_samples_is_refused(data) -> None:
    with pytest.raises(ConfigError, match="n_or_sequence="):
        allranks.shard(data)


def test_a_boolean_is_no_number_of_samples() -> None:
    with pytest.raises(ConfigError, match="n_or_sequence=True"):
        allranks.shard(True)
    assert length_of("n", range(3)) == 3


# ShardSampler


class Samplers:
    """What all ranks of a world have: samplers, made one after the other."""

    def __init__(self, fake_world, ranks: int, *arguments, **keywords) -> None:
        self.each = []
        for rank in range(ranks):
            fake_world("torchrun", rank=rank, ranks=ranks)
            self.each.append(allranks.ShardSampler(*arguments, **keywords))

    def consume(self, count: int) -> list[int]:
        """The first samples of all ranks, taken in turn as training does."""
        turns = [list(sampler) for sampler in self.each]
        longest = max(map(len, turns))
        taken = [some[i] for i in range(longest) for some in turns if i < len(some)]
        return taken[:count]

    def all(self) -> list[int]:
        return self.consume(10**9)

    def do(self, call: str, argument) -> None:
        for sampler in self.each:
            getattr(sampler, call)(argument)


@pytest.fixture(scope="module")
def any_world():
    """``fake_world`` for the examples of one test."""
    from allranks._launchers import simulated

    patch = pytest.MonkeyPatch()

    def pretend(launcher: str, rank: int, ranks: int) -> None:
        for name, value in simulated.environment(launcher, rank, ranks, None).items():
            patch.setenv(name, value)

    yield pretend
    patch.undo()


@settings(max_examples=60, deadline=None)
@given(
    length=st.integers(0, 60),
    old=st.integers(1, 9),
    new=st.integers(1, 9),
    newest=st.integers(1, 9),
    shuffle=st.booleans(),
    epoch=st.integers(0, 5),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_an_interrupted_epoch_gives_each_sample_once(
    any_world, length, old, new, newest, shuffle, epoch, shares
) -> None:
    """Interrupted twice, each time resumed by another number of ranks."""
    first, second = sorted(int(share * length) for share in shares)
    how = {"shuffle": shuffle, "seed": 11}
    one = Samplers(any_world, old, length, **how)
    one.do("set_epoch", epoch)
    whole = one.all()
    seen = one.consume(first)
    two = Samplers(any_world, new, length, **how)
    two.do("load_state_dict", json.loads(json.dumps(one.each[0].state_dict(first))))
    seen += two.consume(second - first)
    three = Samplers(any_world, newest, length, **how)
    three.do("load_state_dict", two.each[-1].state_dict(second))
    three.do("set_epoch", epoch)  # As a loop over epochs does.
    assert [len(sampler) for sampler in three.each] == [len(list(one)) for one in three.each]
    seen += three.all()
    assert seen == whole
    assert sorted(seen) == list(range(length))
    one.do("set_epoch", epoch + 1)
    three.do("set_epoch", epoch + 1)
    assert three.all() == one.all()
    assert sorted(three.all()) == list(range(length))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(1, 9), st.integers(0, 60), st.booleans())
def test_a_dropped_tail_leaves_equally_many(any_world, length, ranks, consumed, shuffle) -> None:
    """Also of the rest of an epoch."""
    samplers = Samplers(any_world, ranks, length, shuffle, drop_last=True)
    assert {len(sampler) for sampler in samplers.each} == {length // ranks}
    assert len(set(samplers.all())) == length // ranks * ranks
    consumed = min(consumed, length)
    before = allranks.ShardSampler(length, shuffle).state_dict(consumed)
    samplers.do("load_state_dict", before)
    left = length - consumed
    assert {len(list(sampler)) for sampler in samplers.each} == {left // ranks}
    assert len(set(samplers.all())) == left // ranks * ranks


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gives_each_sample_once(workers, world) -> None:
    data = TensorDataset(torch.arange(11))
    sampler = allranks.ShardSampler(data, shuffle=True, seed=3)
    loader = DataLoader(data, batch_size=2, sampler=sampler, num_workers=workers)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        seen = torch.cat([torch.empty(0, dtype=torch.int64), *(batch for [batch] in loader)])
        assert seen.tolist() == sampler.indices.tolist() == list(sampler)
        assert len(seen) == len(sampler) == len(allranks.shard(11))
        orders.append(allranks.all_gather(seen, cat=True).tolist())
        assert sorted(orders[-1]) == list(range(11))
        found = allranks.gather_shards(seen * 10, sampler.indices)
        assert found.tolist() == [10 * i for i in range(11)]
    assert orders[0] != orders[1]


def test_the_order_follows_from_seed_and_epoch_alone() -> None:
    """Not from their sum, nor from what the program has drawn."""

    def order(seed: int, epoch: int) -> list[int]:
        sampler = allranks.ShardSampler(50, True, seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    orders = {(seed, epoch): order(seed, epoch) for seed in range(4) for epoch in range(4)}
    assert len({tuple(one) for one in orders.values()}) == 16
    torch.rand(1)
    assert all(order(*of) == one for of, one in orders.items())
    assert allranks.ShardSampler(50).indices.tolist() == list(range(50))


def test_the_indices_are_made_anew() -> None:
    for shuffle in (False, True):
        sampler = allranks.ShardSampler(9, shuffle)
        before = list(sampler)
        sampler.indices.zero_()
        assert list(sampler) == before
        assert sampler.indices.dtype == torch.int64
    assert allranks.ShardSampler(0, shuffle=True).indices.tolist() == []


def test_the_names_are_those_of_torch_s(fake_world) -> None:
    fake_world("torchrun", rank=1, ranks=3)
    ours = allranks.ShardSampler(range(9), shuffle=True, seed=5, drop_last=True)
    theirs = DistributedSampler(range(9), 3, 1, shuffle=True, seed=5, drop_last=True)
    for sampler in (ours, theirs):
        sampler.set_epoch(4)
    for name in ("num_replicas", "rank", "epoch", "drop_last", "shuffle", "seed"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert len(ours) == len(theirs)
    assert isinstance(ours, torch.utils.data.Sampler)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"dataset_or_length": -1}, "dataset_or_length=-1"),
        ({"dataset_or_length": iter([1])}, "has a length"),
        ({"shuffle": 1}, "shuffle=1"),
        ({"shuffle": None}, "shuffle=None"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": 1.0}, r"seed=1\.0"),
        ({"drop_last": "no"}, "drop_last='no'"),
    ],
)
def test_a_sampler_of_wrong_arguments_is_refused(wrong, told) -> None:
    with pytest.raises(ConfigError, match=told):
        allranks.ShardSampler(**{"dataset_or_length": 5, **wrong})


@pytest.mark.parametrize("epoch", [-1, None, 1.0, "1", True])
def test_what_is_no_epoch_changes_nothing(epoch) -> None:
    sampler = allranks.ShardSampler(5)
    sampler.load_state_dict(sampler.state_dict(2))
    with pytest.raises(ConfigError, match="epoch="):
        sampler.set_epoch(epoch)
    assert (sampler.epoch, list(sampler)) == (0, [2, 3, 4])


def test_a_state_is_plain_numbers() -> None:
    sampler = allranks.ShardSampler(5, True, 2**70)
    sampler.set_epoch(7)
    state = sampler.state_dict(np.int64(3))
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert torch.load(file, weights_only=True) == json.loads(json.dumps(state)) == state


@pytest.mark.parametrize("consumed", [-1, 6, 2.0, True])
def test_more_than_there_is_cannot_have_been_consumed(consumed) -> None:
    sampler = allranks.ShardSampler(5)
    with pytest.raises(ConfigError, match="consumed="):
        sampler.state_dict(consumed)


def test_what_was_consumed_counts_from_the_epoch_s_beginning() -> None:
    sampler = allranks.ShardSampler(10)
    sampler.load_state_dict(sampler.state_dict(6))
    with pytest.raises(ConfigError, match=r"consumed=4: .*resumed after 6"):
        sampler.state_dict(4)
    sampler.load_state_dict(sampler.state_dict(8))
    assert list(sampler) == [8, 9]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"length": 9}, "length=9, and this one has length=5"),
        ({"seed": 4}, "seed=4, and this one has seed=0"),
        ({"shuffle": True}, "shuffle=True, and this one has shuffle=False"),
        ({"consumed": 6}, "consumed=6: the epoch has 5 samples"),
        ({"consumed": -1}, "consumed=-1"),
        ({"epoch": 1.5}, "epoch=1.5"),
        ({"length": None}, "length=None"),
        ({"more": 1}, "expected a dict with consumed, epoch, length, seed, shuffle"),
    ],
)
def test_a_state_of_another_sampler_changes_nothing(change, told) -> None:
    sampler = allranks.ShardSampler(5)
    sampler.set_epoch(2)
    with pytest.raises(ConfigError, match=told):
        sampler.load_state_dict({**sampler.state_dict(3), **change})
    assert (sampler.epoch, list(sampler)) == (2, [0, 1, 2, 3, 4])


@pytest.mark.parametrize("state", [None, [], {}, "state", {"epoch": 1}])
def test_what_is_no_state_is_refused(state) -> None:
    with pytest.raises(ConfigError, match="load_state_dict: expected a dict"):
        allranks.ShardSampler(5).load_state_dict(state)


class KeepingCount:
    """Asks a sampler and its iterator as torchdata's StatefulDataLoader does, and in its order."""

    def __init__(self, sampler) -> None:
        self.sampler = sampler
        self.iterator = None

    def state(self) -> dict:
        saved = {"sampler": self.sampler.state_dict(), "iterator": self.iterator.state_dict()}
        return json.loads(json.dumps(saved))

    def begin(self, state: dict | None = None) -> None:
        self.iterator = iter(self.sampler)
        if state:
            self.sampler.load_state_dict(state["sampler"])
            self.iterator = iter(self.sampler)
            self.iterator.load_state_dict(state["iterator"])

    def take(self, count: int | None = None) -> list[int]:
        return list(itertools.islice(self.iterator, count))


@pytest.mark.parametrize("ranks", [1, 3])
@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("sets_epoch", [False, True])
def test_a_loader_that_keeps_count_resumes_anywhere(
    fake_world, ranks, drop_last, sets_epoch
) -> None:
    """In the rest of an epoch once; each later epoch is a whole one."""
    for rank in range(ranks):
        fake_world("torchrun", rank=rank, ranks=ranks)
        one, two = (allranks.ShardSampler(11, True, 5, drop_last=drop_last) for _ in range(2))
        whole = [list(one)]
        one.set_epoch(int(sets_epoch))
        whole.append(list(one))
        one.set_epoch(0)
        for taken in range(len(whole[0]) + 1):
            first, second = KeepingCount(one), KeepingCount(two)
            first.begin()
            assert first.take(taken) == whole[0][:taken]
            two.set_epoch(0)
            second.begin(first.state())
            assert second.take(1) == whole[0][taken : taken + 1]
            again = second.state()  # Interrupted a second time.
            second.begin(again)
            assert second.take() == whole[0][taken + 1 :]
            two.set_epoch(int(sets_epoch))
            second.begin()
            assert second.take() == whole[1]
            assert len(two) == len(whole[1])


def test_what_is_over_is_not_resumed_in_a_later_epoch() -> None:
    """The loader loads when the next epoch begins, after the loop's ``set_epoch``."""
    first = KeepingCount(allranks.ShardSampler(5, True))
    first.begin()
    first.take()
    second = KeepingCount(allranks.ShardSampler(5, True))
    second.sampler.set_epoch(1)
    whole = list(second.sampler)
    second.begin(first.state())
    assert second.take() == whole
    assert second.sampler.epoch == 1


def test_a_state_without_a_number_is_where_the_iterator_is(any_world) -> None:
    """That of any rank, and another number of ranks may go on there."""
    samplers = Samplers(any_world, 3, 10).each
    assert [one.state_dict()["consumed"] for one in samplers] == [0, 0, 0]
    turns = [iter(one) for one in samplers]
    seen = [next(turn) for _ in range(2) for turn in turns]
    assert [one.state_dict()["consumed"] for one in samplers] == [6, 6, 6]
    pair = Samplers(any_world, 2, 10)
    pair.do("load_state_dict", samplers[1].state_dict())
    assert pair.each[0].state_dict()["consumed"] == 6
    assert sorted(seen + pair.all()) == list(range(10))
    assert [one.state_dict()["consumed"] for one in pair.each] == [10, 10]
    for turn in turns:
        list(turn)  # The first rank has one more.
    assert [one.state_dict()["consumed"] for one in samplers] == [10, 10, 10]
    samplers[0].set_epoch(1)
    assert samplers[0].state_dict()["consumed"] == 0


@pytest.mark.filterwarnings("ignore:'set_vital' is deprecated")
@pytest.mark.parametrize(("workers", "batch"), [(0, None), (0, 2), (2, 3)])
def test_torchdatas_loader_resumes_with_the_next_batch(workers, batch) -> None:
    """Which reads ahead with its workers."""
    loaders = pytest.importorskip("torchdata.stateful_dataloader")

    def made():
        sampler = allranks.ShardSampler(9, True)
        how = {"batch_size": batch, "num_workers": workers, "sampler": sampler}
        return sampler, loaders.StatefulDataLoader(range(9), **how)

    def batches(loader) -> list:
        return [one.tolist() if batch else int(one) for one in loader]

    sampler, loader = made()
    states = [loader.state_dict() for _ in loader]
    states.append(loader.state_dict())
    whole = batches(loader)
    sampler.set_epoch(1)
    later = batches(loader)
    for taken, state in enumerate(states, start=1):
        sampler, loader = made()
        loader.load_state_dict(state)
        if taken <= len(whole):
            assert batches(loader) == whole[taken:]
        sampler.set_epoch(1)
        assert batches(loader) == later


# gather_shards


class Pair(NamedTuple):
    left: object
    right: object


def whole_of(kind: str, length: int):
    """Results of all samples."""
    numbers = torch.arange(length)
    return {
        "vector": numbers.double,
        "rows": lambda: (numbers[:, None] * torch.arange(3)).to(torch.bfloat16),
        "flags": lambda: numbers % 2 == 0,
        "complex": lambda: torch.complex(numbers.float(), -numbers.float()),
        "uint16": lambda: numbers.to(torch.uint16),
        "nothing": lambda: torch.empty(length, 0),
        "array": lambda: np.arange(length * 2, dtype="float32").reshape(length, 2),
        "objects": lambda: np.array([str(i) for i in range(length)], dtype=object),
        "structured": lambda: np.array([(i, i / 2) for i in range(length)], dtype="i4,f8"),
        "list": lambda: [{"id": i, "box": [i] * i} for i in range(length)],
        "pair": lambda: Pair(numbers.clone(), [str(i) for i in range(length)]),
        "tree": lambda: {"a": numbers.float(), 3: ([*range(length)], np.arange(length))},
        "large": lambda: torch.arange(length * 40_000).reshape(length, 40_000),
    }[kind]()


KINDS = "vector rows flags complex uint16 nothing array objects structured list pair tree large"


def taken(tree, indices):
    """The samples of these numbers."""
    if isinstance(tree, dict):
        return {key: taken(child, indices) for key, child in tree.items()}
    if isinstance(tree, Pair):
        return Pair(*(taken(child, indices) for child in tree))
    if isinstance(tree, tuple):
        return tuple(taken(child, indices) for child in tree)
    if isinstance(tree, list):
        return [tree[i] for i in indices]
    if isinstance(tree, torch.Tensor):
        return torch.stack([tree[i] for i in indices]) if indices else tree[:0]
    return tree[list(indices)]


@pytest.mark.ranks(1, 2, 3, 4)
@pytest.mark.parametrize("kind", KINDS.split())
def test_results_come_back_in_order(kind, world) -> None:
    """Also of fewer samples than ranks, and with the split that indices tell."""
    rank, size = world.rank, world.world_size
    for length in (0, 1, 2, 3, 7, 8):
        whole = whole_of(kind, length)
        mine = taken(whole, allranks.shard(length))
        assert identical(allranks.gather_shards(mine), whole)
        order = np.random.default_rng(length).permutation(length)
        own = np.array_split(order, size)[rank].tolist()
        assert identical(allranks.gather_shards(taken(whole, own), own), whole)
        dst = length % size
        found = allranks.gather_shards(taken(whole, own), torch.tensor(own), dst=dst)
        assert identical(found, whole if rank == dst else None)
    everyone_works_on()


@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    owners=st.lists(st.integers(0, 2), max_size=30),
    trailing=st.lists(st.integers(0, 3), max_size=2),
)
@pytest.mark.ranks(3)
def test_any_split_comes_back(owners, trailing, world) -> None:
    whole = torch.randn(len(owners), *trailing, generator=torch.Generator().manual_seed(1))
    mine = [i for i, owner in enumerate(owners) if owner == world.rank]
    found, names = allranks.gather_shards((whole[mine], [f"n{i}" for i in mine]), mine)
    assert identical(found, whole)
    assert names == [f"n{i}" for i in range(len(owners))]


@given(LENGTHS, SIZES)
def test_places_are_those_of_the_shards(length, size) -> None:
    counts = [len(part_of(length, Place(rank, size))) for rank in range(size)]
    places = places_by_shard(range(size), counts)
    together = np.empty(length, int)
    for rank, where in enumerate(places):
        together[where] = part_of(range(length), Place(rank, size))
    assert together.tolist() == list(range(length))


@given(SIZES, st.data())
def test_indices_are_wrong_as_soon_as_one_is(size, data) -> None:
    length = data.draw(st.integers(1, 100))
    owners = data.draw(st.lists(st.integers(0, size - 1), min_size=length, max_size=length))
    numbers = data.draw(st.permutations(range(length)))

    def split():
        return [
            np.array([n for n, owner in zip(numbers, owners, strict=True) if owner == rank], int)
            for rank in range(size)
        ]

    check_indices(range(size), split())
    numbers[data.draw(st.integers(0, length - 1))] += data.draw(st.sampled_from([1, -1, 99]))
    with pytest.raises(MismatchError):
        check_indices(range(size), split())


@pytest.mark.ranks(2)
def test_what_is_gathered_is_new(world) -> None:
    mine = torch.ones(2, requires_grad=True)
    found = allranks.gather_shards(mine * 2)
    assert not found.requires_grad
    array = np.ones(2)
    allranks.gather_shards(array)[:] = 5
    assert array.tolist() == [1, 1]
    box = collections.Counter()
    assert allranks.gather_shards([box])[world.rank] is box


@pytest.mark.ranks(1)
def test_alone_the_values_are_put_in_order(world) -> None:
    assert allranks.gather_shards([10, 20]) == [10, 20]
    assert allranks.gather_shards([10, 20], [1, 0], dst=0) == [20, 10]
    assert allranks.gather_shards({}) == {}


def test_alone_no_setup_is_needed() -> None:
    found = allranks.gather_shards(np.arange(3), [2, 0, 1])
    assert found.tolist() == [1, 2, 0]
    with pytest.raises(MismatchError, match="missing: 2"):
        allranks.gather_shards([1, 2, 3], [0, 1, 1])


@pytest.mark.ranks(3)
@pytest.mark.parametrize(
    "nothing", [[], {}, torch.empty(0), np.empty((0, 9), "i2"), {"a": [], "b": []}], ids=repr
)
def test_a_rank_without_samples_gets_the_kind_of_the_others(nothing, world) -> None:
    whole = {"a": torch.arange(4).reshape(2, 2).half(), "b": ["x", "y"]}
    mine = nothing if world.rank == 2 else taken(whole, [world.rank])
    assert identical(allranks.gather_shards(mine), whole)
    mine = nothing if world.rank == 0 else taken(whole, [world.rank - 1])
    assert identical(allranks.gather_shards(mine, [world.rank - 1] if world.rank else []), whole)


@pytest.mark.ranks(4)
def test_a_group_without_rank_0_gathers(world) -> None:
    group = allranks.split(0 if world.rank else None)
    if world.rank:
        whole = torch.arange(7)
        mine = allranks.shard(whole, group)
        assert identical(allranks.gather_shards(mine, group=group), whole)
        found = allranks.gather_shards(mine, allranks.shard(7, group), group, dst=2)
        assert identical(found, whole if world.rank == 2 else None)
        told = refusal(CollectiveError, allranks.gather_shards, mine, group=group, dst=0)
        assert told.endswith("dst=0 is not in this group of ranks 1-3")
        told = refusal(MismatchError, allranks.gather_shards, [1] * (world.rank % 2), group=group)
        assert "among ranks 1-3" in told
        assert "rank 3 has 1 instead of 0" in told
    else:
        with pytest.raises(CollectiveError, match="rank 0 is not in this group"):
            allranks.gather_shards([], group=group)
    everyone_works_on()


def the_same_on_all(kind, *arguments, **keywords) -> str:
    """The text of the error that all ranks raise, after which the group works on."""
    told = refusal(kind, allranks.gather_shards, *arguments, **keywords)
    assert allranks.all_gather_objects(told) == [told] * allranks.get_world_size()
    everyone_works_on()
    return told


@pytest.mark.ranks(2, 3, 4)
def test_another_number_of_samples_names_the_rank(world) -> None:
    last = world.world_size - 1
    told = the_same_on_all(MismatchError, [0] * (1 if world.rank == last else 3))
    total = 3 * last + 1
    assert f"shard() splits {total} samples among ranks 0-{last}: " in told
    assert f"rank {last} has 1 instead of {len(range(last, total, last + 1))}" in told


@pytest.mark.ranks(3)
def test_indices_that_do_not_fit_name_their_ranks(world) -> None:
    def told(*each) -> str:
        mine = each[world.rank]
        return the_same_on_all(MismatchError, list(mine), mine)

    assert told([0, 1], [1, 2], [4]).endswith(
        "5 samples must be 0..4, each once; twice or more: 1 (ranks 0-1); missing: 3"
    )
    assert told([0], [2, 2], []).endswith("twice or more: 2 (rank 1); missing: 1")
    assert told([0], [-1], [7]).endswith("missing: 1, 2; not in 0..2: -1 (rank 1), 7 (rank 2)")
    assert told([0] * 20, [], []).endswith("missing: 1, 2, 3, 4, 5 and 14 more")


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    ("values", "told"),
    [
        (lambda: 5, "values: a int is no tensor, numpy array or list"),
        (lambda: {"a": None}, r"values\['a'\]: a NoneType is no tensor"),
        (lambda: (torch.ones(2), 1.0), r"values\[1\]: a float is no tensor"),
        (lambda: torch.tensor(1.0), "values has no dimensions"),
        (lambda: {"a": [1], "b": [1, 2]}, r"values\['a'\]: 1, values\['b'\]: 2"),
        (lambda: torch.ones(2).to_sparse(), "layout torch.sparse_coo"),
        (lambda: torch.ones(2, device="meta"), "meta tensor"),
        (lambda: np.ma.masked_array([1, 2]), "MaskedArray is no tensor"),
        (lambda: {Hostile(): [1, 2]}, "ValueError: leave me alone"),
    ],
)
def test_values_that_cannot_be_are_the_same_error_on_all(values, told, world) -> None:
    found = the_same_on_all(CollectiveError, values() if world.rank else torch.ones(2))
    assert re.search(f"rank 1: .*{told}", found), found


@pytest.mark.ranks(2)
def test_an_object_that_cannot_be_pickled_is_the_same_error_on_all(world) -> None:
    told = the_same_on_all(CollectiveError, [(lambda: 1) if world.rank else 2])
    assert told.startswith("rank 1: ")
    assert "cannot be pickled" in told


class Hostile:
    """A key that does not show itself."""

    def __repr__(self) -> str:
        raise ValueError("leave me alone")


@pytest.mark.ranks(2)
@pytest.mark.parametrize(
    "indices",
    [[0.5, 1.5], ["a", "b"], [True, False], [[0, 1]], 5, [0], [2**70, 1], "01", {0, 1}],
    ids=repr,
)
def test_indices_that_cannot_be_are_the_same_error_on_all(indices, world) -> None:
    told = the_same_on_all(CollectiveError, [1, 2], indices if world.rank else [0, 1])
    assert told.startswith("rank 1: gather_shards: ")


@pytest.mark.ranks(2)
@pytest.mark.parametrize("dst", [2, -1, "0", 0.0, [0]], ids=repr)
def test_a_receiver_that_is_none_is_the_same_error_on_all(dst, world) -> None:
    told = the_same_on_all(CollectiveError, [1], dst=dst if world.rank else 0)
    assert told == f"rank 1: gather_shards: dst={dst!r} is not in this group of ranks 0-1"


@pytest.mark.ranks(3)
def test_values_that_do_not_fit_together_are_told(world) -> None:
    told = the_same_on_all(MismatchError, torch.ones(2, 2 + world.rank % 2))
    assert "ranks 0, 2: tensor of torch.float32 [n, 2]" in told
    assert "rank 1: tensor of torch.float32 [n, 3]" in told
    told = the_same_on_all(MismatchError, {"a" if world.rank else "b": [1]})
    assert "{'b': list}" in told
    told = the_same_on_all(MismatchError, np.ones(1) if world.rank else torch.ones(1))
    assert "array of float64 [n]" in told


@pytest.mark.ranks(2)
def test_ranks_that_call_otherwise_are_told(world) -> None:
    told = the_same_on_all(MismatchError, [1], dst=world.rank)
    assert "to dst=1" in told
    told = the_same_on_all(MismatchError, [1], [1] if world.rank else None)
    assert "gather_shards with indices" in told
    with pytest.raises(MismatchError, match="gather_shards"):
        allranks.synchronize() if world.rank else allranks.gather_shards([1])
    everyone_works_on()


def test_indices_are_any_integers() -> None:
    for given_ in ([1, 0], (1, 0), range(1, -1, -1), np.array([1, 0], "u1"), torch.tensor([1, 0])):
        assert as_indices(given_, 2).tolist() == [1, 0]
    assert as_indices([torch.tensor(1), torch.tensor(0)], 2).tolist() == [1, 0]
    assert as_indices([], 0).tolist() == []


@pytest.mark.ranks(2)
def test_a_sampler_s_epoch_comes_back_from_batches(world) -> None:
    """The whole way of an evaluation."""
    data = TensorDataset(torch.arange(9).float())
    sampler = allranks.ShardSampler(data)
    outputs = torch.cat([batch**2 for [batch] in DataLoader(data, 2, sampler=sampler)])
    assert allranks.gather_shards(outputs).tolist() == [i**2 for i in range(9)]


@pytest.mark.gpu
@needs_gpus(1)
@pytest.mark.ranks(2)
def test_results_on_a_device_stay_there(world) -> None:
    mine = torch.full((1, 2), world.rank, device="cuda")
    found = allranks.gather_shards(mine)
    assert found.device == mine.device
    assert found.tolist() == [[0, 0], [1, 1]]


@pytest.mark.ranks(1, 2, 3)
@pytest.mark.parametrize("dst", [None, 0])
def test_texts_are_as_wide_as_the_widest(world, dst) -> None:
    """An array of numpy is as wide as its own longest text."""
    names = ["Anna", "Bo", "Christine", "D", "Ed", "Franka"]
    mine = np.array(allranks.shard(names))
    values = {"name": mine, "raw": (np.char.encode(mine).reshape(-1, 1), mine.astype("U12"))}
    got = allranks.gather_shards(values, dst=dst)
    if dst is None or world.rank == dst:
        assert (got["name"].tolist(), got["name"].dtype) == (names, np.dtype("U9"))
        assert got["raw"][0].tolist() == [[name.encode()] for name in names]
        assert got["raw"][0].dtype == np.dtype("S9")
        assert got["raw"][1].dtype == np.dtype("U12")


@pytest.mark.ranks(3)
def test_a_rank_without_texts_gets_the_widest_too(world) -> None:
    mine = [np.array(["a"]), np.array(["abc"]), np.array([], dtype="U40")][world.rank]
    got = allranks.gather_shards(mine)
    assert (got.tolist(), got.dtype) == (["a", "abc"], np.dtype("U3"))


@pytest.mark.ranks(2)
def test_texts_and_bytes_do_not_fit_together(world) -> None:
    with pytest.raises(MismatchError, match=r"rank 0: array of <U1 \[n\]; rank 1: array of \|S3"):
        allranks.gather_shards(np.array([b"abc"]) if world.rank else np.array(["a"]))
    with pytest.raises(MismatchError, match=r"do not fit together: .*\[n, 2\]"):
        allranks.gather_shards(np.array([["ab", "c"]]) if world.rank else np.array(["a"]))
    everyone_works_on()
