"""Where the processes of random programs come from: warm ones, so that each costs no import.

    python benchmarks/chaos_nursery.py fork     < orders    forks ranks, and `allranks run`
    python benchmarks/chaos_nursery.py launch   < orders    calls `allranks.launch`

Orders and answers are lines of JSON. What is forked is a process of its own, which ends as every
interpreter does.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import allranks
import chaos_worker
from chaos_leftovers import held

WORKER = str(Path(__file__).with_name("chaos_worker.py"))


def tell(**facts: Any) -> None:
    """Answer the harness."""
    os.write(ANSWERS, f"{json.dumps(facts)}\n".encode())


def nurse() -> dict[str, Any] | None:
    """Fork a process at each order, and tell how each ended; in a fork, gives its order."""
    from allranks._launch.template import preload

    preload()
    woken, waker = socket.socketpair()
    for end in (woken, waker):
        end.setblocking(False)  # noqa: FBT003 - the standard library's signature
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    tell(ready=True)
    orders = b""
    while True:
        ready, _, _ = select.select([0, woken.fileno()], [], [])
        if woken.fileno() in ready:
            woken.recv(4096)
            _reap()
        if 0 in ready:
            text = os.read(0, 65536)
            if not text:
                return None
            *lines, orders = (orders + text).split(b"\n")
            for line in lines:
                order: dict[str, Any] = json.loads(line)
                if (pid := fork()) == 0:
                    woken.close()
                    waker.close()
                    return order
                tell(name=order["name"], pid=pid)


def fork() -> int:
    """Fork, and have a Ctrl-C wait until Python's hooks for forks are done: they swallow it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return os.fork()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            tell(pid=pid, status=os.waitstatus_to_exitcode(status), at=time.monotonic())


def become(order: dict[str, Any]) -> None:
    """Undo what a fork shares, and be what was ordered."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for stream in (1, 2):
        os.dup2(os.open(order["output"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), stream)
    os.close(ANSWERS)
    os.chdir(order["directory"])
    os.environ.update(order["environ"])
    tempfile.tempdir = None
    random.seed()
    np.random.seed()  # noqa: NPY002 - the global state, which all forks would share
    sys.argv = order["argv"]
    if sys.argv[0] == "allranks":
        from allranks._cli import main

        main()
    chaos_worker.play(*sys.argv[1:])


def call() -> None:
    """Make one call of ``launch`` at each order, and tell what it gave and what it left."""
    here, before = Path.cwd(), dict(os.environ)
    allranks.launch(int, ranks=1)
    tell(ready=True)
    for line in sys.stdin:
        order = json.loads(line)
        tell(name=order["name"], pid=os.getpid())
        os.chdir(order["directory"])
        os.environ.update(order["environ"])
        before_it = held()
        with (
            Path(order["output"]).open("w") as file,
            contextlib.redirect_stdout(file),
            contextlib.redirect_stderr(file),
        ):
            facts = _launched(chaos_worker.play, order)
        os.chdir(here)
        os.environ.clear()
        os.environ.update(before)
        tell(pid=os.getpid(), status=0, at=time.monotonic(), held=_more(before_it), **facts)


def _more(before: dict[str, int]) -> dict[str, int]:
    """What this process holds more than before."""
    now = held()
    return {what: now[what] - before[what] for what in now}


def _launched(function: Any, order: dict[str, Any]) -> dict[str, Any]:
    arguments = tuple(order["argv"][1:])
    try:
        how = {"ranks": order["ranks"], "timeout": 60, "fold": False}
        return {"results": allranks.launch(function, arguments, **how)}
    except BaseException as error:  # noqa: BLE001 - the judge looks at it
        facts = {name: getattr(error, name, None) for name in ("rank", "missing", "exit_code")}
        return {"error": {"kind": type(error).__name__, "text": str(error), **facts}}


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # A shell's background ignores it.
    ANSWERS = os.dup(1)
    os.dup2(2, 1)
    if sys.argv[1] == "launch":
        call()
    elif (ordered := nurse()) is not None:
        become(ordered)
