"""The pytest plugin, by running pytest in pytest."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import allranks
from allranks._launchers.world import Launcher
from allranks.errors import ConfigError, DetectionError
from harness import alive, unlocked_directories, wait_until
from nested import Run, run

pytest_plugins = ["pytester"]

FAILURES = """
    import torch

    @pytest.mark.ranks(4)
    def test_one_rank_fails(world):
        print(f"rank {world.rank} was here")
        if world.rank == 1:
            assert {"a": 1, "b": 1} == {"a": 1, "b": 2}
        allranks.all_reduce(1)

    @pytest.mark.ranks(4)
    def test_two_kinds_of_failure(world):
        if world.rank == 1:
            raise KeyError("one")
        time.sleep(0.2)
        raise ValueError("the others")

    @pytest.mark.ranks(2, timeout=2)
    def test_hangs(world):
        print(f"rank {world.rank} began")
        if world.rank == 1:
            time.sleep(100)
        allranks.all_reduce(1)

    @pytest.mark.ranks(2)
    def test_after_the_hang(world):
        assert allranks.all_reduce(torch.ones(1)).item() == 2

    @pytest.mark.ranks(2)
    def test_exits(world):
        if world.rank == 1:
            os._exit(3)
        allranks.all_reduce(1)

    @pytest.mark.ranks(2)
    def test_is_killed(world):
        print("last words")
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        allranks.all_reduce(1)

    @pytest.mark.ranks(2)
    def test_crashes(world):
        if world.rank == 0:
            os.kill(os.getpid(), signal.SIGSEGV)

    @pytest.mark.ranks(2)
    def test_crashes_afterwards(world):
        if world.rank == 1:
            import atexit
            atexit.register(os.kill, os.getpid(), signal.SIGSEGV)

    @pytest.mark.ranks(2)
    def test_raises_system_exit(world):
        if world.rank == 1:
            raise SystemExit(7)

    @pytest.mark.ranks(2)
    def test_raises_what_pickle_cannot_carry(world):
        class Unpicklable(Exception):
            def __reduce__(self):
                raise TypeError("no")
        if world.rank == 1:
            raise Unpicklable("odd one")

    @pytest.mark.ranks(2)
    def test_outlives_a_failed_rank(world):
        if world.rank == 1:
            assert False
        time.sleep(60)

    @pytest.fixture
    def broken(world):
        if world.rank == 1:
            raise OSError("no such device")

    @pytest.mark.ranks(2)
    def test_fixture_fails(broken):
        pass

    @pytest.fixture
    def leaves_badly(world):
        yield
        assert world.rank == 0

    @pytest.mark.ranks(2)
    def test_teardown_fails(leaves_badly):
        pass

    @pytest.mark.ranks(2)
    def test_kills_the_template(world):
        if world.rank == 0:
            os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(60)

    @pytest.mark.ranks(2)
    def test_after_the_template_died(world):
        allranks.all_reduce(1)
