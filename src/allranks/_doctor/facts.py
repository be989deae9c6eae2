"""All that one rank finds by itself, and the rows that follow from what several ranks find."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from allranks._doctor.capacity import Capacity, capacity_rows, own_capacity
from allranks._doctor.checks import Place
from allranks._doctor.gpus import Gpus, gpu_rows, own_gpus
from allranks._doctor.limits import Limits, limit_rows, own_limits
from allranks._doctor.neighbours import Neighbour, neighbour_rows
from allranks._doctor.network import Network, network_rows, own_network
from allranks._doctor.routes import Route, route_rows
from allranks._doctor.start import Start, own_start, start_rows
from allranks._doctor.storage import Storage, own_storage, storage_rows
from allranks._doctor.versions import own_versions, version_rows
from allranks._process_group import devices
from allranks._process_group.bring_up import descriptors_of_rank_0
from allranks._process_group.init_group import descriptors_of_rank

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._doctor.checks import Check
    from allranks._launchers.world import World
    from allranks._process_group.settings import Settings


@dataclass(frozen=True)
class Facts:
    """What a rank has found, each attribute as its file says."""

    place: Place
    start: Start
    network: Network
    limits: Limits
    storage: Storage
    capacity: Capacity
    versions: dict[str, str]
    gpus: Gpus
    neighbour: Neighbour = field(default_factory=Neighbour)
    routes: tuple[Route, ...] = ()


def own_facts(
    place: Place,
    world: World,
    wanted: Settings,
    *,
    leads: bool,
    gpu: str = "",
    address: str | None = None,
) -> Facts:
    """What this rank finds without any other one.

    Args:
        place: where it is.
        world: its world.
        wanted: the settings of the trial.
        leads: whether it is the first one of its host.
        gpu: the identity of its CUDA device, or "".
        address: its host's address on the way to the others, or None where it is not known.
    """
    must = descriptors_of_rank_0(wanted, world.world_size) if world.rank == 0 else 0
    gpus = own_gpus(gpu)
    return Facts(
        place,
        own_start(world),
        own_network(world, address, counts_ports=leads),
        own_limits(descriptors_of_rank(world.world_size), must),
        own_storage(world.local_world_size or 1, has_gpu=bool(gpus.visible)),
        own_capacity(devices.numa_node() if gpu else None),
        own_versions(),
        gpus,
    )


def rows_of(facts: Sequence[Facts], *, whole: bool) -> list[Check]:
    """All rows that follow from what these ranks have found. Pure.

    Args:
        facts: of one rank or several.
        whole: whether these are all, so that it can be told what the ranks of a host share.
    """

    def of(name: str) -> dict[Place, Any]:
        return {one.place: getattr(one, name) for one in facts}

    return [
        *start_rows(of("start")),
        *version_rows(of("versions")),
        *network_rows(of("network")),
        *limit_rows(of("limits")),
        *storage_rows(of("storage")),
        *(capacity_rows(of("capacity")) if whole else ()),
        *gpu_rows(of("gpus")),
        *neighbour_rows(of("neighbour")),
        *route_rows(of("routes")),
    ]
