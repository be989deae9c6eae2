"""One rank of ``allranks run``: a forked or fresh process that runs the user's program."""

from __future__ import annotations

import json
import os
import runpy
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """What every rank runs.

    Attributes:
        target: a script's path, or a module's name.
        arguments: its command line.
        is_module: whether the target is a module, as for ``python -m``.
    """

    target: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    def run(self) -> None:
        """Run it as ``__main__``, as ``python`` itself would."""
        sys.argv = [self.target, *self.arguments]
        if self.is_module:
            sys.path.insert(0, str(Path.cwd()))
            runpy.run_module(self.target, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str(Path(self.target).resolve().parent))
            runpy.run_path(self.target, run_name="__main__")


@dataclass(frozen=True)
class Failure:
    """Why a rank failed, as its parent hears it.

    Attributes:
        summary: the exception's type and message.
        traceback: the whole traceback, as Python prints it.
        at: when, on the monotonic clock, which all processes of a host share.
    """

    summary: str
    traceback: str
    at: float


def become(program: Program, environ: Mapping[str, str], report_to: int) -> NoReturn:
    """Run a program in this process and leave by SystemExit, with its exit code.

    Args:
        program: what to run.
        environ: the rank's own variables.
        report_to: a file descriptor for the Failure, as JSON.

    Raises:
        SystemExit: always, so that the interpreter ends as it does after any script.
    """
    os.environ.update(environ)
    try:
        program.run()
    except SystemExit:
        raise
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except BaseException as error:  # noqa: BLE001 - the parent hears of it
        _report(error, report_to)
        raise SystemExit(1) from None
    raise SystemExit(0)


def _report(error: BaseException, report_to: int) -> None:
    own = _frames_of_the_program(error.__traceback__)
    if not sys.excepthook.__module__.startswith(("sys", "torch.")):
        sys.excepthook(type(error), error, own)  # The program's own hook may log it elsewhere.
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, own
    summary = traceback.format_exception_only(type(error), error)[-1].strip()
    text = "".join(traceback.format_exception(type(error), error, own))
    with os.fdopen(os.dup(report_to), "w") as pipe:
        json.dump(asdict(Failure(summary, text, time.monotonic())), pipe)


def _frames_of_the_program(frames: TracebackType | None) -> TracebackType | None:
    """The traceback without the frames that start the program."""
    while frames and frames.tb_frame.f_code.co_filename in (__file__, _RUNPY, "<frozen runpy>"):
        frames = frames.tb_next
    return frames


_RUNPY = runpy.__file__


def die_with_parent(parent: int) -> None:
    """End with the parent, however it ends (Linux; elsewhere the parent's signals have to do)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)  # It died in between.


def main() -> NoReturn:
    """A fresh process that becomes a rank: ``python -m allranks._rank``, for ``--spawn``."""
    order = json.loads(sys.argv[1])
    die_with_parent(order["parent"])
    sys.path.pop(0)  # Where `python -m` put the working directory, which a script does not see.
    program = Program(**order["program"])
    become(program, order["environ"], order["report_to"])


if __name__ == "__main__":
    main()
