"""The pytest plugin: tests that run on several ranks, at the cost of a fork.

``@pytest.mark.ranks(4)`` runs a test, its fixtures included, on four ranks, each a fresh process
with a fresh process group; ``ranks(1, 2, 4)`` runs it with each of these world sizes. The ranks
are forked from one process per session that holds torch and has collected the same tests.
Loading this module imports no torch.

Each rank runs everything that the test needs, fixtures of a module and of the session included,
and tears it down again. The group is up before the first fixture, on the CPU, with ``check`` on;
with ``ranks(2, setup=False)`` the test brings it up itself.
``tmp_path`` is one directory for all ranks and ``rank_tmp_path`` one for each; ``world`` is the
rank's place; ``fake_world`` gives any test the environment of any launcher.

The test fails if one rank fails, and the report names the ranks, each distinct failure once. It
is skipped if a rank skips and none fails; an expected failure of one rank is one of the test.
Every report that a rank makes counts, a subtest's too; ``_pytest.report_file`` lists what becomes
of each hook. Of an output of more than 512 KiB both ends are shown.
After 30 s (``ranks(4, timeout=5)``, or ``ranks_timeout`` in the ini file) the ranks are killed,
and the report shows where each of them stood. Once a rank has failed, the others have 3 s.

A flaky test is run again on all ranks (pytest-rerunfailures). Each rank draws random numbers of its
own, as under any launcher, until a seed is set; all see those of pytest-randomly's seed, and draw
the same examples of Hypothesis: with ``--hypothesis-seed``, or with a seed that the report of a
failure tells. An ``async def`` test may have the marker.

Under pytest-xdist each worker has its own such process. Under pytest-cov the lines that ranks
run are measured without further ado; under plain ``coverage run``, combine the data files that
they leave (``coverage combine``). A debugger needs ``ranks(1)``, which then runs in the session.
What is imported for such tests must start no thread; threads of fixtures and tests are fine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import pytest

from allranks._pytest import marker
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from allranks import World
    from allranks._launchers.world import Launcher

timeout: pytest.StashKey[float] = pytest.StashKey[float]()
"""Seconds that a test on several ranks may take, where its marker does not say."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the default deadline to the ini file's options."""
    told = "seconds that a test on several ranks may take, where its marker does not say (30)"
    parser.addini("ranks_timeout", told, default="30")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known, and read the default deadline."""
    config.addinivalue_line("markers", marker.MARKER)
    try:
        config.stash[timeout] = marker.seconds(config.getini("ranks_timeout"))
    except ConfigError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Remember the items' names, to which pytest-xdist may add a group's."""
    for item in items:
        item.stash[marker.collected_as] = item.nodeid


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take the tests that have the marker; a session without any pays nothing for the ranks."""
    in_a_rank = session.config.pluginmanager.hasplugin("allranks._pytest.item")
    if in_a_rank or not any(item.get_closest_marker("ranks") for item in session.items):
        return
    from allranks._pytest.session import RanksPlugin

    ranked = RanksPlugin(session.config, session.config.stash[timeout])
    session.config.pluginmanager.register(ranked, "allranks-ranks")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrise a test by world size, where its marker gives several."""
    mark = metafunc.definition.get_closest_marker("ranks")
    if mark is None:
        return
    try:
        sizes = marker.read(mark).sizes
    except ConfigError as error:
        raise pytest.Collector.CollectError(f"{metafunc.definition.nodeid}: {error}") from None
    if len(sizes) > 1:
        metafunc.fixturenames.append(marker.SIZE)
        ids = [marker.label(size) for size in sizes]
        metafunc.parametrize(marker.SIZE, sizes, ids=ids, indirect=True)


@pytest.fixture(name=marker.SIZE)
def _world_size(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


@pytest.fixture
def world() -> World:
    """This rank's place, as ``allranks.world()`` gives it."""
    import allranks

    return allranks.world()


@pytest.fixture
def rank_tmp_path(request: pytest.FixtureRequest) -> Path:
    """A fresh directory of this rank's own, where ``tmp_path`` is one for all ranks."""
    if request.config.pluginmanager.hasplugin("allranks._pytest.item"):
        from allranks._pytest.item import own_directory

        return own_directory("tmp")
    path: Path = request.getfixturevalue("tmp_path")
    return path


class FakeWorld(Protocol):
    """What the fixture ``fake_world`` gives."""

    def __call__(
        self,
        launcher: Launcher = "single",
        *,
        rank: int = 0,
        ranks: int = 1,
        ranks_per_node: int | None = None,
    ) -> World:
        """Give the test the environment of a launcher, in place of any other's.

        Args:
            launcher: its name, as in ``World.launcher``.
            rank: this process's rank.
            ranks: how many ranks the job has.
            ranks_per_node: how many run on each host, in blocks; all of them if not given.

        Returns:
            The world as ``allranks.detect`` now finds it.
        """


@pytest.fixture
def fake_world(monkeypatch: pytest.MonkeyPatch) -> FakeWorld:
    """Lets a test believe, by its environment, that any launcher started it."""
    import allranks
    from allranks._launchers import simulated

    def pretend(
        launcher: Launcher = "single",
        *,
        rank: int = 0,
        ranks: int = 1,
        ranks_per_node: int | None = None,
    ) -> World:
        variables = simulated.environment(launcher, rank, ranks, ranks_per_node)
        for name in filter(simulated.is_launchers, list(os.environ)):
            monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        return allranks.detect(os.environ)

    return pretend
