"""Seeds: each rank and each worker draws numbers of its own, and again the same ones."""

from __future__ import annotations

import io
import json
import random
from enum import IntEnum
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

import allranks
from allranks._training import rng_state
from allranks._training.streams import EACH_RANK, permutation, seed_libraries, stream
from allranks.errors import CollectiveError, ConfigError, MismatchError
from expectations import everyone_works_on, identical
from gpus import needs_gpus

SEEDS = st.integers(0, 3) | st.integers(0, 2**80) | st.integers(2**200, 2**300)


@pytest.fixture(autouse=True)
def _unseeded():
    """The tests that follow draw as if these had not seeded anything."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


def draws() -> tuple[list[float], ...]:
    """Some numbers of each library, which follow from its state."""
    return (
        [random.random() for _ in range(4)],
        np.random.rand(4).tolist(),
        torch.rand(4, dtype=torch.float64).tolist(),
    )


@pytest.mark.ranks(1, 2, 3, 4)
def test_each_rank_draws_its_own_numbers_and_again_the_same(world) -> None:
    returned = allranks.seed_all(5)
    assert torch.initial_seed() == returned
    first = draws()
    of_all = [numbers for other in allranks.all_gather_objects(first) for numbers in other]
    assert len({tuple(numbers) for numbers in of_all}) == 3 * world.world_size
    draws()
    assert allranks.seed_all(5) == returned
    assert draws() == first
    assert allranks.seed_all(6) != returned
    assert all(one != other for one, other in zip(draws(), first, strict=True))


@pytest.mark.ranks(1, 2, 3, 4)
def test_all_ranks_may_draw_the_same_numbers_which_are_no_rank_s_own(world) -> None:
    returned = allranks.seed_all(5, per_rank=False)
    shared = draws()
    assert allranks.all_gather_objects((returned, shared)) == [(returned, shared)] * (
        world.world_size
    )
    assert allranks.seed_all(5) != returned
    assert all(one != other for one, other in zip(draws(), shared, strict=True))


@pytest.mark.parametrize("launcher", ["torchrun", "slurm", "openmpi"])
@pytest.mark.parametrize("ranks", [3, 8])
def test_neither_the_launcher_nor_the_world_size_matters(fake_world, launcher, ranks) -> None:
    fake_world("torchrun", rank=2, ranks=4)
    expected = allranks.seed_all(1), draws()
    fake_world(launcher, rank=2, ranks=ranks)
    assert (allranks.seed_all(1), draws()) == expected


def test_a_run_of_another_day_draws_the_same(fake_world) -> None:
    """These numbers must not change from one version to the next, nor with numpy's."""
    fake_world("torchrun", rank=1, ranks=2)
    assert allranks.seed_all(42) == 3_787_835_446_099_756_925
    assert random.getrandbits(32) == 3_293_677_665
    assert np.random.randint(2**31) == 404_717_131
    assert permutation(8, 42, 3).tolist() == [5, 0, 7, 6, 4, 3, 2, 1]


def test_a_rank_s_numbers_are_not_those_of_the_next_seed(fake_world) -> None:
    """As they would be with ``seed + rank``."""
    seen = []
    for seed in range(4):
        for rank in range(4):
            fake_world("torchrun", rank=rank, ranks=4)
            allranks.seed_all(seed)
            seen += [tuple(numbers) for numbers in draws()]
    assert len(set(seen)) == len(seen) == 3 * 16


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SEEDS, st.integers(0, 10**6)), min_size=2, max_size=5, unique=True))
def test_streams_of_different_seeds_and_ranks_are_never_equal(places) -> None:
    seen = []
    for seed, rank in places:
        seed_libraries(stream(seed, EACH_RANK, rank))
        seen += [tuple(numbers) for numbers in draws()]
        seed_libraries(stream(seed, EACH_RANK, rank))
        assert [tuple(numbers) for numbers in draws()] == seen[-3:]
    assert len(set(seen)) == len(seen)


