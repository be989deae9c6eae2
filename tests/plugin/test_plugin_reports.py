"""Every report that a rank's session makes reaches the session, and counts."""

from __future__ import annotations

import textwrap

import pytest

from nested import Run, run

OWN = pytest.version_tuple >= (9,)
"""Whether subtests are pytest's own; before, they are the package pytest-subtests'."""

KIND = "SubtestReport" if OWN else "SubTestReport"

WHOLE = "failed" if OWN else "passed"
"""How a test ends, by itself, of which a subtest has failed."""

SUBTESTS = """
    import unittest
    import warnings

    @pytest.mark.ranks(2)
    def test_all_fail(subtests):
        for number in range(3):
            with subtests.test("numbered", number=number):
                print("number", number)
                assert number != 1

    @pytest.mark.ranks(2)
    def test_one_rank_fails(world, subtests):
        for number in range(3):
            with subtests.test("numbered", number=number):
                assert (world.rank, number) != (1, 2)
        assert allranks.all_reduce(1) == 2

    @pytest.mark.ranks(2)
    def test_each_rank_has_its_own(world, subtests):
        with subtests.test("mine", rank=world.rank):
            assert world.rank == 0

    @pytest.mark.ranks(2)
    def test_skip_and_pass(world, subtests):
        with subtests.test("skips"):
            pytest.skip("no")
        with subtests.test("passes"):
            pass

    @pytest.mark.ranks(2)
    def test_dies_after_a_failed_one(world, subtests):
        with subtests.test("fails"):
            assert world.rank == 0
        with subtests.test("dies"):
            if world.rank == 1:
                os._exit(0)

    @pytest.mark.ranks(2)
    @pytest.mark.xfail(reason="known", strict=True)
    def test_fails_under_strict_xfail(world, subtests):
        with subtests.test("fails"):
            assert world.rank == 0

    class TestUnits(unittest.TestCase):
        @pytest.mark.ranks(2)
        def test_one_rank_fails(self):
            for number in range(3):
                with self.subTest(number=number):
                    assert (allranks.get_rank(), number) != (1, 2)

        @pytest.mark.ranks(2)
        @unittest.expectedFailure
        def test_expected_on_all(self):
            assert False

        @pytest.mark.ranks(2)
        @unittest.expectedFailure
        def test_expected_on_one(self):
            assert allranks.get_rank() == 0

        @pytest.mark.ranks(2)
        @unittest.expectedFailure
        def test_unexpected(self):
            pass

    @pytest.mark.ranks(2)
    def test_last(world):
        assert allranks.all_reduce(1) == 2
"""


@pytest.fixture(scope="module", params=[(), ("-n", "1")], ids=["alone", "xdist"])
def subtests_run(request, tmp_path_factory) -> Run:
    return run(tmp_path_factory.mktemp("subtests"), SUBTESTS, *request.param)


def _outcomes(found: Run, name: str) -> list[str]:
    return [one["outcome"] for one in found.all_reports(name) if one["when"] == "call"]


def test_a_failed_subtest_is_reported_and_fails_its_test(subtests_run) -> None:
    assert _outcomes(subtests_run, "test_all_fail") == ["passed", "failed", "passed", WHOLE]
    failed = subtests_run.all_reports("test_all_fail")[2]
    assert failed["kind"] == KIND
    assert "ranks 0, 1:\n" in failed["text"]
    assert dict(failed["sections"])["Captured stdout call, rank 1"] == "number 1\n"
    assert ("SUBFAILED[numbered] (number=" if OWN else "SUBFAIL") in subtests_run.output
    assert subtests_run.code == pytest.ExitCode.TESTS_FAILED


def test_a_subtest_that_fails_on_one_rank_fails(subtests_run) -> None:
    name = "test_one_rank_fails"
    assert _outcomes(subtests_run, name) == ["passed", "passed", "failed", WHOLE]
    *_, failed, whole = [one for one in subtests_run.all_reports(name) if one["when"] == "call"]
    assert "rank 1:\n" in failed["text"]
    assert whole["text"].endswith("rank 1: contains 1 failed subtest" if OWN else "")


def test_subtests_that_differ_between_ranks_are_reported_each(subtests_run) -> None:
    name = "test_each_rank_has_its_own"
    assert _outcomes(subtests_run, name) == ["passed", "failed", WHOLE]


def test_subtests_that_skip_or_pass_are_reported(subtests_run) -> None:
    assert _outcomes(subtests_run, "test_skip_and_pass") == ["skipped", "passed", "passed"]


def test_what_a_rank_reported_before_it_died_is_kept(subtests_run) -> None:
    subtest, whole = [
        one
        for one in subtests_run.all_reports("test_dies_after_a_failed_one")
        if one["outcome"] == "failed"
    ]
    assert subtest["kind"] == KIND
    assert "rank 1: left with exit code 0 before the test was over" in whole["text"]


def test_a_strict_expected_failure_does_not_hide_a_failed_subtest(subtests_run) -> None:
    assert "failed" in _outcomes(subtests_run, "test_fails_under_strict_xfail")


