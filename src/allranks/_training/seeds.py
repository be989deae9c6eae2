"""Seeds: every rank and every worker draws random numbers of its own, and again the same ones."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from allranks._process_group.ranks import get_rank
from allranks._process_group.settings import boolean
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._training.arguments import whole_number
from allranks._training.streams import ALL_RANKS, EACH_RANK, WORKER, seed_libraries, stream
from allranks._transport import process_groups
from allranks._transport.headers import Header, exchange_and_combine
from allranks.errors import ConfigError

if TYPE_CHECKING:
    from allranks._transport.process_groups import Group

SHARED_BITS = 63


@outside_graphs
def seed_all(seed: int, per_rank: bool = True) -> int:
    """Seed Python's ``random``, numpy's global generator, and torch with its accelerators.

    Not collective; works before ``setup``, too. Each library gets a stream of its own, which
    numpy's SeedSequence derives from the seed and the rank, never ``seed + rank``. A rank's
    streams do not depend on the launcher or on the world size.

    torch's generator on the CPU uses 32 bits of its seed, whatever it is given: among 1000 ranks
    two have the same one with a probability of 1 in 10000. All others use at least 63 bits.

    Args:
        seed: an integer of any size, from 0.
        per_rank: give each rank streams of its own; False gives all ranks the same ones (to
            initialise a model, say), which are no rank's own.

    Returns:
        The seed that torch got, of 63 bits, for the log. At world size 1 this is that of rank 0.

    Raises:
        ConfigError: the seed is no integer, or negative, or ``per_rank`` is neither True nor False.
            Nothing was changed.
        DetectionError: nothing is set up, and the environment is half-set. Nothing was changed.
    """
    number = whole_number("seed", seed)
    key = (EACH_RANK, get_rank()) if boolean("per_rank", per_rank) else (ALL_RANKS, 0)
    return seed_libraries(stream(number, *key))


@outside_graphs
def worker_init_fn(worker_id: int) -> None:
    """Seed Python's ``random``, numpy and torch in a worker of a DataLoader. Not collective.

    Pass it as ``DataLoader(..., worker_init_fn=allranks.worker_init_fn)``. The streams follow from
    the loader's base seed, the rank and the worker's number, so that no worker draws what another
    one draws, of this rank or another, also where all ranks have seeded alike. The loader draws its
    base seed from torch's generator, or its own, at the start of each epoch: after ``seed_all`` a
    run repeats itself. torch's generator on the CPU uses 32 bits of its seed, as in ``seed_all``.

    Args:
        worker_id: the worker's number, which the loader passes.

    Raises:
        ConfigError: this process is no worker of a DataLoader.
        DetectionError: nothing is set up in a worker that was spawned, and its environment is
            half-set.
    """
    from torch.utils.data import get_worker_info

    info = get_worker_info()
    if info is None:
        raise ConfigError(
            f"worker_init_fn({brief_repr(worker_id)}) was called outside of a DataLoader's "
            "worker; pass it as DataLoader(worker_init_fn=allranks.worker_init_fn)"
        )
    base_seed = info.seed - info.id
    seed_libraries(stream(base_seed, WORKER, get_rank(), info.id))


@outside_graphs
def shared_seed(*, group: Group | None = None) -> int:
    """Draw one random number that all ranks agree on. Collective.

    Args:
        group: the ranks that take part; None means WORLD. All of them must make the call.

    Returns:
        A number of 63 bits, which the group's first rank takes from the operating system, whatever
        was seeded; the same on every rank. In a world of one, just such a number.

    Raises:
        CollectiveError: this rank is not in the group, or ``setup`` was not called.
        MismatchError: the ranks made different calls.
    """
    members = process_groups.members_of("shared_seed", group)
    mine = b"" if members.rank else secrets.randbits(SHARED_BITS).to_bytes(8, "little")
    drawn = exchange_and_combine(
        members, Header("shared_seed", mine), b"".join, fold=lambda bodies: [b"".join(bodies)]
    )
    return int.from_bytes(drawn, "little")