class Level(IntEnum):
    THREE = 3


def test_a_seed_is_any_whole_number() -> None:
    expected = allranks.seed_all(3), draws()
    for seed in (np.int64(3), np.uint8(3), Level.THREE):
        assert (allranks.seed_all(seed), draws()) == expected
    assert len({allranks.seed_all(seed) for seed in (0, 2**32, 2**64, 2**1000)}) == 4


NO_SEEDS = [-1, -(2**70), True, np.True_, 1.0, float("nan"), "1", None, [1], torch.tensor(1)]


@pytest.mark.parametrize("seed", NO_SEEDS, ids=repr)
def test_what_is_no_seed_changes_nothing(seed) -> None:
    before = allranks.get_rng_state()
    with pytest.raises(ConfigError, match=r"seed=.*: expected an integer of at least 0"):
        allranks.seed_all(seed)
    assert identical(allranks.get_rng_state(), before)


@pytest.mark.parametrize("per_rank", [None, 1, "no"])
def test_what_is_neither_true_nor_false_changes_nothing(per_rank) -> None:
    before = allranks.get_rng_state()
    with pytest.raises(ConfigError, match="per_rank="):
        allranks.seed_all(1, per_rank)
    assert identical(allranks.get_rng_state(), before)


class Draws(Dataset):
    """Each sample is its worker's number and what that draws."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> str:
        return json.dumps([torch.utils.data.get_worker_info().id, *draws()])


def drawn_by_workers(**more) -> dict[int, list[tuple[float, ...]]]:
    """For each worker what its libraries draw for its first sample."""
    how = {"num_workers": 2, "worker_init_fn": allranks.worker_init_fn, **more}
    loader = DataLoader(Draws(), collate_fn=list, **how)
    samples = [json.loads(text) for [text] in loader]
    return {worker: [tuple(numbers) for numbers in drawn] for worker, *drawn in reversed(samples)}


@pytest.mark.ranks(2)
def test_no_two_workers_of_any_ranks_share_numbers(world) -> None:
    """Though all ranks' loaders have the same base seed."""
    epochs = []
    for seed in (1, 2, 1):
        generator = torch.Generator().manual_seed(seed)
        epochs.append(drawn_by_workers(generator=generator))
    assert epochs[2] == epochs[0]
    told = allranks.all_gather_objects(epochs[:2])
    seen = [one for ranks in told for epoch in ranks for two in epoch.values() for one in two]
    assert len(set(seen)) == len(seen) == 2 * 2 * 2 * 3


@pytest.mark.ranks(2, timeout=120)
def test_a_worker_that_is_spawned_knows_its_rank(world) -> None:
    generator = torch.Generator().manual_seed(1)
    drawn = drawn_by_workers(num_workers=1, multiprocessing_context="spawn", generator=generator)
    of_all = allranks.all_gather_objects(drawn[0])
    assert len({numbers for one in of_all for numbers in one}) == 2 * 3
    forked = drawn_by_workers(num_workers=1, generator=generator.manual_seed(1))
    assert forked[0] == drawn[0]


def test_workers_repeat_themselves_after_a_seed() -> None:
    epochs = []
    for _ in range(2):
        allranks.seed_all(3)
        epochs.append([drawn_by_workers(), drawn_by_workers()])
    assert epochs[0] == epochs[1]
    assert epochs[0][0] != epochs[0][1]


def test_outside_of_a_worker_there_is_nothing_to_seed() -> None:
    with pytest.raises(ConfigError, match=r"DataLoader\(worker_init_fn=allranks.worker_init_fn\)"):
        allranks.worker_init_fn(0)


