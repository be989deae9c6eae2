"""What ranks tell each other is no part of a compiled graph: ``torch.compile`` stops before it."""

from __future__ import annotations

import sys
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

COMPILER = "torch._dynamo"
"""The module that is there once something is, or may be, compiled."""

_disabled: dict[Callable[..., Any], Callable[..., Any]] = {}


def outside_graphs(function: F) -> F:
    """A function that a compiled one may call: the graph is broken there, as with torch's own.

    Nothing of torch is imported for it, and without a compiler it costs a look into a dict.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if COMPILER not in sys.modules:
            return function(*args, **kwargs)
        return (_disabled.get(function) or _disable(function))(*args, **kwargs)

    # What the compiler looks for (torch 2.13); without, its words for the break are less clear.
    marked: Any = call
    marked._torchdynamo_disable = True  # noqa: SLF001
    marked._torchdynamo_disable_msg = f"allranks.{function.__name__} talks to other ranks"  # noqa: SLF001
    return cast("F", call)


def _disable(function: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    disable: Any = torch.compiler.disable
    _disabled[function] = disable(function)
    return _disabled[function]
