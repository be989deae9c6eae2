"""Who tells whom: the tree by which the headers of a group travel, the same on all members."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

STAR = 16
"""The most members of one host that all tell the first; more stand in a tree (measured)."""

WIDTH = 8
"""How many tell one member in a tree, of its host and of other hosts each."""


class HeaderTree(NamedTuple):
    """The tree, by the members' ranks within the group; the first member is its root.

    Attributes:
        parents: of each member, but for the root, which has None.
        children: of each member, in their order.
    """

    parents: tuple[int | None, ...]
    children: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, hosts: Sequence[Hashable]) -> HeaderTree:
        """The tree of members on these hosts.

        The members of a host tell the first of them; the first ones of the hosts tell each other.
        """
        by_host: dict[Hashable, list[int]] = {}
        for member, host in enumerate(hosts):
            by_host.setdefault(host, []).append(member)
        parents: list[int | None] = [None] * len(hosts)
        _hang(parents, [members[0] for members in by_host.values()], WIDTH)
        for members in by_host.values():
            _hang(parents, members, STAR if len(members) <= STAR else WIDTH)
        return cls(tuple(parents), _children(parents))

    def order(self) -> list[int]:
        """The members in the order in which the root hears of them: each before its children."""
        order, left = [], [0]
        while left:
            order.append(left.pop())
            left += reversed(self.children[order[-1]])
        return order


def _hang(parents: list[int | None], members: Sequence[int], width: int) -> None:
    """Give each of some members but the first a parent among them."""
    for at, member in enumerate(members[1:]):
        parents[member] = members[at // width]


def _children(parents: Sequence[int | None]) -> tuple[tuple[int, ...], ...]:
    children: list[list[int]] = [[] for _ in parents]
    for member, parent in enumerate(parents):
        if parent is not None:
            children[parent].append(member)
    return tuple(map(tuple, children))
