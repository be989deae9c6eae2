"""A process of a job that is not there, as a launcher would place it, for tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from allranks._launchers.fields import VariableNames


@dataclass(frozen=True)
class SimulatedProcess:
    """A process's place, its ranks in blocks of ``ranks_per_node``."""

    rank: int
    ranks: int
    ranks_per_node: int

    @property
    def node(self) -> int:
        """Its host's number."""
        return self.rank // self.ranks_per_node

    @property
    def nodes(self) -> int:
        """The number of hosts."""
        return -(-self.ranks // self.ranks_per_node)

    @property
    def local_rank(self) -> int:
        """Its number on its host."""
        return self.rank % self.ranks_per_node

    def ranks_on(self, node: int) -> range:
        """The ranks of a host."""
        first = node * self.ranks_per_node
        return range(first, min(first + self.ranks_per_node, self.ranks))

    def variables(self, names: VariableNames) -> dict[str, str]:
        """Its place in these variables; in those that have a name."""
        values: Iterable[object] = (
            self.rank,
            self.ranks,
            self.local_rank,
            len(self.ranks_on(self.node)),
            self.node,
            self.nodes,
            "127.0.0.1" if self.nodes == 1 else "node0",
            29500,
        )
        return {name: str(value) for name, value in zip(names, values, strict=True) if name}
