"""What a piece of code does with ranks, as marks: short words that rows ask for.

``dist.barrier`` (a name of torch.distributed), ``env.RANK`` (a launcher's variable), ``call.seed``
(something of that name is called), ``other.wandb.init`` (of a module that has little to do with
ranks), ``print=`` (print is replaced), ``rank==0`` and ``rank!=0`` (a rank is compared),
``divides``, ``loops``, ``grad``, ``pickle``, ``group`` (a variable that is called so), ``yield``,
``nested`` (a function within).

``returns``, or ``silent``; ``returns.dist.get_rank``: the thing itself is returned;
``returns:rank,size`` and ``returns []`` say of what form it is, ``returns-list`` that it is a
list. ``takes.op`` is a parameter, ``default.op`` one whose default is a word, ``self.sum`` an
attribute that a method sets. A class has ``base.Function`` and ``method.update``. ``arguments``
says which marks tell of parameters.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

PLACES = (
    ("torch.distributed.distributed_c10d", "dist"),
    ("torch.distributed.nn.functional", "dist.nn"),
    ("torch.distributed", "dist"),
    ("deepspeed.comm", "dist"),
    ("mpi4py", "mpi"),
    ("horovod", "hvd"),
    ("torch_xla", "xla"),
)
"""What names begin with that are about ranks, and what their marks begin with."""

ABOUT_RANKS = "dist.*|env.*|mpi.*|hvd.*|xla.*|print=|stdout=|own-group"

VARIABLES = re.compile(
    r"(LOCAL_|NODE_|GROUP_)?RANK|(LOCAL_)?WORLD_SIZE|LOCAL_SIZE|MASTER_(ADDR|PORT)|MPI_LOCAL\w+"
    r"|(SLURM|OMPI|PMI|PMIX|MV2|TORCHELASTIC|JSM|FLUX|PALS)_\w+"
)
"""The launchers' variables."""

USUAL = re.compile(
    r"_*(builtins?|contextlib|datetime|functools|io|logging|math|mpi4py|numpy|os|packaging|pickle"
    r"|platform|random|re|socket|subprocess|sys|tempfile|time|torch|typing|warnings)(\..*)?"
)
"""Modules whose calls a set-up function can do without."""


def marks_of(nodes: Iterable[ast.AST], names: Mapping[str, str]) -> dict[str, int]:
    """The marks of some code, each with the line where it is first found.

    Args:
        nodes: statements.
        names: what each name of the file stands for, by its imports.
    """
    found: dict[str, int] = {}
    statements = list(nodes)
    environs = any(_is_environ(node, names) for one in statements for node in ast.walk(one))
    for statement in statements:
        for node, mark in _marks(statement, names):
            if environs or not mark.startswith("env."):
                found.setdefault(mark, getattr(node, "lineno", 0))
    return found


def own_marks(function: Function, names: Mapping[str, str]) -> set[str]:
    """The marks of what a function does itself, and not one that is defined in it."""
    marks: set[str] = set()
    nodes = list(_own(function.body))
    for node in nodes:
        if isinstance(node, ast.Yield | ast.YieldFrom):
            marks.add("yield")
        elif isinstance(node, Function):
            marks.add("nested")
        elif isinstance(node, ast.Return) and node.value is not None:
            marks.update(_returned(node.value, names))
    if _returns_list(nodes):
        marks.add("returns-list")
    return marks if "returns" in marks else marks | {"silent"}


def _returns_list(nodes: Sequence[ast.AST]) -> bool:
    """Whether what a function returns is a list; the result of a call may be anything."""
    assigned: dict[str, list[ast.AST]] = {}
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                assigned.setdefault(dotted(target, {}), []).append(node.value)
    returned = [node.value for node in nodes if isinstance(node, ast.Return) and node.value]
    values = [made for value in returned for made in assigned.get(dotted(value, {}), [value])]
    return any(map(_is_list, values)) and not any(isinstance(one, ast.Call) for one in values)


def _is_list(node: ast.AST) -> bool:
    return isinstance(node, ast.ListComp | ast.List)


