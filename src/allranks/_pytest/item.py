"""The template's side of the pytest plugin: collects as the session did, and runs an item.

The template is a pytest session of its own, with the arguments of the one that it serves, but
for what would write a session's files a second time. In place of its test loop it forks ranks.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import pickle
import sys
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

import pytest
from _pytest.capture import FDCapture
from _pytest.junitxml import xml_key

from allranks._collectives.objects import all_gather_objects
from allranks._launch import remote_call
from allranks._launch.template import (
    PRELOADED,
    TemplateServer,
    control_from_arguments,
    parent_from_arguments,
    preload,
    refuse_threads,
)
from allranks._process_group.lifecycle import cleanup, initialized, setup
from allranks._pytest import hypothesis_examples
from allranks._pytest.phases import ItemHooks, give_hooks
from allranks._pytest.report import ERROR
from allranks._pytest.report_file import ReportWriter, described, told_file
from allranks._pytest.session_effects import JunitProperties
from allranks.errors import AllranksError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

# The package is imported by pytest alone, after it has decided whose assertions it rewrites.
BOOT = """
import os, pickle, sys
with open(sys.argv[1], "rb") as file:
    plan = pickle.load(file)
output = os.open(plan["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.dup2(output, 1)
os.dup2(output, 2)
sys.path[:] = plan["path"]
os.chdir(plan["directory"])
import pytest
code = pytest.main(plan["arguments"])
sys.stdout.flush()
sys.stderr.flush()
os._exit(code)
"""
"""The template's program; interpreters that hold torch take long to end by themselves."""

WARM = (*PRELOADED, "cloudpickle", "tblib.pickling_support", "json")

QUIET: dict[str, Any] = {
    "basetemp": None,
    "cacheclear": False,
    "collectonly": False,
    "dist": "no",
    "distload": False,
    "failedfirst": False,
    "lf": False,
    "log_file": os.devnull,
    "looponfail": False,
    "maxprocesses": None,
    "newfirst": False,
    "numprocesses": None,
    "pyargs": False,
    "stepwise": False,
    "trace": False,
    "tx": [],
    "usepdb": False,
    "xmlpath": None,
}
"""What the template must not do a second time: distribute, stop, or write a session's files."""


STREAMS = ("stdout", "stderr")


class TemplateOptions(TypedDict):
    """What the template needs to start a session like the one that it serves.

    Attributes:
        arguments: pytest's command line.
        directory: where pytest was started.
        path: where the session finds its modules.
        output: the file that takes what the template writes.
        problem: the file that takes why it cannot serve.
        files: what to collect.
        workerinput: as pytest-xdist tells a worker, so that plugins leave files to the session.
    """

    arguments: list[str]
    directory: str
    path: list[str]
    output: str
    problem: str
    files: list[str]
    workerinput: Mapping[str, Any]


@dataclass(frozen=True)
class ItemRequest:
    """One item, to be run on one rank.

    Attributes:
        nodeid: the item's id.
        deadline: seconds until its ranks are killed.
        setup: whether the process group is brought up before the first fixture.
        captured: the directory for what a rank writes, which outlives a rank that dies.
        shared: the directory that its ranks share, if it wants one.
        private: the directory in which each of its ranks has its own.
        coverage: the settings with which its lines are measured, if they are.
        seed: with which Hypothesis draws examples.
    """

    nodeid: str
    deadline: float
    setup: bool = True
    captured: str = ""
    shared: str | None = None
    private: str | None = None
    coverage: Mapping[str, Any] | None = None
    seed: int = 0


class ItemFailed(Exception):  # noqa: N818 - it carries the reports, and ends the rank as an error
    """The item failed on this rank; what it told tells how."""


@dataclass
class _CollectedSession:
    """What the template has collected, and what a rank forked from it is doing."""

    items: dict[str, pytest.Item] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    request: ItemRequest | None = None
    rank: int = 0
    writer: ReportWriter | None = None
    junit_family: str = ""


_state = _CollectedSession()


def _plan() -> TemplateOptions:
    plan: TemplateOptions = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - from our own parent
    return plan


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Hold torch before any of the user's code runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        preload(WARM)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Iterator[None]:
    """Collect the files that hold items for ranks, and write nothing of the session's."""
    plan = _plan()
    _state.junit_family = config.getini("junit_family") if config.option.xmlpath else ""
    for name, value in QUIET.items():
        if hasattr(config.option, name):
            setattr(config.option, name, value)
    config.args = plan["files"]
    config.workerinput = plan["workerinput"]  # type: ignore[attr-defined]  # xdist's protocol
    config.workeroutput = {}  # type: ignore[attr-defined]
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep all items, under the names that they have before anyone changes them."""
    _state.items = {item.nodeid: item for item in items}


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Keep why a file could not be collected."""
    if report.failed:
        _state.errors.append(f"{report.nodeid}:\n{report.longreprtext}")


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Fork ranks, until the session ends."""
    plan = _plan()
    _stop_capturing(session.config)
    try:
        refuse_threads()
    except AllranksError as error:
        told = f"{error}: what is imported for these tests must not start threads. Start them in a"
        Path(plan["problem"]).write_text(f"{told} fixture or in the test.")
        return True
    gc.collect()
    gc.freeze()  # Keeps the garbage collector from writing to the pages that the ranks share.
    TemplateServer(control_from_arguments(), _serve, parent_from_arguments()).serve()
    return True


def _serve(order: dict[str, int], files: list[int]) -> NoReturn:
    try:
        remote_call.run(order, files)
    except BaseException:  # noqa: BLE001 - a rank must never become a second template
        traceback.print_exc()
    finally:
        os._exit(1)


def ready() -> None:
    """Do nothing. Its return tells the session that all is imported and collected."""


def run_item(request: ItemRequest) -> None:
    """On a rank: run an item, fixtures included, in a fresh process group, and tell all of it.

    Raises:
        ItemFailed: the item failed, as has been told.
    """
    _state.request, _state.rank = request, int(os.environ["ALLRANKS_RANK"])
    item = _item(request.nodeid)
    faulthandler.enable(os.dup(2))
    writer = _state.writer = ReportWriter(item.config, told_file(request.captured, _state.rank))
    _start_capturing(item.config, request.captured)
    _place_temporary_files(item.config, request)
    if _state.junit_family:
        xml: Any = JunitProperties(_state.junit_family, writer.tell)
        item.config.stash[xml_key] = xml
    with _measured(request.coverage):
        try:
            item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        except pytest.exit.Exception as asked:
            writer.tell("exit", reason=asked.msg, returncode=asked.returncode)
    if item.session.shouldstop:
        writer.tell("stop", reason=item.session.shouldstop)
    if writer.failed:
        raise ItemFailed


def _item(nodeid: str) -> pytest.Item:
    if nodeid not in _state.items:
        why = "\n".join(_state.errors) or "Do its parameters differ from one collection to another?"
        raise AllranksError(f"the ranks' own collection did not find {nodeid}. {why}")
    return _state.items[nodeid]


class _ReportingHooks(ItemHooks):
    """An item's hooks on a rank: its reports go to the session, whose plugins hear of them."""

    def __init__(self, item: pytest.Item) -> None:
        super().__init__(item)
        self._made: Any = None

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[Any]) -> Any:
        """Make the report of a phase, or what a subtest's is made from."""
        self._made = self.all.pytest_runtest_makereport(item=item, call=call)
        return self._made

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Tell a report, with the outcome that it would have in the terminal."""
        item = self.item
        item.session.pytest_runtest_logreport(report)  # It counts failures, for --maxfail.
        item.config.hook.pytest_report_teststatus(report=report, config=item.config)
        if _state.writer:
            _state.writer.report(report, is_phase=report is self._made)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool:
    """On a rank: run the item once, under the hooks of all plugins."""
    from _pytest.runner import runtestprotocol

    give_hooks(item, _ReportingHooks(item))
    runtestprotocol(item, nextitem=None)
    return True


def pytest_runtest_logreport(report: Any) -> None:
    """On a rank: tell a report that has been made beside the item's hooks."""
    if _state.writer:
        _state.writer.report(report, is_phase=False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(call: pytest.CallInfo[Any]) -> Generator[None, Any, Any]:
    """On a rank: describe the exception to the session."""
    report = yield
    if call.excinfo and getattr(report, "failed", False):
        setattr(report, ERROR, described(call.excinfo.value))
    return report


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """On a rank: let Hypothesis draw what it draws on the others."""
    if _state.request and _state.writer:
        gather = all_gather_objects if initialized() else None
        hypothesis_examples.draw_alike(item, _state.request.seed, _state.writer.tell, gather)
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_setup() -> Iterator[None]:
    """On a rank: bring the group up before any fixture."""
    if _state.request and _state.request.setup:
        deadline = timedelta(seconds=_state.request.deadline)
        setup(cpu=True, check=True, timeout=deadline, rendezvous_timeout=deadline)
    return (yield)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """On a rank: take the group down after the last fixture."""
    try:
        return (yield)
    finally:
        cleanup()


def pytest_warning_recorded(
    warning_message: warnings.WarningMessage, when: str, nodeid: str, location: Any
) -> None:
    """On a rank: tell a warning. Those of the collection are the session's own too."""
    if _state.writer:
        _state.writer.warning(warning_message, when=when, nodeid=nodeid, location=location)


@pytest.fixture
def tmp_path() -> Path:
    """A fresh directory, which all ranks of the test share."""
    request = _state.request
    if request is None or request.shared is None:
        raise AllranksError("tmp_path was asked for in a way that cannot be foreseen: name it")
    return Path(request.shared)


def own_directory(name: str) -> Path:
    """On a rank: a directory of its own.

    Raises:
        AllranksError: none was foreseen.
    """
    request = _state.request
    if request is None or request.private is None:
        raise AllranksError(f"{name} was asked for in a way that cannot be foreseen: name it")
    path = Path(request.private) / f"rank{_state.rank}" / name
    path.mkdir(parents=True, exist_ok=True)
    return path


def _place_temporary_files(config: pytest.Config, request: ItemRequest) -> None:
    """Give the rank's ``tmp_path_factory`` a place within the session's."""
    factory: Any = getattr(config, "_tmp_path_factory", None)
    if factory and request.private:
        factory._basetemp = own_directory("factory")  # noqa: SLF001 - no other way to share it


def _stop_capturing(config: pytest.Config) -> None:
    """In the template: ranks must not share the files that pytest captures output in."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if manager:
        manager.stop_global_capturing()


def _start_capturing(config: pytest.Config, directory: str) -> None:
    """On a rank: capture output in files of its own; pytest resumes it for each phase."""
    manager: Any = config.pluginmanager.getplugin("capturemanager")
    if not manager:
        return
    manager.start_global_capturing()
    manager.suspend_global_capture()
    for stream, name in zip(("out", "err"), STREAMS, strict=True):
        capture = getattr(manager._global_capturing, stream, None)  # noqa: SLF001 - no other way
        if isinstance(capture, FDCapture):
            _move(capture.tmpfile.fileno(), captured_file(directory, _state.rank, name))


def captured_file(directory: str, rank: int, name: str) -> Path:
    """The file in which a rank captures a stream."""
    return Path(directory) / f"rank{rank}.{name}"


def _move(file: int, path: Path) -> None:
    """Let a file descriptor stand for a named file, which others can read."""
    named = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(named, file)
    os.close(named)


@contextmanager
def _measured(settings: Mapping[str, Any] | None) -> Iterator[None]:
    """Measure the lines that the block runs, into a data file of this rank's own."""
    if settings is None:
        yield
        return
    import coverage

    measure = coverage.Coverage(**settings, data_suffix=True, messages=False)
    silenced = ["no-data-collected", "module-not-imported", "module-not-measured"]
    measure.set_option("run:disable_warnings", [*silenced, "already-imported"])
    measure.start()
    try:
        yield
    finally:
        measure.stop()
        measure.save()
