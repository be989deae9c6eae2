"""``ShardSampler``: this rank's samples for a DataLoader, resumable within an epoch.

This module imports torch, whose class it extends; the root imports it when it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import Sampler

from allranks._process_group.settings import boolean
from allranks._training.arguments import check_keys, length_of, whole_number
from allranks._training.shards import place_in
from allranks._training.streams import permutation
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sized

    from allranks._transport.process_groups import Group

KEYS = ("consumed", "epoch", "length", "seed", "shuffle")
ITERATION_KEYS = ("begin", "consumed", "epoch")


class _Iteration(Iterator[int]):
    """One iteration over this rank's samples, which counts them.

    torchdata's StatefulDataLoader saves the sampler and its iterator, each time that it reads
    ahead, with the batch; and loads both: the sampler first, and an iterator that it then makes.

    Attributes:
        begin: how many samples of the epoch all ranks had consumed before.
        indices: this rank's samples of the rest.
        given: how many of them were taken.
    """

    def __init__(
        self,
        begin: int,
        indices: list[int],
        save: Callable[[_Iteration], dict[str, int]],
        load: Callable[[_Iteration, Any], None],
    ) -> None:
        self.begin, self.indices, self.given = begin, indices, 0
        self._save, self._load = save, load

    def __next__(self) -> int:
        if self.given == len(self.indices):
            raise StopIteration
        self.given += 1
        return self.indices[self.given - 1]

    def state_dict(self) -> dict[str, int]:
        """How far it has come."""
        return self._save(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the epoch after this iteration is a whole one again."""
        self._load(self, state)


