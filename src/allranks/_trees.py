"""Trees of data: taken apart into leaves, and put together again from new leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def flatten(tree: Any) -> tuple[list[Any], str]:
    """The leaves of a tree of dicts, lists, tuples, namedtuples and dataclasses, and its shape.

    Returns:
        The leaves, those of a dict in the order of its sorted keys, and a text that is equal
        for two trees of one structure.
    """
    children = _children(tree)
    if children is None:
        return [tree], "*"
    parts = [(key, *flatten(child)) for key, child in children]
    shape = ",".join(f"{key}={inner}" for key, _, inner in parts)
    return [leaf for _, leaves, _ in parts for leaf in leaves], f"{_kind(tree)}({shape})"


def rebuild(tree: Any, leaves: Iterator[Any]) -> Any:
    """A tree of the same structure and types, with new leaves in the order of ``flatten``."""
    children = _children(tree)
    if children is None:
        return next(leaves)
    new = {key: rebuild(child, leaves) for key, child in children}
    if isinstance(tree, Mapping):
        return _like_mapping(tree, {key: new[repr(key)] for key in tree})
    if _is_dataclass(tree):
        return type(tree)(**new)
    values = list(new.values())
    return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)


def _like_mapping(tree: Any, new: dict[Any, Any]) -> Any:
    """The same type, in the same order: a dict's own kind keeps its other state by ``copy``."""
    if type(tree) is dict:
        return new
    copy = tree.copy()
    copy.update(new)
    return copy


def _children(tree: Any) -> list[tuple[str, Any]] | None:
    if isinstance(tree, Mapping):
        return sorted(((repr(key), tree[key]) for key in tree), key=lambda pair: pair[0])
    if _is_dataclass(tree):
        return [(field.name, getattr(tree, field.name)) for field in fields(tree)]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return list(zip(tree._fields, tree, strict=True))
    if isinstance(tree, (list, tuple)):
        return [(str(index), child) for index, child in enumerate(tree)]
    return None


def _is_dataclass(tree: Any) -> bool:
    return is_dataclass(tree) and not isinstance(tree, type)


def _kind(tree: Any) -> str:
    return "dict" if isinstance(tree, Mapping) else type(tree).__name__
