"""Trees of data: taken apart into leaves, and put together again from new leaves."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from functools import cached_property, lru_cache
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._system.bounded_cache import remembered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


class TreeNode(NamedTuple):
    """The structure of one container. Containers with equal nodes can be reduced together.

    Attributes:
        kind: for people.
        style: how a child is found, as a format for its label: a text key, another key or an
            index, or a field.
        labels: the children's names, sorted for a dict.
        children: a TreeNode for each child that is a container, None for each leaf.
    """

    kind: str
    style: str
    labels: tuple[str, ...]
    children: tuple[TreeNode | None, ...]


class FlatTree(NamedTuple):
    """A tree of dicts, lists, tuples, namedtuples and dataclasses, taken apart.

    Attributes:
        leaves: what is none of these; those of a dict in the order of its sorted keys.
        node: the structure, None where the tree is a leaf; hashable.
    """

    leaves: list[Any]
    node: TreeNode | None

    @property
    def paths(self) -> list[str]:
        """Where each leaf stands, for people: ``data['loss'][0]``."""
        return list(paths(self.node))

    def told(self, leaves: Sequence[str]) -> str:
        """The structure with a text for each leaf: equal for two trees that fit together."""
        return told(self.node, iter(leaves))


def paths(node: TreeNode | None, path: str = "data") -> Iterator[str]:
    """The path of each leaf."""
    if node is None:
        yield path
        return
    for label, child in zip(node.labels, node.children, strict=True):
        yield from paths(child, path + node.style.format(label))


def told(node: TreeNode | None, leaves: Iterator[str]) -> str:
    """A structure for people, with a text for each leaf."""
    if node is None:
        return next(leaves)
    name = node.style.strip("[.]").format
    pairs = zip(node.labels, node.children, strict=True)
    inner = ", ".join(f"{name(label)}: {told(child, leaves)}" for label, child in pairs)
    return f"{node.kind}({inner})"


def flatten(tree: Any) -> FlatTree:
    """Take a tree apart.

    Raises:
        ValueError: two keys of a dict look alike, so that ranks could take one for the other.
    """
    leaves: list[Any] = []
    return FlatTree(leaves, _take(tree, leaves))


def _take(tree: Any, leaves: list[Any]) -> TreeNode | None:
    """Collect the leaves of a tree; a container of leaves alone is taken at once."""
    kind = _kind(type(tree))  # type: ignore[arg-type]  # mypy takes types for unhashable
    if kind is None:
        leaves.append(tree)
        return None
    style, labels, children = kind.children(tree)
    if not _any_container(children):
        leaves.extend(children)
        return TreeNode(kind.told, style, labels, (None,) * len(children))
    return TreeNode(kind.told, style, labels, tuple([_take(child, leaves) for child in children]))


def rebuild(tree: Any, leaves: Iterator[Any], node: TreeNode | None = None) -> Any:
    """A tree of the same structure and types, with new leaves in the order of ``flatten``.

    Args:
        tree: the tree.
        leaves: the new leaves.
        node: its structure, where it is known; a tree of one level is then made sooner.
    """
    kind = _kind(type(tree))  # type: ignore[arg-type]  # mypy takes types for unhashable
    if kind is None:
        return next(leaves)
    if node and not any(node.children):
        return kind.like(tree, list(islice(leaves, len(node.children))))
    _, _, children = kind.children(tree)
    if not _any_container(children):
        return kind.like(tree, list(islice(leaves, len(children))))
    return kind.like(tree, [rebuild(child, leaves) for child in children])


def _any_container(children: Sequence[Any]) -> bool:
    return any(map(_kind, set(map(type, children))))


class _NodeKind(NamedTuple):
    """How containers of one type are taken apart and made again."""

    told: str
    children: Callable[[Any], tuple[str, tuple[str, ...], Sequence[Any]]]
    like: Callable[[Any, list[Any]], Any]


@lru_cache(maxsize=512)
def _kind(of: Any) -> _NodeKind | None:
    """How a type's objects are taken apart; None for a leaf."""
    name = of.__name__
    if issubclass(of, Mapping):
        return _NodeKind("dict", _of_mapping, _like_mapping)
    if is_dataclass(of):
        return _NodeKind(name, _of_dataclass, _like_dataclass)
    if issubclass(of, tuple) and hasattr(of, "_fields"):
        return _NodeKind(name, _of_namedtuple, _like_sequence)
    if issubclass(of, (list, tuple)):
        return _NodeKind(name, _of_sequence, _like_sequence)
    return None


