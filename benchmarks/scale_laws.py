"""The law by which each figure grows, fitted to what was measured; and what it says of 100,000."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from allranks._transport.header_tree import HeaderTree
from startup_tables import Grid

if TYPE_CHECKING:
    from collections.abc import Callable

PAPER = 100_000
"""Ranks that nobody here can run."""

A_HOST = 8
"""Ranks of a host, in the simulated worlds."""


class Curve(NamedTuple):
    """One figure against the number of ranks.

    Attributes:
        panel: the picture that it belongs to.
        label: what it is.
        part: who measured it.
        take: the figure, of what the part says of one world.
        law: "constant", "linear" or "tree": what it should be.
        theirs: whether it is not ours, and stands there to compare.
    """

    panel: str
    label: str
    part: str
    take: Callable[[dict[str, Any]], float]
    law: str = "linear"
    theirs: bool = False


def _call(name: str) -> Callable[[dict[str, Any]], float]:
    return lambda world: float(world["calls"][name])


def _figure(name: str) -> Callable[[dict[str, Any]], float]:
    return lambda world: float(world[name])


ROLL_CALL = "The roll call, 8 ranks a host (simulated hosts), s"
ASKED = "The roll call: what a host asks of the store"
CALLS = "A call among real ranks of one host, ms"
MESSAGES = "Messages of the busiest rank in a call"
NEWS = "The watch (simulated hosts), s"
REST = "Real ranks of one host, s"

CURVES = (
    Curve(ROLL_CALL, "all have their answer", "roll_call", _figure("seconds")),
    Curve(ROLL_CALL, "CPU of rank 0", "roll_call", _figure("rank 0 CPU s")),
    Curve(ASKED, "operations", "roll_call", _figure("operations a host"), "constant"),
    Curve(ASKED, "KB", "roll_call", lambda world: world["bytes a host"] / 1e3, "constant"),
    Curve(CALLS, "agree", "real", _call("agree")),
    Curve(CALLS, "dict of 200 numbers", "real", _call("dict of 200")),
    Curve(CALLS, "dist.all_reduce, 1 float", "real", _call("torch, 1 float"), theirs=True),
    Curve(CALLS, "dist.all_reduce, 200 floats", "real", _call("torch, 200 floats"), theirs=True),
    Curve(MESSAGES, "as counted", "real", _figure("messages"), "tree"),
    Curve(NEWS, "a failure is heard by all", "watch", _figure("heard")),
    Curve(NEWS, "a verdict, from the question", "watch", _figure("verdict")),
    Curve(NEWS, "CPU of the store for it", "watch", _figure("server")),
    Curve(REST, "up", "real", _figure("up")),
    Curve(REST, "a failure is heard by all", "real", _figure("failure heard"), "constant"),
    Curve(REST, "CPU of `allranks run`", "real", _figure("run CPU s")),
)


def points(found: dict[str, Any], curve: Curve) -> list[tuple[int, float]]:
    """What was measured of a curve."""
    return [(world["ranks"], curve.take(world)) for world in found[curve.part]]


def law(found: dict[str, Any], curve: Curve) -> Callable[[float], float]:
    """The curve's law with its constants: those that fit best, each size alike."""
    measured = points(found, curve)
    if curve.law == "tree":
        return tree_messages
    ranks, values = zip(*measured, strict=True)
    if curve.law == "constant" or len(measured) == 1:
        return lambda _: float(max(values))
    weights = [1 / max(value, 1e-3 * max(values)) for value in values]
    line = np.polynomial.Polynomial.fit(ranks, values, 1, w=weights)
    return lambda size: float(line(size))


def tree_messages(size: float, per_host: int | None = None) -> float:
    """Messages of the busiest rank in one call, by the tree: each neighbour tells and is told."""
    ranks = int(size)
    tree = HeaderTree.of([member // (per_host or ranks) for member in range(ranks)])
    pairs = zip(tree.parents, tree.children, strict=True)
    return 2.0 * max((parent is not None) + len(children) for parent, children in pairs)


def estimates(found: dict[str, Any]) -> Grid:
    """What the laws say of a size that was not run."""
    rows = [
        (curve.panel, curve.label, curve.law, f"{law(found, curve)(PAPER):,.3g}")
        for curve in CURVES
        if curve.part != "real" and points(found, curve)
    ]
    levels = _levels(HeaderTree.of([member // A_HOST for member in range(PAPER)]))
    rows += [
        (MESSAGES, f"{A_HOST} ranks a host", "tree", f"{tree_messages(PAPER, A_HOST):.0f}"),
        ("Levels of the tree of headers", f"{A_HOST} ranks a host", "tree", str(levels)),
    ]
    head = ("figure", "of", "law", f"at {PAPER:,} ranks")
    return Grid(f"On paper: {PAPER:,} ranks", head, tuple(rows))


def _levels(tree: HeaderTree) -> int:
    depths = [0] * len(tree.parents)
    for member in tree.order()[1:]:
        parent = tree.parents[member]
        depths[member] = depths[parent] + 1 if parent is not None else 0
    return max(depths)
