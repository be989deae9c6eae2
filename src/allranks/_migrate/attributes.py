"""What a set-up function leaves on its parameters, as in ``args.rank = ...``, and what to read."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from allranks._migrate.marks import Function, dotted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DEVICE = "torch.device(allranks.get_device_for_local_rank())"

ATTRIBUTES = {
    "rank": "allranks.get_rank()",
    "global_rank": "allranks.get_rank()",
    "world_size": "allranks.get_world_size()",
    "gpu": f"{DEVICE}.index",
    "local_rank": "allranks.get_local_rank()",
    "local_world_size": "allranks.get_local_world_size()",
    "node_rank": "allranks.get_node_rank()",
    "device": DEVICE,
    "distributed": "allranks.get_world_size() > 1",
    "is_master": "allranks.is_master()",
    "is_main_process": "allranks.is_master()",
    "dist_backend": "",
    "dist_url": "",
    "master_addr": "",
    "master_port": "",
}
"""What set-up functions leave on their arguments, and what it is; "" where nobody reads it."""


def left_on(node: ast.AST, functions: Mapping[str, ast.AST]) -> dict[tuple[str, str], None]:
    """The parameters of a function and the attributes that it sets on them, in their order.

    Args:
        node: the definition.
        functions: the file's other functions: one that gets the parameter may set some, too.
    """
    found: dict[tuple[str, str], None] = {}
    if isinstance(node, Function):
        for parameter in parameters_of(node):
            each = _set_on(node, parameter, functions, frozenset({node.name}))
            found.update({(parameter, name): None for name in each})
    return found


def parameters_of(node: Function) -> list[str]:
    """The names of the parameters that may be given by their places."""
    return [one.arg for one in (*node.args.posonlyargs, *node.args.args)]


def _set_on(
    node: ast.AST, parameter: str, functions: Mapping[str, ast.AST], seen: frozenset[str]
) -> Iterator[str]:
    for one in ast.walk(node):
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store):
            if dotted(one.value, {}) == parameter:
                yield one.attr
        elif isinstance(one, ast.Call):
            yield from _set_by_call(one, parameter, functions, seen)


def _set_by_call(
    call: ast.Call, parameter: str, functions: Mapping[str, ast.AST], seen: frozenset[str]
) -> Iterator[str]:
    """What ``setattr(args, "rank", ...)`` sets, and another function of the file."""
    name = dotted(call.func, {})
    given = [dotted(one, {}) for one in call.args]
    if name == "setattr" and given[:1] == [parameter] and len(call.args) > 1:
        if isinstance(call.args[1], ast.Constant):
            yield str(call.args[1].value)
        return
    other = functions.get(name)
    if name in seen or not isinstance(other, Function):
        return
    for one, theirs in zip(given, parameters_of(other), strict=False):
        if one == parameter:
            yield from _set_on(other, theirs, functions, seen | {name})


def what_to_read(attribute: str) -> str:
    """For people: what stands for an attribute that a set-up function has left."""
    if attribute not in ATTRIBUTES:
        return "(ours sets nothing of that name: set it yourself)"
    return ATTRIBUTES[attribute] or "(nothing: no longer needed)"
