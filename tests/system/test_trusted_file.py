"""In a directory that others can write to, only what this user has put there is believed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from allranks._rendezvous.address_board import FileAddressBoard, PostedAddress
from allranks._system import trusted_file
from allranks._system.trusted_file import LARGEST, UntrustedError
from allranks.errors import RendezvousError

NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")


def notice() -> PostedAddress:
    return PostedAddress.here(("127.0.0.1",), 1234)


@pytest.fixture
def shared():
    """As /tmp is: everybody may write, and remove only what is theirs."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o1777)
        yield Path(directory)


@as_root
def test_a_strangers_notice_is_not_believed_and_not_replaced(shared: Path) -> None:
    """A real process of another user writes it."""
    path = shared / ".allranks-1"
    if not (stranger := os.fork()):
        os.setuid(NOBODY)
        FileAddressBoard(str(path)).post(notice())
        os._exit(0)
    assert os.waitpid(stranger, 0)[1] == 0
    board = FileAddressBoard(str(path))
    for use in (board.read, lambda: board.post(notice())):
        with pytest.raises(RendezvousError, match="belongs to user 65534") as caught:
            use()
        assert str(path) in str(caught.value)
    assert path.stat().st_uid == NOBODY


@as_root
def test_this_users_own_notice_is_believed(shared: Path) -> None:
    board, posted = FileAddressBoard(str(shared / "n")), notice()
    board.post(posted)
    assert FileAddressBoard(str(shared / "n")).read() == posted
    assert (shared / "n").stat().st_mode & 0o777 == 0o600
    board.take_down()
    assert not list(shared.iterdir())


def a_link(path: Path) -> str:
    target = path.with_name("target")
    trusted_file.write(target, "{}")
    path.symlink_to(target)
    return "is a link"


def a_fifo(path: Path) -> str:
    os.mkfifo(path)
    return "is no regular file"


def open_to_all(path: Path) -> str:
    path.write_text("{}")
    path.chmod(0o666)
    return "everybody can write to"


def in_an_open_directory(path: Path) -> str:
    path.parent.chmod(0o777)
    return r"everybody can write to .* and remove what others .*chmod \+t"


@pytest.mark.parametrize("made", [a_link, a_fifo, open_to_all, in_an_open_directory])
def test_what_others_could_have_written_is_refused_by_name(made, shared: Path) -> None:
    path = shared / "n"
    told = made(path)
    with pytest.raises(UntrustedError, match=told) as caught:
        trusted_file.read(path)
    assert str(path.parent) in str(caught.value)
    with pytest.raises(RendezvousError, match="is not believed"):
        FileAddressBoard(str(path)).read()


def test_a_directory_of_a_group_serves(shared: Path) -> None:
    shared.chmod(0o2775)
    posted = notice()
    FileAddressBoard(str(shared / "n")).post(posted)
    assert FileAddressBoard(str(shared / "n")).read() == posted


def test_a_large_file_is_not_read_to_its_end(shared: Path) -> None:
    path = shared / "n"
    with path.open("wb") as file:
        file.truncate(LARGEST * 1000)
    path.chmod(0o600)
    assert len(trusted_file.read(path)) == LARGEST + 1
    with pytest.raises(RendezvousError, match="no rendezvous file of allranks"):
        FileAddressBoard(str(path)).read()


def test_no_draft_is_left_where_a_write_fails(shared: Path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trusted_file.write(shared / "n", "x")
    assert not list(shared.iterdir())