"""


@pytest.fixture(scope="module")
def failures(tmp_path_factory) -> Run:
    return run(tmp_path_factory.mktemp("failures"), FAILURES)


def test_a_failing_rank_is_named_and_its_assertion_explained(failures) -> None:
    text = failures.report("test_one_rank_fails")["text"]
    assert text.startswith("rank 1:\n")
    assert "Differing items:" in text
    assert "{'b': 1} != {'b': 2}" in text
    assert "ranks 0, 2, 3: lost a rank that had failed, at test_inner.py:12" in text
    assert "FAILED test_inner.py::test_one_rank_fails - rank 1: AssertionError" in failures.output
    assert failures.section("test_one_rank_fails", "Captured stdout call, rank 3") == (
        "rank 3 was here\n"
    )


def test_each_distinct_failure_is_shown_once_the_first_one_first(failures) -> None:
    text = failures.report("test_two_kinds_of_failure")["text"]
    assert len(re.findall("^E +KeyError", text, re.MULTILINE)) == 1
    assert len(re.findall("^E +ValueError", text, re.MULTILINE)) == 1
    assert text.index("rank 1:\n") < text.index("KeyError") < text.index("ranks 0, 2, 3:\n")


def test_a_hang_ends_and_shows_all_stacks(failures) -> None:
    text = failures.report("test_hangs")["text"]
    assert "rank 0: did not finish within 2 s (pid " in text
    assert text.count("in test_hangs") == 2
    assert text.count(" (most recent call first)") == 2, "no threads but those of the program"
    assert "in all_reduce" in text
    assert 2 <= failures.report("test_hangs", "setup")["seconds"] < 7
    assert failures.section("test_hangs", "Captured stdout call, rank 1") == "rank 1 began\n"
    assert failures.outcomes()["test_after_the_hang"] == "passed"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("test_exits", "rank 1: left with exit code 3 before the test was over (pid "),
        (
            "test_is_killed",
            "rank 1: was killed by SIGKILL (out of memory?) before the test was over (pid ",
        ),
        ("test_crashes", "rank 0: was killed by SIGSEGV before the test was over (pid "),
        ("test_crashes_afterwards", "rank 1: was killed by SIGSEGV after the test was over (pid "),
        ("test_raises_system_exit", "SystemExit: 7"),
        ("test_raises_what_pickle_cannot_carry", "Unpicklable: odd one"),
        ("test_outlives_a_failed_rank", "rank 0: still ran 3 s after rank 1 failed, and was"),
    ],
)
def test_however_a_rank_ends_it_is_a_failure(failures, name, how) -> None:
    report = failures.report(name)
    assert report["outcome"] == "failed"
    assert how in report["text"]


def test_what_a_dead_rank_wrote_is_kept(failures) -> None:
    assert failures.section("test_is_killed", "Captured stdout call, rank 1") == "last words\n"
    stack = failures.section("test_crashes", "Captured output outside of the test, rank 0")
    assert "Segmentation fault" in stack
    assert "in test_crashes" in stack


def test_fixtures_fail_as_fixtures(failures) -> None:
    setup = failures.report("test_fixture_fails", "setup")
    assert setup["outcome"] == "failed"
    assert setup["text"].startswith("rank 1:\n")
    assert "no such device" in setup["text"]
    assert "test_fixture_fails" not in failures.outcomes()
    assert failures.outcomes()["test_teardown_fails"] == "passed"
    assert "rank 1:\n" in failures.report("test_teardown_fails", "teardown")["text"]


def test_a_lost_template_is_replaced(failures) -> None:
    text = failures.report("test_kills_the_template")["text"]
    assert "the process that forks the ranks ended" in text
    assert failures.outcomes()["test_after_the_template_died"] == "passed"


BEHAVIOUR = """
    import logging
    import warnings
    from pathlib import Path

    import mine

    RANK = ["a list of the template's"]

    @pytest.mark.ranks(1, 2, 4)
    def test_sizes(world):
        assert allranks.all_reduce(1) == world.world_size
        Path(f"template-{os.getppid()}").touch()

    @pytest.mark.ranks(2)
    @pytest.mark.parametrize("letter", ["a", "b"])
    def test_parametrised(letter, world):
        assert allranks.all_reduce(ord(letter)) == 2 * ord(letter)

    @pytest.mark.ranks(3)
    def test_one_rank_skips(world):
        if world.rank == 2:
            pytest.skip("not on the last")

    @pytest.mark.ranks(2)
    @pytest.mark.skipif(True, reason="not today")
    def test_all_skip():
        assert False

    @pytest.mark.ranks(2)
    @pytest.mark.xfail(reason="known", strict=True)
    def test_fails_as_expected_on_one_rank(world):
        assert world.rank == 0

    @pytest.mark.ranks(2)
    @pytest.mark.xfail(reason="known", strict=True)
    def test_passes_unexpectedly():
        pass

    @pytest.mark.ranks(2)
    def test_directories(world, tmp_path, rank_tmp_path, tmp_path_factory):
        (tmp_path / str(world.rank)).touch()
        (rank_tmp_path / "own").touch()
        allranks.synchronize()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
        assert len(list(rank_tmp_path.iterdir())) == 1
        made = allranks.all_gather_objects(tmp_path_factory.mktemp("made"))
        assert len(set(made)) == 2

    @pytest.mark.ranks(2)
    def test_capturing(world, capsys, caplog, monkeypatch):
        print("rank", world.rank)
        logging.getLogger().warning("from %d", world.rank)
        assert capsys.readouterr().out == f"rank {world.rank}\\n"
        assert caplog.messages == [f"from {world.rank}"]
        monkeypatch.setenv("RANK", "77")
        print("kept", file=sys.stderr)

    @pytest.fixture(scope="module", autouse=True)
    def module_wide():
        RANK.append("by a module's fixture")
        yield "up"

    @pytest.fixture(scope="session")
    def session_wide(request):
        return request.config.getoption("verbose")

    @pytest.mark.ranks(2)
    def test_wide_fixtures(module_wide, session_wide):
        assert module_wide == "up" and session_wide == 0
        assert len(RANK) == 2

    @pytest.mark.ranks(2)
    class TestClass:
        @pytest.fixture(autouse=True)
        def prepare(self, world):
            self.rank = world.rank

        def setup_method(self):
            self.before = os.environ["RANK"]

        def test_method(self, record_property):
            assert allranks.all_gather(self.rank) == [0, 1]
            assert int(self.before) == self.rank
            record_property("shape", "round")

    @pytest.mark.ranks(2)
    def test_warns():
        warnings.warn("careful now", UserWarning)

    @pytest.mark.ranks(2)
    def test_random_numbers_differ():
        import random
        assert len(set(allranks.all_gather_objects(random.random()))) == 2

    @pytest.mark.ranks(2, setup=False)
    def test_own_setup():
        assert not allranks.initialized()
        allranks.setup(cpu=True, timeout=1)
        assert allranks.all_reduce(1) == 2

    @pytest.fixture(scope="module")
    def of_this_process():
        Path("up").touch()
        yield
        Path("up").unlink()

    def test_plain(of_this_process):
        assert "ALLRANKS_RANK" not in os.environ
        assert Path("up").exists()

    @pytest.mark.ranks(2)
    def test_measured():
        assert mine.total() == 2

    @pytest.mark.ranks(2)
    def test_a_large_result(world):
        gathered = allranks.gather_objects(bytes([world.rank]) * 100_000_000)
        assert world.rank or [part[-1] for part in gathered] == [0, 1]

    def test_a_large_result_of_launch():
        one, other = allranks.launch(lambda: bytearray(100_000_000), ranks=2)
        assert len(one) == len(other) == 100_000_000

    @pytest.mark.ranks(2)
    def test_last(world):
        os.environ["LEFT"] = "x"
