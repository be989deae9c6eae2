"""What this rank has in flight: from torch's Flight Recorder, and the exchanges it does not see.

Torch's recorder must not be read while a group makes its first call, or is made: it reads the list
of groups without its lock (torch 2.13), and the process ends by a segmentation fault. So it is read
only where a call may have stopped, never as long as a program goes on.
"""

from __future__ import annotations

import json
import pickle
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from allranks._system import stacks
from allranks._system.stacks import SourceLine

if TYPE_CHECKING:
    from collections.abc import Iterator

BUFFER = "TORCH_FR_BUFFER_SIZE"
"""The variable by which torch learns, before its first group, how many calls to remember."""

NCCLS = "TORCH_NCCL_TRACE_BUFFER_SIZE"
"""Its older name, which torch heeds where the other is not set."""

REMEMBERED = "500"
"""Calls to remember: torch takes some 10 ms to tell them, with the interpreter's lock held."""

KEPT = 500
"""Exchanges between ranks of a host that are remembered."""

CARRIER = "gloo_channel.py"
"""The file of ours that sends headers by torch's calls, and which of their frames it can be."""
NEAR = 4

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


class RecordedCollective(NamedTuple):
    """A collective as the recorder has it.

    Attributes:
        group_id: the recorder, and the group's number in this process.
        group: the group's name, the same on all its ranks.
        number: the number of the collective within its group, from 1 on.
        op: its name.
        data: dtypes and shapes.
        line: the program's line, or "".
        at: when it was called, in seconds since the epoch.
        over: whether it has ended.
        ended: when, on the same clock; 0.0 where that is not known.
        is_exchange: whether it is one of ours, which torch does not see, or carries a header.
    """

    group_id: str
    group: str
    number: int
    op: str
    data: str
    line: str
    at: float
    over: bool
    ended: float = 0.0
    is_exchange: bool = False


@dataclass
class HostExchange:
    """What the ranks of a host tell each other of a call.

    Attributes:
        group: the group's name.
        number: its number within the group, from 1 on.
        op: the call in words.
        line: the program's line.
        at: when it was made, in seconds since the epoch.
        over: whether it has ended.
        ended: when it had its answer, on the same clock; 0.0 before.
    """

    group: str
    number: int
    op: str
    line: SourceLine | None
    at: float
    over: bool = False
    ended: float = 0.0

    @property
    def group_id(self) -> str:
        """As in RecordedCollective."""
        return f"host {self.group}"

    def recorded(self) -> RecordedCollective:
        """As what torch's recorders tell."""
        line = str(self.line or "")
        return RecordedCollective(
            self.group_id,
            self.group,
            self.number,
            self.op,
            "",
            line,
            self.at,
            self.over,
            self.ended,
            is_exchange=True,
        )


_exchanges: deque[HostExchange] = deque(maxlen=KEPT)
_last: dict[str, HostExchange] = {}
"""Of each group, the last exchange."""


def begin(group: str, number: int, op: str) -> HostExchange:
    """Note an exchange that torch does not see; its maker says when it is over."""
    begun = HostExchange(group, number, op, stacks.caller(), time.time())
    _exchanges.append(begun)
    _last[group] = begun
    return begun


def last_exchanges() -> list[HostExchange]:
    """Of each group."""
    return list(_last.values())


def forget_group(group: str) -> None:
    """The group was destroyed: it has no last exchange any more."""
    _last.pop(group, None)


def forget() -> None:
    """The groups are gone, and later ones may have their names."""
    _exchanges.clear()
    _last.clear()


def _recorders() -> list[tuple[str, Any, Any]]:
    """The recorders of torch, of gloo and of NCCL; there is no public way to read them here.

    Each with what it tells as JSON, which is quick, and with what it tells with stacks.
    """
    from torch._C import _distributed_c10d

    found = []
    for name in ("fr", "nccl"):
        quick = getattr(_distributed_c10d, f"_dump_{name}_trace_json", None)
        whole = getattr(_distributed_c10d, f"_dump_{name}_trace", None)
        if quick and whole:
            found.append((name, quick, whole))
    return found


