"""What callers ask for: a reduction in any spelling, a flag; and how an argument is shown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from allranks._system.printable import brief_repr

if TYPE_CHECKING:
    from typing import TypeAlias

    import torch.distributed as dist

    Op: TypeAlias = str | dist.ReduceOp | dist.ReduceOp.RedOpType
    """A reduction, in any spelling."""

OPS = ("sum", "mean", "min", "max", "prod", "band", "bor", "bxor")

BITWISE = ("band", "bor", "bxor")
"""Those that combine the bits of integers, or booleans."""

OTHER_NAMES = {"product": "prod", "avg": "mean", "average": "mean"}
"""As torch and others spell them, in small letters."""


def named_op(op: object, *, average: object) -> str:
    """The reduction that is asked for; what cannot be is told by ``why_no_such_op``."""
    if average is False and type(op) is str and op in OPS:  # Every small call passes here.
        return op
    asked = _as_ours(op)
    wanted, unclear = truth("average", average)
    if unclear:
        return f"{asked} with average={shown(average)}"
    if not wanted:
        return asked
    return "mean" if asked in ("sum", "mean") else f"{asked} with average=True"


def _as_ours(op: object) -> str:
    """An op in our spelling, where we have it; else as it was given."""
    if isinstance(op, str):
        asked = str.__str__(op)
        name = asked.lower().removeprefix("reduceop.")
    elif name := _of_torch(op):
        asked = name
    else:
        return shown(op)
    name = OTHER_NAMES.get(name, name)
    return name if name in OPS else asked


def _of_torch(op: object) -> str:
    """The name of a ``torch.distributed.ReduceOp`` in small letters; "" for anything else."""
    torchs: Any = sys.modules.get("torch.distributed")
    kind = getattr(torchs, "ReduceOp", None)
    if kind is None or not isinstance(op, kind):
        return ""
    return next((name.lower() for name in vars(kind.RedOpType) if _is(op, kind, name)), "")


def _is(op: object, kind: Any, name: str) -> bool:
    return name.isupper() and bool(op == getattr(kind, name))


def truth(name: str, flag: object) -> tuple[bool, str | None]:
    """Whether an argument is true, or False and why that cannot be told."""
    try:
        return bool(flag), None
    except Exception as error:  # noqa: BLE001 - an array, say; it is an error on all ranks
        why = f"{name}={shown(flag)} is neither true nor false: {type(error).__name__}"
        return False, why


def shown(thing: object) -> str:
    """What is no text, for an error: as it shows itself, or its type alone where it cannot."""
    return f"{brief_repr(thing)} ({type(thing).__name__})"


def why_no_such_op(op: str) -> str | None:
    """Why there is no such reduction; None if there is."""
    return None if op in OPS else f"op={op:.80} is none of {', '.join(OPS)}"
