"""Where threads stand: the lines of the program among those of Python, torch and allranks."""

from __future__ import annotations

import os
import sys
import sysconfig
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType, FrameType, TracebackType

OURS = str(Path(__file__).parents[1]) + os.sep

TORCHS = f"{os.sep}torch{os.sep}distributed{os.sep}"

COMPILERS = f"{os.sep}torch{os.sep}_dynamo{os.sep}"

OWN = "allranks-"
"""How the names of our threads begin."""

STARTERS = tuple(f"{OURS}{name}" for name in ("_launch", "_pytest", "_cli.py", "__main__.py"))
"""How the paths of our files begin that call a program, or a part of one for a process."""


class SourceLine(NamedTuple):
    """A place in a program.

    Attributes:
        file: the file's path.
        number: the line's number.
        function: the function's name.
    """

    file: str
    number: int
    function: str

    def __str__(self) -> str:
        inside = "" if self.function == "<module>" else f" in {self.function}"
        return f"{Path(self.file).name}:{self.number}{inside}"


def main_thread() -> list[SourceLine]:
    """Where the main thread stands, innermost first."""
    ident = threading.main_thread().ident
    return list(_lines(sys._current_frames().get(ident or 0)))  # noqa: SLF001 - the public way


def program() -> list[SourceLine]:
    """Where the program stands in the main thread, innermost first, without what started it.

    It ends at the latest with the module named ``__main__`` or below what calls it; the frames of
    libraries that are left at its end, as a test runner's, started it too.
    """
    ident = threading.main_thread().ident
    frame = sys._current_frames().get(ident or 0)  # noqa: SLF001 - the public way
    lines: list[SourceLine] = []
    end, over = 0, False
    while frame and not over:
        code, module = frame.f_code, frame.f_globals.get("__name__")
        if _is_starter(code) and any(map(_is_foreign, lines)):
            break
        lines.append(SourceLine(code.co_filename, frame.f_lineno, code.co_name))
        end = len(lines) if _is_line_written(lines[-1]) else end
        over = (module, code.co_name) == ("__main__", "<module>")
        frame = frame.f_back
    return list(filter(_is_foreign, lines[:end] or lines))


def _is_starter(code: CodeType) -> bool:
    """Whether a function starts programs, or the part of one that is a process."""
    of_processes = ("_bootstrap", f"multiprocessing{os.sep}process.py")
    named = code.co_name == of_processes[0] and code.co_filename.endswith(of_processes[1])
    return named or code.co_filename.startswith(STARTERS)


def _is_foreign(line: SourceLine) -> bool:
    return not line.file.startswith(OURS)


def _is_line_written(line: SourceLine) -> bool:
    """Whether the user wrote a line; an installed command's script was generated."""
    is_command = str(Path(line.file).parent) == sysconfig.get_path("scripts")
    return is_written(line.file) and not (is_command and line.function == "<module>")


def all_threads() -> dict[str, list[str]]:
    """Where every thread stands, by its name, innermost first."""
    frames = sys._current_frames()  # noqa: SLF001 - the public way
    return {
        thread.name: [f"{line.file}:{line.number} in {line.function}" for line in _lines(frame)]
        for thread in threading.enumerate()
        if (frame := frames.get(thread.ident or 0))
    }


def _lines(frame: FrameType | None) -> Iterator[SourceLine]:
    while frame:
        yield SourceLine(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back


def others_in_calls() -> list[threading.Thread]:
    """The program's threads, but for this one, that are within a call of torch's or of ours."""
    frames = sys._current_frames()  # noqa: SLF001 - the public way
    return [
        thread
        for thread in threading.enumerate()
        if thread is not threading.current_thread()
        and not thread.name.startswith(OWN)
        and any(map(_is_of_a_call, _lines(frames.get(thread.ident or 0))))
    ]


def _is_of_a_call(line: SourceLine) -> bool:
    return line.file.startswith(OURS) or TORCHS in line.file


def caller() -> SourceLine | None:
    """The innermost line of this thread that is not of allranks."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - inspect would read the sources
    while frame and _is_between(frame.f_code.co_filename):
        frame = frame.f_back
    return (
        SourceLine(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        if frame
        else None
    )


def _is_between(file: str) -> bool:
    """Whether a file is ours, or of the compiler, through which calls of ours go."""
    return file.startswith(OURS) or COMPILERS in file


def raised_at(traceback: TracebackType | None) -> SourceLine | None:
    """The program's line at which an exception was raised."""
    lines = []
    while traceback:
        code = traceback.tb_frame.f_code
        lines.append(SourceLine(code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return of_the_program(reversed(lines))


def without_starters(traceback: TracebackType | None) -> TracebackType | None:
    """A traceback without the frames of ours that called the program."""
    while traceback and _is_starter(traceback.tb_frame.f_code):
        traceback = traceback.tb_next
    return traceback


def threads_of_the_program(written: str) -> str:
    """Stacks as faulthandler writes them, of the program's threads only: the main one first.

    Threads of ours, and Python's that wait for work, are left out, and so are the frames of ours
    that called the program.

    Args:
        written: by a signal's handler, which runs in the main thread.
    """
    threads = [one.rstrip("\n") for one in written.split("\n\n")]
    theirs = [one for one in threads if _is_a_programs_thread(one)] or threads
    theirs.sort(key=lambda one: not one.startswith("Current thread"))
    return _without_starters("".join(f"{one}\n\n" for one in theirs).removesuffix("\n"))


def _is_a_programs_thread(written: str) -> bool:
    files = [line.split('"')[1] for line in written.splitlines() if line.startswith('  File "')]
    return any(_origin(file) not in ("ours", "python") for file in files)


def _without_starters(written: str) -> str:
    kept, over = [], False
    for line in written.splitlines(keepends=True):
        is_frame = line.startswith("  File ")
        over = is_frame and (over or line.startswith(tuple(f'  File "{one}' for one in STARTERS)))
        if not over:
            kept.append(line)
    return "".join(kept)


def of_the_program(lines: Iterable[SourceLine]) -> SourceLine | None:
    """The innermost line that the user wrote, else the innermost of a library's.

    Args:
        lines: innermost first.
    """
    known = [line for line in lines if _origin(line.file) != "ours"]
    for wanted in ("program", "library"):
        for line in known:
            if _origin(line.file) == wanted:
                return line
    return known[0] if known else None


def is_written(file: str) -> bool:
    """Whether a file is of the program's own, rather than of a library, Python, torch or ours."""
    return _origin(file) == "program"


@lru_cache(maxsize=1024)
def _origin(file: str) -> str:
    """Whose a file is: the program's, a library's, Python's and torch's, or ours."""
    paths = _paths()
    if file.startswith((OURS, "<frozen")):
        return "ours"
    if any(file.startswith(paths[kind]) for kind in ("purelib", "platlib")):
        return "torch" if "/torch/" in file.replace("\\", "/") else "library"
    return "python" if file.startswith((paths["stdlib"], paths["platstdlib"])) else "program"


@lru_cache(maxsize=1)
def _paths() -> dict[str, str]:
    """Where Python keeps its own and libraries; asking takes it 0.2 ms."""
    return sysconfig.get_paths()
