"""The published API page, held against ours: 18 functions and 3 names, by name and order."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import allranks
from allranks import distutils

PAGE = (Path(__file__).parent / "reference" / "distutils-api.rst").read_text()
FUNCTIONS = re.findall(r"^\.\. py:function:: (\w+)(\(.*\))(?: -> .*)?$", PAGE, re.MULTILINE)
NAMES = re.findall(r"^\.\. py:data:: (\w+)$", PAGE, re.MULTILINE)

DEFAULTS_OF_OUR_OWN = {
    ("setup", "config"),  # None: detect everything
    ("broadcast", "group"),  # None, meaning WORLD at the call, for WORLD bound at import
    ("broadcast_object_list", "group"),
    ("all_reduce", "group"),
    ("all_gather", "group"),
    ("gather_objects", "group"),
}


ASKED_OF_A_GROUP = {("get_rank", "group"), ("get_world_size", "group")}
"""As torch has them: in a call without arguments they change nothing."""


def published(signature: str) -> list[tuple[str, str | None]]:
    """The page's parameters and their defaults, as source text."""
    arguments = ast.parse(f"def f{signature}: ...").body[0].args
    missing = [None] * (len(arguments.args) - len(arguments.defaults))
    defaults = missing + [ast.unparse(default) for default in arguments.defaults]
    return list(zip((argument.arg for argument in arguments.args), defaults, strict=True))


def test_the_page_has_18_functions_and_3_names() -> None:
    assert len(FUNCTIONS) == 18
    assert len(NAMES) == 3


@pytest.mark.parametrize("name", [name for name, _ in FUNCTIONS] + NAMES)
def test_a_published_name_has_two_doors(name: str) -> None:
    assert getattr(allranks, name) is getattr(distutils, name)
    assert name in allranks.__all__
    assert name in distutils.__all__


LATER = ["cleanup_gp_ray"]
"""What fairchem's module has beside its page, since February 2026."""


def test_distutils_has_the_page_and_nothing_else() -> None:
    assert sorted(distutils.__all__) == sorted([name for name, _ in FUNCTIONS] + NAMES + LATER)


@pytest.mark.parametrize(("name", "signature"), FUNCTIONS)
def test_the_published_parameters_are_a_prefix_of_ours(name: str, signature: str) -> None:
    ours = list(inspect.signature(getattr(allranks, name)).parameters.values())
    theirs = published(signature)
    assert [p.name for p in ours[: len(theirs)]] == [parameter for parameter, _ in theirs]
    for added in ours[len(theirs) :]:
        if (name, added.name) in ASKED_OF_A_GROUP:
            assert added.default is None
            continue
        assert added.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD)
    for (parameter, default), mine in zip(theirs, ours, strict=False):
        if (name, parameter) in DEFAULTS_OF_OUR_OWN:
            assert mine.default is None
        elif default is None:
            assert mine.default is inspect.Parameter.empty
        else:
            assert mine.default == ast.literal_eval(default)


def test_the_published_values() -> None:
    assert allranks.DISTRIBUTED_PORT == 13356
    assert allranks.CURRENT_DEVICE_TYPE_STR == "CURRRENT_DEVICE_TYPE"


def test_all_is_sorted_and_exists() -> None:
    assert allranks.__all__ == sorted(allranks.__all__)
    assert all(hasattr(allranks, name) for name in allranks.__all__)


@pytest.mark.parametrize(
    "name", [n for n in allranks.__all__ if inspect.isroutine(getattr(allranks, n))]
)
def test_a_public_function_says_who_must_call_it(name: str) -> None:
    text = getattr(allranks, name).__doc__
    assert "ollective" in text or "Pure" in text


@pytest.mark.parametrize(
    "code",
    [
        "import allranks",
        "import allranks.distutils",
        "import allranks.meters",
        "import allranks._cli",
    ],
)
def test_importing_costs_no_torch(code: str) -> None:
    check = f"{code}; import sys; assert not {{'torch', 'numpy'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)


LOADED = "sorted(name for name in sys.modules if name.partition('.')[0] in %r)"


def test_the_root_loads_what_is_asked_for() -> None:
    shown = f"import allranks, sys; print({LOADED % (('allranks', 'torch', 'numpy'),)})"
    done = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True)
    assert len(ast.literal_eval(done.stdout)) <= 6


def test_a_session_that_asks_for_no_ranks_loads_little(tmp_path) -> None:
    text = f"import sys\ndef test_it():\n    print({LOADED % (('allranks', 'torch', 'numpy'),)})\n"
    (tmp_path / "test_it.py").write_text(text)
    plugin = ("-p", "allranks.pytest_plugin", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", *plugin, "test_it.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    loaded = ast.literal_eval(done.stdout.splitlines()[0].removesuffix("."))
    assert len(loaded) <= 8
    assert {name.partition(".")[0] for name in loaded} == {"allranks"}


def test_editors_and_the_root_find_each_name_in_the_same_module() -> None:
    tree = ast.parse(Path(allranks.__file__).read_text())
    (seen,) = (node for node in tree.body if isinstance(node, ast.If))
    for_editors = {
        alias.name: node.module
        for node in seen.body
        for alias in node.names
        if node.module != "allranks"
    }
    found = {name: f"allranks.{module}" for name, module in allranks._MODULE_OF.items()}
    assert found == for_editors
    assert sorted([*found, *allranks._MODULES]) == allranks.__all__
    assert not set(allranks.__all__) - set(dir(allranks))