@pytest.mark.ranks(1, 2, 3, 4)
def test_a_shared_seed_is_one_number_for_all(world) -> None:
    """Whatever was seeded."""
    seeds = []
    for _ in range(3):
        allranks.seed_all(1)
        seeds.append(allranks.shared_seed())
    assert allranks.all_gather_objects(seeds) == [seeds] * world.world_size
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_shared_seed_needs_no_setup_in_a_world_of_one(fake_world) -> None:
    assert len({allranks.shared_seed() for _ in range(5)}) == 5
    fake_world("torchrun", rank=0, ranks=2)
    with pytest.raises(CollectiveError, match="shared_seed: no process group is up"):
        allranks.shared_seed()


@pytest.mark.ranks(3)
def test_a_group_shares_a_seed_of_its_own(world) -> None:
    pair = allranks.split(0 if world.rank else None)
    if world.rank:
        mine = allranks.shared_seed(group=pair)
        assert allranks.all_gather(mine, pair) == [mine] * 2
    else:
        with pytest.raises(CollectiveError, match="rank 0 is not in this group"):
            allranks.shared_seed(group=pair)
    everyone_works_on()


@pytest.mark.ranks(2)
def test_a_rank_that_makes_another_call_gets_no_seed(world) -> None:
    with pytest.raises(MismatchError, match="shared_seed"):
        allranks.all_reduce(1) if world.rank else allranks.shared_seed()
    everyone_works_on()


def carried(state):
    """A state as a checkpoint carries it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def half_drawn() -> None:
    """Libraries that draw two normal numbers at a time keep the second one."""
    random.gauss(0, 1)
    np.random.randn()
    torch.randn(3)


def normals() -> list[float]:
    return [random.gauss(0, 1), np.random.randn(), torch.randn(1).item()]


@pytest.mark.ranks(1, 2)
def test_a_restored_state_goes_on_exactly(world) -> None:
    allranks.seed_all(8)
    half_drawn()
    state = carried(allranks.get_rng_state())
    expected = normals(), draws()
    allranks.seed_all(9)
    assert allranks.set_rng_state(state) is None
    assert (normals(), draws()) == expected


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.integers(0, 700), st.booleans())
def test_any_state_is_restored(seed, drawn, halfway) -> None:
    allranks.seed_all(seed)
    for library in (random.random, np.random.rand, lambda: torch.rand(1)):
        for _ in range(drawn):
            library()
    if halfway:
        half_drawn()
    state = carried(allranks.get_rng_state())
    expected = normals(), draws()
    allranks.seed_all(seed + 1)
    allranks.set_rng_state(state)
    assert identical(allranks.get_rng_state(), state)
    assert (normals(), draws()) == expected


def without(key: str):
    return lambda state: {name: value for name, value in state.items() if name != key}


def replaced(key: str, **values):
    """The state of one library with other values."""

    def change(state):
        return {**state, key: {**state[key], **values}}

    return change


WRONG_STATES = {
    "none": lambda _: None,
    "a list": list,
    "empty": lambda _: {},
    "one more": lambda state: {**state, "jax": 1},
    "no python": without("python"),
    "no accelerator": without("accelerator"),
    "python none": lambda state: {**state, "python": None},
    "python cut": replaced("python", words=torch.zeros(3, dtype=torch.int64)),
    "python version": replaced("python", version=9),
    "python raw": lambda state: {**state, "python": random.getstate()},
    "numpy cut": replaced("numpy", words=torch.zeros(3, dtype=torch.int64)),
    "numpy position": replaced("numpy", position=10**6),
    "numpy raw": lambda state: {**state, "numpy": np.random.get_state()},
    "torch cut": lambda state: {**state, "torch": state["torch"][:-8]},
    "torch floats": lambda state: {**state, "torch": state["torch"].float()},
    "torch none": lambda state: {**state, "torch": None},
    "accelerator": lambda state: {**state, "accelerator": {"type": "cuda"}},
    "accelerator text": lambda state: {**state, "accelerator": "cuda"},
}


@pytest.mark.parametrize("change", WRONG_STATES.values(), ids=WRONG_STATES)
def test_a_state_from_elsewhere_changes_nothing(change) -> None:
    before = allranks.get_rng_state()
    wrong = change(allranks.get_rng_state())
    draws()
    moved = allranks.get_rng_state()
    assert not identical(moved, before)
    with pytest.raises(ConfigError, match="set_rng_state"):
        allranks.set_rng_state(wrong)
    assert identical(allranks.get_rng_state(), moved)


def test_another_kind_of_numpy_s_generator_is_not_ours() -> None:
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        with pytest.raises(ConfigError, match="is a PCG64"):
            allranks.get_rng_state()
    finally:
        np.random.set_bit_generator(before)


class FakeDevices:
    """torch's module for two devices that are not here."""

    def __init__(self) -> None:
        self.states = [torch.full((16,), i, dtype=torch.uint8) for i in range(2)]
        self.initialised = True

    def is_initialized(self) -> bool:
        return self.initialised

    def device_count(self) -> int:
        return len(self.states)

    def get_rng_state_all(self):
        assert self.initialised, "asking must not initialise devices"
        return [state.clone() for state in self.states]

    def set_rng_state_all(self, states) -> None:
        self.states = states


