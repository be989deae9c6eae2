"""``allranks.launch``: a function on several ranks, from a warm template."""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import allranks
from allranks._launch import launch
from allranks._launch.job import TemplateClient
from allranks._launch.remote_call import RemoteCall
from allranks._system import interpreter
from allranks.errors import ConfigError, RankFailedError, StalledError
from harness import alive, unlocked_directories, wait_until

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def test_results_come_by_rank_from_a_closure_with_a_group() -> None:
    offset = 10

    def work(factor: int, *, more: int) -> tuple[int, torch.Tensor]:
        with allranks.session(cpu=True) as world:
            summed = allranks.all_reduce(torch.ones(2))
            return offset + factor * world.rank + more, summed

    for _ in range(2):
        results = allranks.launch(work, (2,), {"more": 100}, ranks=3)
        assert [number for number, _ in results] == [110, 112, 114]
        assert all(tensor.tolist() == [3.0, 3.0] for _, tensor in results)


def test_a_world_of_one() -> None:
    assert allranks.launch(lambda: allranks.world().world_size, ranks=1) == [1]


def test_arrays_and_tensors_come_whole_and_writable() -> None:
    def big() -> dict[str, object]:
        return {
            "array": np.arange(3_000_000.0).reshape(3, -1),
            "tensor": torch.arange(5, dtype=torch.bfloat16),
            "nothing": np.empty(0),
        }

    for got in allranks.launch(big, ranks=2):
        assert got["array"].shape == (3, 1_000_000)
        assert got["array"][2, -1] == 2_999_999
        got["array"][0, 0] = 7
        assert got["tensor"].tolist() == [0, 1, 2, 3, 4]
        assert got["nothing"].size == 0


def test_the_first_failure_is_raised_with_its_traceback_and_the_others() -> None:
    def work() -> None:
        allranks.setup(cpu=True)
        if allranks.get_rank() == 1:
            explode()
        allranks.all_reduce(1)

    def explode() -> None:
        raise LookupError("boom")

    with pytest.raises(LookupError, match="boom") as caught:
        allranks.launch(work, ranks=3)
    assert "explode" in [entry.name for entry in caught.traceback]
    others = caught.value.__cause__
    assert isinstance(others, BaseExceptionGroup)
    assert len(others.exceptions) == 2
    assert "ranks 0, 2" in str(others)


def test_an_exception_that_pickle_cannot_carry_is_described() -> None:
    class Odd(Exception):  # noqa: N818 - as users name theirs
        def __reduce__(self) -> str:
            raise TypeError("never")

    def work() -> None:
        raise Odd("strange")

    with pytest.raises(RankFailedError, match=r"Odd.*strange") as caught:
        allranks.launch(work, ranks=1)
    assert caught.value.rank == 0


@pytest.mark.parametrize(
    ("how", "said", "code"),
    [
        (lambda: os._exit(3), "exit code 3", 3),
        (lambda: os._exit(0), "exit code 0", 0),
        (lambda: sys.exit(4), "exit code 4", 4),
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "SIGKILL", -9),
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "SIGSEGV", -11),
    ],
)
def test_a_rank_that_ends_without_a_word_is_named(how, said: str, code: int) -> None:
    def work() -> None:
        if os.environ["ALLRANKS_RANK"] == "1":
            how()

    with pytest.raises(RankFailedError, match=f"rank 1 .*{said}") as caught:
        allranks.launch(work, ranks=2)
    assert (caught.value.rank, caught.value.exit_code) == (1, code)
    assert allranks.launch(lambda: 1, ranks=2) == [1, 1]


@pytest.mark.parametrize(
    ("how", "said", "code"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "was killed by SIGSEGV", -11),
        (lambda: os.kill(os.getpid(), 40), "was killed by signal 40", -40),
        (lambda: os._exit(3), "left with exit code 3", 3),
    ],
)
def test_a_rank_that_ends_badly_after_it_returned_is_named(how, said: str, code: int) -> None:
    def work() -> int:
        if os.environ["ALLRANKS_RANK"] == "1":
            atexit.register(how)
        return 1

    with pytest.raises(RankFailedError, match=f"rank 1 .*{said} after it returned") as caught:
        allranks.launch(work, ranks=2)
    assert (caught.value.rank, caught.value.exit_code) == (1, code)
    assert allranks.launch(lambda: 1, ranks=2) == [1, 1]


