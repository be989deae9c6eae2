"""What the ranks of an item tell, made into the reports of one item."""

from __future__ import annotations

import copy
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pytest
from _pytest._code.code import ExceptionChainRepr, ReprEntryNative, ReprFileLocation, ReprTraceback

from allranks._pytest.marker import names
from allranks._pytest.output_limits import OF_FAILED, OF_PASSED, shortened
from allranks._watch.failures import LOST_PEERS

if TYPE_CHECKING:
    from collections.abc import Sequence

Phase = Literal["setup", "call", "teardown"]

PHASES: tuple[Phase, ...] = ("setup", "call", "teardown")

RESULT = frozenset(
    {"outcome", "longrepr", "sections", "duration", "start", "stop", "user_properties", "wasxfail"}
)
"""What the reports of ranks may differ in, and still be of the same thing."""

STRICT = "[XPASS(strict)]"

ERROR = "_allranks_error"
"""The attribute of a report that describes its exception to the session, which has none."""


@dataclass
class RankReports:
    """The reports that one rank sent, and how its process ended if not normally.

    Attributes:
        rank: its rank.
        reports: the reports of its phases.
        extras: its other reports, of whatever kind.
        others: what else it told, by kind.
        fault: how it ended, if not normally.
        at: what orders the failures: the causes first.
        output: what it wrote and pytest did not report, as sections of a report.
    """

    rank: int
    reports: dict[str, pytest.TestReport] = field(default_factory=dict)
    extras: list[pytest.TestReport] = field(default_factory=list)
    others: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    fault: str | None = None
    at: tuple[int, float] = (0, 0.0)
    output: list[tuple[str, str]] = field(default_factory=list)

    @property
    def left(self) -> bool:
        """Whether it has ended the session, by ``pytest.exit``."""
        return "exit" in self.others


@dataclass
class MergedReports:
    """What an item's ranks reported, as reports of the item.

    Attributes:
        phases: one report for each phase.
        extras: the others, in the order in which the ranks made them.
        ending: what ends the session, where a rank has asked for it.
    """

    phases: dict[str, pytest.TestReport]
    extras: list[pytest.TestReport] = field(default_factory=list)
    ending: BaseException | None = None


@dataclass
class _RankPart:
    """One rank's share of a merged report."""

    rank: int
    report: pytest.TestReport
    at: tuple[int, float]


def merge(item: pytest.Item, ranks: Sequence[RankReports]) -> MergedReports:
    """The reports of an item: one of each phase, and what else its ranks reported.

    Args:
        item: the item.
        ranks: what its ranks told.
    """
    decisive = [part for told in ranks for part in _decisive(item, told)]
    ending = next((_exit(told) for told in ranks if told.left), None)
    if ending:
        decisive = [part for part in decisive if not LOST_PEERS.search(_message(part))]
    return MergedReports(_phases(item, ranks, decisive), _merged_extras(ranks), ending)


def _exit(told: RankReports) -> BaseException:
    asked = told.others["exit"][0]
    return pytest.exit.Exception(f"rank {told.rank}: {asked['reason']}", asked["returncode"])


def refused(item: pytest.Item, reason: str) -> MergedReports:
    """The reports of an item that was run on no rank."""
    reports: dict[str, pytest.TestReport] = {when: _merged(item, when, []) for when in PHASES}
    reports["call"] = _report(item, "call", "failed", reason)
    return MergedReports(reports)


def _phases(
    item: pytest.Item, ranks: Sequence[RankReports], decisive: Sequence[_RankPart]
) -> dict[str, pytest.TestReport]:
    unusual = [part.report.when for part in decisive if not part.report.passed]
    reports = {"teardown": _merged(item, "teardown", _of_phase(ranks, "teardown"))}
    if unusual and "call" not in unusual:
        return {**reports, "setup": _merged(item, "setup", decisive)}
    setup = [part for part in _of_phase(ranks, "setup") if part.report.passed]
    merged = {"setup": _merged(item, "setup", setup), "call": _merged(item, "call", decisive)}
    return {**reports, **merged}


def _decisive(item: pytest.Item, told: RankReports) -> list[_RankPart]:
    """What decides about a rank: its call, or the setup that failed, and an abnormal end."""
    report = told.reports.get("call", told.reports.get("setup"))
    told_nothing = "told nothing" if report is None and not told.left else None
    parts, at = [], told.at
    if report and (told.fault is None or report.failed):
        at = (1, report.stop)
        parts.append(_RankPart(told.rank, report, at))
    if fault := told.fault or told_nothing:
        parts.append(_RankPart(told.rank, _report(item, "call", "failed", fault), at))
    if parts:
        parts[-1].report.sections += told.output
    return parts