def why_blind() -> str | None:
    """Why collectives cannot be seen here; None if they can. To be asked before a group is up."""
    try:
        told = [json.loads(quick(includeCollectives=False)) for _, quick, _ in _recorders()]
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        return f"this version of torch does not tell what is in flight ({error})"
    return None if told and all("version" in one for one in told) else "torch has no recorder"


def why_gloo_is_unseen() -> str | None:
    """Why calls on gloo alone cannot be seen here, where others can; None if all can."""
    import torch

    if "fr" in {name for name, _, _ in _recorders()}:
        return None
    return f"torch {torch.__version__} records the calls of NCCL alone (2.9.1 records gloo's, too)"


def horizon() -> float:
    """Since when all exchanges are remembered, in seconds since the epoch."""
    return _exchanges[0].at if len(_exchanges) == KEPT else 0.0


class FlightRecord(NamedTuple):
    """What is remembered, and what of the rest is known.

    Attributes:
        collectives: the collectives and exchanges, oldest first.
        made: how many each group has made, by the group's id; None where that is not known.
    """

    collectives: list[RecordedCollective]
    made: dict[str, int | None]


def remembered() -> FlightRecord:
    """The collectives and exchanges, but no messages from rank to rank."""
    told = [one.recorded() for one in list(_exchanges)]
    made: dict[str, int | None] = {one.group_id: one.number for one in last_exchanges()}
    with _inductor_unasked():
        for name, _, whole in _recorders():
            dump = pickle.loads(whole(includeStackTraces=True))  # noqa: S301 - of our own process
            entries = dump.get("entries", ())
            collectives = [_as_recorded(name, one) for one in entries if not one["is_p2p"]]
            told += collectives
            made |= {f"{name}{group}": count for group, count in _forgotten(dump).items()}
            made |= {one.group_id: one.number for one in collectives}
    return FlightRecord(sorted(told, key=lambda one: one.at), made)


def _forgotten(dump: dict[str, Any]) -> dict[str, int | None]:
    """Count, for each group whose calls are all forgotten, the collectives that it made.

    Torch's count of such a group may include messages: then there are more than were recorded.
    """
    entries = [one for one in dump.get("entries", ()) if not one["is_p2p"]]
    first = {str(one["pg_id"]): one["collective_seq_id"] for one in reversed(entries)}
    counts = {
        group: int(status["last_enqueued_collective"])
        for group, status in dump.get("pg_status", {}).items()
        if str(group) not in first
    }
    recorded = dump["entries"][0]["record_id"] if entries else 0
    exact = sum(counts.values()) + sum(one - 1 for one in first.values()) <= recorded
    return {str(group): count if exact else None for group, count in counts.items()}


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


def _as_recorded(recorder: str, entry: dict[str, Any]) -> RecordedCollective:
    """What matters of an entry of torch's recorder."""
    name, kind = entry["process_group"]
    frames = entry.get("frames", ())
    line = stacks.of_the_program(SourceLine(f["filename"], f["line"], f["name"]) for f in frames)
    return RecordedCollective(
        f"{recorder}{entry['pg_id']}",
        "WORLD" if kind == "default_pg" else name,
        entry["collective_seq_id"],
        entry["profiling_name"].rpartition(":")[2],
        _data(entry["input_dtypes"], entry["input_sizes"]),
        str(line or ""),
        entry["time_created_ns"] / 1e9,
        bool(entry.get("retired")) or entry.get("state") == "completed",
        is_exchange=any(f["filename"].endswith(CARRIER) for f in frames[:NEAR]),
    )


def _data(dtypes: list[str], sizes: list[list[int]]) -> str:
    told = [f"{DTYPES.get(d, d)}{s}" for d, s in zip(dtypes, sizes, strict=False)]
    return ", ".join(told[:2]) + (f" and {len(told) - 2} more" if len(told) > 2 else "")
