"""The variables of torch's ``env://``, set by the user or by a launcher unknown here.

After all launchers, which say more. Source: torch.distributed's page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import VariableNames, fault, joined, place, whole
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

NAMES = VariableNames(
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_WORLD_SIZE"
)


def read(environ: Environ) -> WorldFields | None:
    """The variables of torch's ``env://``, set by the user or by a launcher unknown here."""
    numbered = "RANK" in environ or "LOCAL_RANK" in environ
    if not numbered and ("WORLD_SIZE" not in environ or whole(environ, "WORLD_SIZE", 1) == 1):
        return None
    _check_complete(environ)
    names = NAMES if NAMES.node_rank in environ else NAMES._replace(node_rank="GROUP_RANK")
    if _rank_is_local(environ):
        names = names._replace(rank="LOCAL_RANK")
    here = place(environ, names)
    if names.rank == "LOCAL_RANK":
        here["notes"] = ("RANK is not set: on the first host (NODE_RANK=0) it is LOCAL_RANK.",)
    here["job"] = joined("env", here["master_port"])
    return here


def _rank_is_local(environ: Environ) -> bool:
    """Whether the rank follows from the local one: on the first host. Lightning's children."""
    told = all(environ.get(name) for name in ("LOCAL_RANK", "WORLD_SIZE"))
    return told and not environ.get("RANK") and environ.get("NODE_RANK", "").strip() == "0"


def _check_complete(environ: Environ) -> None:
    """RANK without WORLD_SIZE, or an address without its port, is a mistake and no world of one."""
    pairs = (("RANK", "WORLD_SIZE"), ("MASTER_ADDR", "MASTER_PORT"))
    missing = [name for name in pairs[0] if not environ.get(name)]
    if _rank_is_local(environ):
        missing.remove("RANK")
    alone = environ.get("WORLD_SIZE", "").strip() == "1"  # Nobody asks where its rank 0 is.
    if not alone and len({bool(environ.get(name)) for name in pairs[1]}) == 2:
        missing += [name for name in pairs[1] if not environ.get(name)]
    if missing:
        others = ("LOCAL_RANK", "NODE_RANK", *pairs[1])
        seen = [name for name in (*pairs[0], *others) if name in environ]
        raise fault(
            environ,
            dict.fromkeys([*seen, *missing]),
            f"{' and '.join(missing)} must be set too, and not be empty",
            "Start the script with `allranks run`, torchrun, srun or mpirun, which set them all, "
            "or unset them all for a world of one.",
        )


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    return process.variables(NAMES)


READER = Reader(
    "env",
    read,
    simulate,
    (*NAMES[:3], NAMES.node_rank),
    prefixes=("RANK", "WORLD_SIZE", "MASTER_"),
)