def _merged_extras(ranks: Sequence[RankReports]) -> list[pytest.TestReport]:
    """Merge further reports, such as those of subtests: one for all ranks that made the same."""
    alike: dict[Any, list[_RankPart]] = {}
    for told in ranks:
        made: Counter[str] = Counter()
        for report in told.extras:
            made[identity := _identity(report)] += 1
            part = _RankPart(told.rank, report, (1, report.stop))
            alike.setdefault((identity, made[identity]), []).append(part)
    return [_merged_extra(parts) for parts in alike.values()]


def _identity(report: pytest.TestReport) -> str:
    """What two reports have in common that are the same but for their outcome."""
    own = {name: value for name, value in vars(report).items() if name not in {*RESULT, ERROR}}
    return f"{type(report).__qualname__} {own}"


def _merged_extra(parts: Sequence[_RankPart]) -> pytest.TestReport:
    outcome, longrepr, wasxfail = _verdict(parts)
    merged = copy.copy(parts[0].report)
    vars(merged).pop("wasxfail", None)
    merged.outcome, merged.longrepr = outcome, longrepr  # type: ignore[assignment]
    return _with_the_rest(merged, parts, wasxfail)


def _of_phase(ranks: Sequence[RankReports], phase: Phase) -> list[_RankPart]:
    reports = ((told.rank, told.reports.get(phase)) for told in ranks)
    return [_RankPart(rank, report, (1, report.stop)) for rank, report in reports if report]


def _merged(item: pytest.Item, when: Phase, parts: Sequence[_RankPart]) -> pytest.TestReport:
    outcome, longrepr, wasxfail = _verdict(parts)
    return _with_the_rest(_report(item, when, outcome, longrepr), parts, wasxfail)


def _with_the_rest(
    merged: pytest.TestReport, parts: Sequence[_RankPart], wasxfail: str | None
) -> pytest.TestReport:
    limit = OF_PASSED if merged.outcome == "passed" else OF_FAILED
    merged.sections = _sections(parts, limit)
    merged.duration = max((part.report.duration for part in parts), default=0.0)
    merged.start = min((part.report.start for part in parts), default=0.0)
    merged.stop = max((part.report.stop for part in parts), default=0.0)
    merged.user_properties = _properties(parts)
    if wasxfail is not None:
        merged.wasxfail = wasxfail
    for part in sorted(parts, key=lambda part: (not part.report.failed, part.at)):
        for name, value in vars(part.report).items():
            if name not in RESULT and not name.startswith("$"):
                vars(merged).setdefault(name, value)  # What another plugin has left there.
    return merged


def _report(item: pytest.Item, when: Phase, outcome: Any, longrepr: Any) -> pytest.TestReport:
    keywords: dict[str, Literal[1]] = dict.fromkeys(item.keywords, 1)
    return pytest.TestReport(item.nodeid, item.location, keywords, outcome, longrepr, when)


def _verdict(parts: Sequence[_RankPart]) -> tuple[str, Any, str | None]:
    """The outcome, what to show for it, and the reason of an expected failure."""
    expected = [part for part in parts if _has_xfailed(part.report)]
    failed = [part for part in parts if part.report.failed]
    if expected and all(_is_strict_pass(part.report) for part in failed):
        return "skipped", _shown(expected), _reason(expected)
    if failed:
        return "failed", _shown(failed, parts), None
    skipped = [part for part in parts if part.report.skipped]
    if skipped:
        return "skipped", _skip(skipped, len(parts)), None
    unknown = (part.report for part in parts if part.report.outcome != "passed")
    if strange := next(unknown, None):  # Another plugin's outcome: it shows it, and counts it.
        return strange.outcome, strange.longrepr, _reason(parts)
    return "passed", None, _reason(parts)


def _has_xfailed(report: pytest.TestReport) -> bool:
    return report.skipped and hasattr(report, "wasxfail")


def _is_strict_pass(report: pytest.TestReport) -> bool:
    return isinstance(report.longrepr, str) and report.longrepr.startswith(STRICT)


def _reason(parts: Sequence[_RankPart]) -> str | None:
    reasons = (getattr(part.report, "wasxfail", None) for part in parts)
    return next((reason for reason in reasons if reason is not None), None)


def _skip(skipped: Sequence[_RankPart], ranks: int) -> tuple[str, int, str]:
    """Where and why ranks skipped; which, unless it was all of them."""
    first: Any = skipped[0].report.longrepr
    path, line, reason = first if isinstance(first, tuple) else ("", 0, str(first or ""))
    if len(skipped) < ranks:
        reason = f"{reason} (on {names(part.rank for part in skipped)} of {ranks})"
    return path, line, reason


