"""One rank of ``allranks.launch``: calls a function, and sends its result or its exception."""

from __future__ import annotations

import atexit
import gc
import io
import mmap
import os
import pickle
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from allranks import _alarm
from allranks._buffers import dump, empty, load, reduce, sizes
from allranks._groups import rest_before_exit
from allranks._template import (
    Server,
    become_a_fresh_process,
    control_from_arguments,
    preload,
    write_stacks_to,
)
from allranks.errors import RankFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


FILE: type = io.IOBase.__bases__[0]
"""What all kinds of files derive from; io.IOBase itself takes 3 ms to ask all things (measured)."""


@dataclass(frozen=True)
class Call:
    """A function to be called on every rank, and where it finds its world.

    Attributes:
        function: the function and its arguments, by cloudpickle: made last, after the rest.
        environs: each rank's own variables.
        environ: the caller's variables.
        directory: the caller's working directory.
        path: where the caller finds its modules.
    """

    function: bytes
    environs: Sequence[Mapping[str, str]]
    environ: Mapping[str, str]
    directory: str
    path: Sequence[str]

    @classmethod
    def of(cls, function: Callable[[], Any], environs: Sequence[Mapping[str, str]]) -> Call:
        """A call of this function, from here."""
        import cloudpickle

        packed = cloudpickle.dumps(function)
        return cls(packed, environs, dict(os.environ), str(Path.cwd()), list(sys.path))

    def enter(self, rank: int) -> None:
        """Take over the caller's surroundings, and this rank's own."""
        os.environ.clear()
        os.environ.update({**self.environ, **self.environs[rank]})
        os.chdir(self.directory)
        sys.path[:] = self.path

    def make(self) -> Any:
        """Call the function."""
        return pickle.loads(self.function)()  # noqa: S301 - from our own caller


def run(order: dict[str, int], files: list[int]) -> NoReturn:
    """Be one rank, once: what the template's forks do."""
    payload, result, out, err, stacks = files
    with mmap.mmap(payload, 0, access=mmap.ACCESS_READ) as text:
        call = pickle.loads(text)  # noqa: S301 - from our own caller
    call.enter(order["rank"])
    become_a_fresh_process(order["ranks"], (out, err), keep_stdin=False)
    write_stacks_to(stacks)
    with Connection(result, readable=False) as connection:
        code = _answer(connection, call, order["rank"])
    leave(code)


def _answer(connection: Connection, call: Call, rank: int) -> int:
    try:
        buffers = dump_anything(call.make())
    except SystemExit as leaving:
        return _exit_code(leaving)
    except BaseException as error:  # noqa: BLE001 - the caller raises it
        _alarm.announce(error)
        send(connection, "error", dump_error(error, rank))
        return 1
    send(connection, "value", buffers)
    return 0


def _exit_code(leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return leaving.code or 0
    sys.stderr.write(f"{leaving.code}\n")
    return 1


def leave(code: int) -> NoReturn:
    """End a forked rank as an interpreter would, but for taking itself to pieces."""
    atexit.unregister(rest_before_exit)  # Nothing that a thread of gloo's may need goes away.
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - joins the threads
    atexit._run_exitfuncs()  # noqa: SLF001 - what the interpreter would run
    for thing in gc.get_objects():
        if issubclass(type(thing), FILE):
            with suppress(OSError, ValueError):
                thing.flush()
    os._exit(code)


def send(connection: Connection, kind: str, buffers: Sequence[Any]) -> None:
    """Send buffers of known sizes, each once."""
    connection.send((kind, sizes(buffers)))
    for buffer in buffers:
        connection.send_bytes(buffer)


def receive(connection: Connection) -> tuple[str, Any]:
    """What a rank sent: ("value", its result) or ("error", its exception).

    Raises:
        EOFError: the rank ended without a word.
    """
    kind, lengths = connection.recv()
    buffers = empty(lengths)
    for buffer in buffers:
        connection.recv_bytes_into(buffer)
    return kind, load(buffers)


def dump_anything(value: Any) -> list[Any]:
    """A value's buffers, by cloudpickle: functions and classes of a notebook too."""
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # untyped
        def reducer_override(self, obj: Any) -> Any:
            reduced = reduce(obj)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

    return dump(value, Pickler)


def dump_error(error: BaseException, rank: int) -> list[Any]:
    """An exception's buffers, with its traceback; one that pickle cannot carry is described."""
    from tblib import pickling_support

    try:
        pickling_support.install(error)
        buffers = dump_anything(error)
        copy = load(buffers)
    except Exception:  # noqa: BLE001 - whatever its own __reduce__ does
        copy = None
    if type(copy) is type(error):
        return buffers
    text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    told = f"rank {rank} raised {name}, which pickle cannot carry. There:\n{text}"
    return dump_anything(RankFailedError(told, rank=rank))


def main() -> NoReturn:
    """Be a template for functions, in a fresh interpreter."""
    control = control_from_arguments()
    preload()
    Server(control, run).serve()
    raise SystemExit(0)