def test_a_rank_that_leaves_with_exit_code_0_after_it_returned_has_not_failed() -> None:
    assert allranks.launch(lambda: atexit.register(os._exit, 0) and 1, ranks=2) == [1, 1]


def test_ranks_that_do_not_return_show_their_stacks() -> None:
    def load_shard() -> None:
        if os.environ["ALLRANKS_RANK"] == "1":
            time.sleep(600)

    with pytest.raises(StalledError, match=r"1 of 3 ranks .* within 1 s: 1\.") as caught:
        allranks.launch(load_shard, ranks=3, timeout=1)
    assert "in load_shard" in str(caught.value)
    assert f"{os.sep}_launch{os.sep}" not in str(caught.value)
    assert allranks.launch(lambda: 1, ranks=1) == [1]


def test_what_ranks_write_is_shown_with_their_rank(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        print("one\ntwo")
        print("three", file=sys.stderr, end="")

    allranks.launch(work, ranks=2, fold=False)
    out, err = capsys.readouterr()
    assert sorted(out.splitlines()) == ["0│ one", "0│ two", "1│ one", "1│ two"]
    assert sorted(err.splitlines()) == ["0│ three", "1│ three"]


def test_ranks_see_the_callers_surroundings(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SOME_SETTING", "now")
    monkeypatch.chdir(tmp_path)
    seen = allranks.launch(lambda: (os.environ["SOME_SETTING"], str(Path.cwd())), ranks=1)
    assert seen == [("now", str(tmp_path))]


def test_the_callers_threads_and_openmp_do_not_matter() -> None:
    torch.ones(500, 500) @ torch.ones(500, 500)

    def work() -> float:
        return float((torch.ones(200, 200) @ torch.ones(200, 200)).sum())

    done: list[list[float]] = []
    threads = [
        threading.Thread(target=lambda: done.append(allranks.launch(work, ranks=2)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert done == [[8e6, 8e6]] * 3


def test_nothing_is_left_of_the_ranks(tmp_path: Path) -> None:
    def work() -> int:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        return child.pid

    before = unlocked_directories()
    pids = allranks.launch(work, ranks=2)
    wait_until(lambda: not any(map(alive, pids)))
    assert unlocked_directories() <= before
    assert children_of(launch._template().pid) == []


LEFT = """
import allranks, os, sys, time
from allranks._launch import launch as launching
allranks.launch(lambda: 1, ranks=1)
print(launching._template().pid, flush=True)
allranks.launch(lambda: time.sleep(600), ranks=2)
"""


@pytest.mark.usefixtures("_swept")
def test_the_template_ends_with_its_parent_and_takes_the_ranks_along() -> None:
    parent = subprocess.Popen([sys.executable, "-c", LEFT], stdout=subprocess.PIPE, text=True)
    template = int(parent.stdout.readline())
    wait_until(lambda: len(children_of(template)) >= 2)
    ranks = children_of(template)
    parent.kill()
    parent.communicate()
    wait_until(lambda: not any(map(alive, [template, *ranks])))


def test_an_idle_template_costs_no_processor_time() -> None:
    allranks.launch(lambda: 1, ranks=1)

    def ticks() -> list[str]:
        stat = Path(f"/proc/{launch._template().pid}/stat").read_text()
        return stat.rpartition(")")[2].split()[11:13]

    time.sleep(0.2)
    before = ticks()
    time.sleep(1.0)
    assert ticks() == before


def test_a_template_that_was_killed_is_named_and_replaced() -> None:
    allranks.launch(lambda: 1, ranks=1)
    template = launch._template().pid

    def kill() -> None:
        os.kill(template, signal.SIGKILL)
        time.sleep(600)

    with pytest.raises(RankFailedError, match="ended unexpectedly"):
        allranks.launch(kill, ranks=2)
    assert allranks.launch(lambda: 1, ranks=1) == [1]


def test_no_ranks_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="ranks=0"):
        allranks.launch(lambda: 1, ranks=0)


def launch_and_linger() -> None:
    try:
        allranks.launch(time.sleep, (30,), ranks=2)
    finally:
        time.sleep(0.2)  # A second Ctrl-C comes here, if not before.


@pytest.mark.parametrize("pause", [0.0005, 0.002])
def test_control_c_twice_spares_the_next_launch(pause: float) -> None:
    """Whatever the second one interrupts."""

    def interrupt() -> None:
        time.sleep(0.2)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(pause)

    allranks.launch(int, ranks=2)
    twice = threading.Thread(target=interrupt)
    twice.start()
    with pytest.raises(KeyboardInterrupt):
        launch_and_linger()
    twice.join()
    assert allranks.launch(lambda: 7, ranks=2) == [7, 7]


def stop_while_sending() -> None:
    """On a rank: send the beginning of a result, and be stopped there."""
    frame = sys._getframe()
    while "connection" not in frame.f_locals:
        frame = frame.f_back
    os.write(frame.f_locals["connection"].fileno(), b"\0")
    os.kill(os.getpid(), signal.SIGSTOP)


def test_a_rank_that_stops_while_it_sends_keeps_nobody_waiting(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neither the deadline nor the other ranks, whose output fills more than a pipe."""

    def work() -> None:
        if os.environ["ALLRANKS_RANK"] == "0":
            stop_while_sending()
        print("x" * 1_000_000)
        print("through", flush=True)

    allranks.launch(lambda: 1, ranks=1)
    with pytest.raises(StalledError, match=r"1 of 2 ranks .* within 10 s: 0\."):
        allranks.launch(work, ranks=2, timeout=10)
    assert "1│ through" in capsys.readouterr().out
    assert allranks.launch(lambda: 1, ranks=1) == [1]


def test_a_result_may_end_with_empty_buffers() -> None:
    for _ in range(20):  # Who sends them finds the caller gone, or not.
        (result,) = allranks.launch(lambda: [np.empty((0, 3)), np.empty(0)], ranks=1)
        assert [one.shape for one in result] == [(0, 3), (0,)]


def test_results_of_many_buffers_come_whole_from_all_at_once() -> None:
    def many() -> list[np.ndarray]:
        return [np.full(number % 7 * 10_000, number) for number in range(200)]

    for got in allranks.launch(many, ranks=3):
        assert [len(array) for array in got] == [number % 7 * 10_000 for number in range(200)]
        assert all((array == number).all() for number, array in enumerate(got))


def test_a_template_that_is_stopped_does_not_keep_the_deadline_from_coming() -> None:
    allranks.launch(lambda: 1, ranks=1)
    template = launch._template().pid

    def stop() -> None:
        os.kill(template, signal.SIGSTOP)
        time.sleep(600)

    with pytest.raises(StalledError):
        allranks.launch(stop, ranks=2, timeout=5)
    assert not alive(template)
    assert allranks.launch(lambda: 1, ranks=1) == [1]


FORKED = """
import allranks, os, signal, sys, time
from allranks._launch import launch as launching
def fork_that_lingers():
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
    return pid
def die(template, fork):
    print(template, fork, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""

BEFORE_IT_SERVES = "die(launching._template().pid, fork_that_lingers())"

WHILE_RANKS_RUN = """
import threading
allranks.launch(lambda: 1, ranks=1)
fork = fork_that_lingers()
marks = sys.argv[1]
def work():
    open(f"{marks}/{os.getpid()}", "w").close()
    time.sleep(600)
def watch():
    while len(os.listdir(marks)) < 2: time.sleep(0.05)
    die(launching._template().pid, fork)
threading.Thread(target=watch, daemon=True).start()
allranks.launch(work, ranks=2)
"""


@pytest.mark.usefixtures("_swept")
@pytest.mark.parametrize("program", [BEFORE_IT_SERVES, WHILE_RANKS_RUN])
def test_a_template_ends_with_its_parent_though_a_fork_of_it_lives(program, tmp_path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", FORKED + program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    template, fork = map(int, parent.stdout.readline().split())
    parent.stdout.close()
    parent.wait()
    ranks = [int(path.name) for path in tmp_path.iterdir()]
    try:
        wait_until(lambda: not any(map(alive, [template, *ranks])))
        assert alive(fork)
    finally:
        os.kill(fork, signal.SIGKILL)


def test_a_template_is_closed_at_once_though_a_fork_of_its_parent_lives() -> None:
    template = TemplateClient(
        interpreter.command("from allranks._launch import remote_call; remote_call.main()")
    )
    fork = os.fork()
    if fork == 0:
        time.sleep(600)
    try:
        with tempfile.TemporaryFile() as payload:
            payload.write(pickle.dumps(RemoteCall.of(int, [{}])))
            payload.flush()
            template.order(1, payload.fileno(), lambda *_: None)
        template.close()
        assert template._process.returncode == 0  # It was not killed.
    finally:
        os.kill(fork, signal.SIGKILL)
        os.waitpid(fork, 0)
