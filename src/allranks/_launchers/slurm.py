"""A task of ``srun``, by the variables of its step; those of the job may tell another story.

Before PALS, PMI and PMIx, whose variables it may set (``--mpi=cray_shasta``, pmi2, pmix). Recorded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._launchers.fields import (
    VariableNames,
    WorldFields,
    fault,
    first_set,
    joined,
    number,
    parsed_list,
    place,
    require,
    whole,
)
from allranks._launchers.hostlist import expand, expand_counts
from allranks._launchers.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess

# The lists of ranks and of counts are parsed by the reader, for what their lengths tell.
NAMES = VariableNames(
    "SLURM_PROCID",
    "SLURM_STEP_NUM_TASKS",
    "SLURM_LOCALID",
    "SLURM_GTIDS",
    "SLURM_NODEID",
    "SLURM_STEP_TASKS_PER_NODE",
)
MAX_HET_GROUPS = 128
# The batch script, salloc's shell, the extern step: above slurm.h's SLURM_MAX_NORMAL_STEP_ID.
_STEPS_WITHOUT_TASKS = frozenset(map(str, range(0xFFFFFFF1, 0x100000000)))


def in_slurm_step(environ: Environ) -> bool:
    """Whether srun started this process as a task."""
    return environ.get("SLURM_STEP_ID", "") not in ("", *_STEPS_WITHOUT_TASKS)


def lost(environ: Environ) -> tuple[str, ...]:
    """What tells of a step of several tasks, whose number is missing."""
    size = first_set(environ, "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    told = [n for n in ("SLURM_PROCID", size, "SLURM_STEP_NODELIST") if n in environ]
    alone = environ.get(size, "").strip() == "1" and environ.get("SLURM_PROCID", "0").strip() == "0"
    in_step = any(name.startswith("SLURM_STEP_") for name in told)
    is_task = "SLURM_PROCID" in environ and not in_batch_script(environ)
    if environ.get("SLURM_STEP_ID") or alone or not (in_step or is_task):
        return ()
    absent = [name for name in ("SLURM_JOB_ID", "SLURM_STEP_ID") if not environ.get(name)]
    return (*told, *absent)


def in_batch_script(environ: Environ) -> bool:
    """Whether this is a job's script, to which other variables may have come from its submitter."""
    return environ.get("SLURM_PROCID", "").strip() == "0" and bool(environ.get("SLURM_JOB_ID"))


def read(environ: Environ) -> WorldFields | None:
    """A task of ``srun``, by the variables of its step; those of the job may tell another story."""
    if not in_slurm_step(environ):
        return None
    require(environ, "SLURM_JOB_ID", *NAMES[:2])
    alone = whole(environ, NAMES.world_size) == 1
    here = place(environ, VariableNames(*NAMES[:2])) if alone else _one_of_several(environ)
    here["doubt"] = "" if alone else _of_terminal(environ)
    here["notes"] = (here["doubt"],) if here["doubt"] else ()
    here["attempt"] = number(environ, "SLURM_RESTART_COUNT") or 0
    # A requeued job starts again at step 0 under the same job id.
    restart = f"restart{here['attempt']}" if here["attempt"] else ""
    here["job"] = joined("slurm", environ.get("SLURM_CLUSTER_NAME"), _step(environ), restart)
    return here


def _step(environ: Environ) -> str:
    return f"{environ['SLURM_JOB_ID']}.{environ['SLURM_STEP_ID']}"


def _one_of_several(environ: Environ) -> WorldFields:
    require(environ, "SLURM_STEP_NODELIST", *NAMES[:6])
    # Slurm writes lists of ranks and of counts alike.
    ranks_here = parsed_list(environ, "SLURM_GTIDS", expand_counts)
    counts = parsed_list(environ, "SLURM_STEP_TASKS_PER_NODE", expand_counts)
    hosts = parsed_list(environ, "SLURM_STEP_NODELIST", expand)
    counts = counts if sum(counts) == whole(environ, "SLURM_STEP_NUM_TASKS") else []
    names = NAMES if counts else NAMES._replace(num_nodes="")
    here = place(environ, names, local_world_size=len(ranks_here), num_nodes=len(counts) or None)
    _check_step(environ, ranks_here, counts, hosts)
    here["hosts"] = _hosts_of_rank_0(environ, hosts)
    return here


