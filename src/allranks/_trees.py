"""Trees of data: taken apart into leaves, and put together again from new leaves."""

from __future__ import annotations

import copy
from collections.abc import Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator


class Flat(NamedTuple):
    """A tree of dicts, lists, tuples, namedtuples and dataclasses, taken apart.

    Attributes:
        leaves: what is none of these; those of a dict in the order of its sorted keys.
        paths: where each leaf stands, for people: ``data['loss'][0]``.
        shape: a format string with a field for each leaf, equal for trees of one structure.
    """

    leaves: list[Any]
    paths: list[str]
    shape: str

    def told(self, leaves: list[str]) -> str:
        """The structure with a text for each leaf: equal for two trees that fit together."""
        return self.shape.format(*leaves)


def flatten(tree: Any, path: str = "data") -> Flat:
    """Take a tree apart.

    Raises:
        ValueError: two keys of a dict look alike, so that ranks could take one for the other.
    """
    children = _children(tree, path)
    if children is None:
        return Flat([tree], [path], "{}")
    flats = [(label, flatten(child, inner_path)) for label, inner_path, child in children]
    inner = ", ".join(f"{_escaped(label)}: {flat.shape}" for label, flat in flats)
    return Flat(
        [leaf for _, flat in flats for leaf in flat.leaves],
        [inner_path for _, flat in flats for inner_path in flat.paths],
        f"{_escaped(_kind(tree))}({inner})",
    )


def rebuild(tree: Any, leaves: Iterator[Any]) -> Any:
    """A tree of the same structure and types, with new leaves in the order of ``flatten``."""
    children = _children(tree, "")
    if children is None:
        return next(leaves)
    new = [(label, rebuild(child, leaves)) for label, _, child in children]
    if isinstance(tree, Mapping):
        by_label = dict(new)
        return _like_mapping(tree, {key: by_label[repr(key)] for key in tree})
    if _is_dataclass(tree):
        return _like_dataclass(tree, dict(new))
    return _like_sequence(tree, [child for _, child in new])


def _like_mapping(tree: Mapping[Any, Any], new: dict[Any, Any]) -> Any:
    """A mapping of the same type, order and further state, such as a default factory."""
    if not isinstance(tree, MutableMapping):
        return type(tree)(new)  # type: ignore[call-arg]  # as all that cannot be changed later
    copied = copy.copy(tree)
    for key, value in new.items():
        copied[key] = value
    return copied


def _like_dataclass(tree: Any, new: dict[str, Any]) -> Any:
    """A copy with other fields, even where they are frozen or no argument of ``__init__``."""
    copied = copy.copy(tree)
    for name in list(getattr(copied, "__dict__", ())):
        if isinstance(getattr(type(copied), name, None), cached_property):
            del copied.__dict__[name]
    for name, value in new.items():
        object.__setattr__(copied, name, value)
    return copied


def _like_sequence(tree: Any, new: list[Any]) -> Any:
    if isinstance(tree, list):
        copied = copy.copy(tree)
        copied[:] = new
        return copied
    return type(tree)._make(new) if hasattr(tree, "_fields") else type(tree)(new)


def _children(tree: Any, path: str) -> list[tuple[str, str, Any]] | None:
    """Label, path and value of each child; None for a leaf."""
    if isinstance(tree, Mapping):
        return [(key, f"{path}[{key}]", child) for key, child in _sorted_items(tree, path)]
    if _is_dataclass(tree):
        names = [field.name for field in fields(tree)]
        return [(name, f"{path}.{name}", getattr(tree, name)) for name in names]
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        named = zip(tree._fields, tree, strict=True)
        return [(name, f"{path}.{name}", child) for name, child in named]
    if isinstance(tree, (list, tuple)):
        return [(str(index), f"{path}[{index}]", child) for index, child in enumerate(tree)]
    return None


def _sorted_items(tree: Mapping[Any, Any], path: str) -> list[tuple[str, Any]]:
    """Keys may be of any types, so they are sorted as they print."""
    items = {repr(key): tree[key] for key in tree}
    if len(items) < len(tree):
        raise ValueError(f"two keys of {path} print alike: {sorted(map(repr, tree))}")
    return sorted(items.items())


def _is_dataclass(tree: Any) -> bool:
    return is_dataclass(tree) and not isinstance(tree, type)


def _kind(tree: Any) -> str:
    return "dict" if isinstance(tree, Mapping) else type(tree).__name__


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