class ShardSampler(Sampler[int]):
    """Gives each rank its samples: every sample is on exactly one rank. Not collective.

    In place of torch's ``DistributedSampler``, which pads: here nothing is padded or repeated, so
    that an evaluation counts each sample once. Where the number of samples does not divide by that
    of the ranks, the first ranks have one more. Training under DDP needs ``drop_last=True``, since
    ranks that have one batch more than others would wait for them: it drops the tail of each
    epoch, so that all ranks have equally many. In a world of one the rank has all samples.

    Call ``set_epoch`` before each epoch. Its order follows from seed and epoch alone, on all ranks.
    To resume within an epoch, by any number of ranks, save ``state_dict(consumed)``.

    Args:
        dataset_or_length: the data set, of which only the length matters, or its length. The same
            on all ranks.
        shuffle: draw another order in each epoch, else the samples come in their order.
        seed: an integer of any size, from 0; the same on all ranks.
        drop_last: drop the tail so that all ranks have equally many samples.
        group: the ranks that share the samples; None means WORLD, before ``setup`` as the launcher
            tells.

    Attributes:
        length: the number of samples of the data set.
        shuffle: as given.
        seed: as given.
        drop_last: as given.
        rank: this process's rank within the group.
        num_replicas: the number of ranks in the group.
        epoch: the current epoch, 0 at first.

    Raises:
        ConfigError: an argument is of a wrong kind, or negative.
        CollectiveError: this rank is not in the group.
        DetectionError: nothing is set up, and the environment is half-set.
    """

    def __init__(
        self,
        dataset_or_length: Sized | int,
        shuffle: bool = False,
        seed: int = 0,
        *,
        drop_last: bool = False,
        group: Group | None = None,
    ) -> None:
        super().__init__()
        self.length: int = length_of("dataset_or_length", dataset_or_length)
        self.shuffle: bool = boolean("shuffle", shuffle)
        self.seed: int = whole_number("seed", seed)
        self.drop_last: bool = boolean("drop_last", drop_last)
        self.rank: int
        self.num_replicas: int
        self.rank, self.num_replicas = place_in("ShardSampler", group)
        self.epoch: int = 0
        self._begin = 0
        self._latest: _Iteration | None = None

    def __len__(self) -> int:
        """How many samples this rank has in the current epoch, or in the rest of it."""
        return len(self._positions(self._begin))

    def __iter__(self) -> Iterator[int]:
        """This rank's indices of the current epoch."""
        mine = self.indices.tolist()
        self._latest = _Iteration(self._begin, mine, self._state_of, self._resume)
        return self._latest

    @property
    def indices(self) -> torch.Tensor:
        """This rank's indices of the current epoch, or of the rest of it: int64, made anew."""
        return self._indices(self._begin)

    def _indices(self, begin: int) -> torch.Tensor:
        positions = self._positions(begin)
        mine = np.arange(positions.start, positions.stop, positions.step)
        if self.shuffle:
            mine = permutation(self.length, self.seed, self.epoch)[mine]
        return torch.from_numpy(mine)

    def _positions(self, begin: int) -> range:
        """Where this rank's samples stand in the epoch's order, those before left out."""
        dropped = (self.length - begin) % self.num_replicas if self.drop_last else 0
        return range(begin + self.rank, self.length - dropped, self.num_replicas)

    def _consumed(self, iteration: _Iteration) -> int:
        """How many samples all ranks have taken, if the others are as far as this one."""
        if iteration.given == len(iteration.indices):
            return self.length  # The tail, too, which other ranks may have or nobody.
        return iteration.begin + iteration.given * self.num_replicas

    def _state_of(self, iteration: _Iteration) -> dict[str, int]:
        consumed = self._consumed(iteration)
        return {"begin": self._begin, "consumed": consumed, "epoch": self.epoch}

    def _resume(self, iteration: _Iteration, state: Mapping[str, Any]) -> None:
        """Have an iteration go on; the rest of its epoch is its own, and no longer the sampler's.

        Where ``set_epoch`` has gone on to a later epoch, nothing is left of the saved one.
        """
        check_keys("load_state_dict of an iterator", state, ITERATION_KEYS)
        begin, consumed, epoch = (whole_number(name, state[name]) for name in ITERATION_KEYS)
        if epoch == self.epoch:
            iteration.begin, iteration.given = consumed, 0
            iteration.indices = self._indices(consumed).tolist()
            self._begin = begin

    def set_epoch(self, epoch: int) -> None:
        """Go to an epoch, which is a whole one; but an epoch that was resumed stays the rest.

        So a loop may begin with the resumed epoch, and call this for each.

        Args:
            epoch: its number, from 0.

        Raises:
            ConfigError: the epoch is no integer, or negative.
        """
        epoch = whole_number("epoch", epoch)
        if epoch != self.epoch:
            self._begin, self._latest = 0, None
        self.epoch = epoch

    def state_dict(self, consumed: int | None = None) -> dict[str, int]:
        """What resumes this epoch, the same on all ranks if they pass the same number.

        Args:
            consumed: how many samples all ranks together have consumed since the beginning of the
                epoch (steps times batch size times ranks), those before an earlier resumption
                counted. The sampler cannot know where a DataLoader with workers reads ahead.
                None means as many as its latest iterator gave, times the ranks: right without
                workers, and for torchdata's StatefulDataLoader, which asks each time it reads.

        Returns:
            Plain numbers, for ``torch.save`` or JSON.

        Raises:
            ConfigError: it is no integer, more than there are, or less than were consumed before
                this epoch was resumed.
        """
        if consumed is None:
            consumed = self._consumed(self._latest) if self._latest else self._begin
        consumed = whole_number("consumed", consumed)
        if not self._begin <= consumed <= self.length:
            resumed = f"; this epoch was resumed after {self._begin}" if self._begin else ""
            raise ConfigError(f"consumed={consumed}: the epoch has {self.length} samples{resumed}")
        return {
            "consumed": consumed,
            "epoch": self.epoch,
            "length": self.length,
            "seed": self.seed,
            "shuffle": self.shuffle,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where an epoch was left: its rest is shared among the ranks that are there now.

        Another number of ranks than before is fine. Until ``set_epoch`` goes to another epoch,
        this one is the rest. Where it has gone beyond an epoch that was consumed to its end,
        nothing is left of that, and the current epoch is a whole one.

        Args:
            state: from ``state_dict``, the same on all ranks.

        Raises:
            ConfigError: the state is no such state, or that of a sampler with another length, seed
                or order. Nothing was changed.
        """
        check_keys("load_state_dict", state, KEYS)
        shuffle = boolean("shuffle", state["shuffle"])
        length, seed, epoch, consumed = (
            whole_number(name, state[name]) for name in ("length", "seed", "epoch", "consumed")
        )
        for name, value in {"length": length, "seed": seed, "shuffle": shuffle}.items():
            if value != getattr(self, name):
                raise ConfigError(
                    f"load_state_dict: the state is of a sampler with {name}={value}, and this one "
                    f"has {name}={getattr(self, name)}"
                )
        if consumed > self.length:
            raise ConfigError(f"consumed={consumed}: the epoch has {self.length} samples")
        self._latest = None
        if epoch >= self.epoch or consumed < self.length:
            self.epoch, self._begin = epoch, consumed
