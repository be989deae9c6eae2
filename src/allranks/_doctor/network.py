"""Names, interfaces and ports of a host, as gloo and the rendezvous use them."""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from allranks._doctor.checks import FAILURE, OK, WARNING, Check, first_of_hosts, merged
from allranks._process_group.connect_errors import GLOO_INTERFACE
from allranks._rendezvous import ports
from allranks._rendezvous.tcp_store import SLOW_NAMES
from allranks._system import sockets
from allranks._system.accelerator import accelerator_type
from allranks._system.waiting import BackgroundCall, StillRunning
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from allranks._doctor.checks import Place
    from allranks._launchers.world import World

NCCL_INTERFACE = "NCCL_SOCKET_IFNAME"

INTERFACES = Path("/sys/class/net")

IS_UP = 1
"""The bit of an interface's flags that says so, netdevice(7)."""

LOOKUP = 5.0
"""Seconds that a name may take."""

ENOUGH_PORTS = 64
"""Free ports of a range after which no more are looked for."""


@dataclass(frozen=True)
class Name:
    """A name that this host must know.

    Attributes:
        name: the name.
        of_rank_0: whether ranks look for rank 0 by it; else it is this host's own.
        addresses: what it means here; empty where it is unknown.
        seconds: how long that took.
    """

    name: str
    of_rank_0: bool
    addresses: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Interface:
    """An interface over which gloo is to talk.

    Attributes:
        name: its name.
        asked_by: the variable that names it; "" of the one on the way to the other ranks.
        exists: whether this host has it.
        up: whether it is up.
        addresses: its numeric addresses.
        mtu: bytes of its largest packet; 0 where that cannot be seen.
    """

    name: str
    asked_by: str
    exists: bool
    up: bool
    addresses: tuple[str, ...]
    mtu: int


@dataclass(frozen=True)
class Network:
    """What a rank sees of the network.

    Attributes:
        names: that it must know.
        interfaces: over which gloo and NCCL are to talk; gloo tells the others an address of the
            first one.
        others: interfaces of this host that have an address, but for loopback.
        port_range: what ALLRANKS_PORT_RANGE says; "" where it is not set.
        free_ports: how many of its ports are free, or ENOUGH_PORTS; None where nobody counted.
        ports_needed: how many the ranks of this host listen on.
    """

    names: tuple[Name, ...]
    interfaces: tuple[Interface, ...]
    others: tuple[str, ...]
    port_range: str
    free_ports: int | None
    ports_needed: int


def own_network(world: World, address: str | None, *, counts_ports: bool) -> Network:
    """What this process sees.

    Args:
        world: its world.
        address: this host's address on the way to the others, or None where it is not known.
        counts_ports: whether it is the one of its host to look which ports are free.
    """
    among = _range()
    return Network(
        tuple(_names(world)),
        tuple(_interfaces(address)),
        tuple(name for name in _all_names() if sockets.addresses_of_interface(name)),
        os.environ.get(ports.PORT_RANGE, ""),
        _free_ports(among) if among and counts_ports else None,
        world.local_world_size or 1,
    )


def _names(world: World) -> Iterator[Name]:
    yield _looked_up(socket.gethostname(), of_rank_0=False)
    if world.num_nodes == 1 or world.world_size == 1:
        return
    hosts = (world.master_addr,) if world.master_addr else world.hosts[:1]
    for host in hosts:
        yield _looked_up(host, of_rank_0=True)


def _looked_up(name: str, *, of_rank_0: bool) -> Name:
    began, found = time.monotonic(), []
    with suppress(StillRunning):
        found = BackgroundCall(lambda: sockets.addresses_of(name)).result(LOOKUP)
    return Name(name, of_rank_0, tuple(found), time.monotonic() - began)


def _interfaces(address: str | None) -> Iterator[Interface]:
    """What the variables name; else, for gloo, what ``prepare_gloo`` will choose."""
    asked = [one for one in os.environ.get(GLOO_INTERFACE, "").split(",") if one]
    chosen = sockets.interface_of(address) if address and not asked else None
    for name in asked:
        yield _interface(name, GLOO_INTERFACE)
    if chosen:
        yield _interface(chosen, "")
    for name in _asked_of_nccl() if accelerator_type() == "cuda" else ():
        yield _interface(name, NCCL_INTERFACE)


def _asked_of_nccl() -> list[str]:
    """Those that NCCL would take: it reads beginnings of names, whole ones after "="."""
    asked = os.environ.get(NCCL_INTERFACE, "")
    if not asked or asked.startswith("^"):
        return []
    parts = asked.removeprefix("=").split(",")
    names = [name for _, name in socket.if_nameindex()]
    fits = str.__eq__ if asked.startswith("=") else str.startswith
    return [name for name in names if any(fits(name, part) for part in parts)] or parts


def _all_names() -> list[str]:
    return [name for _, name in socket.if_nameindex() if not name.startswith("lo")]


