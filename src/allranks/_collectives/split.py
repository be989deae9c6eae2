"""``split``: groups of the ranks that give equal colors."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, cast

from allranks._collectives.objects import gather_everywhere
from allranks._system.graph_breaks import outside_graphs
from allranks._transport import process_groups
from allranks._transport.headers import Header, exchange_and_combine
from allranks.errors import CollectiveError, ConfigError

if TYPE_CHECKING:
    import torch.distributed as dist

    from allranks._transport.process_groups import Group, Members


@outside_graphs
def split(
    color: Any, key: int | None = None, group: Group | None = None
) -> dist.ProcessGroup | None:
    """Split a group: ranks that give equal colors form a group of their own. Collective.

    One exchange, however many groups come of it, and one in each new group, which is then
    connected on all its ranks. The timeout is inherited.

    Args:
        color: anything hashable that pickle can carry; None takes part in no group.
        key: orders the ranks within their group; without, or where equal, by their rank.
        group: the ranks to split; None means WORLD. All of them must make the call.

    Returns:
        This rank's group, to be passed as ``group``. With ``color=None`` what stands for no group
        in torch, which every collective refuses by an error. In a world of one where ``setup``
        was not called, None, which means WORLD.

    Raises:
        CollectiveError: the color cannot be hashed or pickled, or this rank is not in the group.
        ConfigError: keys reorder the ranks, which this version of torch cannot do.
    """
    members = process_groups.members_of("split", group)
    told = gather_everywhere("split", (color, key), group)
    # All members count the splits: the names of their groups hold the number.
    members.cache["splits"] = members.cache.get("splits", 0) + 1
    mine: list[int] = []
    try:
        by_color: dict[Any, list[int]] = {}
        for index, (other, _) in enumerate(told):
            by_color.setdefault(other, []).append(index)
        mine = next(some for some in by_color.values() if members.rank in some)
        for some in by_color.values():  # All, so that keys without an order are every rank's error.
            some.sort(key=lambda i: (told[i][1] or 0, i))
    except Exception as error:
        raise CollectiveError(f"split: {told!r:.200}: {type(error).__name__}: {error}") from error
    if color is None:
        return cast("dist.ProcessGroup", no_group())
    return None if members.group is None else _new_group([members.ranks[i] for i in mine], members)


def no_group() -> Any:
    """What stands for no group in torch: a rank that is in none has it."""
    import torch.distributed as dist

    return dist.GroupMember.NON_GROUP_MEMBER


def _new_group(ranks: list[int], members: Members) -> dist.ProcessGroup:
    within = cast("dist.ProcessGroup", members.group)
    more = {} if ranks == sorted(ranks) else _in_given_order()
    name = f"{within.group_name}/{members.cache['splits']}.{ranks[0]}"
    made = process_groups.new_group("split", ranks, name, within, **more)
    # A rank that left the group at once would break the connections that others still make.
    exchange_and_combine(process_groups.members_of("split", made), Header("split: connected"))
    return made


def _in_given_order() -> dict[str, Any]:
    """What makes torch keep the ranks of a group in the order that it is given."""
    import torch
    import torch.distributed as dist

    if "sort_ranks" not in inspect.signature(dist.new_group).parameters:
        raise ConfigError(
            f"split: torch {torch.__version__} always orders a group by rank, and these keys "
            "ask for another order; pass keys that rise with the rank, or take a newer torch"
        )
    return {"sort_ranks": False}
