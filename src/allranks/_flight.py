"""What this rank has in flight, from torch's Flight Recorder, which sees every collective."""

from __future__ import annotations

import json
import pickle
from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks import _stacks
from allranks._stacks import Line

if TYPE_CHECKING:
    from collections.abc import Iterator

BUFFER = "TORCH_FR_BUFFER_SIZE"
"""The variable by which torch learns, before its first group, how many calls to remember."""

REMEMBERED = "500"
"""Calls to remember: torch takes some 10 ms to tell them, with the interpreter's lock held."""

DTYPES = {
    "Float": "float32",
    "Double": "float64",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Byte": "uint8",
    "Char": "int8",
    "Short": "int16",
    "Int": "int32",
    "Long": "int64",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}


class Flown(NamedTuple):
    """A collective as the recorder has it.

    Attributes:
        group_id: the group's number in this process.
        group: the group's name, the same on all its ranks.
        number: the how manieth collective of the group it is, from 1 on.
        op: its name.
        data: dtypes and shapes.
        line: the program's line, or "".
        at: when it was called, in seconds since the epoch.
    """

    group_id: int
    group: str
    number: int
    op: str
    data: str
    line: str
    at: float


def _recorder() -> Any:
    """Torch's own module with the recorder: there is no public way to read it in a process."""
    from torch._C import _distributed_c10d

    return _distributed_c10d


def why_blind() -> str | None:
    """Why collectives cannot be seen here; None if they can."""
    try:
        status = json.loads(_recorder()._dump_fr_trace_json(includeCollectives=False))  # noqa: SLF001
        pickle.loads(_recorder()._dump_fr_trace(includeCollectives=False))  # noqa: S301, SLF001
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        return f"this version of torch does not tell what is in flight ({error})"
    return None if "version" in status else "the Flight Recorder's answer is of another kind"


def progress() -> dict[int, tuple[int, int]]:
    """Of each group that made a collective: how many were called, and how many are complete."""
    told = json.loads(_recorder()._dump_fr_trace_json(includeCollectives=False))  # noqa: SLF001
    return {
        int(group): (
            int(status["last_enqueued_collective"]),
            int(status["last_completed_collective"]),
        )
        for group, status in told.get("pg_status", {}).items()
    }


def flown() -> list[Flown]:
    """The collectives that the recorder remembers, oldest first."""
    with _inductor_unasked():
        dump = _recorder()._dump_fr_trace(includeStackTraces=True)  # noqa: SLF001
    told = pickle.loads(dump)  # noqa: S301 - from our own process
    entries = [entry for entry in told.get("entries", ()) if not entry["is_p2p"]]
    return [_flown(entry) for entry in sorted(entries, key=lambda entry: entry["record_id"])]


@contextmanager
def _inductor_unasked() -> Iterator[None]:
    """Torch asks its compiler about each line of a stack, and imports it for that (1.2 s measured).

    Where the compiler is not imported it knows no line; an import statement in another thread is
    not affected, since it does not look at torch's attribute.
    """
    import torch

    if "_inductor" in vars(torch):
        yield
        return
    unknown = SimpleNamespace(stack_frames_for_code=lambda *_: None)
    stand_in = SimpleNamespace(codecache=SimpleNamespace(PyCodeCache=unknown))
    torch._inductor = stand_in  # type: ignore[assignment]  # noqa: SLF001
    try:
        yield
    finally:
        if vars(torch).get("_inductor") is stand_in:
            del torch._inductor  # noqa: SLF001


def _flown(entry: dict[str, Any]) -> Flown:
    name, kind = entry["process_group"]
    frames = entry.get("frames", ())
    line = _stacks.of_the_program(Line(f["filename"], f["line"], f["name"]) for f in frames)
    return Flown(
        entry["pg_id"],
        "WORLD" if kind == "default_pg" else name,
        entry["collective_seq_id"],
        entry["profiling_name"].rpartition(":")[2],
        _data(entry["input_dtypes"], entry["input_sizes"]),
        str(line or ""),
        entry["time_created_ns"] / 1e9,
    )


def _data(dtypes: list[str], sizes: list[list[int]]) -> str:
    told = [f"{DTYPES.get(d, d)}{s}" for d, s in zip(dtypes, sizes, strict=False)]
    return ", ".join(told[:2]) + (f" and {len(told) - 2} more" if len(told) > 2 else "")
