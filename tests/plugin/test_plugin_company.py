"""Tests on ranks beside other plugins: each means there what it means without ranks."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest

from nested import Run, run

pytestmark = pytest.mark.timeout(600)  # Each test is several sessions of pytest.

pytest.importorskip("pytest_randomly")
pytest.importorskip("pytest_rerunfailures")
pytest.importorskip("pytest_asyncio")

COMPANY = """
    import asyncio
    import random

    import numpy
    import pytest_asyncio

    def drawn():
        return [random.random(), float(numpy.random.rand())]

    @pytest.fixture
    def of_fixture():
        return random.random()

    def test_plain(of_fixture):
        note("seeded", [of_fixture, *drawn()])

    @pytest.mark.ranks(2)
    def test_ranks(world, of_fixture):
        note("seeded", [of_fixture, *drawn()])

    def note(name, value):
        rank = os.environ.get("ALLRANKS_RANK", "alone")
        with open(f"{name}-{rank}", "a") as file:
            file.write(f"{value}\\n")

    @pytest.fixture
    def attempt(tmp_path_factory, world, request):
        path = f"attempts-{request.node.name}-{world.rank}"
        with open(path, "a") as file:
            file.write("x")
        return os.stat(path).st_size

    @pytest.mark.ranks(2)
    @pytest.mark.flaky(reruns=3)
    def test_passes_at_the_third(world, attempt):
        assert allranks.all_gather(attempt) == [attempt, attempt]
        assert world.rank == 0 or attempt == 3

    @pytest.mark.ranks(2)
    @pytest.mark.flaky(reruns=2)
    def test_never_passes(world, attempt):
        assert world.rank == 0

    @pytest.mark.ranks(2)
    @pytest.mark.flaky(reruns=2, only_rerun=["ValueError", OSError])
    def test_is_rerun_for_some_errors(world, attempt):
        if attempt == 1 and world.rank == 1:
            raise FileNotFoundError(2, "no such file")
        if attempt == 2 and world.rank == 1:
            raise KeyError("not for this")

    @pytest.mark.ranks(2)
    @pytest.mark.flaky(reruns=1)
    def test_dies_once(world, attempt):
        if attempt == 1 and world.rank == 1:
            os._exit(3)

    @pytest.mark.ranks(2)
    @pytest.mark.flaky(reruns=1)
    def test_subtest_fails_once(world, attempt, subtests):
        with subtests.test("inner"):
            assert attempt == 2 or world.rank == 0

    @pytest.mark.ranks(2)
    @pytest.mark.flaky(reruns=1)
    @pytest.mark.xfail(strict=True)
    def test_is_expected_to_fail(attempt):
        assert False

    @pytest_asyncio.fixture
    async def of_loop():
        await asyncio.sleep(0)
        yield asyncio.get_running_loop()

    @pytest.mark.ranks(2)
    @pytest.mark.asyncio
    async def test_async(world, of_loop):
        await asyncio.sleep(0)
        assert of_loop is asyncio.get_running_loop()
        assert allranks.all_reduce(1) == 2

    @pytest.mark.ranks(2)
    @pytest.mark.asyncio
    async def test_async_fails(world):
        assert world.rank == 0

    @pytest.mark.ranks(2)
    def test_last(world, worker_id):
        assert allranks.all_reduce(1) == 2
