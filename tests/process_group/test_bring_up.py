"""Bring-up and its faults, each with real processes: who is at fault is named, and in time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import allranks
from allranks._process_group.connect_errors import lost
from allranks._rendezvous import meet
from allranks._system import sockets
from allranks._system.waiting import Deadline
from allranks.errors import (
    DuplicateRankError,
    MissingRanksError,
    RendezvousError,
    WorldMismatchError,
    WrongJobError,
)
from harness import (
    PATIENCE,
    Ranks,
    env_environs,
    free_port,
    private_environs,
    run_ranks,
    wait_until,
)

TIMEOUT = 10.0  # Of ranks that wait for what never comes.
LIMIT = 60.0  # Seconds that it may take on a busy machine; torch would wait for minutes.


def total(
    value: int = 1, rendezvous_timeout: float = PATIENCE, **settings
) -> tuple[int, allranks.World]:
    """Bring the group up, add a number up, and leave."""
    allranks.setup(rendezvous_timeout=rendezvous_timeout, **settings)
    found = allranks.all_reduce(value), allranks.world()
    allranks.cleanup()
    return found


def total_of(value: int, settings: dict) -> tuple[int, allranks.World]:
    return total(value, **settings)


def total_in_vain() -> None:
    total(rendezvous_timeout=TIMEOUT)


def late_total(seconds: float) -> tuple[int, allranks.World]:
    time.sleep(seconds if allranks.get_rank() else 0.0)
    return total()


def assert_in_time(ended) -> None:
    """Within the deadline and a little, and the process is gone too."""
    assert max(one.seconds for one in ended) < LIMIT
    assert all(one.exit_code is not None for one in ended)


@contextlib.contextmanager
def busy_port(answer: bytes | None = None):
    """A port held by something that accepts, and then answers like this or never speaks."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held = []

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = server.accept()
                    held.append(connection)
                    if answer is not None:
                        connection.recv(4096)
                        connection.sendall(answer)
                        connection.close()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for connection in held:
            connection.close()
        thread.join()


def test_a_private_file_brings_four_ranks_up() -> None:
    ended = run_ranks(total, 4)
    assert [one.value[0] for one in ended] == [4] * 4
    worlds = [one.value[1] for one in ended]
    assert [(w.local_rank, w.local_world_size, w.num_nodes) for w in worlds] == [
        (rank, 4, 1) for rank in range(4)
    ]


def test_env_brings_ranks_up_and_counts_local_ranks() -> None:
    environs = env_environs(3, free_port())
    for environ in environs:
        del environ["LOCAL_RANK"]
    worlds = [one.value[1] for one in Ranks(total, environs).results()]
    assert [(w.local_rank, w.local_world_size, w.node_rank) for w in worlds] == [
        (rank, 3, 0) for rank in range(3)
    ]


def test_a_rank_that_comes_late_is_waited_for() -> None:
    ended = run_ranks(late_total, 2, 1.5)
    assert [one.value[0] for one in ended] == [2, 2]


def test_a_url_carries_everything() -> None:
    url = f"tcp://127.0.0.1:{free_port()}?world_size=2&rank="
    both = [Ranks(total_of, [{}], 1, {"init_method": f"{url}{rank}"}) for rank in range(2)]
    assert [ranks.results()[0].value[0] for ranks in both] == [2, 2]


@pytest.fixture(scope="module")
def waiting_jobs():
    """How jobs ended that wait for their whole deadline, all at once."""
    with busy_port() as silent, busy_port(b"HTTP/1.1 400 Bad Request\r\n\r\n") as http:
        unknown = env_environs(2, free_port(), MASTER_ADDR="no-such-host.invalid")
        environs = {"silent": env_environs(2, silent), "http": env_environs(2, http)}
        environs |= {"unknown": unknown}
        for missing in range(3):
            whole = env_environs(3, free_port())
            environs[f"missing {missing}"] = whole[:missing] + whole[missing + 1 :]
        with private_environs(3) as private:
            environs["private"] = private[:2]
            started = {name: Ranks(total_in_vain, some) for name, some in environs.items()}
            yield {name: ranks.results() for name, ranks in started.items()}


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_rank_is_named(waiting_jobs, missing: int) -> None:
    ended = waiting_jobs[f"missing {missing}"]
    assert_in_time(ended)
    for one in ended:
        assert isinstance(one.error, MissingRanksError), one.text
        assert one.error.missing == (missing,), one.text
        assert "10 s" in one.text


def test_a_missing_rank_is_named_in_a_private_file(waiting_jobs) -> None:
    ended = waiting_jobs["private"]
    assert_in_time(ended)
    assert [one.error.missing for one in ended] == [(2,), (2,)]