def _of_terminal(environ: Environ) -> str:
    """The first task of ``srun --pty`` has the terminal; a shell without one ends at once.

    The variable is there in the steps that are started from that terminal, too.
    """
    if "SLURM_PTY_PORT" not in environ or whole(environ, NAMES.rank) != 0:
        return ""
    tasks = environ[NAMES.world_size].strip()
    return (
        f"SLURM_PTY_PORT is set. In a shell of `srun --pty`, only one of the {tasks} tasks of step "
        f"{_step(environ)} runs what is typed, and would wait for the others. `srun --overlap -n "
        f"{tasks} python ...` starts all of them; `allranks run -n {tasks} ...` starts {tasks} "
        "ranks on this host."
    )


def _check_step(
    environ: Environ, ranks_here: Sequence[int], counts: Sequence[int], hosts: Sequence[str]
) -> None:
    """Raise a ``DetectionError`` if the step's variables are leftovers of several steps."""
    at_fault: tuple[str, ...] = ()
    if ranks_here[whole(environ, "SLURM_LOCALID")] != whole(environ, "SLURM_PROCID"):
        at_fault = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_GTIDS")
    elif counts and counts[whole(environ, "SLURM_NODEID")] != len(ranks_here):
        at_fault = ("SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_GTIDS")
    elif environ.get("SLURMD_NODENAME", hosts[0]) not in hosts:
        at_fault = ("SLURMD_NODENAME", "SLURM_STEP_NODELIST")
    if at_fault:
        problem = "Slurm's variables contradict each other; some may be left over from another step"
        fix = "Start the program with srun, or unset SLURM_STEP_ID for a world of one."
        raise fault(environ, at_fault, problem, fix)


def _hosts_of_rank_0(environ: Environ, hosts: list[str]) -> tuple[str, ...]:
    if environ.get("SLURM_DISTRIBUTION", "").startswith("arbitrary"):
        return tuple(dict.fromkeys(hosts))
    groups = number(environ, "SLURM_HET_SIZE") or 1
    if groups == 1:
        return tuple(hosts[:1])
    # A step starts on the lowest of the groups that it spans, wherever that stands in its list.
    firsts = (_first_host(environ, group) for group in range(min(groups, MAX_HET_GROUPS)))
    return tuple(dict.fromkeys([*(host for host in firsts if host in hosts), *hosts]))


def _first_host(environ: Environ, group: int) -> str | None:
    # PACK is what Slurm called het groups until version 20.
    name = first_set(
        environ, f"SLURM_JOB_NODELIST_HET_GROUP_{group}", f"SLURM_JOB_NODELIST_PACK_GROUP_{group}"
    )
    return parsed_list(environ, name, expand)[0] if name in environ else None


def simulate(process: SimulatedProcess) -> dict[str, str]:
    """What it gives a process."""
    nodes = range(process.nodes)
    return {
        **process.variables(NAMES._replace(master_addr="", master_port="")),
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_ID": "0",
        "SLURM_GTIDS": ",".join(map(str, process.ranks_on(process.node))),
        "SLURM_STEP_TASKS_PER_NODE": ",".join(str(len(process.ranks_on(n))) for n in nodes),
        "SLURM_STEP_NODELIST": ",".join(f"node{node}" for node in nodes),
        "SLURMD_NODENAME": f"node{process.node}",
    }


READER = Reader(
    "slurm",
    read,
    simulate,
    ("SLURM_JOB_ID", *NAMES[:2]),
    sets_too=("openmpi", "mvapich", "pals", "mpich", "pmix"),
    prefixes=("SLURM",),
    lost=lost,
)
