"""``allranks run`` and ``allranks env``, as a user types them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from allranks._launch import supervisor
from allranks._system.variables import OF_USERS
from allranks._system.words import ranges
from environments import ENDPOINT
from harness import PATIENCE, alive, unlocked_directories, wait_until
from torch_versions import without_chatter

ALLRANKS = [sys.executable, "-m", "allranks._cli"]


def run(tmp_path: Path, script: str, *options: str, arguments: tuple[str, ...] = (), **more):
    """Run a script of these lines under ``allranks run``."""
    path = tmp_path / "script.py"
    path.write_text(script)
    done = subprocess.run(
        [*ALLRANKS, "run", *options, str(path), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        **more,
    )
    done.stdout = without_chatter(done.stdout)
    return done


HELLO = """
import sys, allranks
with allranks.session(cpu=True) as world:
    print("sum", allranks.all_reduce(world.rank), sys.argv[1:], __name__)
    print("to stderr", file=sys.stderr)
"""


def said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of the standard error, but those of ranks that wait long for others to begin."""
    return [line for line in done.stderr.splitlines() if "allranks: still waiting" not in line]


@pytest.mark.parametrize("how", [(), ("--spawn",)])
def test_ranks_meet_and_their_lines_carry_their_rank(tmp_path: Path, how: tuple) -> None:
    done = run(tmp_path, HELLO, "-n", "3", "--no-fold", *how, arguments=("-n", "5", "--flag"))
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"{rank}│ sum 3 ['-n', '5', '--flag'] __main__" for rank in range(3)
    ]
    assert sorted(said(done)) == [f"{rank}│ to stderr" for rank in range(3)]
    assert "Warning" not in done.stderr


def test_quiet_ranks_keeps_rank_0(tmp_path: Path) -> None:
    done = run(tmp_path, HELLO, "-n", "2", "--quiet-ranks")
    assert done.stdout == "0│ sum 1 [] __main__\n"
    assert said(done) == ["0│ to stderr"]


def test_a_quiet_rank_that_fails_is_heard(tmp_path: Path) -> None:
    script = "import os, sys\nif os.environ['RANK'] == '1': sys.exit('no data')"
    done = run(tmp_path, script, "-n", "2", "--quiet-ranks")
    assert "1│ no data" in done.stderr


def test_a_module_is_run(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "job.py").write_text(HELLO)
    done = subprocess.run(
        [*ALLRANKS, "run", "-n", "2", "--no-fold", "-m", "pack.job", "x"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=PATIENCE,
    )
    lines = without_chatter(done.stdout).splitlines()
    assert sorted(lines) == [f"{r}│ sum 1 ['x'] __main__" for r in range(2)]


FAIL = """
import time, allranks
allranks.setup(cpu=True)
if allranks.get_rank() == 1:
    def deep():
        raise ValueError("boom [bold]")
    deep()
allranks.all_reduce(1) if allranks.get_rank() == 0 else time.sleep(600)
"""


@pytest.mark.parametrize("how", [(), ("--spawn",)])
def test_the_first_failures_traceback_stands_last_and_whole(tmp_path: Path, how: tuple) -> None:
    done = run(tmp_path, FAIL, "-n", "3", *how)
    assert done.returncode == 1
    told = done.stderr[done.stderr.rindex("allranks: rank 1") :].splitlines()
    assert told[0].endswith("failed: ValueError: boom [bold]")
    assert told[1] == "Traceback (most recent call last):"
    assert "script.py" in told[2], told
    assert told[-1] == "ValueError: boom [bold]"
    assert "in deep" in done.stderr
    assert "runpy" not in done.stderr[done.stderr.rindex("allranks: rank 1") :]
    assert done.stderr.count("boom [bold]") - done.stderr.count("raise ValueError") == 2


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("sys.exit(7)", 7, "left with exit code 7"),
        ("os._exit(9)", 9, "left with exit code 9"),
        ("os.kill(os.getpid(), 9)", 137, "killed by SIGKILL"),
        ("sys.exit('no data')", 1, "left with exit code 1"),
        ("raise KeyboardInterrupt", 130, "left with exit code 130"),
    ],
)
def test_the_exit_code_is_the_first_failing_ranks(
    tmp_path, line: str, code: int, said: str
) -> None:
    script = f"import os, sys, time\nif os.environ['RANK'] == '1':\n    {line}\ntime.sleep(600)"
    done = run(tmp_path, script, "-n", "2")
    assert done.returncode == code
    assert said in done.stderr
    assert "rank 1 " in done.stderr


