"""The session's side of the pytest plugin: orders ranks for an item, and reports for them."""

from __future__ import annotations

import functools
import os
import pickle
import re
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from allranks._launch.job import GRACE, RankResult, TemplateClient
from allranks._launch.local_world import local_world
from allranks._launch.rank_output import CallerOutput
from allranks._launch.remote_call import RemoteCall
from allranks._process_group.lifecycle import cleanup, setup
from allranks._pytest import hypothesis_examples, marker
from allranks._pytest.item import (
    BOOT,
    STREAMS,
    ItemFailed,
    ItemRequest,
    TemplateOptions,
    captured_file,
    ready,
    run_item,
)
from allranks._pytest.output_limits import OutputEnds, ends_of
from allranks._pytest.phases import RankPhases, give_hooks, hooks_of
from allranks._pytest.report import MergedReports, RankReports, merge, refused
from allranks._pytest.report_file import read, told_file
from allranks._pytest.session_effects import hear, tell_seed
from allranks._pytest.xdist_worker import workerinput
from allranks._system import interpreter
from allranks.errors import AllranksError, RankFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from allranks._pytest.marker import RanksMarker

START = 600.0
"""Seconds that the template may take to import torch and to collect."""


def asked_by(item: pytest.Item) -> tuple[int, RanksMarker]:
    """The world size of a marked item, and what else its marker asks for."""
    mark: Any = item.get_closest_marker("ranks")
    asked = marker.read(mark)
    if len(asked.sizes) == 1:
        return asked.sizes[0], asked
    parameters = getattr(getattr(item, "callspec", None), "params", {})
    if marker.SIZE not in parameters:
        raise AllranksError(f"{marker.shown(mark)}: this kind of test takes one size")
    return parameters[marker.SIZE], asked


class RanksPlugin:
    """The plugin of a session: takes the items that have the marker."""

    def __init__(self, config: pytest.Config, timeout: float) -> None:
        """Prepare; nothing is started before a test needs it.

        Args:
            config: the session's configuration.
            timeout: seconds that a test may take, where its marker does not say.
        """
        self._config = config
        self._timeout = timeout
        self._state: SessionTemplate | None = None
        self._refusal: str | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Begin to import torch while other tests run, where this process will need it."""
        alone = not hasattr(self._config, "workerinput")
        distributes = getattr(self._config.option, "dist", "no") != "no"
        stays = self._config.option.collectonly or self._config.option.usepdb
        if alone and not distributes and not stays and _files(session):
            with suppress(Exception):  # Told by the tests that need it.
                self._state = SessionTemplate(self._config, _files(session))

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Replace the hooks of a marked item, so that whichever plugin runs it runs it on ranks."""
        if item.get_closest_marker("ranks") is None:
            return None
        if self._debugs and _size(item) == 1:
            return _under_debugger(item, nextitem)
        if hooks_of not in item.stash:
            give_hooks(item, RankPhases(item, self._reports))
        return None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> pytest.TestReport | None:
        """Report for a phase of an item what its ranks reported."""
        phases = item.stash.get(hooks_of, None)
        return phases.report(call.when, call.excinfo) if isinstance(phases, RankPhases) else None

    def pytest_unconfigure(self) -> None:
        """End the template."""
        if self._state:
            self._state.close()

    @property
    def _debugs(self) -> bool:
        return bool(self._config.option.usepdb or self._config.option.trace)

    def _reports(self, item: pytest.Item) -> MergedReports:
        """Run the item on its ranks; the time that they took to start belongs to its setup."""
        began = time.time()
        run: pytest.CallInfo[Any] = pytest.CallInfo.from_call(
            lambda: self._run(item), "setup", (pytest.exit.Exception, KeyboardInterrupt)
        )
        if run.excinfo is None:
            merged: MergedReports = run.result
        elif isinstance(run.excinfo.value, pytest.skip.Exception):
            merged = MergedReports({"setup": pytest.TestReport.from_item_and_call(item, run)})
        else:
            merged = refused(item, _worded(run.excinfo.value))
        spent = sum(report.duration for report in merged.phases.values())
        merged.phases["setup"].duration += max(0.0, time.time() - began - spent)
        return merged

    def _run(self, item: pytest.Item) -> MergedReports:
        if (reason := _skip_reason(item)) is not None:
            raise pytest.skip.Exception(reason, _use_item_location=True)
        ranks, asked = asked_by(item)
        if self._debugs:
            raise AllranksError(
                f"a debugger cannot be in {ranks} processes at once. Mark the test with ranks(1), "
                "or take its marker away, to use --pdb or --trace with it."
            )
        deadline = asked.timeout or self._timeout
        request = ItemRequest(_name(item), deadline, asked.setup, seed=hypothesis_examples.CHOSEN)
        told = self._warm(item.session).run(item, ranks, request)
        hear(item, told)
        merged = merge(item, told)
        tell_seed(merged, told, request.seed)
        return merged

    def _warm(self, session: pytest.Session) -> SessionTemplate:
        if self._refusal:
            raise AllranksError(self._refusal)
        if self._state is None or not self._state.alive:
            self._state = SessionTemplate(self._config, _files(session))
        try:
            self._state.greet()
        except RankFailedError:
            self._refusal = self._state.problem()
            raise AllranksError(self._refusal) from None
        return self._state


