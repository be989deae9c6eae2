"""The published API page, held against ours: 18 functions and 3 names, by name and order."""

from __future__ import annotations

import ast
import inspect
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


def test_distutils_has_the_page_and_nothing_else() -> None:
    assert sorted(distutils.__all__) == sorted([name for name, _ in FUNCTIONS] + NAMES)


@pytest.mark.parametrize(("name", "signature"), FUNCTIONS)
def test_the_published_parameters_are_a_prefix_of_ours(name: str, signature: str) -> None:
    ours = list(inspect.signature(getattr(allranks, name)).parameters.values())
    theirs = published(signature)
    assert [p.name for p in ours[: len(theirs)]] == [parameter for parameter, _ in theirs]
    for added in ours[len(theirs) :]:
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
    "code", ["import allranks", "import allranks.distutils", "import allranks._cli"]
)
def test_importing_costs_no_torch(code: str) -> None:
    check = f"{code}; import sys; assert not {{'torch', 'numpy'}} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", check], check=True)