def dotted(node: ast.AST, names: Mapping[str, str]) -> str:
    """A name with its dots, as its import spells it; "" for what is none."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        before = dotted(node.value, names)
        return f"{before}.{node.attr}" if before else ""
    return ""


def _marks(node: ast.AST, names: Mapping[str, str]) -> Iterator[tuple[ast.AST, str]]:
    """All marks of a node and of those within it; the longest of a name with dots."""
    yield from ((node, mark) for mark in _marks_of_one(node, names))
    name = dotted(node, names)
    place = place_of(name)
    if place:
        yield node, place
    if not name or not place:
        for child in ast.iter_child_nodes(node):
            yield from _marks(child, names)


def _marks_of_one(node: ast.AST, names: Mapping[str, str]) -> Iterator[str]:
    if isinstance(node, ast.Call):
        yield from _of_call(node, names)
    elif isinstance(node, ast.Compare):
        yield from _of_compare(node)
    elif isinstance(node, ast.Assign):
        yield from _of_targets(node.targets, names)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not) and _is_rank(node.operand):
        yield "rank==0"
    elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div):
        yield "divides"
    elif isinstance(node, ast.For | ast.comprehension):
        yield "loops"
    else:
        yield from _of_word(node)


def _of_word(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Attribute) and node.attr == "grad":
        yield "grad"
    elif isinstance(node, ast.Name) and "group" in node.id.lower():
        yield "group"
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield from ([f"env.{node.value}"] if VARIABLES.fullmatch(node.value) else [])


def _of_call(node: ast.Call, names: Mapping[str, str]) -> Iterator[str]:
    name = dotted(node.func, names)
    last = node.func.attr if isinstance(node.func, ast.Attribute) else name.rpartition(".")[2]
    if last:
        yield f"call.{last}"
    if name.startswith(("pickle.", "cPickle.", "dill.", "cloudpickle.")):
        yield "pickle"
    if last in ("div", "div_", "true_divide"):
        yield "divides"
    if _is_imported(node.func, names) and not USUAL.fullmatch(name):
        yield f"other.{name}"


def _is_imported(node: ast.AST, names: Mapping[str, str]) -> bool:
    while isinstance(node, ast.Attribute):
        node = node.value
    return isinstance(node, ast.Name) and node.id in names


def _of_compare(node: ast.Compare) -> Iterator[str]:
    left, right, how = node.left, node.comparators[0], node.ops[0]
    if not (_is_rank(left) and _has_zero(right)) and not (_is_rank(right) and _has_zero(left)):
        return
    same = isinstance(how, ast.Eq | ast.In | ast.Is | ast.LtE)
    yield "rank==0" if same else "rank!=0"


def _of_targets(targets: Iterable[ast.AST], names: Mapping[str, str]) -> Iterator[str]:
    for target in targets:
        name = dotted(target, names).lstrip("_")
        if name in ("builtins.print", "builtin.print"):
            yield "print="
        elif name == "sys.stdout":
            yield "stdout="


def _is_rank(node: ast.AST) -> bool:
    """Whether a value is called a rank, as ``get_rank()``, ``args.rank``, ``environ["RANK"]``."""
    if isinstance(node, ast.Call):
        return _is_rank(node.func) or any(map(_is_rank, node.args))
    if isinstance(node, ast.Subscript):
        return _is_rank(node.slice)
    last = getattr(node, "attr", None) or getattr(node, "id", None) or getattr(node, "value", "")
    return isinstance(last, str) and last.lower().endswith(("rank", "procid", "rank_id"))


def _has_zero(node: ast.AST) -> bool:
    parts = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else [node]
    return any(
        isinstance(one, ast.Constant) and one.value in (0, "0") and one.value is not False
        for one in parts
    )


def _is_environ(node: ast.AST, names: Mapping[str, str]) -> bool:
    return dotted(node, names).endswith(("environ", "getenv"))


def place_of(name: str) -> str:
    """The mark of a name that is about ranks, or ""."""
    for begins, mark in PLACES:
        if name.startswith(f"{begins}."):
            return f"{mark}.{name[len(begins) + 1 :]}"
    return ""


def _returned(value: ast.AST, names: Mapping[str, str]) -> Iterator[str]:
    if isinstance(value, ast.Constant) and value.value is None:
        return
    yield "returns"
    if isinstance(value, ast.List) and not value.elts:
        yield "returns []"
    if isinstance(value, ast.Name):
        yield f"returns:{value.id}"
    if isinstance(value, ast.Tuple):
        yield f"returns:{','.join(dotted(one, {}) for one in value.elts)}"
    if isinstance(value, ast.BoolOp):
        for part in value.values:
            yield from _returned(part, names)
    thing = value.func if isinstance(value, ast.Call) else value
    for mark in (place_of(dotted(thing, names)), *_marks_of_one(value, names)):
        if mark:
            yield f"returns.{mark}"


def _own(nodes: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes, but those within functions and classes that are defined there."""
    for node in nodes:
        yield node
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            yield from _own(ast.iter_child_nodes(node))