"""


MEASURED = """
    import allranks


    def total():
        value = allranks.all_reduce(1)
        if allranks.get_rank() == 1:
            return value
        return value
"""


@pytest.fixture(scope="module")
def behaviour(tmp_path_factory) -> Run:
    directory = tmp_path_factory.mktemp("behaviour")
    (directory / "mine.py").write_text(textwrap.dedent(MEASURED))
    measured = ("--cov=mine", "--cov-branch", "--cov-report=term-missing")
    return run(directory, BEHAVIOUR, *measured)


def test_one_test_for_each_world_size(behaviour) -> None:
    outcomes = behaviour.outcomes()
    for name in ("1 rank", "2 ranks", "4 ranks"):
        assert outcomes[f"test_sizes[{name}]"] == "passed"
    assert outcomes["test_parametrised[a]"] == outcomes["test_parametrised[b]"] == "passed"


def test_a_skip_on_one_rank_skips_the_test(behaviour) -> None:
    report = behaviour.report("test_one_rank_skips")
    assert report["outcome"] == "skipped"
    assert report["skip"] == "Skipped: not on the last (on rank 2 of 3)"
    assert behaviour.report("test_all_skip", "setup")["skip"] == "Skipped: not today"


def test_expected_failures_are_expected_of_the_test_as_a_whole(behaviour) -> None:
    report = behaviour.report("test_fails_as_expected_on_one_rank")
    assert (report["outcome"], report["xfail"]) == ("skipped", "known")
    strict = behaviour.report("test_passes_unexpectedly")
    assert strict["outcome"] == "failed"
    assert "ranks 0, 1: [XPASS(strict)] known" in strict["text"]


@pytest.mark.parametrize(
    "name",
    [
        "test_directories",
        "test_capturing",
        "test_wide_fixtures",
        "TestClass::test_method",
        "test_random_numbers_differ",
        "test_own_setup",
        "test_plain",
        "test_a_large_result",
        "test_a_large_result_of_launch",
        "test_last",
    ],
)
def test_what_a_test_relies_on_works_on_ranks(behaviour, name) -> None:
    assert behaviour.outcomes()[name] == "passed", behaviour.output


def test_logs_and_output_are_kept_by_rank(behaviour) -> None:
    sections = dict(behaviour.report("test_capturing")["sections"])
    assert sections["Captured stderr call, rank 0"] == "kept\n"
    assert "from 1" in sections["Captured log call, rank 1"]
    assert "from 0" not in sections["Captured log call, rank 1"]


def test_warnings_and_properties_reach_the_session(behaviour) -> None:
    assert "UserWarning: careful now" in behaviour.output
    assert behaviour.report("TestClass::test_method")["properties"] == [["shape", "round"]]


def test_the_lines_that_ranks_run_are_measured(behaviour) -> None:
    line = next(line for line in behaviour.output.splitlines() if line.startswith("mine.py"))
    assert line.split()[-1] == "100%", behaviour.output
    assert not list(behaviour.directory.glob(".coverage.*"))


def test_the_sessions_own_fixtures_come_down(behaviour) -> None:
    assert not (behaviour.directory / "up").exists()


def test_the_template_ends_with_the_session(behaviour) -> None:
    pids = {path.name.partition("-")[2] for path in behaviour.directory.glob("template-*")}
    assert len(pids) == 1
    assert not Path(f"/proc/{pids.pop()}").exists()


@pytest.fixture(scope="module")
def selected(tmp_path_factory) -> Run:
    tests = """
        @pytest.mark.ranks(2)
        def test_alpha(world):
            print("hello", flush=True)
            for half in (b"one l\\xc3", b"\\xadne\\nthe rest"):  # In the middle of a letter.
                os.write(1, half)
                time.sleep(0.2)
            assert world.rank == 0

        @pytest.mark.ranks(2)
        def test_beta():
            pass

        def test_gamma():
            pass
    """
    written = ("-p", "cacheprovider", "--junitxml=junit.xml", "--durations=9")
    selection = ("-x", "-k", "alpha or beta", "-s")
    return run(tmp_path_factory.mktemp("selected"), tests, *selection, *written)


def test_selection_and_stopping_at_the_first_failure(selected) -> None:
    assert selected.outcomes() == {"test_alpha": "failed"}
    assert selected.code == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 1 deselected" in selected.output


def test_output_is_shown_whole_with_its_rank_where_capturing_is_off(selected) -> None:
    for rank in (0, 1):
        for line in ("hello", "one l\u00edne", "the rest"):
            assert f"{rank}\u2502 {line}\n" in selected.output


def test_the_last_failures_the_slowest_tests_and_junits_file_know_ranks(selected) -> None:
    assert "s setup    test_inner.py::test_alpha" in selected.output
    xml = (selected.directory / "junit.xml").read_text()
    assert 'failures="1"' in xml
    assert "rank 1: " in xml
    again = subprocess.run(
        [sys.executable, "-m", "pytest", "--lf", "--collect-only", "-q"],
        cwd=selected.directory,
        capture_output=True,
        text=True,
    )
    assert again.stdout.startswith("test_inner.py::test_alpha\n\n"), again.stdout


def test_each_worker_of_xdist_has_its_own_template(tmp_path) -> None:
    tests = """
        @pytest.mark.ranks(2)
        @pytest.mark.parametrize("number", range(4))
        def test_many(number, world, worker_id):
            assert allranks.all_reduce(1) == 2
            open(f"{worker_id}-{os.getppid()}", "w").close()

        @pytest.mark.ranks(2)
        def test_fails(world):
            assert world.rank == 0
    """
    ended = run(tmp_path, tests, "-n", "2", "--dist=each")
    assert "2 failed, 8 passed" in ended.output
    made = [path.name.partition("-") for path in tmp_path.glob("gw*-*")]
    assert {worker for worker, _, _ in made} == {"gw0", "gw1"}
    assert len({template for _, _, template in made}) == 2
    assert "rank 1:\n" in ended.output


def test_a_debugger_is_refused_for_several_ranks_and_not_for_one(tmp_path) -> None:
    tests = """
        @pytest.mark.ranks(1, 2)
        def test_sizes(world):
            assert allranks.all_reduce(1) == 1
    """
    ended = run(tmp_path, tests, "--pdb")
    assert ended.outcomes() == {"test_sizes[1 rank]": "passed", "test_sizes[2 ranks]": "failed"}
    text = ended.report("test_sizes[2 ranks]")["text"]
    assert "a debugger cannot be in 2 processes at once. Mark the test with ranks(1)" in text


def test_threads_at_import_are_refused(tmp_path) -> None:
    tests = """
        import threading
        threading.Thread(target=time.sleep, args=(1000,), daemon=True, name="sleeper").start()

        @pytest.mark.ranks(2)
        def test_first():
            pass

        @pytest.mark.ranks(2)
        def test_second():
            pass
    """
    ended = run(tmp_path, tests)
    for name in ("test_first", "test_second"):
        assert "cannot fork while other threads run (sleeper)" in ended.report(name)["text"]


NONSENSE = {
    "ranks": "expected one world size or several different ones",
    "ranks(0)": "expected one world size",
    "ranks(2, 2)": "expected one world size or several different ones",
    "ranks('2')": "expected one world size",
    "ranks(True)": "expected one world size",
    "ranks(2, timeout=0)": "timeout must be a number of seconds above 0",
    "ranks(2, setup=None)": "setup must be True or False",
    "ranks(2, seconds=3)": "unknown argument 'seconds'",
}


def test_markers_that_make_no_sense_are_errors_at_collection(pytester) -> None:
    for number, marker in enumerate(NONSENSE):
        text = f"import pytest\n@pytest.mark.{marker}\ndef test_it(): pass"
        pytester.makepyfile(**{f"test_{number}": text})
    result = pytester.runpytest_inprocess("--collect-only", "-p", "no:cacheprovider")
    for number, (marker, problem) in enumerate(NONSENSE.items()):
        shown = f"@pytest.mark.{marker if '(' in marker else marker + '()'}"
        assert f"test_{number}.py::test_it: {shown}: {problem}" in result.stdout.str()
    assert result.ret == pytest.ExitCode.INTERRUPTED


def test_a_default_deadline_that_makes_no_sense_is_a_usage_error(pytester) -> None:
    pytester.makeini("[pytest]\nranks_timeout = soon")
    result = pytester.runpytest_inprocess()
    result.stderr.fnmatch_lines(["ERROR: ranks_timeout = soon: expected a number of seconds*"])
    assert result.ret == pytest.ExitCode.USAGE_ERROR


def test_the_plugin_loads_no_torch(tmp_path) -> None:
    tests = """
        def test_nothing():
            assert not {"torch", "numpy"} & set(sys.modules)
            assert "allranks.pytest_plugin" in sys.modules
    """
    ended = run(tmp_path, tests)
    assert ended.outcomes() == {"test_nothing": "passed"}, ended.output


LAUNCHERS = [name for name in Launcher.__args__ if name != "single"]


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_fake_world_is_detected(fake_world, launcher) -> None:
    found = fake_world(launcher, rank=3, ranks=8)
    assert (found.launcher, found.rank, found.world_size) == (launcher, 3, 8)
    assert allranks.detect(os.environ) == found
    assert not found.notes


def test_a_fake_world_of_several_hosts(fake_world) -> None:
    found = fake_world("slurm", rank=5, ranks=7, ranks_per_node=4)
    assert (found.local_rank, found.local_world_size) == (1, 3)
    assert (found.node_rank, found.num_nodes) == (1, 2)


def test_fake_worlds_replace_one_another_and_what_was_there(fake_world, monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(DetectionError):
        allranks.detect(os.environ)
    for launcher in LAUNCHERS:
        fake_world(launcher, rank=1, ranks=2)
    assert fake_world() == allranks.detect({})


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"launcher": "slrum"}, "unknown launcher"),
        ({"launcher": "slurm", "rank": 8, "ranks": 8}, "rank must be from 0 to 7"),
        ({"ranks": 2}, "without a launcher there is one rank"),
        ({"launcher": "allranks", "ranks": 4, "ranks_per_node": 2}, "ranks_per_node=4"),
    ],
)
def test_an_impossible_fake_world_is_an_error(fake_world, arguments, problem) -> None:
    with pytest.raises(ConfigError, match=problem):
        fake_world(**arguments)


@pytest.mark.usefixtures("_swept")
def test_a_killed_session_leaves_no_process(tmp_path) -> None:
    tests = """
        @pytest.mark.ranks(2)
        def test_hangs():
            open(f"pids-{os.getppid()}-{os.getpid()}", "w").close()
            time.sleep(100)
    """
    (tmp_path / "test_inner.py").write_text("import os, time, pytest\n" + textwrap.dedent(tests))
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    wait_until(lambda: len(list(tmp_path.glob("pids-*"))) >= 2)
    session.send_signal(signal.SIGKILL)
    session.wait()
    pids = {pid for path in tmp_path.glob("pids-*") for pid in path.name.split("-")[1:]}
    assert len(pids) == 3
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


MANY = """
    import json
    from pathlib import Path

    import torch

    def held_by(pid):
        memory = Path(f"/proc/{pid}/smaps_rollup").read_text().split()
        return {
            "pid": pid,
            "files": len(os.listdir(f"/proc/{pid}/fd")),
            "memory": int(memory[memory.index("Rss:") + 1]),
        }

    @pytest.mark.ranks(2)
    @pytest.mark.parametrize("time", range(200))
    def test_sum(time, world):
        assert allranks.all_reduce(torch.ones(3)).tolist() == [2.0] * 3
        if world.rank == 0:
            template = os.getppid()
            session = int(Path(f"/proc/{template}/stat").read_text().rpartition(")")[2].split()[1])
            told = json.dumps([held_by(template), held_by(session), os.getpid()])
            Path(f"held-{time:03}").write_text(told)
"""


TORCHS_CACHE = "torchinductor"
"""A directory that importing torch._dynamo makes, once for each user."""


@pytest.mark.slow
def test_two_hundred_tests_leave_nothing(tmp_path, monkeypatch) -> None:
    """No process, no open file or socket, no file elsewhere, no memory of the template's."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    before = unlocked_directories()
    many = run(tmp_path, MANY, "-q", f"--basetemp={tmp_path / 'base'}")
    assert many.code == 0, many.output
    held = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("held-*"))]
    assert len(held) == 200
    for process in (0, 1):
        # A few come and go: those of the other rank, and of whoever looks.
        files = [one[process]["files"] for one in held]
        assert max(files[-20:]) <= max(files[1:21]) + 5
        assert len({one[process]["pid"] for one in held}) == 1
    assert held[-1][0]["memory"] <= 1.1 * held[1][0]["memory"]
    assert not any(alive(pid) for *_, pid in held)
    assert not any(alive(one["pid"]) for one in held[-1][:2])
    assert unlocked_directories() == before
    left = {path.name for path in temporary.iterdir() if not path.name.startswith(TORCHS_CACHE)}
    assert not left
