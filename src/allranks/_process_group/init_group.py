"""Torch's process group comes up: what gloo must know before, and what is said where it fails."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from allranks._process_group import devices, environment
from allranks._process_group.connect_errors import GLOO_INTERFACE, lost, what_gloo_lacked
from allranks._rendezvous import bind_hook, ports
from allranks._system import descriptors, sockets
from allranks._system.accelerator import on_same_device
from allranks._system.waiting import BackgroundCall, Deadline, StillRunning
from allranks._system.words import tell
from allranks._watch import failures
from allranks.errors import ConfigError, PeerFailedError, RendezvousError

if TYPE_CHECKING:
    from collections.abc import Callable

    from allranks._launchers.world import World
    from allranks._process_group.settings import Settings
    from allranks._rendezvous.meeting import Meeting
    from allranks._rendezvous.record import HostLayout

GLOO_LAZY = "TORCH_GLOO_LAZY_INIT"

LAZY_PAIRS = 128
"""Ranks from which on gloo connects a pair only when it is used, and not N - 1 pairs a rank.

Up to half as many, connecting all in batches is as quick (measured), and tells more: a rank hears
at once of the end of any other, and not only of those that it has talked to.
"""

GLOO_BATCHES = ("GLOO_ENABLE_STORE_V2_API", "GLOO_ENABLE_RANK_AS_SEQUENCE_NUMBER")
"""Let gloo ask the store for all addresses of a group at once: 3 N questions a rank else."""

OWN_SOCKETS = 64
"""How many connections a rank may have beside gloo's, whose number is that of the ranks."""

BATCHED_PAIRS = 32
"""Ranks from which on that is quicker: by a third to a half (measured)."""

NO_BACKENDS = ("undefined", "fake")
"""What torch lists beside its backends: one that is none, and one that moves nothing."""


def refuse_unknown_backend(backend: str | None) -> None:
    """A backend is a name, or a list of device:name."""
    if backend is None:
        return
    import torch.distributed as dist

    for part in backend.lower().split(","):
        name = part.rpartition(":")[2]
        if not dist.is_backend_available(name):
            named = [n for n in dist.Backend.backend_list if n not in NO_BACKENDS]
            known = ", ".join(n for n in named if dist.is_backend_available(n))
            raise ConfigError(
                f"distributed_backend={backend!r}: this build of torch has no {name!r}; it has "
                f"{known}. Leave it out to let it follow the device."
            )


def prepare_gloo(layout: HostLayout, world_size: int) -> None:
    """Choose gloo's interface, its ports, room for sockets, and in large worlds how it connects.

    Otherwise gloo listens where the host name resolves to, and connects every pair of ranks.
    """
    if GLOO_INTERFACE not in os.environ:
        address = sockets.LOOPBACK if layout.num_nodes == 1 else layout.address
        interface = sockets.interface_of(address) if address else None
        if interface:
            environment.put(GLOO_INTERFACE, interface)
    if layout.num_nodes > 1:
        _keep_to_the_range(layout.local_rank)
    descriptors.make_room(descriptors_of_rank(world_size))
    for name in _quicker_connections(world_size):
        if name not in os.environ:
            environment.put(name, "1")


def descriptors_of_rank(world_size: int) -> int:
    """How many a rank may have open at once: what it has now, gloo's connections, and our own."""
    return (descriptors.in_use() or 0) + world_size + OWN_SOCKETS


def _quicker_connections(world_size: int) -> tuple[str, ...]:
    """The variables for a world of this size; versions of torch that do not know them pass by."""
    if world_size >= LAZY_PAIRS and os.environ.get(GLOO_LAZY, "1") == "1":
        return (GLOO_LAZY,)
    return GLOO_BATCHES if world_size >= BATCHED_PAIRS else ()


def connects_all_pairs(wanted: Settings, world_size: int) -> bool:
    """Whether each rank will hold a connection of gloo's to each other one."""
    lazy = world_size >= LAZY_PAIRS or os.environ.get(GLOO_LAZY) == "1"
    backend = wanted.distributed_backend
    return not lazy and (backend is None or "gloo" in backend.lower())


def _keep_to_the_range(local_rank: int) -> None:
    """Keep gloo and NCCL within ALLRANKS_PORT_RANGE; warn where that cannot be done."""
    asked, kernels = ports.allowed(os.environ), ports.of_the_kernel()
    if not asked or (kernels and kernels[0] in asked and kernels[-1] in asked):
        return
    used = ("gloo", "NCCL") if devices.get_device_type() == "cuda" else ("gloo",)
    others = [name for name in used if not bind_hook.keeps_to_the_range(name)]
    if others and local_rank == 0:
        tell(
            f"warning: {ports.PORT_RANGE}={asked[0]}-{asked[-1]} does not hold for "
            f"{' and '.join(others)}: this build of torch is another than expected, and the kernel "
            "chooses the ports. If a firewall lets nothing else through, have "
            "net.ipv4.ip_local_port_range set to the same range."
        )


def backend_for(wanted: Settings, kind: str) -> str:
    """The backend, as torch takes it: what was asked for, else torch's own for this device.

    Always with gloo for the CPU: torch's default for a GPU moves no CPU tensor.
    """
    import torch.distributed as dist

    if wanted.distributed_backend:
        return wanted.distributed_backend
    theirs = dist.Backend.default_device_backend_map.get(kind, "gloo")
    if theirs == "gloo" or not dist.is_backend_available(theirs):
        return "gloo"
    return f"cpu:gloo,{kind}:{theirs}"


def _moves_on_device(backend: str, kind: str) -> bool:
    """Whether a backend moves tensors where they lie: gloo does so on the CPU alone."""
    if kind in ("cpu", "mps"):
        return False
    pairs = (part.rpartition(":") for part in backend.lower().split(","))
    return any(of in ("", kind) and name != "gloo" for of, _, name in pairs)


def init_process_group(
    wanted: Settings, world: World, meeting: Meeting | None, deadline: Deadline
) -> None:
    """Torch's own call, over the store in which the ranks met; errors say who or what it lacked."""
    init = _torchs_call(wanted, world, meeting)
    failures.begin_wait("setup", "WORLD")
    try:
        calling = BackgroundCall(on_same_device(init))
        calling.result_unless(failures.raise_if_failed, deadline.left)
    except PeerFailedError as error:
        raise lost(world.rank, error, deadline) from None
    except (StillRunning, RuntimeError) as error:
        if explained := _explained(error, world.rank, deadline):
            raise explained from error
        raise
    finally:
        failures.end_wait()


def _torchs_call(wanted: Settings, world: World, meeting: Meeting | None) -> Callable[[], None]:
    import torch.distributed as dist

    device = devices.device()
    backend = backend_for(wanted, device.type)
    store = dist.PrefixStore("group", meeting.store) if meeting else dist.HashStore()
    store.set_timeout(wanted.timeout)
    return partial(
        dist.init_process_group,
        backend,
        store=store,
        rank=world.rank,
        world_size=world.world_size,
        timeout=wanted.timeout,
        device_id=device if _moves_on_device(backend, device.type) else None,
    )


def _explained(error: Exception, rank: int, deadline: Deadline) -> RendezvousError | None:
    """Who or what was lacking, in words; None if torch's own error tells it."""
    timed_out = isinstance(error, StillRunning) or failures.has_timed_out(error)
    if culprit := failures.find_lost_peer() if timed_out else failures.cause_of(error):
        return lost(rank, culprit, deadline)
    told = what_gloo_lacked(error, rank, deadline, timed_out=timed_out)
    return RendezvousError(f"{told}{f' ({error})' if str(error) else ''}") if told else None
