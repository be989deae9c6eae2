"""Hypothesis on ranks: all draw the same examples, since examples decide about collective calls.

They draw with the seed of ``--hypothesis-seed``, or with one that the session has chosen and tells
where a test fails. Examples that have failed are read from Hypothesis's database, as ever, and are
tried first; the session writes it, when all ranks have ended, so that none reads what another has
just written. ``@seed``, ``@reproduce_failure`` and ``derandomize`` mean what they mean elsewhere.

After each example the ranks tell each other how it went, for what Hypothesis tries next depends on
it: an example that fails on one rank fails on all, and all look together for a smaller one.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import random
import sys
from base64 import b64decode, b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from allranks._pytest.marker import names
from allranks.errors import AllranksError, PeerFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

CHOSEN = random.SystemRandom().getrandbits(32)
"""The session's seed, where its command line gives none."""


FAILED, REJECTED, PASSED = "failed", "rejected", "passed"


def draw_alike(
    item: pytest.Item,
    seed: int,
    tell: Callable[..., None],
    gather: Callable[[str], Sequence[str]] | None,
) -> None:
    """On a rank, before the call: let its examples be those of the other ranks.

    Args:
        item: the item.
        seed: the session's seed.
        tell: takes what the session is to write to the database.
        gather: gathers a text from all ranks, where they are connected.
    """
    if "hypothesis" not in sys.modules:
        return
    core: Any = importlib.import_module("hypothesis.core")
    if core.global_force_seed is None:
        core.global_force_seed = seed
        _keep_database(_function(item), tell)
    if gather:
        _agree_on_each(_function(item), gather)


def _agree_on_each(function: Any, gather: Callable[[str], Sequence[str]]) -> None:
    handle: Any = getattr(function, "hypothesis", None)
    inner = getattr(handle, "inner_test", None)
    if inner is not None and not inspect.iscoroutinefunction(inner):
        handle.inner_test = _agreed(inner, gather)


def _agreed(test: Callable[..., Any], gather: Callable[[str], Sequence[str]]) -> Any:
    """Wrap a test so that an example that fails or is rejected on one rank does so on all."""
    from hypothesis.errors import StopTest, UnsatisfiedAssumption

    @functools.wraps(test)
    def on_all(*arguments: Any, **named: Any) -> Any:
        __tracebackhide__ = True
        try:
            value = test(*arguments, **named)
        except (KeyboardInterrupt, SystemExit, pytest.exit.Exception, AllranksError):
            raise  # The last are raised on all ranks.
        except (StopTest, UnsatisfiedAssumption):
            _tell_others(gather, REJECTED)
            raise
        except BaseException:
            _tell_others(gather, FAILED)
            raise
        others = gather(PASSED)
        if failed := [rank for rank, how in enumerate(others) if how == FAILED]:
            told = f"this example has failed on {names(failed)}"
            raise PeerFailedError(told, rank=failed[0])
        if REJECTED in others:
            raise UnsatisfiedAssumption
        return value

    return on_all


def _tell_others(gather: Callable[[str], Sequence[str]], how: str) -> None:
    with suppress(AllranksError):  # They are in another call, which has now failed for them.
        gather(how)


def _function(item: pytest.Item) -> Any:
    method = getattr(item, "obj", None)
    return getattr(method, "__func__", method)


def _keep_database(function: Any, tell: Callable[..., None]) -> None:
    """Under a seed of its own Hypothesis uses no database; this seed is not the user's."""
    from hypothesis import is_hypothesis_test, settings
    from hypothesis.internal.reflection import function_digest

    own = getattr(function, "_hypothesis_internal_use_settings", None)
    if not is_hypothesis_test(function) or own is None:
        return
    tell("drawn")
    if own.database is not None:
        database = _database_of_a_rank(own.database, tell)
        function._hypothesis_internal_use_settings = settings(own, database=database)  # noqa: SLF001 - as Hypothesis's own plugin does
        digest = function_digest(function.hypothesis.inner_test)
        function._hypothesis_internal_database_key = digest  # noqa: SLF001


def _database_of_a_rank(database: Any, tell: Callable[..., None]) -> Any:
    from hypothesis.database import ExampleDatabase

    class OfARank(ExampleDatabase):
        """Reads the database as it was; what the rank changes, it tells."""

        def __init__(self) -> None:
            super().__init__()
            self._known: dict[bytes, set[bytes]] = {}

        def _of(self, key: bytes) -> set[bytes]:
            if key not in self._known:
                self._known[key] = set(database.fetch(key))
            return self._known[key]

        def fetch(self, key: bytes) -> Iterable[bytes]:
            return sorted(self._of(key))  # In the same order on all ranks.

        def save(self, key: bytes, value: bytes) -> None:
            self._of(key).add(value)
            tell("example", key=_text(key), value=_text(value), kept=True)

        def delete(self, key: bytes, value: bytes) -> None:
            self._of(key).discard(value)
            tell("example", key=_text(key), value=_text(value), kept=False)

    return OfARank()


def _text(data: bytes) -> str:
    return b64encode(data).decode()


def keep(item: pytest.Item, ranks: Sequence[Sequence[dict[str, Any]]]) -> None:
    """In the session: write to the database what the ranks would have written.

    Args:
        item: the item.
        ranks: for each rank its changes, in their order; one that any rank keeps is kept.
    """
    settings = getattr(_function(item), "_hypothesis_internal_use_settings", None)
    if settings is None or settings.database is None:
        return
    changed: dict[tuple[bytes, bytes], bool] = {}
    for changes in ranks:
        last = {(b64decode(one["key"]), b64decode(one["value"])): one["kept"] for one in changes}
        for example, kept in last.items():
            changed[example] = changed.get(example, False) or kept
    for example, kept in changed.items():
        (settings.database.save if kept else settings.database.delete)(*example)