def _of_mapping(tree: Mapping[Any, Any]) -> tuple[str, tuple[str, ...], Sequence[Any]]:
    order = _order(tuple(tree)) or _order_as_printed(tree)
    return order.style, order.labels, order.sort(list(tree.values()))


def _of_dataclass(tree: Any) -> tuple[str, tuple[str, ...], Sequence[Any]]:
    names = tuple(field.name for field in fields(tree))
    return ".{}", names, [getattr(tree, name) for name in names]


def _of_namedtuple(tree: Any) -> tuple[str, tuple[str, ...], Sequence[Any]]:
    return ".{}", tree._fields, tree


def _of_sequence(tree: Sequence[Any]) -> tuple[str, tuple[str, ...], Sequence[Any]]:
    return "[{}]", tuple(map(str, range(len(tree)))), tree


class _KeyOrder(NamedTuple):
    """The entries of a mapping, sorted.

    Attributes:
        style: as in TreeNode.
        labels: as in TreeNode.
        sort: brings what stands in the mapping's order into this one.
        restore: the other way round.
    """

    style: str
    labels: tuple[str, ...]
    sort: Callable[[Sequence[Any]], Sequence[Any]]
    restore: Callable[[Sequence[Any]], Sequence[Any]]

    @classmethod
    def of(cls, style: str, labels: Sequence[str]) -> _KeyOrder:
        """The order of labels that are all different."""
        places = sorted(range(len(labels)), key=labels.__getitem__)
        back = sorted(range(len(labels)), key=places.__getitem__)
        return cls(style, tuple(sorted(labels)), _picker(places), _picker(back))


def _picker(places: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if len(places) > 1:
        return itemgetter(*places)  # The quickest way; of one place it would give no sequence.
    return lambda values: [values[place] for place in places]


PER_ENTRY = 64
"""Bytes that an entry takes beside its label, about."""


def size(node: TreeNode | None) -> int:
    """Bytes that a structure takes in memory, about."""
    if node is None:
        return PER_ENTRY
    return sum(map(len, node.labels)) + sum(map(size, node.children))


def _size_of_keys(keys: tuple[Any, ...]) -> float:
    """The size of keys for the cache; infinite, and not kept, unless all are text."""
    if all(isinstance(key, str) for key in keys):
        return sum(map(len, keys)) + PER_ENTRY * len(keys)
    return math.inf


@remembered(_size_of_keys)
def _order(keys: tuple[Any, ...]) -> _KeyOrder | None:
    """The order of text keys, remembered, since a program repeats its calls; None for others."""
    if all(isinstance(key, str) for key in keys):
        return _KeyOrder.of("[{!r}]", [str.__str__(key) for key in keys])
    return None


def _order_as_printed(tree: Mapping[Any, Any]) -> _KeyOrder:
    """Keys ordered by how they print: types may be mixed, and 1 and True count as different."""
    printed = list(map(repr, tree))
    if len(set(printed)) < len(printed):
        raise ValueError(f"two keys of a dict print alike: {sorted(printed)}")
    return _KeyOrder.of("[{}]", printed)


def _like_mapping(tree: Mapping[Any, Any], children: list[Any]) -> Any:
    """A mapping of the same type, order and further state, such as a default factory."""
    order = _order(tuple(tree)) or _order_as_printed(tree)
    new = dict(zip(tree, order.restore(children), strict=True))
    if type(tree) is dict:
        return new
    if not isinstance(tree, MutableMapping):
        return type(tree)(new)  # type: ignore[call-arg]  # as all that cannot be changed later
    shallow = isinstance(tree, dict) or hasattr(tree, "__copy__")
    copied = copy.copy(tree) if shallow else copy.deepcopy(tree)  # Else it may share the entries.
    for key, value in new.items():
        copied[key] = value
    return copied


def _like_dataclass(tree: Any, children: list[Any]) -> Any:
    """A copy with other fields, even where they are frozen or no argument of ``__init__``."""
    copied = copy.copy(tree)
    for name in list(getattr(copied, "__dict__", ())):
        if isinstance(getattr(type(copied), name, None), cached_property):
            del copied.__dict__[name]
    for field, value in zip(fields(tree), children, strict=True):
        object.__setattr__(copied, field.name, value)
    return copied


def _like_sequence(tree: Any, children: list[Any]) -> Any:
    if isinstance(tree, list):
        copied = copy.copy(tree)
        copied[:] = children
        return copied
    return type(tree)._make(children) if hasattr(tree, "_fields") else type(tree)(children)
