"""``shard``: which samples are this rank's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, overload

from allranks._process_group.lifecycle import world
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._training.arguments import is_whole, length_of
from allranks._transport import process_groups
from allranks.errors import ConfigError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

    from allranks._transport.process_groups import Group

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Sliced = TypeVar(
    "Sliced",
    bound="list[Any] | tuple[Any, ...] | str | bytes | range | NDArray[Any] | torch.Tensor",
)


class Items(Protocol[T_co]):
    """Anything with a length whose items have numbers, such as a map-style data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Any, /) -> T_co: ...


class Place(NamedTuple):
    """Whose shard: a rank within its group, and the group's size."""

    rank: int
    size: int


def place_in(call: str, group: Group | None) -> Place:
    """This process's place in a group; None means WORLD, before ``setup`` as its launcher tells.

    Raises:
        CollectiveError: this rank is not in the group.
        DetectionError: nothing is set up, and the environment is half-set.
    """
    if group is None:
        now = world()
        return Place(now.rank, now.world_size)
    members = process_groups.members_of(call, group)
    return Place(members.rank, members.size)


@overload
def shard(n_or_sequence: int, group: Group | None = None) -> range: ...


@overload
def shard(n_or_sequence: Sliced, group: Group | None = None) -> Sliced: ...


@overload
def shard(n_or_sequence: Items[T], group: Group | None = None) -> list[T]: ...


@outside_graphs
def shard(n_or_sequence: Any, group: Group | None = None) -> Any:
    """This rank's samples: every sample is on exactly one rank. Not collective.

    Where the number of samples does not divide by that of the ranks, the first ranks have one more
    than the others; nothing is padded. ``gather_shards`` puts results back in order. Works before
    ``setup``, too.

    Args:
        n_or_sequence: how many samples there are; or the samples: anything with a length whose
            items have numbers. The same on all ranks.
        group: the ranks that share the samples; None means WORLD.

    Returns:
        ``range(rank, n, size)`` of a number. Of a list, tuple, text, range, array or tensor the
        slice ``[rank::size]``, which of an array or tensor is a view. Of anything else a list of
        these items, read one by one. Rank and size are those within the group; in a world of one
        it is all of them.

    Raises:
        ConfigError: this is a negative number, or has no length or no numbered items.
        CollectiveError: this rank is not in the group.
        DetectionError: nothing is set up, and the environment is half-set.
    """
    return part_of(n_or_sequence, place_in("shard", group))


def part_of(data: Any, place: Place) -> Any:
    """What is at a place; a pure function.

    Raises:
        ConfigError: as ``shard``.
    """
    length = length_of("n_or_sequence", data)
    if is_whole(data):
        return range(place.rank, length, place.size)
    if isinstance(data, Mapping) or not hasattr(data, "__getitem__"):
        raise ConfigError(
            f"n_or_sequence={brief_repr(data)}: expected items that have numbers, as in a sequence"
        )
    if _slices(data):
        return data[place.rank :: place.size]
    return [data[index] for index in range(place.rank, length, place.size)]


def _slices(data: Any) -> bool:
    """Whether slices are known to give every so many-th item; arrays have an ``ndim``."""
    return isinstance(data, (list, tuple, str, bytes, range)) or hasattr(type(data), "ndim")
