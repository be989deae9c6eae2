"""Results that are remembered from call to call, in little memory."""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

ENTRIES = 256
"""Results of one function that are remembered: a step of a program repeats fewer calls."""


def remembered(size: Callable[..., int], largest: int) -> Callable[[F], F]:
    """As ``functools.lru_cache``, but what is large is made anew each time.

    A cache that counts entries, and not bytes, would keep as many large ones as small ones.

    Args:
        size: tells, of a call's arguments, how large what is kept would be.
        largest: the largest size that is remembered.
    """

    def decorated(function: F) -> F:
        kept = lru_cache(maxsize=ENTRIES)(function)

        @wraps(function)
        def call(*args: Any) -> Any:
            return function(*args) if size(*args) > largest else kept(*args)

        call.cache_info = kept.cache_info  # type: ignore[attr-defined]  # as lru_cache has it
        return cast("F", call)

    return decorated
