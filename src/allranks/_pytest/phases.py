"""Setup, call and teardown, as the session sees them, of a test that runs on ranks.

That is pytest's own protocol, or a plugin's that runs an item again when it has failed. Either
calls an item's hooks phase by phase: those of such an item run all its ranks at the first of
them, and report for them at each. No other plugin's hooks of the phases are called in the session:
they are on the ranks, where the fixtures and the exceptions are.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, cast

import pytest

from allranks._pytest.report import ERROR, MergedReports

if TYPE_CHECKING:
    from collections.abc import Callable

hooks_of = pytest.StashKey["ItemHooks"]()


class ItemHooks:
    """Wraps the hook caller of an item.

    A derived class overrides some hooks; all others go to the plugins.
    """

    def __init__(self, item: pytest.Item) -> None:
        """Take them from the item."""
        self.item = item
        self.all = item.ihook

    def __getattr__(self, name: str) -> Any:
        return getattr(self.all, name)


class RankPhases(ItemHooks):
    """An item's hooks where its phases are those of its ranks."""

    def __init__(self, item: pytest.Item, run: Callable[[pytest.Item], MergedReports]) -> None:
        """Prepare.

        Args:
            item: the item.
            run: runs it on its ranks.
        """
        super().__init__(item)
        self._run = run
        self._merged = MergedReports({})

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Run the ranks, all phases of them."""
        self._merged = MergedReports({})
        self._merged = self._run(item)
        if self._merged.ending:
            self._leave(self._merged.ending)
        self._raise("setup")

    def pytest_runtest_call(self, item: pytest.Item) -> None:  # noqa: ARG002 - the hook's names
        """Log what the ranks reported beside their phases."""
        self._log_extras()
        self._raise("call")

    def pytest_runtest_teardown(self, item: pytest.Item, nextitem: pytest.Item | None) -> None:
        """Tear down fixtures of the session's own tests that the next item does not need."""
        self._log_extras()
        state: Any = item.session._setupstate  # noqa: SLF001 - pytest checks it at the next test
        state.teardown_exact(nextitem)
        self._raise("teardown")

    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> pytest.TestReport:
        """Let the plugins that run items themselves take note of a report."""
        manager = item.config.pluginmanager
        others = [plugin for plugin in manager.get_plugins() if not _runs_items(plugin)]
        make = manager.subset_hook_caller("pytest_runtest_makereport", others)
        return cast("pytest.TestReport", make(item=item, call=call))

    def pytest_exception_interact(self, **_: Any) -> None:
        """The exception was on the ranks."""

    def report(
        self, when: str, raised: pytest.ExceptionInfo[BaseException] | None
    ) -> pytest.TestReport | None:
        """What the ranks report of a phase; None where the session's own part of it failed."""
        merged = self._merged.phases.get(when)
        if raised is None or isinstance(raised.value, StandInError):
            return merged
        if merged and not merged.passed:
            self.all.pytest_runtest_logreport(report=merged)
        return None

    def _log_extras(self) -> None:
        extras, self._merged.extras = self._merged.extras, []
        for report in extras:
            vars(report).pop(ERROR, None)
            self.all.pytest_runtest_logreport(report=report)

    def _leave(self, ending: BaseException) -> None:
        """End the session, after what the ranks had reported before."""
        phases = self._merged.phases
        self._merged.extras.insert(0, phases["setup"])
        self._log_extras()
        if "call" in phases and not phases["call"].passed:
            self.all.pytest_runtest_logreport(report=phases["call"])
        raise ending

    def _raise(self, when: str) -> None:
        """Raise a stand-in of the class and text that the ranks raised: reruns depend on it."""
        report = self._merged.phases.get(when)
        if report is None or not report.failed:
            return
        raise stand_in(vars(report).pop(ERROR, None) or [])


def _runs_items(plugin: Any) -> bool:
    """Whether a plugin may run items by itself, or makes our reports."""
    return hasattr(plugin, "pytest_runtest_protocol")


class StandInError(BaseException):
    """In place of an exception of the ranks."""


def stand_in(chain: list[dict[str, Any]]) -> StandInError:
    """An exception with the names, the text and the known bases of one of the ranks.

    Args:
        chain: what a rank told of the exception, and of its causes.
    """
    error: StandInError | None = None
    for link in reversed(chain):
        error, cause = _link(link["types"], link["text"]), error
        error.__cause__ = cause
    return error or StandInError()


def _link(types: list[tuple[str, str]], text: str) -> StandInError:
    name = types[0][1].rpartition(".")[2]
    space = {"__str__": lambda _: text, "__init__": lambda *_: None}
    for base in filter(None, (_known(*one) for one in types)):
        with suppress(Exception):  # Whatever the class does when it is derived from or made.
            kind: Any = type(name, (StandInError, base), space)
            return cast("StandInError", kind.__new__(kind))
    return StandInError()


def _known(module: str, name: str) -> type[BaseException] | None:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    is_error = isinstance(found, type) and issubclass(found, BaseException)
    return found if is_error else None


def give_hooks(item: pytest.Item, hooks: ItemHooks) -> None:
    """Let an item have hooks of its own."""
    if hooks_of not in item.stash:
        item.__class__ = _with_hooks(type(item))
    item.stash[hooks_of] = hooks


@cache
def _with_hooks(kind: type[pytest.Item]) -> type[pytest.Item]:
    """The kind of item with hooks of its own, which pytest reads from the class."""
    ihook = property(lambda item: item.stash[hooks_of])
    make: Any = type(kind)
    made = make(kind.__name__, (kind,), {"ihook": ihook, "__module__": kind.__module__})
    return cast("type[pytest.Item]", made)
