"""The calls that a random program may make, and how they are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

WORLD, NODE, LEADERS = "world", "node", "leaders"
MAKERS = ("split", "node_group", "leaders_group")

CALLS = (
    "all_reduce",
    "reduce",
    "all_gather",
    "gather",
    "gather_objects",
    "all_gather_objects",
    "all_to_all",
    "broadcast",
    "broadcast_object",
    "broadcast_object_list",
    "scatter_objects",
    "reduce_scatter",
    "send",
    "synchronize",
    "agree",
    "should_stop",
    "sync_module",
    "average_buffers",
    "check_same",
    "gather_shards",
    "shared_seed",
    "save",
    "autograd.all_gather",
    "autograd.all_reduce",
)
OF_THE_WORLD = ("on_master", "master_first", "synchronize_between_processes")

TURNS = ("on_master", "master_first", "save")
"""Calls in which the first rank goes first, and the others wait without a collective."""

NOT_COMPARED = (*TURNS, "send")
"""Calls that do not begin with an exchange of headers."""

NOT_TO_BE_SKIPPED = (*MAKERS, *NOT_COMPARED, "should_stop")
"""Calls that change what later ones do, or do not compare themselves with the others'."""

ANSWERS = ("should_stop", "shared_seed")
"""Calls whose result nobody knows beforehand; it is the same on all ranks."""

OPS = ("sum", "mean", "min", "max", "prod")
FLOATS, INTEGERS = ("float32", "float64"), ("int32", "int64")
UNREDUCED = ("bool", "complex64", "bfloat16")
"""Further dtypes, of tensors that are moved as they are."""

FEW = 4
"""Over more ranks a product leaves 64 bits, and what a float holds exactly; and each rank must
compute what all others give, so that they give less."""

OF_FLOATS = ("autograd.all_gather", "autograd.all_reduce", "sync_module", "average_buffers")
"""Calls with floats alone."""

WAYS = {
    "gather_objects": ("", "dst"),
    "gather_shards": ("", "dst", "indices"),
    "send": ("", "both"),
    "on_master": ("", "node"),
    "master_first": ("", "node"),
    "autograd.all_gather": ("", "one asks"),
    "autograd.all_reduce": ("", "one asks"),
}
"""Ways to make a call: for one rank alone, there and back, for each host, or with a gradient for
one rank alone."""

WAYS_OF_TENSORS = {
    "all_gather": ("", "cat"),
    "all_to_all": ("", "cat", "one"),
    "broadcast": ("", "async"),
    "reduce_scatter": ("", "one"),
}
"""Of calls with tensors: of one tensor for all, or with a handle to wait for."""

MOVED = ("all_gather", "gather", "all_to_all", "broadcast", "send", "check_same")
"""Calls of tensors that give every bit as it was, NaN and -0.0 too."""

REDUCED_KINDS = ("int", "float", "tensor", "tensor", "array", "tree")

KINDS = {
    "all_reduce": REDUCED_KINDS,
    "reduce": REDUCED_KINDS,
    "all_gather": ("int", "tensor", "tensor", "tensor", "array", "tree"),
    "gather": ("int", "tensor", "tensor", "array", "tree", "object"),
    "all_to_all": ("int", "tensor", "tensor", "tensor", "object"),
    "broadcast": ("tensor", "tensor", "tree", "object", "array", "int", "float"),
    "reduce_scatter": ("tensor",),
    "send": ("int", "tensor", "tree", "object"),
    "check_same": ("int", "float", "tensor", "array", "tree", "object"),
    "gather_shards": ("tensor", "array", "list", "dict"),
    "autograd.all_gather": ("tensor",),
    "autograd.all_reduce": ("tensor",),
    "sync_module": ("module",),
    "average_buffers": ("module",),
}

SIZES = (1, 7, 300, 5_000, 200_000)
"""Numbers in a tensor: the last is large enough to be read from the peer's memory."""

Check = bool | Literal["lines"] | None


