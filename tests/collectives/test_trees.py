"""Trees: taken apart and put together again, with every kind of container."""

from __future__ import annotations

from collections import ChainMap, Counter, OrderedDict, UserDict, defaultdict, namedtuple
from collections.abc import Mapping, MutableMapping
from dataclasses import InitVar, dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from allranks._collectives.trees import flatten, rebuild

Point = namedtuple("Point", "x y")  # noqa: PYI024 - the untyped kind


@dataclass
class Metrics:
    loss: Any
    steps: Any = 0


@dataclass(frozen=True)
class Frozen:
    loss: Any
    double: Any = field(init=False)
    scale: InitVar[int] = 2

    def __post_init__(self, scale):
        object.__setattr__(self, "double", self.loss * scale)


@dataclass
class Remembering:
    loss: Any

    @cached_property
    def squared(self):
        return self.loss**2


@dataclass
class Slotted:
    __slots__ = ("loss",)
    loss: Any


class Named(list):
    """A list with more state."""


class ReadOnly(Mapping):
    """A mapping of the user's own."""

    def __init__(self, entries):
        self.entries = dict(entries)

    def __getitem__(self, key):
        return self.entries[key]

    def __iter__(self):
        return iter(self.entries)

    def __len__(self):
        return len(self.entries)


def doubled(tree):
    return rebuild(tree, iter([2 * leaf for leaf in flatten(tree).leaves]))


keys = st.text(max_size=3) | st.integers() | st.booleans() | st.none() | st.tuples(st.integers())
trees = st.recursive(
    st.integers(),
    lambda child: st.one_of(
        st.lists(child, max_size=4),
        st.lists(child, max_size=4).map(tuple),
        st.dictionaries(keys, child, max_size=4),
        st.builds(Point, child, child),
        st.builds(Metrics, child, child),
    ),
    max_leaves=12,
)


def same(one, other):
    """Equal, and of one type at every level."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return same(vars(one), vars(other)) if isinstance(one, Metrics) else one == other


@settings(deadline=None)
@given(trees)
def test_a_tree_is_rebuilt_from_its_leaves(tree):
    """With its own leaves it is itself; with others it has those, in its structure."""
    flat = flatten(tree)
    assert same(rebuild(tree, iter(flat.leaves)), tree)
    others = [str(leaf) for leaf in flat.leaves]
    other = flatten(rebuild(tree, iter(others)))
    assert (other.leaves, other.paths, other.node) == (others, flat.paths, flat.node)


@settings(deadline=None)
@given(trees)
def test_a_leaf_is_found_at_its_path(tree):
    """Each path is the Python expression of its leaf."""
    flat = flatten(tree)
    assert [eval(path, {"data": tree}) for path in flat.paths] == flat.leaves


@settings(deadline=None)
@given(trees, trees)
def test_trees_that_differ_in_structure_are_told_apart(one, other):
    """The told text is equal exactly when both have the same paths and containers."""
    flats = flatten(one), flatten(other)
    texts = [flat.told(["*"] * len(flat.leaves)) for flat in flats]
    assert (texts[0] == texts[1]) == (skeleton(one) == skeleton(other))
    assert (flats[0].node == flats[1].node) == (skeleton(one) == skeleton(other))


def skeleton(tree):
    """A tree without its leaves, in a form that knows no order of keys."""
    if isinstance(tree, dict):
        return "dict", frozenset((repr(key), skeleton(tree[key])) for key in tree)
    if isinstance(tree, (list, tuple)):
        return type(tree), tuple(map(skeleton, tree))
    return (Metrics, skeleton(list(vars(tree).values()))) if isinstance(tree, Metrics) else "*"


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (OrderedDict(b=1, a=2), OrderedDict(b=2, a=4)),
        (Counter(a=1, b=2), Counter(a=2, b=4)),
        (UserDict(a=1), UserDict(a=2)),
        (MappingProxyType({"b": 1, "a": 2}), MappingProxyType({"b": 2, "a": 4})),
        (ChainMap({"a": 1}, {"b": 2}), ChainMap({"a": 2}, {"b": 4})),
        (torch.Size([1, 2]), torch.Size([2, 4])),
        (Point(1, 2), Point(2, 4)),
        (Metrics(1, 2), Metrics(2, 4)),
        (Slotted(1), Slotted(2)),
        ({}, {}),
        ([], []),
        ((), ()),
        ({"{0}": [1], "}{": ()}, {"{0}": [2], "}{": ()}),
        ({1: 1, "1": 2, None: 3, (1,): 4}, {1: 2, "1": 4, None: 6, (1,): 8}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_containers_keep_their_type(tree, expected):
    """Each kind of container comes back as itself, in its own order."""
    assert doubled(tree) == expected
    assert type(doubled(tree)) is type(tree)
    assert flatten(tree).told(["*"] * len(flatten(tree).leaves))
    if isinstance(tree, Mapping):
        assert list(doubled(tree)) == list(tree)


def test_containers_keep_their_further_state():
    """A default factory, a subclass's attributes, a mapping of the user's own."""
    made = doubled(defaultdict(list, a=1))
    assert made == {"a": 2}
    assert made["new"] == []
    named = Named([1])
    named.name = "validation"
    assert (doubled(named), doubled(named).name) == ([2], "validation")
    assert doubled(ReadOnly({"a": 1})).entries == {"a": 2}


class Around(ReadOnly, MutableMapping):
    """A mapping around another one, which a shallow copy would share."""

    def __setitem__(self, key, value):
        self.entries[key] = value

    def __delitem__(self, key):
        del self.entries[key]

    def __repr__(self):
        return repr(self.entries)


def test_the_given_tree_is_left_as_it_is():
    """Nothing is written into the caller's containers."""
    trees = [{"a": 1}, [1], Counter(a=1), Metrics(1), defaultdict(int, a=1), Named([1])]
    trees.append(Around({"a": 1}))
    before = repr(trees)
    for tree in trees:
        assert doubled(tree) is not tree
    assert repr(trees) == before


def test_dataclasses_are_rebuilt_field_by_field():
    """Frozen ones, fields that are no argument, derived values that would be stale."""
    made = rebuild(Frozen(1), iter([10, 11]))
    assert (made.loss, made.double) == (10, 11)
    remembering = Remembering(2)
    assert remembering.squared == 4
    assert doubled(remembering).squared == 16
    assert doubled(remembering) == Remembering(4)


def test_the_order_of_a_dicts_keys_does_not_matter():
    """Two ranks that filled a dict in other order agree on it."""
    one, other = {"a": 1, "b": [2]}, OrderedDict(b=[2], a=1)
    assert flatten(one) == flatten(other)


def test_keys_that_print_alike_are_refused():
    """Which of them is which could not be told on another rank."""

    class Key:
        def __repr__(self):
            return "Key()"

    with pytest.raises(ValueError, match=r"two keys of a dict print alike: .*Key\(\)"):
        flatten({"a": {Key(): 1, Key(): 2}})


def test_what_is_no_container_is_a_leaf():
    """Strings, sets, arrays, classes and None are handed on as they are."""
    leaves = ["text", b"bytes", {1}, range(3), None, Metrics, torch.ones(2)]
    assert all(a is b for a, b in zip(flatten(leaves).leaves, leaves, strict=True))
