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
_compiling: Callable[[], object] | None = None
"""Whether this thread runs a compiled function; known once the compiler leaves our frames alone."""


def outside_graphs(function: F) -> F:
    """A function that a compiled one may call: the graph is broken there, as with torch's own.

    Nothing of torch is imported for it. Without a compiler it costs a look into a dict, and outside
    of compiled functions little more.
    """

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        if COMPILER not in sys.modules or (_compiling is not None and _compiling() is None):
            return function(*args, **kwargs)
        return (_disabled.get(function) or _disable(function, call))(*args, **kwargs)

    # What the compiler looks for (torch 2.13); without, its words for the break are less clear.
    marked: Any = call
    marked._torchdynamo_disable = True  # noqa: SLF001
    marked._torchdynamo_disable_msg = f"allranks.{function.__name__} talks to other ranks"  # noqa: SLF001
    return cast("F", call)


def _disable(function: Callable[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    disable: Any = torch.compiler.disable
    _disabled[function] = disable(function)
    disable(_leave_alone)(call)  # Not to be traced itself.
    return _disabled[function]


def _leave_alone(call: Callable[..., Any]) -> None:
    """Make the compiler skip our wrapper, so that other code calls a function as it is.

    What ``torch.compiler.disable`` adds costs 15 us a call (torch 2.13), and is needed in compiled
    functions only. All wrappers share one code object, so once is enough. Where torch lacks one of
    the two functions, or ends the process for it (before 2.8), each call pays.
    """
    global _compiling  # noqa: PLW0603 - known once, and for all wrappers
    import torch

    if torch.__version__ < "2.8":
        return
    try:
        from torch._C._dynamo.eval_frame import get_eval_frame_callback
        from torch._dynamo.eval_frame import skip_code
    except ImportError:
        return
    skip_code(call.__code__)
    _compiling = get_eval_frame_callback