def _shown(failed: Sequence[_RankPart], parts: Sequence[_RankPart] = ()) -> Any:
    """Each distinct failure once, under the ranks that it befell; the first one first."""
    groups = _groups(failed)
    crash = _crash(groups[0])
    chain: list[Any] = []
    for befallen in groups:
        chain += _headed(befallen, crash)
    told = [f"{names([part.rank])}: skipped\n" for part in parts if part.report.skipped]
    if told:
        chain.append((_text("".join(told)), crash, None))
    shown = ExceptionChainRepr(chain)
    shown.reprcrash = crash
    return shown


def _groups(failed: Sequence[_RankPart]) -> list[list[_RankPart]]:
    """Group ranks whose failures look alike. One that only lost a failed rank gets a short line."""
    groups: dict[Any, list[_RankPart]] = {}
    ordered = sorted(failed, key=lambda part: part.at)
    causes = [part for part in ordered if not LOST_PEERS.search(_message(part))]
    for part in ordered:
        if causes and part not in causes:
            part.report.longrepr = f"lost a rank that had failed{_place(part)}"
        groups.setdefault(_likeness(part), []).append(part)
    return sorted(groups.values(), key=lambda befallen: befallen[0] not in causes)


def _message(part: _RankPart) -> str:
    crash = getattr(part.report.longrepr, "reprcrash", None)
    return str(crash.message) if crash else ""


def _place(part: _RankPart) -> str:
    """Where the test itself stood."""
    traceback: Any = getattr(part.report.longrepr, "reprtraceback", None)
    where = getattr(traceback.reprentries[0], "reprfileloc", None) if traceback else None
    return f", at {where.path}:{where.lineno}" if where else ""


def _likeness(part: _RankPart) -> Any:
    """What two failures have in common that are shown as one: not the values of arguments."""
    longrepr: Any = part.report.longrepr
    links = getattr(longrepr, "chain", None)
    if links is None:
        return _without_numbers(part.report.longreprtext)
    entries = [entry for link in links for entry in link[0].reprentries]
    return tuple(_without_numbers(_gist(entry)) for entry in entries)


def _gist(entry: Any) -> str:
    where = getattr(entry, "reprfileloc", None)
    errors = [line for line in entry.lines if line.startswith("E ") or not where]
    return "\n".join([f"{where.path}:{where.lineno}" if where else "", *errors])


def _without_numbers(text: str) -> str:
    return re.sub(r"0x[0-9a-fA-F]+|\(pid \d+\)", "", text)


def _crash(befallen: Sequence[_RankPart]) -> ReprFileLocation:
    """Where it failed, for the line of the short summary."""
    who, report = names(part.rank for part in befallen), befallen[0].report
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash:
        return ReprFileLocation(crash.path, crash.lineno, f"{who}: {crash.message}")
    path, line, _ = report.location
    message = report.longreprtext.strip().partition("\n")[0]
    return ReprFileLocation(path, (line or 0) + 1, f"{who}: {message}")


def _headed(befallen: Sequence[_RankPart], crash: ReprFileLocation) -> list[Any]:
    """The links of an exception's chain, with a heading before the first."""
    heading = f"{names(part.rank for part in befallen)}:"
    longrepr: Any = befallen[0].report.longrepr
    links = getattr(longrepr, "chain", None)
    if links is None and hasattr(longrepr, "reprtraceback"):
        links = [(longrepr.reprtraceback, None, None)]
    if links is None:
        return [(_text(f"{heading} {befallen[0].report.longreprtext.rstrip()}\n"), crash, None)]
    (first, _, description), *others = links
    entries = [ReprEntryNative([f"{heading}\n"]), *first.reprentries]
    head = ReprTraceback(entries, first.extraline, first.style)
    return [(head, crash, description), *((link[0], crash, link[2]) for link in others)]


def _text(text: str) -> ReprTraceback:
    return ReprTraceback([ReprEntryNative([text])], None, "native")


def _sections(parts: Sequence[_RankPart], limit: int) -> list[tuple[str, str]]:
    return [
        (f"{name}, rank {part.rank}", shortened(content, limit))
        for part in parts
        for name, content in part.report.sections
        if content
    ]


def _properties(parts: Sequence[_RankPart]) -> list[tuple[str, object]]:
    """What the test recorded: once, where all ranks that did agree."""
    found: list[tuple[str, object]] = []
    for part in parts:
        for name, value in part.report.user_properties:
            if (name, value) not in found:
                found.append((name, value))
    return found