INTERRUPTED_ALONE = """
import atexit, os, signal, time, allranks
if os.environ["RANK"] == "0":
    atexit.register(time.sleep, 4)  # After cleanup it takes longer to leave than others wait.
allranks.setup(cpu=True)
if allranks.get_rank() == 0:
    os.kill(os.getpid(), signal.SIGINT)
allranks.all_reduce(1)
"""


def test_of_ranks_in_a_collective_the_one_that_was_interrupted_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, INTERRUPTED_ALONE, "-n", "2")
    assert done.returncode == 130, done.stderr
    named = [line for line in done.stderr.splitlines() if line.startswith("allranks: rank")]
    assert re.fullmatch(r"allranks: rank 0 \(pid \d+\) left with exit code 130", named[-1])


STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1] + os.environ["RANK"], "w").write(f"{os.getpid()} {child.pid}")
while os.environ["RANK"] != "1" or not os.path.exists(sys.argv[1] + "go"):
    time.sleep(0.01)
sys.exit(5)
"""


def stubborn_job(tmp_path: Path):
    """Three ranks that ignore signals, each with a child; their process ids, and the job."""
    path = tmp_path / "script.py"
    path.write_text(STUBBORN)
    job = subprocess.Popen(
        [*ALLRANKS, "run", "-n", "3", str(path), f"{tmp_path}/"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    files = [tmp_path / str(rank) for rank in range(3)]
    wait_until(lambda: all(f.exists() and f.read_text().count(" ") for f in files))
    return job, [int(pid) for f in files for pid in f.read_text().split()]


def test_one_rank_failing_ends_all_within_five_seconds(tmp_path: Path) -> None:
    job, pids = stubborn_job(tmp_path)
    (tmp_path / "go").touch()
    job.communicate(timeout=PATIENCE)
    assert job.returncode == 5
    assert supervisor.CULPRIT_GRACE + supervisor.TERM_GRACE < 5
    wait_until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_control_c_leaves_no_orphan(tmp_path: Path, signum: int, code: int) -> None:
    job, pids = stubborn_job(tmp_path)
    job.send_signal(signum)
    time.sleep(0.5)
    job.send_signal(signum)  # An impatient person.
    _, said = job.communicate(timeout=PATIENCE)
    assert job.returncode == code
    assert signal.Signals(signum).name in said
    wait_until(lambda: not any(map(alive, pids)))


@pytest.mark.usefixtures("_swept")
def test_ranks_die_with_their_parent(tmp_path: Path) -> None:
    job, pids = stubborn_job(tmp_path)
    job.kill()
    job.communicate(timeout=PATIENCE)
    wait_until(lambda: not any(map(alive, pids)))


def two_ranks(tmp_path: Path, script: str, **streams):
    """A job of two ranks, once each has made a file under its rank's number."""
    path = tmp_path / "script.py"
    path.write_text(script)
    command = [*ALLRANKS, "run", "-n", "2", "--no-fold", str(path), f"{tmp_path}/"]
    job = subprocess.Popen(command, text=True, **streams)
    wait_until(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    return job


LEAVES_FIRST = """
import atexit, os, signal, sys, time
def handle(signum, frame): sys.exit(0)
def still_handles(): print(signal.getsignal(signal.SIGTERM) is handle)
signal.signal(signal.SIGTERM, handle)
atexit.register(still_handles)
with open(sys.argv[1] + os.environ["RANK"] + ".part", "w") as file:
    file.write(str(os.getpid()))
os.rename(file.name, sys.argv[1] + os.environ["RANK"])
if os.environ["RANK"] == "1":
    time.sleep(600)
"""


def test_when_a_rank_has_left_signals_are_still_heard(tmp_path: Path) -> None:
    """A forked rank leaves through its parent's frames, and must not undo there what is shared."""
    job = two_ranks(tmp_path, LEAVES_FIRST, stdout=subprocess.PIPE)
    wait_until(lambda: not alive(int((tmp_path / "0").read_text())))
    job.send_signal(signal.SIGTERM)
    said, _ = job.communicate(timeout=PATIENCE)
    assert said.splitlines() == ["0│ True", "1│ True"]


INTERRUPTED = """
import sys, time, allranks
allranks.setup(cpu=True)
up = sys.argv[1] + str(allranks.get_rank())
if allranks.get_rank() == 0:
    try:
        open(up, "w").close()
        allranks.all_reduce(1)
    except KeyboardInterrupt:
        open(sys.argv[1] + "heard", "w").close()
        raise
open(up, "w").close()
time.sleep(600)
"""


def test_control_c_works_inside_a_blocked_collective(tmp_path: Path) -> None:
    job = two_ranks(tmp_path, INTERRUPTED, stderr=subprocess.PIPE)
    time.sleep(0.5)
    job.send_signal(signal.SIGINT)
    _, said = job.communicate(timeout=PATIENCE)
    assert (tmp_path / "heard").exists()
    assert job.returncode == 130
    assert "Traceback" not in said


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    before = unlocked_directories()
    run(tmp_path, HELLO, "-n", "2")
    run(tmp_path, FAIL, "-n", "2")
    assert unlocked_directories() <= before


ENV_ONLY = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
one = torch.ones(1)
dist.all_reduce(one)
print(one.item(), dist.get_rank())
dist.destroy_process_group()
"""


OPEN_FILE = """
import sys
file = open(sys.argv[1], "w")
file.write("kept")
def use():
    return file
"""


@pytest.mark.parametrize("how", [(), ("--spawn",)])
def test_a_file_that_a_script_left_open_is_written(tmp_path: Path, how: tuple) -> None:
    run(tmp_path, OPEN_FILE, "-n", "1", *how, arguments=(str(tmp_path / "file"),))
    assert (tmp_path / "file").read_text() == "kept"


IMPORTABLE = """
import multiprocessing, pickle, sys
class Thing: pass
if __name__ == "__main__":
    assert sys.modules["__main__"].Thing is Thing
    assert type(pickle.loads(pickle.dumps(Thing()))) is Thing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print("found", pool.apply(isinstance, (Thing(), Thing)))
"""


def test_a_script_is_the_main_module(tmp_path: Path) -> None:
    done = run(tmp_path, IMPORTABLE, "-n", "1")
    assert "found True" in done.stdout, done.stderr


def test_a_module_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ALLRANKS, "run", "-n", "1", "-m", "no.such"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1
    assert "No module named 'no'" in done.stderr


def test_a_program_that_only_knows_env_runs(tmp_path: Path) -> None:
    done = run(tmp_path, ENV_ONLY, "-n", "2")
    assert sorted(done.stdout.splitlines()) == ["0│ 2.0 0", "1│ 2.0 1"], done.stderr


def test_ranks_draw_different_random_numbers(tmp_path: Path) -> None:
    """As processes of their own would."""
    done = run(
        tmp_path, "import numpy, random; print(numpy.random.rand(), random.random())", "-n", "2"
    )
    first, second = (line.partition("│")[2] for line in done.stdout.splitlines())
    assert not set(first.split()) & set(second.split())


def test_progress_bars_end_as_one_line(tmp_path: Path) -> None:
    script = "for i in range(5): print(f'\\r{i}/5', end='', flush=True)\nprint('\\rdone')"
    assert run(tmp_path, script, "-n", "1").stdout == "0│ done\n"


def test_a_script_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [*ALLRANKS, "run", "-n", "2", "nowhere.py"], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "'nowhere.py' does not exist" in done.stderr


@pytest.mark.parametrize("python", ["python", "python3", sys.executable])
def test_an_interpreter_in_front_of_the_script_is_too_much(python: str) -> None:
    """The habit of mpirun and srun."""
    done = subprocess.run(
        [*ALLRANKS, "run", "-n", "2", python, "train.py", "--lr", "1"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    told = " ".join(done.stderr.replace("│", " ").split())
    assert done.returncode == 2
    assert f"leave '{python}' out" in told
    assert "`allranks run -n 2 train.py --lr 1`" in told


def refused(*arguments: str) -> str:
    """What ``allranks run`` says of a command line that it refuses."""
    done = subprocess.run(
        [*ALLRANKS, "run", *arguments], capture_output=True, text=True, timeout=PATIENCE
    )
    assert (done.returncode, done.stdout) == (2, "")
    return " ".join(done.stderr.partition("Error: ")[2].split())


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--np", "4"], "No such option '--np'; write -n 4."),
        (["-np", "4"], "No such option '--np'; write -n 4."),
        (["--nproc-per-node", "4"], "No such option '--nproc-per-node'; write -n 4."),
        (["--nproc_per_node=4"], "No such option '--nproc-per-node'; write -n 4."),
        (["--nproc_per_node", "gpu"], "'--nproc-per-node'; write -n and a number."),
        (["--num_processes", "4"], "No such option '--num-processes'; write -n 4."),
        (["--ntasks=4"], "No such option '--ntasks'; write -n 4."),
        (["-n", "2", "--num_processes", "4"], "No such option '--num-processes'; write -n 4."),
    ],
)
def test_the_number_of_ranks_as_other_launchers_spell_it(options: list[str], hint: str) -> None:
    assert hint in refused(*options, "x.py")


@pytest.mark.parametrize("option", ["--nnodes", "--node_rank", "--nodes", "--machine_rank"])
def test_other_hosts_are_other_launchers_matter(option: str) -> None:
    told = refused("-n", "2", option, "1", "x.py")
    assert f"No such option '{option.replace('_', '-')}'; -n says how many ranks start" in told
    assert "all of them on this host" in told
    assert "torchrun, srun, mpirun, Ray or Kubernetes" in told


def test_what_is_no_option_is_not_taken_for_one(tmp_path: Path) -> None:
    """A script's own arguments are its own, and ``-n`` needs no blank."""
    asked = ("--np", "4", "--nnodes", "2")
    done = run(tmp_path, "import sys; print(sys.argv[1:])", "-n1", arguments=asked)
    assert done.stdout == f"0│ {list(asked)}\n", done.stderr
    assert (
        "--np"
        not in subprocess.run([*ALLRANKS, "run", "--help"], capture_output=True, text=True).stdout
    )


def test_the_package_is_a_command() -> None:
    """Where its script is not on the path, ``python -m allranks`` is the same."""
    command = [sys.executable, "-m", "allranks", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("allranks, version ")


WITHOUT_ROOM = """
set -e
mount -t tmpfs -o size=1m,nr_inodes="$1" tmpfs /dev/shm
mkdir -p "$3"
mount -t tmpfs -o size=64k,nr_inodes="$2" tmpfs "$3"
export TMPDIR="$3"
shift 3
exec "$@"
"""
NONE, ONE, MANY = "1", "2", "1000"
"""How many inodes a file system has: its own root takes one, and Python tries a directory's room by
a file."""
IN_NO_ROOM = ["unshare", "--mount", "bash", "-c", WITHOUT_ROOM, "-"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems of its own: needs root")
@pytest.mark.parametrize("room_for", [MANY, ONE])
def test_a_full_file_system_is_passed_by_or_named(tmp_path: Path, room_for: str) -> None:
    """Shared memory is small in containers: then TMPDIR; where that is full, too, an error."""
    script, room = tmp_path / "script.py", tmp_path / "room"
    script.write_text(HELLO)
    done = subprocess.run(
        [
            *IN_NO_ROOM,
            NONE,
            room_for,
            str(room),
            *ALLRANKS,
            "run",
            "--no-fold",
            "-n",
            "2",
            str(script),
        ],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    if room_for == MANY:
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("sum 1") == 2
    else:
        assert done.returncode == 1, done
        assert f"No space left on device: '{room}/" in done.stderr  # Some torch are first to write.
        assert "Traceback" not in done.stderr


LAUNCHING = """
import allranks
try:
    much = bytes(1_000_000)
    print(allranks.launch(lambda: len(much), ranks=2))
except OSError as error:
    print("named", error)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts file systems of its own: needs root")
def test_launch_names_what_is_full(tmp_path: Path) -> None:
    room = tmp_path / "room"
    done = subprocess.run(
        [*IN_NO_ROOM, MANY, MANY, str(room), sys.executable, "-c", LAUNCHING],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert f"named [Errno 28] No space left on device: '{room}" in done.stdout, done


def test_the_ranks_must_be_said() -> None:
    done = subprocess.run([*ALLRANKS, "run", "x.py"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--ranks" in done.stderr


SWALLOWING = """
import sys, time
from pathlib import Path
from allranks._cli import main
from allranks._launch import template

def preload():
    Path(sys.argv[1]).touch()
    while True:
        try:
            time.sleep(1)
        except KeyboardInterrupt:
            pass

template.preload = preload
main(["run", "-n", "2", sys.argv[2]])
"""


def test_ctrl_c_ends_an_import_that_would_swallow_it(tmp_path: Path) -> None:
    """As torch's import may: the job would go on, and the user would wait."""
    begun, script = tmp_path / "begun", tmp_path / "script.py"
    script.touch()
    job = subprocess.Popen([sys.executable, "-c", SWALLOWING, str(begun), str(script)])
    wait_until(begun.exists)
    job.send_signal(signal.SIGINT)
    try:
        assert job.wait(PATIENCE) == 128 + signal.SIGINT
    finally:
        job.kill()


@pytest.mark.parametrize("command", ["run", "env", "migrate"])
def test_help_keeps_its_lines(command: str) -> None:
    """As click does where it finds the character that asks for it, and not its name."""
    done = subprocess.run([*ALLRANKS, command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "\\b" not in done.stdout


def test_help_tells_the_variables_that_a_user_may_set() -> None:
    done = subprocess.run([*ALLRANKS, "--help"], capture_output=True, text=True)
    told = " ".join(done.stdout.partition("Environment variables:")[2].split())
    for name, what in OF_USERS.items():
        assert f"{name} {what}" in told


def test_env_tells_the_world_and_imports_no_torch() -> None:
    code = (
        "import sys\nfrom allranks._cli import main\n"
        "main(['env', '--json'], standalone_mode=False)\nassert 'torch' not in sys.modules"
    )
    environ = {**os.environ, "RANK": "1", "WORLD_SIZE": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["launcher"], told["rank"], told["world_size"]) == ("env", 1, 2)


def test_env_explains_half_an_environment() -> None:
    environ = {**os.environ, "RANK": "1"}
    done = subprocess.run([*ALLRANKS, "env"], capture_output=True, text=True, env=environ)
    assert done.returncode == 1
    assert "WORLD_SIZE" in done.stderr


def test_env_for_people() -> None:
    done = subprocess.run([*ALLRANKS, "env"], capture_output=True, text=True)
    assert "launcher: single" in done.stdout


def env(*options: str, **environ: str):
    """What ``allranks env`` says of an environment."""
    return subprocess.run(
        [*ALLRANKS, "env", *options], capture_output=True, text=True, env={**os.environ, **environ}
    )


def test_env_for_a_shell() -> None:
    """Quoted, so that ``eval`` takes any value as it is."""
    done = env("--export", RANK="1", WORLD_SIZE="2", MASTER_ADDR="a b", MASTER_PORT="7")
    shown = subprocess.run(
        ["sh", "-c", 'eval "$0"; echo "$RANK/$WORLD_SIZE $MASTER_ADDR:$MASTER_PORT"', done.stdout],
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert shown.stdout == "1/2 a b:7\n"


def test_env_exports_nothing_where_rank_0_is_unknown() -> None:
    done = env("--export", OMPI_COMM_WORLD_RANK="1", OMPI_COMM_WORLD_SIZE="4")
    assert (done.returncode, done.stdout) == (1, "false\n")
    assert "nothing tells on which host rank 0 runs: set MASTER_ADDR" in done.stderr


LEAVING = """
import atexit, os, signal, sys, time, allranks
with allranks.session(cpu=True) as world:
    allranks.all_reduce(1)
    if world.rank == 1:
        atexit.register(time.sleep, 3)  # As torch's own end may take, on a busy machine.
        sys.exit({code})
    allranks.all_reduce(1)
"""


@pytest.mark.parametrize(("code", "told"), [("3", 3), ("'no shard 7'", 1), ("259", 3)])
def test_a_rank_that_asks_to_leave_keeps_its_exit_code(
    tmp_path: Path, code: str, told: int
) -> None:
    """Whatever the others hear of it, and however long it takes to leave."""
    done = run(tmp_path, LEAVING.format(code=code), "-n", "2")
    assert done.returncode == told, done.stderr
    assert "rank 1 (pid" in done.stderr
    assert f"left with exit code {told}" in done.stderr


MARKUP = """
raise RuntimeError("[/x] [red]:m: \\\\x1b[31m" + chr(27) + "]0;title" + chr(7))
"""


def test_a_failure_is_no_markup_and_sends_nothing_to_the_terminal(tmp_path: Path) -> None:
    done = run(tmp_path, MARKUP, "-n", "1")
    shown = done.stderr.rpartition("RuntimeError: ")[2]
    assert shown.startswith("[/x] [red]:m: \\x1b[31m\\x1b]0;title\\x07"), done.stderr
    assert "\x1b" not in done.stderr


def test_env_shows_values_as_they_are() -> None:
    done = env(
        MASTER_ADDR="[fd00::1]",
        MASTER_PORT="7",
        RANK="0",
        WORLD_SIZE="2",
        ALLRANKS_JOB=":m:[/x]\x1b[31m",
    )
    assert "[fd00::1]" in done.stdout
    assert ":m:[/x]\\x1b[31m" in done.stdout
    assert "\x1b" not in done.stdout


def test_env_tells_where_this_process_may_run_and_what_binding_would_make_of_it() -> None:
    usable = sorted(os.sched_getaffinity(0))
    done = env()
    assert f"cpus │ {ranges(usable)}" in done.stdout.replace(" " * 13, " ")
    assert "ALLRANKS_BIND" not in done.stdout
    alone = env(ALLRANKS_BIND="numa")
    assert f"numa: {'CPU' if len(usable) == 1 else 'CPUs'} {ranges(usable)}, " in alone.stdout
    place = {"RANK": "0", "LOCAL_RANK": "0"}
    crowded = env(
        ALLRANKS_BIND="numa", **place, WORLD_SIZE="9999", LOCAL_WORLD_SIZE="9999", **ENDPOINT
    )
    assert "numa: binds nobody: 9999 ranks on a host, which may use" in " ".join(
        crowded.stdout.split()
    )
    wrong = env(ALLRANKS_BIND="cores")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "ALLRANKS_BIND='cores': expected \"numa\"" in wrong.stderr


@pytest.mark.parametrize("how", [(), ("--json",), ("--export",)])
def test_env_tells_of_a_variable_that_nothing_reads(how: tuple) -> None:
    """Beside what a program or a shell reads of it."""
    done = env(*how, ALLRANKS_STALLAFTER="5")
    told = " ".join((done.stderr if how else done.stdout).split())
    assert done.returncode == 0
    assert "warning: nothing reads ALLRANKS_STALLAFTER; did you mean ALLRANKS_STALL_AFTER?" in told
    assert how or not done.stderr
    assert "ALLRANKS_STALLAFTER" not in (done.stdout if how else "")
