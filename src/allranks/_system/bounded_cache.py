"""Results that are remembered from call to call, in little memory."""

from __future__ import annotations

from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

ENTRIES = 256
"""Results of one function that are remembered: a step of a program repeats fewer calls."""

LARGEST = 65_536
"""Characters, or about as many bytes, that one result may take and be remembered."""


class _TooLargeError(Exception):
    """Raised so that lru_cache does not keep a result that is too large."""


def remembered(size: Callable[..., float]) -> Callable[[F], F]:
    """As ``functools.lru_cache``, but what is large is made anew each time.

    A cache that counts entries, and not bytes, would keep as many large ones as small ones.

    Args:
        size: tells, of a call's arguments, how large what is kept would be. Asked of calls that are
            not remembered yet.
    """

    def decorated(function: F) -> F:
        @lru_cache(maxsize=ENTRIES)
        def kept(*args: Any) -> Any:
            if size(*args) > LARGEST:
                raise _TooLargeError
            return function(*args)

        @wraps(function)
        def call(*args: Any) -> Any:
            try:
                return kept(*args)
            except _TooLargeError:
                pass
            return function(*args)  # Here, so that its errors have no context.

        call.cache_info = kept.cache_info  # type: ignore[attr-defined]  # as lru_cache has it
        return cast("F", call)

    return decorated
