"""One rank of ``allranks run``: a forked or fresh process that runs the user's program."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import signal
import sys
import time
import traceback
import types
from dataclasses import asdict, dataclass
from importlib.abc import InspectLoader
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from allranks._collectives import pickling
from allranks._system import stacks, streams
from allranks._watch import failures

if TYPE_CHECKING:
    from collections.abc import Mapping

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Program:
    """What every rank runs.

    Attributes:
        target: a script's path, or a module's name.
        arguments: its command line.
        is_module: whether the target is a module, as for ``python -m``.
        safe_path: whether Python was told not to look beside the script for modules.
    """

    target: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False
    safe_path: bool = False

    def run(self) -> None:
        """Run it as ``__main__``, as ``python`` itself would."""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        # The module lives to the interpreter's end: runpy's own would be taken apart before, and
        # lose what files that it left open have not written yet.
        code = self._load_module(main) if self.is_module else self._load_script(main)
        sys.argv = [str(main.__file__) if self.is_module else self.target, *self.arguments]
        exec(code, vars(main))  # noqa: S102 - it is the user's program

    def _look_in(self, directory: Path) -> None:
        if not self.safe_path:
            sys.path.insert(0, str(directory))

    def _load_module(self, main: types.ModuleType) -> types.CodeType:
        """As ``python -m`` does: a package is run by its ``__main__``."""
        self._look_in(Path.cwd())
        spec = importlib.util.find_spec(self.target)
        if spec and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{self.target}.__main__")
        loader = spec.loader if spec else None
        code = loader.get_code(spec.name) if isinstance(loader, InspectLoader) and spec else None
        if spec is None or code is None:
            raise ModuleNotFoundError(f"no module to run is named {self.target!r}")
        main.__spec__, main.__file__, main.__package__ = spec, spec.origin, spec.parent
        return code

    def _load_script(self, main: types.ModuleType) -> types.CodeType:
        self._look_in(Path(self.target).resolve().parent)
        main.__file__ = self.target
        with io.open_code(self.target) as file:
            code: types.CodeType = compile(file.read(), self.target, "exec")
        return code


@dataclass(frozen=True)
class FailureReport:
    """Why a rank failed, as its parent hears it.

    Attributes:
        summary: the exception's type and message.
        traceback: the whole traceback, as Python prints it; "" where the program asked to leave.
        at: when, on the monotonic clock, which all processes of a host share.
        code: the exit code.
        repeated: whether another rank had raised the exception, which was raised again here.
    """

    summary: str
    traceback: str
    at: float
    code: int = 1
    repeated: bool = False


def become(program: Program, environ: Mapping[str, str], report_to: int) -> int:
    """Run a program in this process.

    Args:
        program: what to run.
        environ: the rank's own variables.
        report_to: a file descriptor for the FailureReport, as JSON.

    Returns:
        The exit code with which this process is to end.
    """
    os.environ.update(environ)
    own = os.getpid()
    try:
        program.run()
    except SystemExit as leaving:
        code = exit_code(leaving)
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseException as error:  # noqa: BLE001 - the parent hears of it
        if os.getpid() == own:  # A fork of the program's own is no rank.
            _report(error, report_to)
        return 1
    else:
        return 0
    if code and os.getpid() == own:
        _tell_exit_code(code, report_to)
    return code


def exit_code(leaving: SystemExit) -> int:
    """The exit code of a program that leaves by ``sys.exit``; its text is shown, as by Python."""
    if leaving.code is None or isinstance(leaving.code, int):
        return (leaving.code or 0) & 0xFF
    streams.show(sys.stderr, f"{leaving.code}\n")
    return 1


def _report(error: BaseException, report_to: int) -> None:
    own = stacks.without_starters(error.__traceback__)
    failures.announce(error)
    hook = failures.programs_hook()
    if not hook.__module__.startswith(("sys", "torch.")):
        hook(type(error), error, own)  # The program's own hook may log it elsewhere.
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, own
    text = "".join(traceback.format_exception(type(error), error, own))
    told = FailureReport(
        _summary(error), text, time.monotonic(), repeated=pickling.is_repeated(error)
    )
    _tell_parent(told, report_to)


def _summary(error: BaseException) -> str:
    """An exception's type and message, without the notes that Python prints after them."""
    shown = traceback.TracebackException(type(error), error, None)
    shown.__notes__ = None
    return list(shown.format_exception_only())[-1].strip()


def _tell_exit_code(code: int, report_to: int) -> None:
    """Say that this rank leaves: torch's own end may take longer than others wait."""
    _tell_parent(FailureReport("", "", time.monotonic(), code), report_to)


def _tell_parent(failure: FailureReport, report_to: int) -> None:
    with os.fdopen(os.dup(report_to), "w") as pipe:
        pipe.write(json.dumps(asdict(failure)) + "\n")


def die_with_parent(parent: int) -> None:
    """End with the parent, however it ends (Linux; elsewhere the parent's signals have to do)."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)  # It died in between.


def main() -> NoReturn:
    """Become a rank in a fresh interpreter, for ``--spawn``."""
    order = json.loads(sys.argv[1])
    die_with_parent(order["parent"])
    program = Program(**order["program"])
    raise SystemExit(become(program, order["environ"], order["report_to"]))
