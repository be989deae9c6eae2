"""Hosts that share one machine: each has its own name, addresses, processes and /dev/shm.

A host is a process that holds a set of namespaces and waits. When it ends, the kernel ends
whatever runs on the host, so that nothing survives its context manager, however that ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

NAMESPACES = ("--net", "--uts", "--mount", "--ipc", "--pid")

# With SIGCHLD ignored, the kernel reaps the orphans that the first process of a host inherits.
BOOT = """
set -e
hostname "$1"
ip link set lo up
mount --bind "$2/hosts.$1" /etc/hosts
mount --bind "$2/resolv.conf" /etc/resolv.conf
mount -t tmpfs tmpfs /dev/shm
trap '' CHLD
echo booted
exec sleep infinity
"""


FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"
CLOCK_AHEAD = ("env", f"LD_PRELOAD={FAKETIME}", "FAKETIME=+90s")
"""Stands before a command that is to see a clock 90 s ahead. As variables, it would be loaded by
``nsenter`` too, outside of the host, and leave a file in the /dev/shm of this machine."""

GRACE = 5.0
"""Seconds that a command has to end when it is asked to."""


@dataclass
class Ended:
    """How a command ended on a host.

    Attributes:
        code: its exit code.
        out: what it wrote, its standard error among it.
        seconds: how long it took.
    """

    code: int
    out: str
    seconds: float


@dataclass
class Running:
    """A command that runs on a host; ``ended`` waits for it."""

    process: subprocess.Popen[str]
    began: float = field(default_factory=time.monotonic)

    def ended(self, timeout: float = 60) -> Ended:
        """Wait for the end; what has not ended by then is ended, and shown."""
        try:
            out, _ = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running after {timeout} s:\n{self.cut_short()}") from None
        return Ended(self.process.returncode, out, time.monotonic() - self.began)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send the command a signal; ``nsenter`` waits for it, so that no zombie is left."""
        with contextlib.suppress(IndexError, OSError):
            os.kill(child_of(self.process.pid), number)

    def cut_short(self) -> str:
        """Ask the command to end, or else kill all of its session; what was written."""
        self.kill(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.communicate(timeout=GRACE)[0]
        for pid in of_session(self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return self.process.communicate(timeout=GRACE)[0]


def wait_until(
    condition: Callable[[], object], seconds: float, otherwise: Callable[[], object]
) -> None:
    """Wait until something holds; where it does not in time, raise what can be said of it."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"it did not come to pass within {seconds:g} s: {otherwise()}")
        time.sleep(0.05)


def all_ended(running: list[Running], timeout: float = 60) -> list[Ended]:
    """How several commands ended; where one does not, all are killed."""
    try:
        return [each.ended(timeout) for each in running]
    finally:
        for each in running:
            if each.process.poll() is None:
                each.cut_short()


@dataclass
class Host:
    """One host.

    Attributes:
        name: its host name.
        address: its IPv4 address, or its IPv6 address where it has no other.
        holder: the process that keeps it up.
        port: the name of its port on the switch.
    """

    name: str
    address: str
    holder: subprocess.Popen[str]
    port: str

    @property
    def pid(self) -> int:
        """The host's first process, which lies below ``unshare``."""
        return child_of(self.holder.pid)

    def entering(self, *command: str) -> list[str]:
        """The command line that runs a command on this host, and ends it when it is ended."""
        enter = ["nsenter", f"--target={self.pid}", *NAMESPACES, "--wd=."]
        return [*enter, "--", "setpriv", "--pdeathsig", "KILL", *command]

    def start(self, *command: str, environ: Mapping[str, str] | None = None) -> Running:
        """Start a command with an environment that no launcher has touched."""
        return Running(
            subprocess.Popen(
                self.entering(*command),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**plain_environ(), **(environ or {})},
                start_new_session=True,
            )
        )

    def run(
        self, *command: str, timeout: float = 60, environ: Mapping[str, str] | None = None
    ) -> Ended:
        """Run a command to its end."""
        return self.start(*command, environ=environ).ended(timeout)

    def must(self, *command: str, environ: Mapping[str, str] | None = None) -> str:
        """What a command writes that must succeed."""
        ended = self.run(*command, environ=environ)
        if ended.code:
            raise RuntimeError(f"{' '.join(command)} left with {ended.code}:\n{ended.out}")
        return ended.out

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal to a process by the id that it has on this host."""
        self.must("sh", "-c", f"kill -{number.value} {pid}")


@dataclass
class Network:
    """Hosts on one switch, which leads nowhere else."""

    hosts: list[Host]
    switch: Host

    def __getitem__(self, index: int) -> Host:
        return self.hosts[index]

    @contextlib.contextmanager
    def cut(self, host: Host) -> Iterator[None]:
        """Pull the plug of a host, and put it back."""
        self.switch.must("ip", "link", "set", host.port, "down")
        try:
            yield
        finally:
            self.switch.must("ip", "link", "set", host.port, "up")


def child_of(pid: int) -> int:
    """The first child of a process."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def of_session(leader: int) -> list[int]:
    """The processes of a session, on whichever host, by their ids here."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                found.append(int(path.parent.name))
    return found


def plain_environ() -> dict[str, str]:
    """What a login shell on a host would have."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TERM")
    return {name: os.environ[name] for name in kept if name in os.environ}