@dataclass(frozen=True)
class Step:
    """A call that the members of a group make.

    Attributes:
        call: its name.
        group: the group's name; a call that makes a group makes the one of this name.
        kind: of the data: int, float, tensor, array, tree, object, list, dict, module.
        dtype: of tensors and arrays.
        size: how many numbers each holds.
        op: of reductions.
        way: how the call is made, one of WAYS or WAYS_OF_TENSORS; usually "".
        src: the place in the group of the rank that sends, or receives alone, modulo its size.
        colors: of all ranks, for ``split``.
        keys: of all ranks, for ``split``; none where it has no key.
        seed: the data follow from it and the rank.
    """

    call: str
    group: str = WORLD
    kind: str = "int"
    dtype: str = "float32"
    size: int = 1
    op: str = "sum"
    src: int = 0
    colors: tuple[int | None, ...] = ()
    keys: tuple[int, ...] = ()
    seed: int = 0
    way: str = ""

    @property
    def over(self) -> str:
        """The group whose ranks make the call."""
        return WORLD if self.call in MAKERS else self.group

    @property
    def needs_node_group(self) -> bool:
        """Whether the call makes the group of the host, if that is not there."""
        return self.call == "node_group" or self.way == "node"

    def pair(self, members: Sequence[int]) -> tuple[int, ...]:
        """The ranks between which ``send`` sends, the sender first; none in a group of one."""
        if len(members) < 2:
            return ()
        sender = self.src % len(members)
        receiver = (sender + 1 + self.seed % (len(members) - 1)) % len(members)
        return members[sender], members[receiver]

    def verified(self, check: Check) -> bool:
        """Whether the ranks compare what they call."""
        bare = self.call in ("all_reduce", "broadcast") and self.kind == "tensor"
        return self.call not in NOT_COMPARED and (bool(check) or not bare)

    def __str__(self) -> str:
        """For people."""
        more = {
            "split": f"{self.colors}, {self.keys}",
            "all_reduce": self.op,
            "reduce": self.op,
            "reduce_scatter": self.op,
        }
        data = f"{self.kind} {self.dtype}[{self.size}]"
        told = f"{self.call}({more.get(self.call, data)}) {self.kind} on {self.group}"
        return f"{told}, {self.way}" if self.way else told


def draw_steps(chance: random.Random, ranks: int) -> tuple[Step, ...]:
    """The calls of a program."""
    groups, steps = [WORLD, WORLD], []
    for number in range(chance.randint(3, 10)):
        if chance.random() < 0.2:
            made = _maker(chance, ranks, number)
            if made.group not in groups:
                groups.append(made.group)
                steps.append(made)
                continue
        steps.append(_call(chance, ranks, chance.choice(groups)))
    return tuple(steps)


def _maker(chance: random.Random, ranks: int, number: int) -> Step:
    call = chance.choice((*MAKERS, "split", "split"))
    if call != "split":
        return Step(call, NODE if call == "node_group" else LEADERS)
    colors = tuple(chance.choice((0, 0, 1, None)) for _ in range(ranks))
    keys = tuple(chance.sample(range(ranks), ranks)) if chance.random() < 0.5 else ()
    return Step(call, f"split {number}", colors=colors, keys=keys)


def _call(chance: random.Random, ranks: int, group: str) -> Step:
    call = chance.choice(CALLS + OF_THE_WORLD if group == WORLD else CALLS)
    kind = chance.choice(KINDS.get(call, ("int", "float", "tree", "object")))
    op = chance.choice(_ops(call, ranks))
    ways = WAYS_OF_TENSORS.get(call) if kind == "tensor" else WAYS.get(call)
    way = chance.choice(ways or WAYS.get(call, ("",)))
    size = min(chance.choice(SIZES), FEW * SIZES[-1] // ranks)
    dtype = chance.choice(_dtypes(call, kind, op))
    src, seed = chance.randrange(60), chance.randrange(2**31)
    return Step(call, group, kind, dtype, size, op, src, seed=seed, way=way)


def _ops(call: str, ranks: int) -> tuple[str, ...]:
    if call in OF_FLOATS:
        return "sum", "mean"
    return OPS if ranks <= FEW else tuple(op for op in OPS if op != "prod")


def _dtypes(call: str, kind: str, op: str) -> tuple[str, ...]:
    if call in MOVED and kind == "tensor":
        return (*FLOATS, *INTEGERS, *UNREDUCED)
    # The mean of integers in a tensor is refused.
    return FLOATS if op == "mean" or call in OF_FLOATS else FLOATS + INTEGERS