"""


@pytest.fixture(scope="module", params=[(), ("-n", "2")], ids=["alone", "xdist"])
def company(request, tmp_path_factory) -> Run:
    directory = tmp_path_factory.mktemp("company")
    return run(directory, COMPANY, "-p", "randomly", "-rR", *request.param)


def _reruns(found: Run, name: str) -> list[str]:
    return [one["outcome"] for one in found.all_reports(name) if one["when"] == "call"]


def test_each_rank_draws_what_the_seed_of_randomly_gives(company) -> None:
    seeded = [(company.directory / f"seeded-{rank}").read_text() for rank in (0, 1)]
    assert seeded[0] == seeded[1]
    assert (company.directory / "seeded-alone").read_text() != seeded[0]  # It depends on the name.
    assert "Using --randomly-seed=" in company.output


@pytest.mark.parametrize(
    "how",
    [("--randomly-seed=77",), ("-n", "2"), ("-p", "no:xdist")],
    ids=["alone", "distributed", "without xdist"],
)
def test_a_test_draws_the_same_with_and_without_ranks(tmp_path, how) -> None:
    marked = """
        import random

        @pytest.mark.ranks(2)
        def test_draws():
            with open("drawn", "a") as file:
                file.write(f"{random.random()}\\n")
    """
    first = run(tmp_path, marked, "-p", "randomly", *how)
    used = re.search(r"--randomly-seed=\d+", first.output).group()
    run(tmp_path, marked.replace("@pytest.mark.ranks(2)", ""), "-p", "randomly", used)
    drawn = (tmp_path / "drawn").read_text().splitlines()
    assert len(drawn) == 3
    assert len(set(drawn)) == 1


def test_a_flaky_test_is_run_again_on_all_ranks(company) -> None:
    assert _reruns(company, "test_passes_at_the_third") == ["rerun", "rerun", "passed"]
    assert _reruns(company, "test_never_passes") == ["rerun", "rerun", "failed"]
    assert _reruns(company, "test_dies_once") == ["rerun", "passed"]
    for rank in (0, 1):
        path = company.directory / f"attempts-test_passes_at_the_third-{rank}"
        assert path.read_text() == "xxx"
    assert "RERUN test_inner.py::test_passes_at_the_third" in company.output
    assert "rank 1:\n" in company.all_reports("test_passes_at_the_third")[1]["text"]


def test_reruns_depend_on_the_ranks_exceptions(company) -> None:
    assert _reruns(company, "test_is_rerun_for_some_errors") == ["rerun", "failed"]


def test_an_expected_failure_is_not_run_again(company) -> None:
    assert _reruns(company, "test_is_expected_to_fail") == ["skipped"]


def test_a_failed_subtest_is_run_again(company) -> None:
    assert _reruns(company, "test_subtest_fails_once")[-1] == "passed"
    assert "FAILED test_inner.py::test_subtest_fails_once" not in company.output


def test_async_tests_run_on_ranks(company) -> None:
    outcomes = company.outcomes()
    assert outcomes["test_async"] == "passed", company.output
    assert outcomes["test_async_fails"] == "failed"
    assert "rank 1:\n" in company.report("test_async_fails")["text"]
    assert outcomes["test_last"] == "passed"


def test_reruns_of_the_command_line_and_failing_where_flaky(tmp_path) -> None:
    tests = """
        @pytest.mark.ranks(2)
        def test_once(world, tmp_path_factory):
            first = not os.path.exists(f"was-{world.rank}")
            open(f"was-{world.rank}", "w").close()
            assert not first
    """
    ended = run(tmp_path, tests, "--reruns", "1", "--fail-on-flaky")
    assert ended.code == 7
    assert "1 passed" in ended.output
    assert "1 rerun" in ended.output


def test_what_plugins_tell_workers_reaches_the_ranks(tmp_path) -> None:
    tests = """
        def test_plain():
            pass

        @pytest.mark.ranks(2)
        def test_ranks(request, worker_id):
            assert request.config.workerinput["mine"] == "told"
            assert worker_id == "master"
    """
    hooks = """
        def pytest_configure(config):
            if hasattr(config, "workerinput"):
                config.workerinput["mine"]
            else:
                with open("once", "a") as file:
                    file.write("x")

        def pytest_configure_node(node):
            assert node.gateway.id and node.config
            node.workerinput["mine"] = "told"
    """
    (tmp_path / "telling.py").write_text(textwrap.dedent(hooks))
    assert run(tmp_path, tests, "-p", "telling").code == 0
    assert (tmp_path / "once").read_text() == "x"
    (tmp_path / "telling.py").write_text(textwrap.dedent(hooks).replace("and node", "and node.no"))
    ended = run(tmp_path, tests, "-p", "telling")
    assert ended.outcomes() == {"test_plain": "passed", "test_ranks": "failed"}
    assert "no attribute 'no'" in ended.report("test_ranks")["text"]


EXAMPLES = """
    import hypothesis
    from hypothesis import given, settings, strategies

    BOUND = int(os.environ.get("BOUND", 2000))
    settings.load_profile("default")  # Where CI is set, Hypothesis has others.

    @pytest.mark.ranks(2)
    @settings(max_examples=20, deadline=None)
    @given(number=strategies.integers())
    def test_drawn(number):
        assert allranks.all_gather(number) == [number, number]
        note("drawn", number)

    @pytest.mark.ranks(2)
    @pytest.mark.parametrize("letter", "ab")
    @settings(max_examples=20, deadline=None)
    @given(number=strategies.integers(0, 10**6))
    def test_fails(number, letter):
        note(f"failing-{letter}", number)
        assert allranks.all_reduce(number) < BOUND

    @pytest.mark.ranks(2)
    @settings(max_examples=3, deadline=None)
    @hypothesis.seed(5)
    @given(number=strategies.integers())
    def test_seeded(number):
        note("seeded", number)

    @pytest.mark.ranks(2)
    @settings(max_examples=3, deadline=None, derandomize=True, database=None)
    @given(number=strategies.integers())
    def test_derandomized(number):
        note("derandomized", number)

    def note(name, number):
        with open(f"{name}-{os.environ['ALLRANKS_RANK']}", "a") as file:
            file.write(f"{number}\\n")
