"""``check_same``: whether data are equal on all ranks, and if not, where they differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

from allranks._collectives.objects import broadcast_object, gather_everywhere
from allranks._system.graph_breaks import outside_graphs
from allranks._system.words import named
from allranks._training.fingerprints import Fingerprint, Fingerprints, as_tensor
from allranks._transport import process_groups
from allranks._transport.headers import Header, exchange
from allranks._transport.tensor_bytes import as_bytes, contiguous
from allranks.errors import CollectiveError, MismatchError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch

    from allranks._transport.process_groups import Group, Members

SHOWN = 5
"""How many leaves that differ an error names."""

SIDES = 3
"""How many different values it shows of each, with the ranks that hold them."""

Side: TypeAlias = "tuple[Fingerprint | None, list[int]]"
"""What some ranks tell of a leaf, None where they have none, and which these are."""


@outside_graphs
def check_same(data: Any, what: str = "data", *, group: Group | None = None) -> None:
    """Check that data are equal on all ranks, bit for bit. Collective.

    One exchange of a hash, where they are. Otherwise one error on all ranks names the leaves that
    differ and the ranks on each side, with up to three different values; of tensors, those at the
    place where the first one first differs.

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
    shown = {path: differing[path] for path in list(differing)[:SHOWN]}
    lines = {path: f"{path}: {_listed(map(_as_text, some))}" for path, some in shown.items()}
    where = next((path for path, some in shown.items() if _of_one_shape(some)), None)
    if where:
        found = _first_difference(mine, where, shown[where], group, members)
        lines[where] = found or lines[where]
    more = len(differing) - len(shown)
    raise MismatchError("; ".join([*lines.values(), *[f"and {more} more differ"] * bool(more)]))


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
    mine: Fingerprints, path: str, sides: Sequence[Side], group: Group | None, members: Members
) -> str:
    """Where tensors of one shape first differ, and who has what there. Collective.

    Returns:
        That in words; "" if they have become equal.
    """
    import torch

    tensor = cast("torch.Tensor", as_tensor(mine.leaves[path]))
    flat = contiguous(tensor.cpu()).reshape(-1)
    theirs = broadcast_object(flat, sides[0][1][0], group)
    at = min(gather_everywhere("check_same: places", _first_place(theirs, flat), group))
    if at == flat.numel():
        return ""
    held = as_bytes(flat[at : at + 1]).numpy().tobytes(), repr(flat[at].item())
    by_value: dict[tuple[bytes, str], list[int]] = {}
    told = gather_everywhere("check_same: values", held, group)
    for who, value in zip(members.ranks, told, strict=True):
        by_value.setdefault(value, []).append(who)
    index = [int(place) for place in torch.unravel_index(torch.tensor(at), tensor.shape)]
    first = f" first differs at {index}" if index else ""
    held_by = _listed((text, ranks) for (_, text), ranks in by_value.items())
    elsewhere = f"; {len(sides)} different ones in all" if len(sides) > len(by_value) else ""
    return f"{path}{first}: {held_by}{elsewhere}"


def _first_place(one: torch.Tensor, other: torch.Tensor) -> int:
    """Where two flat tensors of one dtype and size first differ; their size if they do not."""
    differ = (as_bytes(one) != as_bytes(other)).view(one.numel(), -1).any(1)
    return int(differ.int().argmax()) if differ.any() else one.numel()


def _listed(held: Iterable[tuple[str, list[int]]]) -> str:
    """Who holds what: some of it, and how much more there is."""
    told = list(held)
    shown = [f"{named(ranks)}: {text}" for text, ranks in told[:SIDES]]
    count = sum(len(ranks) for _, ranks in told[SIDES:])
    if count:
        shown.append(f"and {len(told) - SIDES} more on {count} other rank{'s' * (count > 1)}")
    return ", ".join(shown)


def _as_text(side: Side) -> tuple[str, list[int]]:
    one, ranks = side
    if one is None:
        return "none", ranks
    return one.text or f"{one.kind} with hash {one.digest.hex()[:8]}", ranks