@contextlib.contextmanager
def network(
    base: Path,
    names: Mapping[str, tuple[str, ...]],
    *,
    ipv6_only: bool = False,
    own_name_is_loopback: bool = False,
) -> Iterator[Network]:
    """Hosts on one switch.

    Args:
        base: an empty directory for the hosts' files.
        names: the hosts' names, and by which others they are known as well.
        ipv6_only: give them IPv6 addresses and no others.
        own_name_is_loopback: let each host's own name lead to 127.0.1.1, as Debian does.
    """
    prefix = "fd77::" if ipv6_only else "10.77.0."
    addresses = {name: f"{prefix}{number}" for number, name in enumerate(names, 1)}
    _write_names(base, names, addresses, own_name_is_loopback)
    with contextlib.ExitStack() as stack:
        switch = stack.enter_context(_host(base, "switch", "", ""))
        switch.must("ip", "link", "add", "br0", "type", "bridge")
        switch.must("ip", "link", "set", "br0", "up")
        hosts = [
            stack.enter_context(_host(base, name, address, f"port{number}"))
            for number, (name, address) in enumerate(addresses.items(), 1)
        ]
        for host in hosts:
            _plug_in(switch, host, ipv6_only=ipv6_only)
        yield Network(hosts, switch)


def numbered(count: int) -> dict[str, tuple[str, ...]]:
    """The names h1, h2, and so on, each with the one that the documentation uses."""
    return {name: (name_in_pages(name),) for name in (f"h{n}" for n in range(1, count + 1))}


def name_in_pages(name: str) -> str:
    """What the documentation calls a host: host1 for h1."""
    return f"host{name[1:]}"


def _write_names(
    base: Path,
    names: Mapping[str, tuple[str, ...]],
    addresses: Mapping[str, str],
    own_name_is_loopback: bool,
) -> None:
    (base / "resolv.conf").write_text("")  # A look-up that no file answers fails at once.
    for own in (*addresses, "switch"):
        astray = {own: "127.0.1.1"} if own_name_is_loopback and own in names else {}
        told = {**addresses, **astray}
        lines = ["127.0.0.1 localhost", "::1 localhost"]
        lines += [" ".join([address, name, *names[name]]) for name, address in told.items()]
        (base / f"hosts.{own}").write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def _host(base: Path, name: str, address: str, port: str) -> Iterator[Host]:
    unshare = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc"]
    boot = ["setpriv", "--pdeathsig", "KILL", *unshare, "sh", "-c", BOOT, "sh", name, str(base)]
    with subprocess.Popen(boot, stdout=subprocess.PIPE, text=True) as holder:
        try:
            if holder.stdout is None or holder.stdout.readline() != "booted\n":
                raise RuntimeError(f"host {name} did not come up; see what unshare wrote above")
            yield Host(name, address, holder, port)
        finally:
            holder.kill()


def _plug_in(switch: Host, host: Host, *, ipv6_only: bool) -> None:
    plug = ["type", "veth", "peer", "name", "eth0", "netns", str(host.pid)]
    # The switch knows processes by its own /proc, hence from outside.
    enter = ["nsenter", f"--target={switch.pid}", "--net"]
    subprocess.run([*enter, "ip", "link", "add", host.port, *plug], check=True)
    switch.must("ip", "link", "set", host.port, "master", "br0", "up")
    length, at_once = ("64", ["nodad"]) if ipv6_only else ("24", [])
    host.must("ip", "addr", "add", f"{host.address}/{length}", "dev", "eth0", *at_once)
    host.must("ip", "link", "set", "eth0", "up")
