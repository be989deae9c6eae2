"""Meshes: the ranks as a grid with named dimensions, each of which is a group in every call."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from allranks._process_group import devices
from allranks._system.graph_breaks import outside_graphs
from allranks._transport import process_groups
from allranks._transport.headers import Header, exchange_and_combine

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch.distributed.device_mesh import DeviceMesh

REST = -1
"""The size of a dimension that takes the ranks which the others leave."""


@outside_graphs
def mesh(dims: Mapping[str, int]) -> DeviceMesh:
    """Lay the ranks out as a grid with named dimensions, by ``init_device_mesh``. Collective.

    A dimension of it is a group in every call of allranks: ``all_reduce(x, group=m["dp"])``.

    Args:
        dims: each dimension's name and size, the slowest first, the same on all ranks; one size
            may be -1, which takes what is left. Their product is the world size.

    Returns:
        Torch's ``DeviceMesh``, on this world's type of device. In a world of one, after ``setup``,
        all sizes are 1.

    Raises:
        CollectiveError: the sizes do not fit the world, or ``setup`` was not called.
        MismatchError: the ranks asked for different meshes.
    """
    members = process_groups.members_of("mesh", None)
    sizes, why = _sizes(dims, members.size)
    if members.group is None:
        why = why or "no process group is up. Call allranks.setup() first"
    error = f"mesh({_told(dims)}): {why}" if why else None
    exchange_and_combine(members, Header(f"mesh({_told(dims)})", error=error))
    from torch.distributed.device_mesh import init_device_mesh

    made = init_device_mesh(devices.device().type, sizes, mesh_dim_names=tuple(dims))
    # A rank that left at once would break the connections that others still make.
    exchange_and_combine(members, Header("mesh: connected"))
    return made


def _told(dims: Any) -> str:
    return repr(dict(dims)) if hasattr(dims, "keys") else repr(dims)


def _sizes(dims: Any, ranks: int) -> tuple[tuple[int, ...], str | None]:
    """The sizes of all dimensions, or why the ranks cannot be laid out so."""
    why = _why_no_dims(dims)
    if why:
        return (), why
    given = tuple(dims.values())
    known = math.prod(size for size in given if size != REST)
    if REST in given and ranks % known == 0:
        return tuple(ranks // known if size == REST else size for size in given), None
    if REST in given:
        return (), f"{known} does not divide the {ranks} ranks, so that -1 stands for no number"
    product = " x ".join(map(str, given))
    fits = known == ranks
    return given, None if fits else f"{product} = {known} ranks, and there are {ranks}"


def _why_no_dims(dims: Any) -> str | None:
    if not hasattr(dims, "values") or not dims:
        return 'expected names and sizes, as {"dp": 2, "tp": -1}'
    for name, size in dims.items():
        if not isinstance(name, str):
            return f"{name!r} is no name"
        if type(size) is not int or (size < 1 and size != REST):
            return f"{name}={size!r} is neither a number of ranks nor -1"
    if list(dims.values()).count(REST) > 1:
        return "only one size can be -1"
    return None
