"""``print`` on rank 0 alone, functions of rank 0 alone."""

from __future__ import annotations

import builtins

import pytest

import allranks


@pytest.mark.ranks(1, 2, 3)
def test_only_rank_0_prints(world, capsys) -> None:
    python = builtins.print
    allranks.print_on_master()
    allranks.print_on_master()
    print("from", world.rank, sep="-")
    print("forced", world.rank, force=True)
    first = "from-0\n" if world.rank == 0 else ""
    assert capsys.readouterr().out == f"{first}forced {world.rank}\n"
    allranks.cleanup()
    assert builtins.print is python
    print("again", world.rank)
    assert capsys.readouterr().out == f"again {world.rank}\n"


@pytest.mark.ranks(2)
def test_it_ends_with_its_block(world, capsys) -> None:
    python = builtins.print

    def fail() -> None:
        print("inside")
        raise KeyError

    with pytest.raises(KeyError), allranks.print_on_master():
        fail()
    assert builtins.print is python
    allranks.cleanup()
    assert builtins.print is python
    assert capsys.readouterr().out == ("inside\n" if world.rank == 0 else "")


@pytest.mark.ranks(2)
def test_a_print_of_other_code_stays(world, monkeypatch) -> None:
    """Put in place later, it is not taken away; put there before, it is used."""
    heard = []
    monkeypatch.setattr(builtins, "print", lambda *values: heard.append(values))
    with allranks.print_on_master():
        print(1)
        monkeypatch.setattr(builtins, "print", theirs := lambda *_: None)
    assert builtins.print is theirs
    assert heard == ([(1,)] if world.rank == 0 else [])


def test_before_setup_the_launcher_says_who_is_rank_0(monkeypatch, capsys) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with allranks.print_on_master():
        print("silent")
    assert capsys.readouterr().out == ""


@pytest.mark.ranks(1, 3)
def test_master_only(world) -> None:
    called = []

    @allranks.master_only
    def keep(value: int, *, more: int = 0) -> int:
        """Keep a value."""
        called.append((value, more))
        return value

    assert keep(3, more=4) == (3 if world.rank == 0 else None)
    assert called == ([(3, 4)] if world.rank == 0 else [])
    assert (keep.__name__, keep.__doc__) == ("keep", "Keep a value.")