def at(store: Path, rank: int = 0, ranks: int = 2) -> dict[str, str]:
    """The environment of a rank whose parent has made, or would have made, this file."""
    numbers = {"ALLRANKS_RANK": str(rank), "ALLRANKS_WORLD_SIZE": str(ranks)}
    return {**numbers, "ALLRANKS_RUN_ID": "j", "ALLRANKS_STORE": str(store)}


def test_a_private_file_of_a_job_that_has_ended_is_named(tmp_path: Path) -> None:
    """Torch would look for its directory for five minutes, and hear no Ctrl-C."""
    (one,) = Ranks(total, [at(tmp_path / "gone" / "store")]).results()
    assert isinstance(one.error, RendezvousError), one.text
    assert f"{tmp_path}/gone/store (ALLRANKS_STORE)" in one.text
    assert "its directory is gone, since the job that made it has ended." in one.text


def test_a_private_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (one,) = Ranks(total, [at(tmp_path)]).results()
    assert one.text.endswith("cannot be opened: Is a directory."), one.text


def opened_never() -> None:
    meet.private_store = lambda *_: threading.Event().wait()
    allranks.setup(cpu=True, rendezvous_timeout=1)


def test_a_file_system_that_is_stuck_holds_nobody_up(tmp_path: Path) -> None:
    (one,) = Ranks(opened_never, [at(tmp_path / "store")]).results()
    assert one.text.endswith("cannot be opened: the file system does not answer."), one.text


def files_while_up(directory: Path) -> list[str]:
    with allranks.session(cpu=True, rendezvous_timeout=PATIENCE):
        found = sorted(os.listdir(directory))
        allranks.all_reduce(1)  # Nobody leaves before all have looked.
    return found


def test_ranks_meet_at_a_path_that_is_no_utf8(tmp_path: Path) -> None:
    """As where TMPDIR is none: the file is the one that was named, and no other."""
    directory = tmp_path / os.fsdecode(b"\xff")
    directory.mkdir()
    environs = [at(directory / "store", rank) for rank in range(2)]
    ended = Ranks(files_while_up, environs, directory).results()
    assert [one.value for one in ended] == [["store"]] * 2, ended[0].text


@pytest.mark.parametrize("twice", [0, 1])
def test_a_rank_claimed_twice_is_named_on_all(twice: int) -> None:
    environs = env_environs(3, free_port())
    ended = Ranks(total, [*environs[:2], environs[twice]]).results()
    assert_in_time(ended)
    for one in ended:
        assert isinstance(one.error, DuplicateRankError), one.text
        assert one.error.rank == twice
    pids = {word for one in ended for word in one.text.split() if word.isdigit()}
    assert len(pids) >= 2


def test_ranks_that_disagree_on_the_world_size_hear_both() -> None:
    environs = env_environs(3, free_port())
    environs[1]["WORLD_SIZE"] = "2"
    ended = Ranks(total, environs).results()
    assert_in_time(ended)
    for one in ended:
        assert isinstance(one.error, WorldMismatchError), one.text
        assert "has 2 ranks" in one.text
        assert "says 3" in one.text


def hold_open(value: int, timeout: float, directory: Path | None = None) -> int:
    """A job that lasts three seconds, or until a file says that it is over."""
    allranks.setup(rendezvous_timeout=timeout)
    summed = allranks.all_reduce(value)
    if directory:
        (directory / f"up{allranks.get_rank()}").touch()
        wait_until((directory / "over").exists)
    else:
        time.sleep(3)
    allranks.cleanup()
    return summed


@pytest.mark.parametrize("late", [0.0, 1.0])
def test_two_jobs_on_one_port_never_mix(late: float) -> None:
    """Each job forms its own group, or hears that the port is the other's."""
    port = free_port()
    first = Ranks(hold_open, env_environs(2, port, ALLRANKS_JOB="first"), 1, TIMEOUT)
    time.sleep(late)
    second = Ranks(hold_open, env_environs(2, port, ALLRANKS_JOB="second"), 100, TIMEOUT)
    jobs = {2: first.results(), 200: second.results()}
    for total_of_job, ended in jobs.items():
        assert_in_time(ended)
        refused = all(isinstance(one.error, WrongJobError) for one in ended)
        assert refused or [one.value for one in ended] == [total_of_job] * 2, ended
    assert any(one.value for ended in jobs.values() for one in ended)


def test_a_second_job_without_identity_is_refused_by_a_complete_one(tmp_path: Path) -> None:
    environs = env_environs(2, free_port())
    first = Ranks(hold_open, environs, 1, PATIENCE, tmp_path)
    wait_until(lambda: all((tmp_path / f"up{rank}").exists() for rank in range(2)))
    second = Ranks(hold_open, environs, 100, TIMEOUT).results()
    (tmp_path / "over").touch()
    assert_in_time(second)
    assert all(isinstance(one.error, WrongJobError) for one in second), [s.text for s in second]
    assert [one.value for one in first.results()] == [2, 2]


