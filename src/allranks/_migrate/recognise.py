"""From facts to what is recognised: by a name and a body that fits it, or by a small body alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from allranks._migrate.attributes import parameters_of, what_to_read
from allranks._migrate.marks import ABOUT_RANKS, Function
from allranks._migrate.row import has, has_all
from allranks._migrate.rows import CALLS, ROWS
from allranks._migrate.rows_ranks import FACTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from allranks._migrate.reading import Found, Module
    from allranks._migrate.row import Row

NEUTRAL = (
    "dist.is_available|dist.is_initialized|dist.get_backend|dist.Backend*|dist.ProcessGroup*|"
    "dist.GroupMember*|dist.group.WORLD|dist.ReduceOp.SUM"
)
"""What any function may ask or name without being about it."""

ASKING = "dist.get_rank|dist.get_world_size"

ASK = [row for row in FACTS if row.line in ("allranks.initialized()", "allranks.get_world_size()")]
"""Functions that any other may ask first."""

SMALL = 10
"""Statements of a body that says by itself what the function is for."""

ORDINARY = re.compile(
    r"(zeros|empty|ones)(_like)?|(as_)?tensor|clone|detach|contiguous|to|cuda|cpu|item|tolist|float"
    r"|double|int|long|view|reshape|size|numel|dim|cat|stack|append|len|range|list|tuple|print"
    r"|div_?|mul_|no_grad|(current_|set_)?device|is_available|str|format|builtin_print|get|pop"
    r"|min|max|getenv|isinstance|unsqueeze|squeeze"
)
"""What a collective is surrounded by."""

RECOGNISED = "recognised"
HELPER = "helper"
INLINE = "inline"
UNKNOWN = "not recognised"
NO_RANKS = "not about ranks"


class Recognition(NamedTuple):
    """What became of a function, a class, or a call outside of them.

    Attributes:
        name: as the file has it.
        line: where it is in the file.
        status: one of the words above.
        known_by: "name and body" or "body"; "" where it is not recognised.
        ours: the name in allranks that stands for it.
        write: the line to write.
        note: what differs, or why it is not recognised.
        leaves: what a set-up function leaves on its arguments, and what to read instead.
        row: the row that it is; None where it is not recognised.
        found: the facts; None outside of functions.
    """

    name: str
    line: int
    status: str
    known_by: str = ""
    ours: str = ""
    write: str = ""
    note: str = ""
    leaves: tuple[tuple[str, str], ...] = ()
    row: Row | None = None
    found: Found | None = None


def recognise(module: Module) -> list[Recognition]:
    """What each function and class of a file is, and each call outside of them; by line."""
    each = [_recognised(found) for found in module.found]
    each = list(_without_noise(_with_helpers(each)))
    return sorted([*_inline(module), *each], key=lambda one: one.line)


def row_of(found: Found) -> tuple[Row, str] | None:
    """The row that a function is, and by what it is known."""
    by_name = [row for row in _named(found) if _fits(row, found, row.must)]
    if by_name:
        return _strictest(by_name, [row.must for row in by_name]), "name and body"
    if found.kind == "method":
        return None  # What it does to its object, a body does not tell.
    by_body = [row for row in ROWS if row.alone and _is_nothing_else(row, found)]
    if by_body:
        return _strictest(by_body, [row.alone for row in by_body]), "body"
    return None


def _strictest(rows: Sequence[Row], required: Sequence[tuple[str, ...]]) -> Row:
    return max(zip(rows, required, strict=True), key=lambda pair: len(pair[1]))[0]


def _fits(row: Row, found: Found, required: Iterable[str]) -> bool:
    if not _is_of_kind(row, found) or (row.never and has(found.marks, row.never)):
        return False
    return has_all(found.marks, required)


def _is_nothing_else(row: Row, found: Found) -> bool:
    """Whether a body is small, fits, and does nothing of ranks beside, nor calls anything else."""
    if not _fits(row, found, row.alone):
        return False
    asks = "" if row.alone[0].startswith("returns.dist.") else ASKING
    allowed = "|".join((*row.alone, row.may if row.kind == "class" else "", NEUTRAL, asks, "env.*"))
    allowed = f"{allowed}|{row.alone[0].removeprefix('returns.')}"
    strange = [mark for mark in _about_ranks(found.marks) if not has((mark,), allowed)]
    if found.kind == "class":
        return not strange
    return not strange and found.size <= SMALL and not unusual_calls(found)


def unusual_calls(found: Found) -> list[str]:
    """What a body calls that is not there for any collective: a name alone may hide everything."""
    of_torch = {mark.rpartition(".")[2] for mark in found.direct if has((mark,), ABOUT_RANKS)}
    called = (mark.partition(".")[2] for mark in found.direct if mark.startswith("call."))
    return [
        name
        for name in called
        if not ORDINARY.fullmatch(name)
        and name not in of_torch
        and not any(row.is_called(name) for row in ASK)
    ]


def _about_ranks(marks: Iterable[str]) -> list[str]:
    return sorted(mark for mark in marks if has((mark,), ABOUT_RANKS))


def _recognised(found: Found) -> Recognition:
    known = row_of(found)
    if known is None:
        return _unknown(found)
    row, how = known
    note = "; ".join(part for part in (row.differs, *_words(row, found, how)) if part)
    return Recognition(
        found.name,
        found.line,
        RECOGNISED,
        how,
        row.ours,
        row.line,
        note,
        _leaves(row, found),
        row,
        found,
    )


def _leaves(row: Row, found: Found) -> tuple[tuple[str, str], ...]:
    if row.ours != "setup":
        return ()
    return tuple((f"{name}.{one}", what_to_read(one)) for name, one in found.leaves)


def _words(row: Row, found: Found, how: str) -> Iterator[str]:
    """What a reader has to look at: a name for another thing, and what the body has beside."""
    if how == "body" and is_named_otherwise(found):
        yield f"its name is that of {_ours(_named(found)[0])}, but its body is this"
    if extra := extra_of(row, found):
        yield f"ours has no {', '.join(extra)}: keep the class while you need that"
    if also := beside(row, found):
        yield f"its body also has {_shown(also)}: look"


def extra_of(row: Row, found: Found) -> list[str]:
    """What a class has that ours, which could take its place, has not: methods and arguments."""
    counts = dict(one.split("/") for one in row.like.split())
    extra = []
    for method in [one for one in found.node.body if isinstance(one, Function) and counts]:
        arguments = [*parameters_of(method)[1:], *(one.arg for one in method.args.kwonlyargs)]
        if method.name not in counts:
            extra.append(method.name)
        extra += [f"{method.name}({one})" for one in arguments[int(counts.get(method.name, 99)) :]]
    return extra


def is_replaced_whole(row: Row, found: Found) -> bool:
    """Whether a class of ours takes the place of this one, so that its methods go with it."""
    return bool(row.like) and not extra_of(row, found)


def beside(row: Row, found: Found) -> list[str]:
    """What a function does with ranks beside what its row is about; of its helpers' only XLA's."""
    allowed = "|".join((*row.must, row.may, NEUTRAL, ASKING))
    other = {mark for mark in found.marks if has((mark,), "xla.*")}
    return [mark for mark in _about_ranks(found.direct | other) if not has((mark,), allowed)]


def _unknown(found: Found) -> Recognition:
    """A function that is not known; with a word where its name alone would be."""
    about = _about_ranks(found.direct)
    status = UNKNOWN if about else NO_RANKS
    note = _hints(about)
    if named := _named(found):
        does = f"has {_shown(about)}" if about else "has nothing of ranks"
        note = f"only its name is that of {_ours(named[0])}: its body {does}"
        note += f"; look whether this will do: {named[0].line}" if about and named[0].line else ""
    return Recognition(found.name, found.line, status, note=note, found=found)


def _named(found: Found) -> list[Row]:
    """The rows that a name alone would stand for."""
    last = found.name.rpartition(".")[2]
    return [row for row in ROWS if row.is_called(last) and _is_of_kind(row, found)]


def is_named_otherwise(found: Found) -> bool:
    """Whether a function that is known by its body has the name of something else."""
    return bool(_named(found))


def _is_of_kind(row: Row, found: Found) -> bool:
    return found.kind == row.kind or (row.kind == "function" and found.kind == "method")


def _ours(row: Row) -> str:
    return f"allranks.{row.ours}" if row.ours else "what is no longer needed"


def _hints(about: Sequence[str]) -> str:
    """For a function that is not known: its calls, with ours for those that have one."""
    lines = dict(CALLS)
    told = [f"{_plainly(mark)} is {lines[mark]}" for mark in about if mark in lines]
    return f"in it, {'; '.join(told)}" if told else _shown(about)


def _shown(marks: Sequence[str]) -> str:
    return ", ".join(map(_plainly, marks))


def _plainly(mark: str) -> str:
    words = {
        "print=": "a print of its own",
        "stdout=": "a stdout of its own",
        "own-group": "a group of its own",
    }
    return words.get(mark, mark.removeprefix("env."))


def _with_helpers(each: Sequence[Recognition]) -> list[Recognition]:
    """Private functions that serve only such as are recognised go with them."""
    goes = {one.name for one in each if one.status == RECOGNISED}
    while more := {_unit(one.name) for one in each if _serves(one, each, goes)} - goes:
        goes |= more
    serving = [one.status == UNKNOWN and _serves(one, each, goes) for one in each]
    return [
        _as_helper(one, each) if serves else one for one, serves in zip(each, serving, strict=True)
    ]


def _serves(one: Recognition, each: Sequence[Recognition], goes: set[str]) -> bool:
    private = _unit(one.name).rpartition(".")[2].startswith("_")
    if one.status not in (UNKNOWN, NO_RANKS) or not private:
        return False
    users = _users(one, each)
    return bool(users) and users <= goes


def _users(one: Recognition, each: Sequence[Recognition]) -> set[str]:
    unit = _unit(one.name)
    users = (_unit(other.name) for other in each if other.found and unit in other.found.uses)
    return {*users} - {unit}


def _unit(name: str) -> str:
    """What goes or stays as one: a private class with its methods, else a function by itself."""
    first = name.partition(".")[0]
    return first if first.startswith("_") else name


def _as_helper(one: Recognition, each: Sequence[Recognition]) -> Recognition:
    users = ", ".join(sorted(_users(one, each)))
    return one._replace(status=HELPER, note=f"serves {users} alone, and goes with it")


def _without_noise(each: Sequence[Recognition]) -> Iterator[Recognition]:
    """No methods of a class that goes as a whole, or has none about ranks; no class beside them."""
    classes = {one.name for one in each if one.found and one.found.kind == "class" and one.row}
    telling = {
        one.name.rpartition(".")[0]
        for one in each
        if one.found and one.found.kind == "method" and one.status != NO_RANKS
    }
    whole = {
        one.name for one in each if one.row and one.found and is_replaced_whole(one.row, one.found)
    }
    for one in each:
        owner = one.name.rpartition(".")[0]
        if owner in whole:
            continue
        if owner and one.status == NO_RANKS:
            continue
        if owner in classes and (one.row is None or one.row.kind != "method"):
            continue
        if one.name in telling and not one.row:
            continue
        yield one


def _inline(module: Module) -> Iterator[Recognition]:
    lines = dict(CALLS)
    for mark, line in module.inline.items():
        if mark in lines:
            write = lines[mark]
            ours = write.partition("(")[0].removeprefix("allranks.")
            yield Recognition(_plainly(mark), line, INLINE, "", ours, write, "in no function")
