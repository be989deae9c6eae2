"""Passes the warnings, properties, examples and requests to stop of ranks to the session."""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

from _pytest.junitxml import xml_key

from allranks._pytest import hypothesis_examples
from allranks._pytest.marker import names

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pytest

    from allranks._pytest.report import MergedReports, RankReports


def hear(item: pytest.Item, ranks: Sequence[RankReports]) -> None:
    """Pass on what the ranks told: warnings, what goes to JUnit's file, examples, a wish to stop.

    Args:
        item: the item.
        ranks: what its ranks told.
    """
    _warn(item.config, ranks)
    _record(item, ranks)
    hypothesis_examples.keep(item, [told.others.get("example", []) for told in ranks])
    for _, facts in _each(ranks, "stop"):
        item.session.shouldstop = facts["reason"]


def tell_seed(merged: MergedReports, ranks: Sequence[RankReports], seed: int) -> None:
    """Let the report of a failure say how its examples are drawn again."""
    call = merged.phases.get("call")
    if call and call.failed and any(_each(ranks, "drawn")):
        told = f"All ranks drew the same examples; --hypothesis-seed={seed} draws them again."
        call.sections.append(("Hypothesis on ranks", told))


def _each(ranks: Sequence[RankReports], kind: str) -> Iterator[tuple[int, dict[str, Any]]]:
    return ((told.rank, facts) for told in ranks for facts in told.others.get(kind, []))


def _warn(config: pytest.Config, ranks: Sequence[RankReports]) -> None:
    """Let the session's summary tell a warning once, however many ranks gave it."""
    given: dict[str, tuple[dict[str, Any], list[int]]] = {}
    for rank, facts in _each(ranks, "warning"):
        by = given.setdefault(str(sorted(facts.items())), (facts, []))[1]
        by += [rank] if rank not in by else []
    for facts, by in given.values():
        some = f" (on {names(by)} of {len(ranks)})" if len(by) < len(ranks) else ""
        config.hook.pytest_warning_recorded.call_historic(
            kwargs={
                "warning_message": _warning(facts, some),
                "nodeid": facts["nodeid"],
                "when": facts["when"],
                "location": facts["location"],
            }
        )


def _warning(facts: dict[str, Any], by: str) -> warnings.WarningMessage:
    """A rank's warning. If its class needs more than a text, a class of the same name stands in."""
    text, category = f"{facts['text']}{by}", facts["category"]
    kind: Any = getattr(sys.modules.get(facts["module"]), category, None)
    try:
        message = kind(text)
    except Exception:  # noqa: BLE001 - whatever the warning's own class does
        kind = type(category, (Warning,), {"__module__": facts["module"]})
        message = kind(text)
    return warnings.WarningMessage(message, kind, facts["filename"], facts["lineno"])


def _record(item: pytest.Item, ranks: Sequence[RankReports]) -> None:
    """Write to JUnit's file what fixtures record there, each pair of name and value once."""
    xml = item.config.stash.get(xml_key, None)
    if xml is None:
        return
    for name, value in _pairs(ranks, "property"):
        xml.add_global_property(name, value)
    for name, value in _pairs(ranks, "attribute"):
        xml.node_reporter(getattr(item, "id", item.nodeid)).add_attribute(name, value)


def _pairs(ranks: Sequence[RankReports], kind: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for _, facts in _each(ranks, kind):
        if (pair := (facts["name"], facts["value"])) not in found:
            found.append(pair)
    return found


class JunitProperties:
    """On a rank: takes what fixtures record for JUnit's file, as the file's writer would."""

    def __init__(self, family: str, tell: Any) -> None:
        """Prepare.

        Args:
            family: the file's kind, about which fixtures warn.
            tell: takes what is to be recorded.
        """
        self.family = family
        self._tell = tell

    def add_global_property(self, name: str, value: object) -> None:
        """Record a property of all tests."""
        self._tell("property", name=name, value=value)

    def node_reporter(self, _report: object) -> JunitProperties:
        """Where the attributes of a test go."""
        return self

    def add_attribute(self, name: str, value: object) -> None:
        """Record an attribute of the test."""
        self._tell("attribute", name=name, value=str(value))
