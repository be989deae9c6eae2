"""What to put in the place of a function's body, by its row's templates; or why nothing can."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from allranks._migrate.attributes import ATTRIBUTES
from allranks._migrate.recognise import beside, extra_of, is_named_otherwise, unusual_calls
from allranks._migrate.row import has

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from allranks._migrate.reading import Found
    from allranks._migrate.recognise import Recognition
    from allranks._migrate.row import Row

LOST = "call.*seed*|call.basicConfig|call.addHandler|call.makedirs|call.mkdir"
"""What a body may do beside that one line of ours would lose: a person decides."""

PLACE = re.compile(r"\{(\?)?(?:(\w+):)?([@*]*[\w|]*)(?:=([^{}]*))?\}")
"""A place in a template; ``patch_of`` says what each is."""


class NoBodyError(Exception):
    """No line of ours can stand in a function's place; the text says why."""


def body_of(one: Recognition, names: Mapping[str, str], *, leaving: bool = True) -> str:
    """The body to put in the place of a function's; for a class, what to call in its place.

    In a template, ``{data|0}`` is the first of these parameters that there is (0 is the first of
    all), ``{dst=0}`` has a default, ``{?dst}`` becomes ``, dst=dst`` or nothing, ``{?dst:to}``
    becomes ``, dst=to``, and ``{**kwargs}`` hands on what the function takes so.
    ``{@mean}`` is whether the body divides, ``{@returns}`` the word if it returns, ``{@torch}`` the
    name of torch here, and ``{@attributes}`` sets what the body set on its parameters. A line
    that begins with ``?mark`` is there if the body has that mark, and with ``?!mark`` if not.

    Args:
        one: a function that is recognised.
        names: what each name stands for where the body is to stand, by the imports.
        leaving: set the attributes, too.

    Raises:
        NoBodyError: a person has to write it.
    """
    if one.row is None or one.found is None:
        raise NoBodyError(one.note)
    for why in _losses(one, one.row, one.found):
        raise NoBodyError(why)
    error = NoBodyError("those who call it have to change, as its row says")
    for template in one.row.patch:
        try:
            return _filled(template, one.row, one.found, _Form(one.found, names, leaving=leaving))
        except NoBodyError as why_not:
            error = why_not
    raise error


def _losses(one: Recognition, row: Row, found: Found) -> Iterator[str]:
    """Why a line of ours might lose what the body does."""
    if also := beside(row, found):
        yield f"its body also has {', '.join(also)}"
    if extra := extra_of(row, found):
        yield f"ours has no {', '.join(extra)}"
    if one.known_by == "body" and is_named_otherwise(found):
        yield "its name and its body tell of different things"
    if "seed" not in row.ours and has(found.direct, LOST):
        yield _calls(found, LOST)
    if row.ours == "setup" and has(found.direct, "other.*"):
        yield _calls(found, "other.*")
    if row.ours in ("cleanup", "synchronize") and (calls := unusual_calls(found)):
        yield f"its body also calls {', '.join(sorted(calls))}"
    of_data = row.ours in ("all_reduce", "all_gather", "broadcast") and row.kind == "function"
    if of_data and not has(found.marks, "of-parameter|pickle|loops"):
        yield "its body does not send what it is given, but something that it makes of it"


def _calls(found: Found, wanted: str) -> str:
    names = (one.partition(".")[2] for one in found.direct if has((one,), wanted))
    return f"its body also calls {', '.join(sorted(names))}"


def _filled(template: str, row: Row, found: Found, form: _Form) -> str:
    """A template with this function's own words in its places."""
    chosen = [line for text in template.split("\n") if (line := _if_so(text, found))]
    filled = "\n".join(PLACE.sub(form.fill, line) for line in chosen)
    lines = [line for line in filled.split("\n") if line.strip()]
    if not lines:
        raise NoBodyError("its body does more than ours")
    left = [one for one in map(_plain, form.parameters) if one not in form.used]
    if left := [one for one in left if one not in row.unused.split()]:
        raise NoBodyError(f"ours has nothing for its {', '.join(left)}")
    returns = "returns" in found.marks and found.kind != "class"
    if returns and not re.search(r"^ *return ", filled, re.MULTILINE):
        raise NoBodyError("it returns something that ours does not")
    return _tidy("\n".join(lines))


