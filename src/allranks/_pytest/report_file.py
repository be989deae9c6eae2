"""What the session of a rank tells the one that it serves, written down as it happens.

A rank appends to a file of its own, which outlives it however it ends. Hook by hook:

================================  ================================================================
what a rank's session hears       what becomes of it
================================  ================================================================
``pytest_runtest_logreport``      every report is carried, of whatever kind and number, by pytest's
                                  own ``pytest_report_to_serializable``. Those of the three phases
                                  become one report each; another (a subtest's) is one of all ranks
                                  that made it. One that no plugin can carry is told as text.
                                  Plugins hear of them in the session, once.
``pytest_report_teststatus``      asked on the rank, since plugins change a report's outcome here
``pytest_runtest_logstart``       called in the session alone
``pytest_runtest_logfinish``      the same
``pytest_runtest_setup`` ...      called on the rank alone, as are fixtures
``pytest_runtest_makereport``     the same; in the session only for plugins that run items
``pytest_exception_interact``     on the rank alone, where the exception is
``pytest_warning_recorded``       carried: one warning of all ranks that gave it
``record_property``               carried by the reports: each pair of name and value once
``record_testsuite_property``     carried to the session's JUnit file, if it writes one
``record_xml_attribute``          the same
sections of a report, output      carried, with the rank's number; of a long one both ends
other attributes of a report      carried: of the rank that failed, or of the first that has it
``pytest.exit``                   ends the session, after what was reported before
``session.shouldstop``            the same, after the test
``-x``, ``--maxfail``             counted by the session, and by a rank within its test
reruns                            decided by the session, which runs all ranks again
================================  ================================================================
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from allranks._pytest.output_limits import shortened
from allranks._pytest.report import ERROR, RankReports

if TYPE_CHECKING:
    import warnings

LONGEST_CHAIN = 20

PLAIN = frozenset(
    {"nodeid", "location", "keywords", "outcome", "longrepr", "when", "sections", "duration"}
    | {"start", "stop", "user_properties", ERROR}
)
"""What any report is made of."""


def told_file(directory: str, rank: int) -> Path:
    """Where a rank writes down what it tells."""
    return Path(directory) / f"rank{rank}.told"


class ReportWriter:
    """A rank's side: what it tells is on its way at once, even if the rank dies."""

    def __init__(self, config: pytest.Config, path: Path) -> None:
        """Prepare to append to this file."""
        self.failed = False
        self._config = config
        self._path = path
        self._owner = os.getpid()

    def report(self, report: Any, *, is_phase: bool) -> None:
        """Tell a report, and whether it is that of a whole phase."""
        self.failed |= bool(getattr(report, "failed", True))
        self.tell("report", is_phase=is_phase, data=self._plain(report))

    def warning(self, given: warnings.WarningMessage, **facts: Any) -> None:
        """Tell a warning."""
        self.tell(
            "warning",
            text=str(given.message),
            category=given.category.__name__,
            module=given.category.__module__,
            filename=given.filename,
            lineno=given.lineno,
            **facts,
        )

    def tell(self, kind: str, **facts: Any) -> None:
        """Tell anything; what is no plain data is told by its repr."""
        if os.getpid() != self._owner:
            return  # A fork of the test's own is no rank.
        with self._path.open("a") as file:
            file.write(json.dumps(_plain({"kind": kind, **facts})) + "\n")

    def _plain(self, report: Any) -> dict[str, Any]:
        try:
            data = self._serialized(report)
        except Exception as error:  # noqa: BLE001 - whatever a plugin's own class does
            data = self._serialized(_as_text(report, error))
        data["sections"] = [[name, shortened(text)] for name, text in data["sections"]]
        return data

    def _serialized(self, report: Any) -> dict[str, Any]:
        hook = self._config.hook.pytest_report_to_serializable
        data: dict[str, Any] = _plain(hook(config=self._config, report=report) or {})
        if not {"outcome", "sections"} <= set(data):
            raise TypeError(f"no plugin can serialise a {type(report).__name__}")
        return data


def _as_text(report: Any, error: Exception) -> pytest.TestReport:
    """A report as far as it can be told: that it failed is never lost."""
    when = getattr(report, "when", None)
    how = f"(This {type(report).__name__} could not be carried from the rank: {error!r})"
    return pytest.TestReport(
        str(getattr(report, "nodeid", "")),
        getattr(report, "location", ("", None, "")),
        {},
        getattr(report, "outcome", "failed"),
        f"{getattr(report, 'longrepr', None) or ''}\n{how}",
        when if when in {"setup", "call", "teardown"} else "call",
        [(str(name), str(text)) for name, text in getattr(report, "sections", ())],
    )


def _plain(value: Any) -> Any:
    """A value as JSON can tell it."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {_name(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return _shown(value)


def _name(key: Any) -> str:
    return key if isinstance(key, str) else _shown(key)


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - whatever the value's own __repr__ does
        return f"<{type(value).__name__} whose repr raised {type(error).__name__}>"


def described(error: BaseException) -> list[dict[str, Any]]:
    """An exception and its causes, by types and text: enough to decide about a rerun."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and len(chain) < LONGEST_CHAIN:
        chain.append(link)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
    return [
        {"types": [[t.__module__, t.__qualname__] for t in type(e).__mro__], "text": _text(e)}
        for e in chain
    ]


def _text(error: BaseException) -> str:
    try:
        return shortened(str(error))
    except Exception:  # noqa: BLE001 - whatever its own __str__ does
        return ""


def read(config: pytest.Config, path: Path, rank: int) -> RankReports:
    """What a rank has told."""
    told = RankReports(rank)
    text = path.read_text() if path.exists() else ""
    for line in text.splitlines(keepends=True):
        if line.endswith("\n"):  # What a rank was writing when it was killed is not whole.
            _take(config, told, json.loads(line))
    return told


def _take(config: pytest.Config, told: RankReports, facts: dict[str, Any]) -> None:
    """A phase that is reported again (a flaky test) replaces the earlier report, which is kept."""
    kind = facts.pop("kind")
    if kind != "report":
        told.others.setdefault(kind, []).append(facts)
        return
    report = _report(config, facts["data"])
    before = told.reports.pop(report.when, None) if facts["is_phase"] else None
    if facts["is_phase"] and report.when:
        told.extras += [before] if before else []
        told.reports[report.when] = report
    else:
        told.extras.append(report)


def _report(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    if isinstance(data["longrepr"], list):
        data["longrepr"] = tuple(data["longrepr"])  # JSON has no tuples.
    data["sections"] = [tuple(section) for section in data["sections"]]
    try:
        return _deserialized(config, data)
    except Exception:  # noqa: BLE001 - a class that only the ranks know, or that fails
        known = {key: value for key, value in data.items() if key in PLAIN}
        return _deserialized(config, {**known, "$report_type": "TestReport"})


def _deserialized(config: pytest.Config, data: dict[str, Any]) -> pytest.TestReport:
    report: pytest.TestReport | None = config.hook.pytest_report_from_serializable(
        config=config, data=copy.deepcopy(data)
    )
    if report is None:
        raise TypeError("no plugin knows this kind of report")
    return report
