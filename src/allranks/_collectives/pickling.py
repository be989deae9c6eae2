"""Objects as buffers: pickle protocol 5, with arrays and tensors outside of the pickle."""

from __future__ import annotations

import io
import pickle
import traceback
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from allranks._transport.tensor_bytes import as_bytes, contiguous, why_not_dense
from allranks.errors import RankFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

RAISED_BY = "_allranks_raised_by"
"""The attribute of an exception that came from another rank; its text is left as it is."""


def reduce(obj: Any) -> Any:
    """For a pickler's ``reducer_override``: tensors as buffers, moved to the CPU.

    Returns:
        What takes the object's place, or NotImplemented for all but tensors and read-only arrays.
    """
    import numpy as np
    import torch

    if type(obj) is np.ndarray and not obj.flags.writeable:
        # A buffer that is read-only here would be so where it arrives.
        return obj.copy(order="K").__reduce_ex__(pickle.HIGHEST_PROTOCOL)
    if not isinstance(obj, torch.Tensor):
        return NotImplemented
    if type(obj) is not torch.Tensor or not _is_plain(obj):
        return _on_cpu(obj)
    plain = contiguous(obj.detach().cpu())
    raw: Any = as_bytes(plain).numpy()
    return _tensor, (pickle.PickleBuffer(raw), plain.dtype, plain.shape, obj.requires_grad)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether its bytes, type and shape are all there is to a tensor."""
    return why_not_dense(tensor) is None and not vars(tensor)


def _on_cpu(tensor: torch.Tensor) -> Any:
    """Carried as torch does it, which brings a Parameter's data back here as a plain tensor."""
    import torch

    if isinstance(tensor, torch.nn.Parameter) or tensor.device.type in ("cpu", "meta"):
        return NotImplemented
    carried: Any = tensor.cpu()
    return carried.__reduce_ex__(pickle.HIGHEST_PROTOCOL)


def _tensor(raw: Any, dtype: torch.dtype, shape: Sequence[int], requires_grad: Any) -> torch.Tensor:
    import torch

    if not len(raw):
        return torch.empty(shape, dtype=dtype, requires_grad=requires_grad)
    flat = torch.frombuffer(raw, dtype=torch.uint8).view(dtype)
    return flat.reshape(shape).requires_grad_(requires_grad)


class Pickler(pickle.Pickler):
    """The standard pickler, which carries tensors as buffers."""

    def reducer_override(self, obj: Any) -> Any:
        """What takes an object's place."""
        return reduce(obj)


def dump(data: Any, pickler: Any = Pickler) -> list[Any]:
    """An object's buffers, the pickle first.

    Args:
        data: any object.
        pickler: a class of picklers that uses ``reduce``.

    Raises:
        Exception: the object cannot be pickled.
    """
    outside: list[pickle.PickleBuffer] = []
    memory = bytearray()  # Python 3.13 complains of a BytesIO whose buffer outlives it.
    file = SimpleNamespace(write=memory.extend)
    pickler(file, protocol=5, buffer_callback=outside.append).dump(data)
    return [memoryview(memory), *(buffer.raw() for buffer in outside)]


def sizes(buffers: Sequence[Any]) -> list[int]:
    """The buffers' sizes in bytes."""
    return [buffer.nbytes for buffer in buffers]


def addresses(buffers: Sequence[Any]) -> list[int]:
    """Where the buffers lie in this process's memory; 0 for one without bytes."""
    import numpy as np

    return [np.frombuffer(b, np.uint8).ctypes.data if b.nbytes else 0 for b in buffers]


def empty(lengths: Sequence[int]) -> list[Any]:
    """Buffers of these sizes, to be filled; the arrays of the object will live in them."""
    import numpy as np

    return [np.empty(length, dtype=np.uint8) for length in lengths]


def load(buffers: Sequence[Any]) -> Any:
    """The object that these buffers hold."""
    return pickle.loads(buffers[0], buffers=buffers[1:])  # noqa: S301 - from our own job


def dump_bytes(data: Any) -> bytes:
    """A small object in one piece.

    Raises:
        Exception: the object cannot be pickled.
    """
    stream = io.BytesIO()
    Pickler(stream, protocol=5).dump(data)
    return stream.getvalue()


def load_bytes(raw: bytes) -> Any:
    """The object that ``dump_bytes`` made bytes of."""
    return pickle.loads(raw)  # noqa: S301 - from our own job


def dump_anything(value: Any) -> list[Any]:
    """A value's buffers, by cloudpickle: functions and classes of a notebook too."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # untyped
        def reducer_override(self, obj: Any) -> Any:
            reduced = reduce(obj)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    return dump(value, Pickler)


def load_error(buffers: Sequence[Any], rank: int) -> BaseException:
    """The exception that ``dump_error`` made buffers of, to be raised again on another rank."""
    error: BaseException = load(buffers)
    setattr(error, RAISED_BY, rank)
    return error


def is_repeated(error: BaseException) -> bool:
    """Whether an exception only repeats here what another rank has raised."""
    return hasattr(error, RAISED_BY)


def dump_error(error: BaseException, rank: int) -> list[Any]:
    """An exception's buffers, with its traceback; one that pickle cannot carry is described."""
    from tblib import pickling_support

    try:
        pickling_support.install(error)
        buffers = dump_anything(error)
        copy = load(buffers)
    except Exception:  # noqa: BLE001 - whatever its own __reduce__ does
        copy = None
    if type(copy) is type(error):
        return buffers
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    told = f"rank {rank} raised {name}, which pickle cannot carry. There:\n{text}"
    return dump_anything(RankFailedError(told, rank=rank))