def _if_so(line: str, found: Found) -> str:
    """A template's line, if its conditions hold."""
    if not line.startswith("?"):
        return line
    condition, _, rest = line[1:].partition(" ")
    wanted = not condition.startswith("!")
    holds = has(found.marks, condition.removeprefix("!")) is wanted
    return _if_so(rest, found) if holds else ""


def _tidy(text: str) -> str:
    return re.sub(r", (?=\))", "", text.replace("(, ", "("))


def _plain(parameter: str) -> str:
    return parameter.lstrip("*").partition("=")[0]


class _Form:
    """What a function has for the places of a template; it remembers which parameters were used."""

    def __init__(self, found: Found, names: Mapping[str, str], *, leaving: bool) -> None:
        self.found = found
        self.names = names
        self.leaving = leaving
        bound = found.kind == "method" and not _is_static(found)
        self.parameters = found.parameters[1:] if bound else found.parameters
        self.used: set[str] = set()

    def fill(self, place: re.Match[str]) -> str:
        optional, key, wanted, default = place.groups()
        if wanted.startswith("@"):
            return self._fact(wanted[1:])
        if wanted.startswith("*"):
            return self._rest(wanted)
        name = self._parameter(wanted)
        if name:
            return f", {key or wanted}={name}" if optional else name
        if optional:
            return ""
        if default is None:
            raise NoBodyError(f"it has no parameter for what is called {wanted} in ours")
        return self._fact(default[1:]) if default.startswith("@") else default

    def _parameter(self, wanted: str) -> str:
        """The first parameter of these names, or at this place."""
        plain = [_plain(one) for one in self.parameters if not one.startswith("*")]
        for one in wanted.split("|"):
            name = plain[int(one)] if one.isdecimal() and int(one) < len(plain) else one
            if name in plain:
                self.used.add(name)
                return name
        return ""

    def _rest(self, wanted: str) -> str:
        """``*args`` or ``**kwargs``, however the function calls it; nothing if it has none."""
        stars = wanted.count("*")
        for one in self.parameters:
            if len(one) - len(one.lstrip("*")) == stars:
                self.used.add(_plain(one))
                return f", {one}"
        return ""

    def _fact(self, name: str) -> str:
        facts: dict[str, Callable[[], str]] = {
            "mean": lambda: str("divides" in self.found.marks),
            "returns": lambda: "return " if "returns" in self.found.marks else "",
            "torch": self._torch,
            "attributes": self._attributes,
        }
        return facts[name]()

    def _torch(self) -> str:
        for name, meant in self.names.items():
            if meant == "torch" and name not in self.parameters:
                return name
        raise NoBodyError("it needs `import torch`, which the file has not")

    def _attributes(self) -> str:
        """Lines that set what the body sets, in the order of our table."""
        strange = [f"{of}.{one}" for of, one in self.found.leaves if one not in ATTRIBUTES]
        if strange and self.leaving:
            raise NoBodyError(f"it sets {', '.join(strange)}, which ours does not")
        self.used.update(parameter for parameter, _ in self.found.leaves)
        told = [
            f"{parameter}.{name} = {self._with_torch(value)}"
            for name, value in ATTRIBUTES.items()
            for parameter, one in self.found.leaves
            if one == name and value and self.leaving
        ]
        return "\n".join(told)

    def _with_torch(self, value: str) -> str:
        return value.replace("torch.", f"{self._torch()}.", 1) if "torch." in value else value


def _is_static(found: Found) -> bool:
    return any("staticmethod" in ast.unparse(one) for one in found.node.decorator_list)
