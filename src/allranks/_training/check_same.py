"""``check_same``: whether data are equal on all ranks, and if not, where they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from allranks._collectives.objects import broadcast_object, gather_everywhere
from allranks._system.graph_breaks import outside_graphs
from allranks._system.words import named
from allranks._training.fingerprints import Fingerprint, Fingerprints, as_tensor
from allranks._transport import process_groups
from allranks._transport.headers import Header, exchange
from allranks._transport.tensor_bytes import as_bytes, contiguous
from allranks.errors import CollectiveError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from allranks._transport.process_groups import Group, Members

SHOWN = 5
"""How many leaves that differ an error names."""

SIDES = 4
"""How many groups of ranks it names for each."""

Side: TypeAlias = "tuple[Fingerprint | None, list[int]]"
"""What some ranks tell of a leaf, None where they have none, and which these are."""


@outside_graphs
def check_same(data: Any, what: str = "data", *, group: Group | None = None) -> None:
    """Check that data are equal on all ranks, bit for bit. Collective.

    One exchange of a hash, where they are. Otherwise one error on all ranks names the leaves that
    differ, the ranks on each side, and where the first tensor first differs.

    Args:
        data: tensors on any device, arrays, numbers, text, anything that pickle can carry, a tree
            of these (dict, list, tuple, namedtuple, dataclass; the order of a dict is of no
            account), or a module, whose parameters and buffers are meant. A ``pathlib.Path``
            stands for the contents of that file.
        what: names the data in the error, the same on all ranks.
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Raises:
        MismatchError: the data differ, or the ranks made different calls.
        CollectiveError: a rank's data cannot be read or pickled; the same error on all.
    """
    members = process_groups.members_of("check_same", group)
    mine, error = _read(data, str(what))
    told = exchange(
        members, Header(f"check_same(what={what!r})", mine.digest if mine else b"", error)
    )
    if mine is not None and len(set(told)) > 1:
        _raise_difference(mine, members, group)


def _read(data: Any, what: str) -> tuple[Fingerprints | None, str | None]:
    try:
        return Fingerprints.of(data, what), None
    except CollectiveError as error:
        return None, f"check_same: {error}"
    except Exception as error:  # noqa: BLE001 - it is raised on all ranks
        return None, f"check_same({what}): {type(error).__name__}: {error}"


def _raise_difference(mine: Fingerprints, members: Members, group: Group | None) -> NoReturn:
    """All ranks see the same differences, and raise the same error."""
    told = gather_everywhere("check_same: the leaves", mine.told, group)
    paths = dict.fromkeys(path for one in told for path in one)
    sides = {path: _sides([one.get(path) for one in told], members) for path in paths}
    differing = {path: some for path, some in sides.items() if len(some) > 1}
    where = next((path for path, some in differing.items() if _of_one_shape(some)), None)
    first = _first_difference(mine, where, differing[where], group) if where else ""
    shown = list(differing)[:SHOWN]
    lines = [_told(path, differing[path], first if path == where else "") for path in shown]
    more = len(differing) - len(shown)
    raise MismatchError("; ".join([*lines, f"and {more} more differ"] if more else lines))


def _sides(told: Sequence[Fingerprint | None], members: Members) -> list[Side]:
    """The ranks by what they tell, in the order of their first ranks."""
    by_told: dict[Fingerprint | None, list[int]] = {}
    for rank, one in zip(members.ranks, told, strict=True):
        by_told.setdefault(one and one._replace(text=""), []).append(rank)
    texts = dict(zip(members.ranks, told, strict=True))
    return [(texts[ranks[0]], ranks) for ranks in by_told.values()]


def _of_one_shape(sides: Sequence[Side]) -> bool:
    """Whether all have a tensor or array there, of one dtype and shape."""
    kinds = {one.kind if one else "" for one, _ in sides}
    return len(kinds) == 1 and next(iter(kinds)).endswith("]")


def _first_difference(
    mine: Fingerprints, path: str, sides: Sequence[Side], group: Group | None
) -> str:
    """Where the tensors of the first two sides first differ, and their values. Collective."""
    (_, (one, *_)), (_, (other, *_)), *_ = sides
    theirs = broadcast_object(as_tensor(mine.leaves[path]), one, group)
    found = _compared(theirs, as_tensor(mine.leaves[path]))
    return broadcast_object(found, other, group)


def _compared(one: torch.Tensor | None, other: torch.Tensor | None) -> str:
    """Where two tensors of one dtype and shape first differ; "" if they do not."""
    import torch

    if one is None or other is None:
        return ""
    flats = [contiguous(tensor.cpu()).reshape(-1) for tensor in (one, other)]
    differ = (as_bytes(flats[0]) != as_bytes(flats[1])).view(flats[0].numel(), -1).any(1)
    if not differ.any():
        return ""
    at = int(differ.int().argmax())
    index = [int(place) for place in torch.unravel_index(torch.tensor(at), one.shape)]
    values = " and ".join(repr(flat[at].item()) for flat in flats)
    return f"first at {index}: {values}" if index else values


def _told(path: str, sides: Sequence[Side], first: str) -> str:
    """A leaf that differs, for people."""
    if first:
        names = " and ".join(named(ranks) for _, ranks in sides[:SIDES])
        others = f" and {len(sides) - SIDES} more groups" if len(sides) > SIDES else ""
        return f"{path}: {names}{others} differ, {first}"
    told = [f"{named(ranks)}: {_shown(one)}" for one, ranks in sides[:SIDES]]
    others = f", and {len(sides) - SIDES} more groups" if len(sides) > SIDES else ""
    return f"{path}: {', '.join(told)}{others}"


def _shown(one: Fingerprint | None) -> str:
    if one is None:
        return "none"
    return one.text or f"{one.kind} with hash {one.digest.hex()[:8]}"