def test_units_count_as_tests_do(subtests_run) -> None:
    name = "TestUnits::test_one_rank_fails"
    failed = [one for one in subtests_run.all_reports(name) if one["outcome"] == "failed"]
    assert [one["kind"] for one in failed] == [KIND]
    assert "rank 1:\n" in failed[0]["text"]
    outcomes = subtests_run.outcomes()
    assert outcomes["TestUnits::test_expected_on_all"] == "skipped"
    assert outcomes["TestUnits::test_expected_on_one"] == "failed"
    assert outcomes["TestUnits::test_unexpected"] == "failed"
    assert outcomes["test_last"] == "passed"


def test_the_first_failed_subtest_ends_its_test_where_the_session_stops_at_one(tmp_path) -> None:
    tests = """
        @pytest.mark.ranks(2)
        def test_two_fail(subtests):
            for number in range(2):
                with subtests.test(number=number):
                    open(f"ran-{number}", "w").close()
                    assert False

        @pytest.mark.ranks(2)
        def test_is_not_run():
            pass
    """
    ended = run(tmp_path, tests, "-x")
    assert [path.name for path in tmp_path.glob("ran-*")] == ["ran-0"]
    assert "test_is_not_run" not in ended.outcomes()


ODD = """
    import warnings

    class Odd(pytest.TestReport):
        def _to_json(self):
            raise RuntimeError("cannot be told")

    class Own(pytest.TestReport):
        pass

    def made(kind, request, outcome="failed"):
        item = request.node
        return kind(item.nodeid, item.location, {}, outcome, "an odd failure", "call")

    @pytest.mark.ranks(2)
    def test_makes_another_failed_report(world, request):
        if world.rank == 1:
            report = made(pytest.TestReport, request)
            request.node.ihook.pytest_runtest_logreport(report=report)

    @pytest.mark.ranks(2)
    def test_makes_a_report_beside_its_item(world, request):
        if world.rank == 1:
            request.config.hook.pytest_runtest_logreport(report=made(pytest.TestReport, request))

    @pytest.mark.ranks(2)
    def test_makes_what_cannot_be_told(world, request):
        if world.rank == 1:
            request.node.ihook.pytest_runtest_logreport(report=made(Odd, request))

    @pytest.mark.ranks(2)
    def test_makes_a_report_of_no_known_kind(world, request):
        if world.rank == 1:
            request.node.ihook.pytest_runtest_logreport(report=made(Own, request))

    class NoRepr:
        def __repr__(self):
            raise ValueError("no")

    @pytest.mark.ranks(2)
    def test_records_anything(record_property):
        record_property("a tuple's", {(1, 2): {3}})
        record_property("nothing's", NoRepr())

    @pytest.fixture
    def leaves_badly(world):
        yield
        assert world.rank == 0, "a bad leave"

    @pytest.mark.ranks(2)
    def test_fails_and_leaves_badly(world, leaves_badly):
        assert world.rank == 0, "a bad call"

    @pytest.fixture
    def leaves_at_once(world):
        yield
        if world.rank == 1:
            os._exit(3)

    @pytest.mark.ranks(2)
    def test_fails_and_dies_in_teardown(world, leaves_at_once):
        assert world.rank == 0, "a bad call"

    @pytest.mark.ranks(2)
    def test_forks(world):
        if os.fork() == 0:
            raise SystemError("in a fork")
        os.wait()

    @pytest.mark.ranks(2)
    def test_closes_all_files():
        os.closerange(100, 1000)
        assert False
"""


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Run:
    return run(tmp_path_factory.mktemp("odd"), ODD)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("test_makes_another_failed_report", "an odd failure"),
        ("test_makes_a_report_beside_its_item", "an odd failure"),
        ("test_makes_what_cannot_be_told", "an odd failure"),
        ("test_makes_what_cannot_be_told", "This Odd could not be carried from the rank"),
        ("test_makes_a_report_of_no_known_kind", "an odd failure"),
    ],
)
def test_a_failed_report_of_any_kind_counts(odd, name, told) -> None:
    failed = [one for one in odd.all_reports(name) if one["text"].startswith("rank 1: ")]
    assert [one["outcome"] for one in failed] == ["failed"], odd.output
    assert told in failed[0]["text"]


def test_properties_that_json_cannot_tell_are_told_by_their_repr(odd) -> None:
    told = dict(odd.report("test_records_anything")["properties"])
    assert told["a tuple's"] == {"(1, 2)": "{3}"}
    assert told["nothing's"] == "<NoRepr whose repr raised ValueError>"


def test_a_failure_in_teardown_does_not_hide_the_calls(odd) -> None:
    name = "test_fails_and_leaves_badly"
    assert "a bad call" in odd.report(name)["text"]
    assert "a bad leave" in odd.report(name, "teardown")["text"]
    text = odd.report("test_fails_and_dies_in_teardown")["text"]
    assert "a bad call" in text
    assert "rank 1: left with exit code 3" in text


def test_a_fork_of_a_test_is_no_rank(odd) -> None:
    assert odd.report("test_forks")["outcome"] == "passed"
    assert odd.outcomes()["test_closes_all_files"] == "failed"


