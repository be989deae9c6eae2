"""One rank of ``allranks.launch``: calls a function, and sends its result or its exception."""

from __future__ import annotations

import json
import mmap
import os
import pickle
import socket
import struct
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from allranks._collectives.pickling import dump_anything, dump_error, empty, load, sizes
from allranks._launch.leaving import leave_after
from allranks._launch.rank_process import exit_code
from allranks._launch.template import (
    TemplateServer,
    become_a_fresh_process,
    control_from_arguments,
    parent_from_arguments,
    preload,
    write_stacks_to,
)
from allranks._system import stacks
from allranks._watch import failures

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Mapping, Sequence


LENGTH = struct.Struct("=Q")
"""The length of what announces a result: its kind, and the sizes of its buffers."""

TURN = 1 << 24
"""Bytes of a result taken at a time: more than a socket holds of a rank that has ended."""


@dataclass(frozen=True)
class RemoteCall:
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
    def of(cls, function: Callable[[], Any], environs: Sequence[Mapping[str, str]]) -> RemoteCall:
        """A call of this function, from here."""
        import cloudpickle

        packed = cloudpickle.dumps(function)
        return cls(packed, environs, dict(os.environ), str(Path.cwd()), list(sys.path))

    @contextmanager
    def packed(self) -> Iterator[int]:
        """A file that holds the call, for the ranks to read.

        Yields:
            Its descriptor.

        Raises:
            OSError: there is no room for it; the error names the directory.
        """
        with tempfile.TemporaryFile(buffering=0) as file:
            left = memoryview(pickle.dumps(self))
            try:
                while left:
                    left = left[file.write(left) :]
            except OSError as error:
                error.filename = tempfile.gettempdir()
                raise
            yield file.fileno()

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
    leave_after(lambda: _answer(socket.socket(fileno=result), call, order["rank"]))


def _answer(connection: socket.socket, call: RemoteCall, rank: int) -> int:
    """Make the call, and send what comes of it; the exit code of this rank's process."""
    with connection:
        try:
            buffers = dump_anything(call.make())
        except SystemExit as leaving:
            return exit_code(leaving)
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            failures.announce(error)
            error.__traceback__ = stacks.without_starters(error.__traceback__)
            send(connection, "error", dump_error(error, rank))
            return 1
        send(connection, "value", buffers)
    return 0


def send(connection: socket.socket, kind: str, buffers: Sequence[Any]) -> None:
    """Send buffers of known sizes, each once."""
    lengths = sizes(buffers)
    announced = json.dumps([kind, lengths]).encode()
    connection.sendall(LENGTH.pack(len(announced)) + announced)
    for buffer, length in zip(buffers, lengths, strict=True):
        if length:  # Who has all hangs up, and nothing can be sent to it any more.
            connection.sendall(buffer)


class IncomingResult:
    """What a rank sends, taken as it comes: the rank may stop in the middle.

    Attributes:
        kind: "value" or "error", once all of it is here; None before.
        value: the rank's result, or its exception.
        file: the descriptor to which it is sent.
    """

    def __init__(self, file: int) -> None:
        """Prepare to receive.

        Args:
            file: the descriptor; it no longer blocks.
        """
        os.set_blocking(file, False)
        self.kind: str | None = None
        self.value: Any = None
        self.file = file
        self._parts = self._announced()
        self._unfilled = next(self._parts)

    def take(self) -> bool:
        """Take what is there, but no more than TURN, since others send too.

        Returns:
            Whether more is to come.

        Raises:
            EOFError: the rank ended before it had sent all.
            Exception: what the class of the result raises when it is made again.
        """
        taken = 0
        while self.kind is None and taken < TURN:
            try:
                length = os.readv(self.file, [self._unfilled])
            except BlockingIOError:
                break
            if not length:
                raise EOFError
            taken += length
            self._unfilled = self._unfilled[length:]
            self._go_on()
        return self.kind is None

    def _go_on(self) -> None:
        """Turn to the next part that is not filled; after the last one make the value."""
        while not len(self._unfilled):
            try:
                self._unfilled = next(self._parts)
            except StopIteration as end:
                self.kind, self.value = end.value
                return

    def _announced(self) -> Generator[memoryview, None, tuple[str, Any]]:
        """Every part, to be filled."""
        length = bytearray(LENGTH.size)
        yield memoryview(length)
        announced = bytearray(*LENGTH.unpack(length))
        yield memoryview(announced)
        kind, lengths = json.loads(announced)
        buffers = empty(lengths)
        for buffer in buffers:
            yield memoryview(buffer)
        return kind, load(buffers)


def main() -> NoReturn:
    """Be a template for functions, in a fresh interpreter."""
    control = control_from_arguments()
    preload()
    TemplateServer(control, run, parent_from_arguments()).serve()
    raise SystemExit(0)