"""


def _drawn(directory: Path, name: str) -> list[str]:
    """What all ranks have drawn."""
    files = [directory / f"{name}-{rank}" for rank in (0, 1)]
    one, other = [file.read_text().split() for file in files]
    assert one == other
    for file in files:
        file.unlink()
    return one


def test_hypothesis_draws_the_same_on_all_ranks_and_again(tmp_path, monkeypatch) -> None:
    first = run(tmp_path, EXAMPLES, "-n", "1")  # A worker's are the session's, too.
    drawn, *fixed = [_drawn(tmp_path, name) for name in ("drawn", "seeded", "derandomized")]
    assert len(drawn) == 20
    for letter in "ab":  # As small as it can be.
        assert "number=1000" in first.report(f"test_fails[{letter}]")["text"]
        assert len(_drawn(tmp_path, f"failing-{letter}")) > 1
    (told,) = {text for name, text in first.report("test_fails[a]")["sections"] if "on r" in name}
    assert told in first.output
    (seed,) = re.findall(r"--hypothesis-seed=\d+", told)

    monkeypatch.setenv("BOUND", str(10**7))  # What has failed is tried first, and passes now.
    run(tmp_path, EXAMPLES)
    assert _drawn(tmp_path, "drawn") != drawn
    assert [_drawn(tmp_path, name) for name in ("seeded", "derandomized")] == fixed
    assert [_drawn(tmp_path, f"failing-{letter}")[0] for letter in "ab"] == ["1000", "1000"]

    run(tmp_path, EXAMPLES, "-k", "fails")
    assert "1000" not in [_drawn(tmp_path, f"failing-{letter}")[0] for letter in "ab"]

    run(tmp_path, EXAMPLES, seed, "-k", "drawn or seeded")
    assert _drawn(tmp_path, "drawn") == drawn
    assert _drawn(tmp_path, "seeded") == fixed[0]


ONE_RANK = """
    from hypothesis import given, settings, strategies

    drawn_by_all = settings(max_examples=50, deadline=None, database=None)

    @pytest.mark.ranks(2)
    @drawn_by_all
    @given(number=strategies.integers(0, 100))
    def test_before_a_collective(number):
        assert allranks.get_rank() == 0 or number < 50
        assert allranks.all_reduce(number) == 2 * number

    @pytest.mark.ranks(2)
    @drawn_by_all
    @given(number=strategies.integers(0, 100))
    def test_after_a_collective(number):
        assert allranks.all_reduce(number) == 2 * number
        assert allranks.get_rank() == 0 or number < 50

    @pytest.mark.ranks(2)
    @drawn_by_all
    @given(number=strategies.integers(0, 100))
    def test_rejects(number):
        assert allranks.all_reduce(number) == 2 * number
        hypothesis.assume(allranks.get_rank() == 0 or number % 2)
"""


def test_an_example_that_fails_on_one_rank_is_tried_alike_by_all(tmp_path) -> None:
    ended = run(tmp_path, ONE_RANK.replace("from hyp", "import hypothesis\n    from hyp"))
    for where in ("before", "after"):
        text = ended.report(f"test_{where}_a_collective")["text"]
        assert text.startswith("rank 1:\n")
        assert " < 50\n" in text
        assert "== (2 *" not in text
    assert "lost a rank that had failed" in ended.report("test_after_a_collective")["text"]
    assert ended.outcomes()["test_rejects"] == "passed"
