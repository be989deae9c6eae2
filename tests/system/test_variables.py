"""The variables of allranks: a user who misspells one hears of it."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest
import torch.distributed as dist

import allranks
from allranks._process_group import bring_up
from allranks._system.variables import OF_OTHERS, OF_RANKS, OF_USERS, misspelt

PACKAGE = Path(allranks.__file__).parent
ROOT = PACKAGE.parents[1]
NAME = re.compile(r"\bALLRANKS_[A-Z_]*[A-Z]\b")
ANY_NAME = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+")
NO_VARIABLES = {
    *("ADDRESS_OF_RANK_0", "SC_AVPHYS_PAGES", "SC_PAGE_SIZE"),
    *("CURRENT_DEVICE_TYPE_STR", "DISTRIBUTED_PORT"),  # Names that allranks exports.
}


def named_in(*files: Path) -> set[str]:
    return {name for file in files for name in NAME.findall(file.read_text())}


def test_the_lists_have_the_variables_that_the_source_names() -> None:
    others = [file for file in PACKAGE.rglob("*.py") if file.name != "variables.py"]
    assert named_in(*others) == {*OF_USERS, *OF_RANKS}


def texts_in(file: Path) -> set[str]:
    nodes = ast.walk(ast.parse(file.read_text()))
    return {node.value for node in nodes if isinstance(getattr(node, "value", None), str)}


def test_the_table_has_the_variables_of_others_that_the_source_names() -> None:
    files = [f for f in PACKAGE.rglob("*.py") if f.relative_to(PACKAGE).parts[0] != "_migrate"]
    texts = {text for f in files if f.name != "variables.py" for text in texts_in(f)}
    named = set(filter(ANY_NAME.fullmatch, texts))
    of_launchers = {text for f in files if f.parent.name == "_launchers" for text in texts_in(f)}
    assert named - of_launchers - NO_VARIABLES <= {*OF_OTHERS, *OF_USERS, *OF_RANKS}
    assert OF_OTHERS.keys() <= texts


def test_the_docs_name_what_a_user_may_set_and_nothing_that_is_not_there() -> None:
    named = named_in(ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))
    assert {*OF_USERS} <= named <= {*OF_USERS, *OF_RANKS}


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("ALLRANKS_STALLAFTER", "ALLRANKS_STALL_AFTER"),
        ("ALLRANKS_CHEK", "ALLRANKS_CHECK"),
        ("ALLRANKS_LOGDIR", "ALLRANKS_LOG_DIR"),
        ("ALLRANKS_PORTRANGE", "ALLRANKS_PORT_RANGE"),
    ],
)
def test_the_nearest_is_guessed(name: str, near: str) -> None:
    told = f"nothing reads {name}; did you mean {near}?"
    assert [*misspelt([name, "PATH", *OF_USERS, *OF_RANKS])] == [told]


def test_where_none_is_near_all_are_listed() -> None:
    (told,) = misspelt(["ALLRANKS_XYZZY"])
    assert told == f"nothing reads ALLRANKS_XYZZY; there are {', '.join(OF_USERS)}"


@pytest.mark.ranks(3, setup=False)
@pytest.mark.parametrize("made_by", ["us", "others"])
def test_rank_0_tells_it_once(monkeypatch, capfd, made_by: str) -> None:
    monkeypatch.setenv("ALLRANKS_CHEK", "1")
    bring_up._tell_once.cache_clear()
    if made_by == "others":
        dist.init_process_group("gloo")
    with allranks.session(cpu=True):
        allranks.setup(cpu=True)
    told = capfd.readouterr().err
    warning = "allranks: warning: nothing reads ALLRANKS_CHEK; did you mean ALLRANKS_CHECK?\n"
    assert told.count(warning) == (os.environ["ALLRANKS_RANK"] == "0")


def test_a_second_session_is_silent(monkeypatch, capfd) -> None:
    monkeypatch.setenv("ALLRANKS_CHEK", "1")
    bring_up._tell_once.cache_clear()
    for expected in (1, 0):
        with allranks.session(cpu=True):
            pass
        assert capfd.readouterr().err.count("nothing reads ALLRANKS_CHEK") == expected
