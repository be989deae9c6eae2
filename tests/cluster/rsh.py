"""A remote shell between hosts that share a file system: ``rsh.py HOST COMMAND...``.

What MPI's launchers call to start their daemons. The caller hands its standard streams to a server
on the other host, over a socket in a shared directory, and waits for the exit code.

    python rsh.py --serve DIRECTORY
    RSH_DIRECTORY=DIRECTORY python rsh.py HOST COMMAND...
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading

LONGEST = 1 << 20


def serve(directory: str) -> None:
    """Run what is asked for on this host, for ever."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{directory}/{os.uname().nodename}")
        listener.listen()
        while True:
            caller, _ = listener.accept()
            threading.Thread(target=run, args=(caller,), daemon=True).start()


def run(caller: socket.socket) -> None:
    """Run one command with the caller's streams; it is killed when the caller goes."""
    text, streams, _, _ = socket.recv_fds(caller, LONGEST, 3)
    with subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "sh", "-c", text.decode()],
        stdin=streams[0],
        stdout=streams[1],
        stderr=streams[2],
    ) as command:
        for stream in streams:
            os.close(stream)
        ended = os.pidfd_open(command.pid)
        ready, _, _ = select.select([caller, ended], [], [])
        if ended not in ready:
            command.kill()
        os.close(ended)
    with caller:
        caller.send(str(command.returncode).encode())


def call(host: str, command: str) -> int:
    """Run a command on another host; its exit code."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(f"{os.environ['RSH_DIRECTORY']}/{host}")
        socket.send_fds(server, [command.encode()], [0, 1, 2])
        return int(server.recv(16) or b"255")


def main() -> None:
    """Serve, or call; options before the host, as ``-x``, are for other shells."""
    arguments = sys.argv[1:]
    if arguments[0] == "--serve":
        serve(arguments[1])
    while arguments[0].startswith("-"):
        arguments.pop(0)
    host, *command = arguments
    sys.exit(call(host, " ".join(command)))


if __name__ == "__main__":
    main()