def _files(session: pytest.Session) -> list[str]:
    """The files that hold items for ranks."""
    marked = (item for item in session.items if item.get_closest_marker("ranks"))
    return list(dict.fromkeys(str(item.path) for item in marked if _skip_reason(item) is None))


def _skip_reason(item: pytest.Item) -> str | None:
    """Why a marker skips the item on all ranks, if one does."""
    for mark in item.iter_markers("skip"):
        return str(mark.kwargs.get("reason") or (*mark.args, "unconditional skip")[0])
    for mark in item.iter_markers("skipif"):
        # A condition that is text may differ from rank to rank.
        if mark.args and not isinstance(mark.args[0], str) and mark.args[0]:
            return str(mark.kwargs.get("reason", ""))
    return None


def _name(item: pytest.Item) -> str:
    return item.stash.get(marker.collected_as, item.nodeid)


def _size(item: pytest.Item) -> int | None:
    """The world size of a marked item, if its marker makes sense."""
    try:
        return asked_by(item)[0]
    except AllranksError:
        return None


def _under_debugger(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """A world of one needs no other process, so a debugger can have it."""
    from _pytest.runner import runtestprotocol

    try:
        if asked_by(item)[1].setup:
            setup(cpu=True, check=True)
    except AllranksError as error:
        give_hooks(item, RankPhases(item, functools.partial(refused, reason=str(error))))
        return None
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    try:
        runtestprotocol(item, nextitem=nextitem)
    finally:
        cleanup()
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def _worded(error: BaseException) -> str:
    if isinstance(error, (AllranksError, pytest.fail.Exception)):
        return str(error)
    gist = traceback.format_exception_only(type(error), error)[-1]
    return gist + "".join(traceback.format_exception(type(error), error, error.__traceback__))


class SessionTemplate:
    """A warm template that has collected as the session has."""

    def __init__(self, config: pytest.Config, files: Sequence[str]) -> None:
        """Start to import and to collect, beside this process.

        Args:
            config: the session's configuration.
            files: what to collect.
        """
        self._config = config
        self._directory = _factory(config).mktemp("allranks-template")
        plan = self._directory / "plan"
        plan.write_bytes(pickle.dumps(self._plan(files)))
        self._template = TemplateClient(interpreter.command(BOOT, str(plan)))
        self._greeted = False
        self._coverage = _coverage_settings()

    @property
    def alive(self) -> bool:
        """Whether it can take orders."""
        return self._template.alive

    def _plan(self, files: Sequence[str]) -> TemplateOptions:
        config = self._config
        arguments = ["-p", "allranks._pytest.item", *map(str, config.invocation_params.args)]
        if config.pluginmanager.hasplugin("pytest_cov"):
            arguments.append("--no-cov")  # Ranks are measured one by one.
        return {
            "arguments": arguments,
            "directory": str(config.invocation_params.dir),
            "path": list(sys.path),
            "output": str(self._directory / "output"),
            "problem": str(self._directory / "problem"),
            "files": list(files),
            "workerinput": workerinput(config),
        }

    def greet(self) -> None:
        """Wait until it can fork ranks, which no test's deadline should pay for.

        Raises:
            RankFailedError: it ended before.
        """
        if not self._greeted:
            self._order(1, ready, START, lambda *_: None)
            self._greeted = True

    def problem(self) -> str:
        """Why it has ended."""
        for name in ("problem", "output"):
            path = self._directory / name
            if path.exists() and (text := path.read_text(errors="replace")[-20_000:]):
                return f"the process that forks the ranks cannot serve: {text}"
        return "the process that forks the ranks ended, and did not say why"

    def close(self) -> None:
        """End it."""
        self._template.close()

    def run(self, item: pytest.Item, ranks: int, request: ItemRequest) -> list[RankReports]:
        """Run an item on so many ranks."""
        shared, private = self._directories(item)
        captured = str(self._directory)
        request = replace(
            request, captured=captured, shared=shared, private=private, coverage=self._coverage
        )
        _clear(captured)
        output: dict[int, OutputEnds] = {}
        shown = self._config.option.capture == "no"
        write = CallerOutput(ranks, fold=False).write if shown else functools.partial(_keep, output)
        ended = self._order(ranks, functools.partial(run_item, request), request.deadline, write)
        told = [self._told(one, ended, request.deadline) for one in ended]
        for one in told:
            one.output = _left(captured, one) + _stray(output.get(one.rank, OutputEnds()))
        return told

    def _told(
        self, one: RankResult, all_ranks: Sequence[RankResult], timeout: float
    ) -> RankReports:
        """What a rank told, and how it ended, if not normally."""
        told = read(self._config, told_file(str(self._directory), one.rank), one.rank)
        if one.late:
            told.fault, told.at = _lateness(one, all_ranks, timeout), (2, 0.0)
        elif one.kind is None:
            told.fault, told.at = _death(one, "before"), (0, one.at)
        elif one.kind == "error" and not isinstance(one.value, ItemFailed):
            told.fault, told.at = _worded(one.value), (0, one.at)
        elif one.kind == "value" and one.ended_badly:  # What came before may be why.
            told.fault, told.at = _death(one, "after"), (2, one.at)
        return told

    def _order(
        self, ranks: int, function: Callable[[], Any], timeout: float, write: Callable[..., None]
    ) -> list[RankResult]:
        with (
            local_world(ranks) as environs,
            RemoteCall.of(function, environs).packed() as payload,
        ):
            try:
                return self._template.order(ranks, payload, write, timeout)
            except ConnectionResetError:  # It ended before it had read all orders.
                self._template.close()
                raise RankFailedError("the process that forks the ranks ended") from None

    def _directories(self, item: pytest.Item) -> tuple[str | None, str | None]:
        """The directories of an item: one that its ranks share, and one that holds their own."""
        wanted = {"request", "tmp_path", "tmp_path_factory", "rank_tmp_path"}
        if not wanted.intersection(getattr(item, "fixturenames", wanted)):
            return None, None
        name = re.sub(r"\W", "_", item.name)[:30]
        factory = _factory(self._config)
        return str(factory.mktemp(name)), str(factory.mktemp(f"{name}-ranks"))


def _clear(directory: str) -> None:
    for path in Path(directory).glob("rank*.*"):
        path.unlink()


def _left(directory: str, one: RankReports) -> list[tuple[str, str]]:
    """What a rank that did not end by itself had written."""
    if one.fault is None:
        return []
    files = ((name, captured_file(directory, one.rank, name)) for name in STREAMS)
    texts = ((name, ends_of(path)) for name, path in files if path.exists())
    return [(f"Captured {name} call", text) for name, text in texts if text]


def _stray(output: OutputEnds) -> list[tuple[str, str]]:
    """What a rank wrote where pytest does not capture: the interpreter's own last words too."""
    text = _own_frames(output.text())
    return [("Captured output outside of the test", text)] if text else []


def _factory(config: pytest.Config) -> Any:
    """The session's directories for temporary files."""
    return config._tmp_path_factory  # type: ignore[attr-defined]  # noqa: SLF001 - as pytest-xdist


def _coverage_settings() -> dict[str, Any] | None:
    """How this process's lines are measured, if they are."""
    if "coverage" not in sys.modules:
        return None
    import coverage

    measure = coverage.Coverage.current()
    if measure is None:
        return None
    return {
        "data_file": measure.get_data().base_filename(),
        "config_file": measure.config.config_file or False,
        "branch": measure.get_option("run:branch"),
        "source": measure.get_option("run:source"),
        "include": measure.get_option("run:include"),
        "omit": measure.get_option("run:omit"),
    }


def _keep(output: dict[int, OutputEnds], rank: int, _stream: int, text: bytes) -> None:
    output.setdefault(rank, OutputEnds()).write(text)


def _death(one: RankResult, when: str) -> str:
    return f"{one.how} {when} the test was over (pid {one.pid})"


def _lateness(one: RankResult, all_ranks: Sequence[RankResult], timeout: float) -> str:
    failed = [other for other in all_ranks if other.failure and not other.late]
    if failed:
        who = marker.names(other.rank for other in failed)
        return f"still ran {GRACE:g} s after {who} failed, and was killed (pid {one.pid})"
    told = f"did not finish within {timeout:g} s (pid {one.pid}). Its Python stacks:"
    return f"{told}\n{_own_frames(one.where)}"


def _own_frames(stacks: str) -> str:
    """Stacks without the frames beneath the test, which are the same for all tests."""
    lines = stacks.splitlines(keepends=True)
    for number, line in enumerate(lines):
        if f"{os.sep}_pytest{os.sep}" in line and "pytest_pyfunc_call" in line:
            end = next((n for n in range(number, len(lines)) if not lines[n].strip()), len(lines))
            rest = [line for line in lines[end:] if not line.startswith("Extension modules")]
            return "".join([*lines[:number], "  (pytest)\n", *rest])
    return stacks