def slurm_environs(job: int, ranks: int = 2) -> list[dict[str, str]]:
    """Two tasks of a Slurm step on this host, which carries no port."""
    step = {
        "SLURM_JOB_ID": str(job),
        "SLURM_STEP_ID": "0",
        "SLURM_STEP_NUM_TASKS": str(ranks),
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_TASKS_PER_NODE": str(ranks),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NODEID": "0",
        "SLURM_GTIDS": ",".join(map(str, range(ranks))),
    }
    return [{**step, "SLURM_PROCID": str(r), "SLURM_LOCALID": str(r)} for r in range(ranks)]


def test_two_slurm_jobs_on_a_host_find_ports_of_their_own() -> None:
    """Both start at the same candidate port; each rank ends up in its own job."""
    jobs = [Ranks(hold_open, slurm_environs(job), job, PATIENCE) for job in (100, 200, 300)]
    sums = [[one.value for one in job.results()] for job in jobs]
    assert sums == [[200, 200], [400, 400], [600, 600]]


def test_candidates_pass_by_a_silent_port(monkeypatch) -> None:
    """The first candidate port is held by something that never speaks."""
    try:
        silent = socket.create_server(("127.0.0.1", allranks.DISTRIBUTED_PORT))
    except OSError:
        pytest.skip("another program holds the port")
    with silent:
        ended = Ranks(total, slurm_environs(7)).results()
    assert [one.value and one.value[0] for one in ended] == [2, 2], [one.text for one in ended]


@pytest.mark.parametrize("holder", ["silent", "http"])
def test_a_port_held_by_another_program_is_named(waiting_jobs, holder: str) -> None:
    ended = waiting_jobs[holder]
    assert_in_time(ended)
    for one in ended:
        assert isinstance(one.error, RendezvousError), one.text
        assert f"pid {os.getpid()}" in one.text
    assert "Unset MASTER_PORT" in ended[0].text
    assert "store" in ended[1].text


def test_an_unknown_master_host_is_named(waiting_jobs) -> None:
    ended = waiting_jobs["unknown"]
    assert_in_time(ended)
    for one in ended:
        assert isinstance(one.error, RendezvousError), one.text
        assert "no-such-host.invalid" in one.text


def file_settings(directory: Path) -> dict:
    return {"init_method": "file", "shared_file_dir": str(directory)}


def test_a_shared_directory_brings_ranks_up_and_stays_clean(tmp_path: Path) -> None:
    environs = env_environs(2, free_port())
    for _ in range(2):
        ended = Ranks(total_of, environs, 1, file_settings(tmp_path)).results()
        assert [one.value and one.value[0] for one in ended] == [2, 2], [o.text for o in ended]
    assert not list(tmp_path.iterdir())


def leave_a_notice(directory: str) -> None:
    allranks.setup(rendezvous_timeout=PATIENCE, init_method="file", shared_file_dir=directory)
    if allranks.get_rank() == 0:  # Another one that goes first would be its error, at times.
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_stale_file_is_passed_by_or_named(tmp_path: Path) -> None:
    environs = env_environs(2, free_port())
    Ranks(leave_a_notice, environs, str(tmp_path)).results()
    (stale,) = tmp_path.iterdir()
    pid = json.loads(stale.read_text())["pid"]
    in_vain = {**file_settings(tmp_path), "rendezvous_timeout": TIMEOUT}
    alone = Ranks(total_of, environs[1:], 1, in_vain).results()
    assert_in_time(alone)
    assert isinstance(alone[0].error, MissingRanksError)
    assert f"pid {pid}" in alone[0].text
    assert "is gone" in alone[0].text
    again = Ranks(total_of, environs[::-1], 1, file_settings(tmp_path)).results()
    assert [one.value and one.value[0] for one in again] == [2, 2], [one.text for one in again]


def test_a_file_that_is_not_ours_is_kept(tmp_path: Path) -> None:
    precious = tmp_path / "weights"
    precious.write_bytes(b"\xff\x00 not a notice")
    url = f"file://{precious}?world_size=2&rank="
    both = [Ranks(total_of, [{}], 1, {"init_method": f"{url}{rank}"}) for rank in range(2)]
    ended = [ranks.results()[0] for ranks in both]
    assert_in_time(ended)
    assert all("no rendezvous file of allranks" in one.text for one in ended)
    assert precious.read_bytes() == b"\xff\x00 not a notice"


def test_a_rank_without_its_device_tells_all() -> None:
    with private_environs(2) as environs:
        ended = Ranks(refuse_device, environs).results()
    assert_in_time(ended)
    for one in ended:
        assert "rank 1 " in one.text
        assert "no accelerator is visible" in one.text