def _exits(directory, body: str, *arguments: str) -> Run:
    tests = f"""
        @pytest.mark.ranks(2)
        def test_exits(world, subtests):
            with subtests.test("fails"):
                assert world.rank == 0
            with subtests.test("exits"):
                if world.rank == 1:
                    {body}
            allranks.all_reduce(1)

        @pytest.mark.ranks(2)
        def test_next():
            pass
    """
    return run(directory, tests, *arguments)


@pytest.mark.skipif(not OWN, reason="pytest-subtests takes pytest.exit for a failed subtest")
def test_pytest_exit_ends_the_session_after_what_was_reported(tmp_path) -> None:
    ended = _exits(tmp_path, "pytest.exit('enough', returncode=7)")
    assert ended.code == 7
    assert "rank 1: enough" in ended.output
    failed = [one["kind"] for one in ended.reports if one["outcome"] == "failed"]
    assert failed == [KIND] * 2
    assert "test_next" not in ended.outcomes("setup")


def test_a_wish_to_stop_reaches_the_session(tmp_path) -> None:
    tests = """
        @pytest.mark.ranks(2)
        def test_stops(world, request):
            if world.rank == 1:
                request.session.shouldstop = "enough for today"

        @pytest.mark.ranks(2)
        def test_next():
            pass
    """
    ended = run(tmp_path, tests)
    assert "enough for today" in ended.output
    assert ended.outcomes() == {"test_stops": "passed"}


WARNINGS = """
    import warnings

    warnings.warn("of the module")

    class Particular(UserWarning):
        def __init__(self, number, text):
            super().__init__(f"{number} {text}")

    @pytest.mark.ranks(3)
    def test_warns(world):
        warnings.warn("of all ranks")
        warnings.warn(Particular(7, "particular"))
        if world.rank == 1:
            warnings.warn("of one rank")

    @pytest.mark.ranks(3)
    def test_again():
        pass
"""


def test_a_warning_is_told_once_with_its_ranks(tmp_path) -> None:
    (tmp_path / "outer").mkdir()
    output = run(tmp_path, WARNINGS).output
    assert output.count("UserWarning: of the module\n") == 1
    assert output.count("UserWarning: of all ranks\n") == 1
    assert output.count("UserWarning: of one rank (on rank 1 of 3)\n") == 1
    assert output.count("Particular: 7 particular\n") == 1
    assert "4 warnings in" in output


JUNIT = """
    @pytest.mark.ranks(2)
    def test_records(world, record_property, record_testsuite_property, record_xml_attribute):
        record_property("mine", "round")
        record_testsuite_property("machine", "square")
        record_testsuite_property("rank", world.rank)
        record_xml_attribute("color", "blue")
"""


def test_phases_may_be_reported_by_a_class_of_a_plugins_own(tmp_path) -> None:
    tests = """
        @pytest.mark.ranks(2)
        def test_passes():
            pass

        @pytest.mark.ranks(2)
        def test_fails(world):
            assert world.rank == 0
    """
    hooks = """
        import pytest

        class Mine(pytest.TestReport):
            pass

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport():
            report = yield
            report.__class__ = Mine
            return report
    """
    (tmp_path / "making.py").write_text(textwrap.dedent(hooks))
    ended = run(tmp_path, tests, "-p", "making")
    assert ended.outcomes() == {"test_passes": "passed", "test_fails": "failed"}


@pytest.mark.parametrize("family", ["xunit1", "xunit2"])
def test_what_fixtures_record_reaches_the_junit_file(tmp_path, family) -> None:
    ended = run(tmp_path, JUNIT, "--junitxml=junit.xml", "-o", f"junit_family={family}")
    xml = (tmp_path / "junit.xml").read_text()
    assert xml.count('<property name="machine" value="square"') == 1
    assert '<property name="rank" value="0"' in xml
    assert '<property name="rank" value="1"' in xml
    assert ('color="blue"' in xml) == (family == "xunit1")
    assert ("incompatible with junit_family" in ended.output) == (family == "xunit2")
    assert 'failures="0"' in xml


def test_conftest_hooks_hear_of_a_report_once(tmp_path) -> None:
    tests = """
        @pytest.mark.ranks(2)
        def test_passes(subtests):
            with subtests.test("inner"):
                pass
    """
    hooks = """
        import pytest

        def pytest_runtest_logstart(nodeid):
            note("logstart")

        def pytest_runtest_logfinish(nodeid):
            note("logfinish")

        @pytest.hookimpl(wrapper=True)
        def pytest_runtest_makereport(item, call):
            report = yield
            item.funcargs["subtests"]  # Where reports are made, fixtures are.
            return report

        def pytest_runtest_logreport(report):
            note(f"{report.when} {type(report).__name__}")

        def note(text):
            with open("noted", "a") as file:
                file.write(text + "\\n")
    """
    (tmp_path / "noting.py").write_text(textwrap.dedent(hooks))
    run(tmp_path, tests, "-p", "noting")
    noted = (tmp_path / "noted").read_text().splitlines()
    reports = ["setup TestReport", f"call {KIND}", "call TestReport", "teardown TestReport"]
    assert noted == ["logstart", *reports, "logfinish"]
