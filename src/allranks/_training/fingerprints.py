"""What stands for data when ranks compare theirs: a hash of each leaf, and one of all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._collectives import trees
from allranks._collectives.pickling import dump_bytes
from allranks._system.printable import brief_repr
from allranks._training.modules import tensors_of
from allranks._transport.tensor_bytes import as_bytes, contiguous, why_not_dense
from allranks.errors import CollectiveError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

SIZE = 16
"""Bytes of a hash."""

PLAIN = (bool, int, float, complex, str, bytes, type(None))
"""What is equal where it prints alike."""

CHUNK = 2**20


class Fingerprint(NamedTuple):
    """What a rank tells of a leaf.

    Attributes:
        kind: its dtype and shape, or its type.
        digest: a hash of its contents.
        text: the leaf itself, where it is short.
    """

    kind: str
    digest: bytes
    text: str


class Fingerprints(NamedTuple):
    """What a rank tells of its data.

    Attributes:
        leaves: the leaves themselves.
        told: what is told of each, by its path.
        digest: a hash of all that is told.
    """

    leaves: dict[str, Any]
    told: dict[str, Fingerprint]
    digest: bytes

    @classmethod
    def of(cls, data: Any, what: str) -> Fingerprints:
        """Read the data.

        Args:
            data: as for ``check_same``.
            what: begins each path.

        Raises:
            Exception: a leaf cannot be read or pickled.
        """
        import torch

        flat = trees.flatten(tensors_of(data) if isinstance(data, torch.nn.Module) else data)
        leaves = dict(zip(trees.paths(flat.node, what), flat.leaves, strict=True))
        told = {path: _fingerprint(leaf, path) for path, leaf in leaves.items()}
        parts = [f"{path} {one.kind}".encode() + one.digest for path, one in told.items()]
        structure = repr(flat.node).encode()
        return cls(leaves, told, _hashed([structure, *parts]))


def _hashed(parts: Iterable[Any]) -> bytes:
    found = hashlib.blake2b(digest_size=SIZE)
    for part in parts:
        found.update(part)
    return found.digest()


def _fingerprint(leaf: Any, path: str) -> Fingerprint:
    tensor = as_tensor(leaf)
    if tensor is not None:
        if why := why_not_dense(tensor):
            raise CollectiveError(f"{path}: {why}")
        raw: Any = as_bytes(contiguous(tensor.cpu())).numpy()
        kind = f"{tensor.dtype}{list(tensor.shape)}".removeprefix("torch.")
        return Fingerprint(kind, _hashed([memoryview(raw)]), "")
    if isinstance(leaf, Path):
        return Fingerprint("file", _hash_of_file(leaf), "")
    if type(leaf) in PLAIN:
        return Fingerprint(type(leaf).__name__, _hashed([repr(leaf).encode()]), brief_repr(leaf))
    if isinstance(leaf, (set, frozenset)):
        printed = sorted(map(repr, leaf))
        return Fingerprint(type(leaf).__name__, _hashed([repr(printed).encode()]), brief_repr(leaf))
    return Fingerprint(type(leaf).__name__, _hashed([dump_bytes(leaf)]), brief_repr(leaf))


def as_tensor(leaf: Any) -> torch.Tensor | None:
    """A tensor or an array of numbers as a tensor; None for anything else."""
    import numpy as np
    import torch

    if isinstance(leaf, torch.Tensor):
        return leaf.detach()
    if isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc":
        try:
            # numpy's own gives an array without dimensions one.
            return torch.from_numpy(np.ascontiguousarray(leaf)).reshape(leaf.shape)
        except TypeError:  # A dtype that torch does not know.
            return None
    return None


def _hash_of_file(path: Path) -> bytes:
    with path.open("rb") as file:
        return _hashed(iter(lambda: file.read(CHUNK), b""))