def refuse_device() -> None:
    allranks.setup(rendezvous_timeout=TIMEOUT, cpu=allranks.get_rank() == 0)


def interrupt_me() -> float:
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt):
        allranks.setup(rendezvous_timeout=60)
    return time.monotonic() - began


@pytest.mark.parametrize("rank", [0, 1])
def test_control_c_works_while_ranks_are_missing(rank: int) -> None:
    environs = env_environs(2, free_port())
    (ended,) = Ranks(interrupt_me, [environs[rank]]).results()
    assert ended.value < LIMIT


def test_control_c_works_against_a_silent_port() -> None:
    with busy_port() as port:
        (ended,) = Ranks(interrupt_me, [env_environs(2, port)[1]]).results()
    assert ended.value < LIMIT


TORCHRUN_SCRIPT = """
import os, sys, allranks
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and os.environ["RANK"] == "1":
    sys.exit(1)
allranks.setup(rendezvous_timeout=60)
os.write(1, f"sum {allranks.all_reduce(1)}; ".encode())  # In one write.
allranks.cleanup()
"""


def test_torchrun_restarts_work(tmp_path: Path) -> None:
    """A rank dies before its first collective, five times of five the second attempt works."""
    script = tmp_path / "dies_once.py"
    script.write_text(TORCHRUN_SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "--max-restarts", "1", "--monitor-interval", "0.1"]
    for _ in range(5):
        done = subprocess.run(
            [*command, str(script)], capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.count("sum 2") == 2


def served_slowly() -> None:
    made = meet.tcp_store
    meet.tcp_store = lambda *given, **more: (time.sleep(3), made(*given, **more))[1]
    allranks.setup(cpu=True, rendezvous_timeout=1)


def test_a_slow_store_is_not_called_a_wrong_host() -> None:
    environs = env_environs(2, free_port())[:1]
    (one,) = Ranks(served_slowly, environs).results()
    assert one.text.startswith("RendezvousError: the store on 127.0.0.1:"), one.text
    assert "did not come up within 1 s" in one.text
    assert "Rank 0 must run on that host" not in one.text


def test_who_gave_up_on_gloo_sooner_is_not_to_blame() -> None:
    first = "rank 0 (pid 7 on h1) failed: RendezvousError: all ranks came, but "
    deadline = Deadline.after(5)
    told = str(lost(1, f"{first}gloo did not connect them within 5 s.", deadline))
    assert "rank 1 on " in told
    assert "does a firewall" in told
    assert "rank 0" not in told
    assert "one was lost" in str(lost(1, f"{first}it was killed", deadline))


SPELLINGS = (
    ("localhost", "127.0.0.1"),
    ("localhost", sockets.own_addresses()[0]),
    ("0.0.0.0", sockets.own_addresses()[0]),
    ("0.0.0.0", "localhost"),
    (sockets.own_addresses()[0], "127.0.0.1"),
)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_rank_may_spell_rank_0s_address_its_own_way(spelling) -> None:
    """Rank 0 with localhost proves nothing of the others: they may be elsewhere."""
    environs = env_environs(2, free_port())
    for environ, address in zip(environs, spelling, strict=True):
        environ["MASTER_ADDR"] = address
        del environ["LOCAL_RANK"]
    ended = Ranks(total, environs).results()
    assert [one.value and one.value[0] for one in ended] == [2, 2], ended


def test_a_url_of_loopback_proves_nothing_of_the_others() -> None:
    port = free_port()
    urls = [f"tcp://{host}:{port}" for host in ("localhost", sockets.own_addresses()[0])]
    ranks = [
        Ranks(total_by_url, [{"RANK": str(rank), "WORLD_SIZE": "2"}], url)
        for rank, url in enumerate(urls)
    ]
    ended = [one for each in ranks for one in each.results()]
    assert [one.value for one in ended] == [2, 2], ended


def total_by_url(url: str) -> int:
    with allranks.session(cpu=True, init_method=url):
        return allranks.all_reduce(1)


def recorders_size(name: str) -> list[str | None]:
    os.environ[name] = "9000"
    allranks.setup(cpu=True, rendezvous_timeout=300)
    return [os.environ.get(f"TORCH_{of}_BUFFER_SIZE") for of in ("FR", "NCCL_TRACE")]


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("OTHER", ["500", None]),
        ("TORCH_FR_BUFFER_SIZE", ["9000", None]),
        ("TORCH_NCCL_TRACE_BUFFER_SIZE", [None, "9000"]),
    ],
)
def test_a_size_of_torch_s_recorder_that_is_set_stays(name, sizes) -> None:
    """By either name: torch prefers the first, which allranks sets where there is neither."""
    assert [one.value for one in run_ranks(recorders_size, 2, name)] == [sizes] * 2