def _interface(name: str, asked_by: str) -> Interface:
    folder = INTERFACES / name
    with suppress(OSError, ValueError):
        flags, mtu = (folder / "flags").read_text(), int((folder / "mtu").read_text())
        up = bool(int(flags, 16) & IS_UP)
        addresses = tuple(sockets.addresses_of_interface(name))
        return Interface(name, asked_by, exists=True, up=up, addresses=addresses, mtu=mtu)
    exists = name in [known for _, known in socket.if_nameindex()]
    return Interface(name, asked_by, exists, up=exists, addresses=(), mtu=0)


def _range() -> range | None:
    with suppress(ConfigError):  # Of which the row tells.
        return ports.allowed(os.environ)
    return None


def _free_ports(among: range) -> int:
    found = 0
    for port in among:
        with suppress(OSError):
            sockets.listen("", port).close()
            found += 1
        if found == ENOUGH_PORTS:
            break
    return found


def network_rows(of: Mapping[Place, Network]) -> list[Check]:
    """Rows on names, interfaces, MTU and ports."""
    return [*merged({place: tuple(_rows(one)) for place, one in of.items()}), *_mtus(of)]


def _rows(one: Network) -> Iterator[Check]:
    for name in one.names:
        yield _name(name, one)
    for interface in one.interfaces:
        yield _interface_row(interface, one)
    yield _ports(one)


def _name(name: Name, one: Network) -> Check:
    addresses = [address for i in one.interfaces for address in i.addresses]
    if name.addresses:
        if name.seconds < SLOW_NAMES:
            return Check("names", OK, f"{name.name} is {', '.join(name.addresses)}")
        seen = f"{name.name} took {name.seconds:.1f} s to be looked up"
        return Check("names", WARNING, seen, _line_of_hosts(name.addresses[0], name.name))
    if name.of_rank_0:
        seen = f"{name.name}, where rank 0 is said to be, is not known here"
        return Check("names", FAILURE, seen, _line_of_hosts("ADDRESS_OF_RANK_0", name.name))
    seen = f"this host does not know its own name, {name.name}"
    own = next((a for a in addresses if not sockets.is_loopback(a)), sockets.LOOPBACK)
    return Check("names", WARNING, seen, _line_of_hosts(own, name.name))


def _line_of_hosts(address: str, name: str) -> str:
    return f"echo '{address} {name}' >> /etc/hosts"


def _interface_row(interface: Interface, one: Network) -> Check:
    variable = interface.asked_by or GLOO_INTERFACE
    whose = f"{variable}={interface.name}" if interface.asked_by else interface.name
    there = ", ".join(one.others) or "none"
    fault = _fault_of(interface)
    if fault:
        another = next((name for name in one.others if name != interface.name), "")
        remedy = f"export {variable}={another}" if another else f"unset {variable}"
        is_down = interface.exists and not interface.up
        up = f"ip link set dev {interface.name} up"
        seen = f"{whose}: {fault}; those with an address are {there}"
        return Check("interface", FAILURE, seen, up if is_down else remedy)
    why = "is asked for" if interface.asked_by else "leads to the other ranks"
    seen = f"{whose} {why}: {', '.join(interface.addresses)}, MTU {interface.mtu}"
    return Check("interface", OK, seen)


def _fault_of(interface: Interface) -> str:
    if not interface.exists:
        return "there is no such interface"
    if not interface.up:
        return "it is down"
    return "" if interface.addresses else "it has no address"


def _ports(one: Network) -> Check:
    if not one.port_range:
        kernels = ports.of_the_kernel()
        told = f", of {kernels[0]}-{kernels[-1]}" if kernels else ""
        return Check("ports", OK, f"{ports.PORT_RANGE} is not set: any that the kernel gives{told}")
    remedy = f"export {ports.PORT_RANGE}=20000-21000"
    try:
        ports.allowed({ports.PORT_RANGE: one.port_range})
    except ConfigError as error:
        return Check("ports", FAILURE, str(error), remedy)
    whose = f"{ports.PORT_RANGE}={one.port_range}"
    if one.free_ports is None:
        return Check("ports", OK, whose)
    most = "or more " * (one.free_ports == ENOUGH_PORTS)
    seen = f"{whose}: {one.free_ports} {most}free; {one.ports_needed} are needed"
    if one.free_ports >= one.ports_needed:
        return Check("ports", OK, seen)
    return Check("ports", FAILURE, seen, remedy)


def _mtus(of: Mapping[Place, Network]) -> list[Check]:
    """Two MTUs on one switch: the larger packets of the one host are lost on the other's side."""
    hosts = first_of_hosts(of)
    mtus = {p.host: i.mtu for p in hosts for i in of[p].interfaces[:1] if i.mtu}
    if len(set(mtus.values())) < 2:
        return []
    seen = "; ".join(f"{mtu} on {host}" for host, mtu in mtus.items())
    name = of[hosts[0]].interfaces[0].name
    return [Check("MTU", WARNING, seen, f"ip link set dev {name} mtu {min(mtus.values())}")]
