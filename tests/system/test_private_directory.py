"""Only what is ours is removed, whatever else is called like it, and the log says so."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from allranks._system import private_directory as of_jobs
from allranks._system.private_directory import MARKED, MARKER, private_directory


def old(path: Path) -> Path:
    """As it was left two hours ago."""
    two_hours_ago = time.time() - 7200
    os.utime(path, (two_hours_ago, two_hours_ago), follow_symlinks=False)
    return path


def left_by_a_killed_job(parent: Path, name: str = "allranks-left") -> Path:
    parent.mkdir(mode=0o700, exist_ok=True)
    (parent / name).mkdir()
    (parent / name / MARKER).write_bytes(MARKED)
    (parent / name / "store.1").write_text("x")
    return old(parent / name)


@pytest.fixture
def base(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(of_jobs, "SHARED_MEMORY", tmp_path)
    return tmp_path


@pytest.fixture
def parent(base) -> Path:
    return base / f".allranks-{os.getuid()}"


@pytest.mark.parametrize("place", ["/dev/shm", "TMPDIR"])
def test_a_users_directory_is_not_removed(place: str, tmp_path: Path) -> None:
    """Neither in memory nor, where that cannot be written, among temporary files."""
    base = tmp_path if place == "TMPDIR" else Path(place)
    users = base / f"allranks-{uuid.uuid4().hex}"
    users.mkdir()
    try:
        (users / "results").write_text("a week of work")
        old(users)
        script = tmp_path / "hello.py"
        script.write_text("print(1)")
        elsewhere = (
            "from allranks._system import private_directory as d; d.SHARED_MEMORY = d.Path('/no')"
        )
        start = elsewhere if place == "TMPDIR" else "pass"
        main = f"{start}; from allranks._cli import main; main(['run', '-n', '1', 'hello.py'])"
        subprocess.run(
            [sys.executable, "-c", main],
            cwd=tmp_path,
            env={**os.environ, "TMPDIR": str(tmp_path)},
            check=True,
        )
        assert (users / "results").read_text() == "a week of work"
        assert not list(tmp_path.glob(".allranks-*"))
    finally:
        (users / "results").unlink(missing_ok=True)
        users.rmdir()


def test_what_a_killed_job_left_is_removed_and_the_log_says_so(base, parent, caplog) -> None:
    left = left_by_a_killed_job(parent)
    with private_directory() as directory:
        assert directory.parent == parent
        assert directory.stat().st_mode & 0o777 == 0o700
        assert not left.exists()
    assert f"removed {left}, which a killed job has left" in caplog.messages
    assert not list(base.iterdir())


def unmarked(parent: Path) -> Path:
    left = left_by_a_killed_job(parent)
    (left / MARKER).unlink()
    return old(left)


def marked_by_somebody_else(parent: Path) -> Path:
    left = left_by_a_killed_job(parent)
    (left / MARKER).write_text("mine")
    return left


def marked_by_a_link(parent: Path) -> Path:
    left = unmarked(parent)
    (parent.parent / "text").write_bytes(MARKED)
    (left / MARKER).symlink_to(parent.parent / "text")
    return old(left)


def a_link(parent: Path) -> Path:
    elsewhere = left_by_a_killed_job(parent.parent / "home")
    parent.mkdir(mode=0o700)
    (parent / "allranks-link").symlink_to(elsewhere)
    old(parent / "allranks-link")
    return elsewhere


def young(parent: Path) -> Path:
    left = left_by_a_killed_job(parent)
    os.utime(left)
    return left


def open_to_others(parent: Path) -> Path:
    left = left_by_a_killed_job(parent)
    parent.chmod(0o755)
    return left


def a_parent_that_is_a_link(parent: Path) -> Path:
    left = left_by_a_killed_job(parent.parent / "home")
    parent.symlink_to(parent.parent / "home")
    return left


OTHERS = [
    unmarked,
    marked_by_somebody_else,
    marked_by_a_link,
    a_link,
    young,
    open_to_others,
    a_parent_that_is_a_link,
]


@pytest.mark.parametrize("made", OTHERS)
def test_what_may_be_somebody_elses_stays(made, parent) -> None:
    left = made(parent)
    with private_directory():
        pass
    assert (left / "store.1").read_text() == "x"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory to another user")
def test_what_another_user_has_made_is_not_entered(parent) -> None:
    left = left_by_a_killed_job(parent)
    os.chown(parent, 65534, 65534)
    with private_directory() as directory:
        assert directory.parent == parent.parent
    assert left.exists()


def test_what_is_in_use_stays(parent) -> None:
    left = left_by_a_killed_job(parent)
    lock = of_jobs.lock_of(left)
    with private_directory():
        pass
    assert left.exists()
    os.close(lock)


def test_what_a_user_has_put_into_ours_stays(parent, caplog) -> None:
    left = left_by_a_killed_job(parent)
    (left / "checkpoint").write_text("x")
    old(left)
    with private_directory() as directory:
        (directory / "checkpoint").write_text("y")
    assert (left / "checkpoint").read_text() == "x"
    assert not caplog.messages
    assert (directory / "checkpoint").read_text() == "y"