@pytest.fixture
def devices(monkeypatch) -> FakeDevices:
    fake = FakeDevices()
    monkeypatch.setattr(rng_state, "accelerator_type", lambda: "cuda")
    monkeypatch.setattr(torch, "get_device_module", lambda _kind: fake)
    return fake


def test_accelerators_states_are_restored(devices) -> None:
    state = carried(allranks.get_rng_state())
    expected, devices.states = devices.states, [torch.zeros(16, dtype=torch.uint8)] * 2
    allranks.set_rng_state(state)
    assert identical(devices.states, expected)


def test_accelerators_that_nobody_has_used_stay_alone(devices) -> None:
    devices.initialised = False
    state = carried(allranks.get_rng_state())
    assert state["accelerator"] is None
    kept = devices.states
    allranks.set_rng_state(state)
    assert devices.states is kept


def test_a_module_of_one_device(monkeypatch) -> None:
    """As torch.mps is."""
    kept = [torch.ones(4, dtype=torch.uint8)]
    mps = SimpleNamespace(get_rng_state=kept[0].clone, set_rng_state=kept.append)
    monkeypatch.setattr(rng_state, "accelerator_type", lambda: "mps")
    monkeypatch.setattr(torch, "get_device_module", lambda _kind: mps)
    allranks.set_rng_state(carried(allranks.get_rng_state()))
    assert identical(kept, [kept[0]] * 2)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: {**found, "type": "xpu"}, "it is that of 'xpu', and here is cuda"),
        (lambda found: {**found, "states": found["states"][:1]}, "holds 1 devices, .* sees 2"),
        (lambda found: {**found, "states": [torch.ones(2)] * 2}, "not flat bytes"),
    ],
)
def test_other_accelerators_are_refused(devices, change, told) -> None:
    state = allranks.get_rng_state()
    before = allranks.get_rng_state()
    with pytest.raises(ConfigError, match=told):
        allranks.set_rng_state({**state, "accelerator": change(state["accelerator"])})
    assert identical(allranks.get_rng_state(), before)


def test_a_state_with_accelerators_does_not_fit_where_none_is(devices, monkeypatch) -> None:
    state = allranks.get_rng_state()
    monkeypatch.setattr(rng_state, "accelerator_type", lambda: None)
    with pytest.raises(ConfigError, match="here is no accelerator"):
        allranks.set_rng_state(state)


@pytest.mark.gpu
@needs_gpus(1)
def test_a_device_is_seeded_and_restored() -> None:
    allranks.seed_all(1)
    first = torch.rand(4, device="cuda")
    state = carried(allranks.get_rng_state())
    second = torch.rand(4, device="cuda")
    allranks.set_rng_state(state)
    assert torch.equal(torch.rand(4, device="cuda"), second)
    allranks.seed_all(1)
    assert torch.equal(torch.rand(4, device="cuda"), first)
