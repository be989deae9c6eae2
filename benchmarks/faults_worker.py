"""One rank of a job that something befalls, with plain torch or with allranks.

    python benchmarks/faults_worker.py FAULT torch|allranks

The ranks come with the variables of ``env://``; nothing but these processes watches over them.
With BACKEND=nccl each uses a GPU, and waits for it after each step.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

VICTIM = 2
STEPS = 10
FAULT_AT = 5

TIMEOUT = timedelta(seconds=25)
STALL_AFTER = timedelta(seconds=4)
RENDEZVOUS = timedelta(seconds=8)

LONG, LONGER = 10.0, 35.0
"""Seconds that a slow rank takes; and seconds beyond the timeout of the group."""

RANK = int(os.environ.get("RANK", "-1"))
BACKEND = os.environ.get("BACKEND", "gloo")


def happens() -> None:
    """Tell the parent that the fault happens now."""
    print("FAULT", file=sys.stderr, flush=True)


def raise_error() -> None:
    """An uncaught error."""
    happens()
    raise LookupError("no shard 7")


def live_on() -> None:
    """The program catches its error, and goes on elsewhere."""
    try:
        raise_error()
    except LookupError:
        time.sleep(LONGER)


def exit_early() -> None:
    """The program of one rank ends."""
    happens()
    sys.exit(0)


def kill_itself(signum: int) -> None:
    """A signal that no handler takes."""
    happens()
    os.kill(os.getpid(), signum)


def read_nowhere() -> None:
    """A segmentation fault."""
    happens()
    ctypes.string_at(0)


def run_out_of_memory() -> None:
    """With the limit that a container would have."""
    limit = 8 << 30
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    happens()
    torch.ones(4 << 30)


def be_slow() -> None:
    """A long step, but no more than that."""
    happens()
    time.sleep(LONG)


def device() -> torch.device:
    """Where this rank's tensors are."""
    on_gpu = BACKEND == "nccl"
    return torch.device("cuda", RANK % torch.cuda.device_count()) if on_gpu else torch.device("cpu")


def ones() -> torch.Tensor:
    """What is reduced."""
    return torch.ones(8, device=device())


def reduce_all(step: int) -> None:
    """The collective of a step."""
    if LIBRARY == "allranks":
        import allranks

        allranks.all_reduce(ones() * step)
    else:
        dist.all_reduce(ones() * step)


def one_step(fault: Callable[[], None]) -> Callable[[int], None]:
    """A step before whose collective the fault befalls one rank."""

    def step(number: int) -> None:
        if number == FAULT_AT and RANK == VICTIM:
            fault()
        reduce_all(number)

    return step


def another_collective(number: int) -> None:
    """One rank calls something else."""
    if number == FAULT_AT:
        happens()
    if number == FAULT_AT and RANK == VICTIM:
        dist.broadcast(ones(), 0)
    else:
        reduce_all(number)


def skipped_call(number: int) -> None:
    """One rank leaves one call out, and then has other things to do."""
    if number == FAULT_AT and RANK == VICTIM:
        return
    reduce_all(number)
    if number == STEPS - 1 and RANK == VICTIM:
        happens()
        time.sleep(LONGER)


def another_order(number: int) -> None:
    """Two groups of all ranks, used in the other order on one of them."""
    if number:
        return
    groups = [dist.new_group(timeout=TIMEOUT) for _ in range(2)]
    happens()
    for group in groups[::-1] if RANK == VICTIM else groups:
        dist.all_reduce(ones(), group=group)


def uneven_batches(number: int) -> None:
    """DDP, and one rank that has no batch left."""
    if number == 0:
        model = torch.nn.Linear(8, 8).to(device())
        one_step.model = torch.nn.parallel.DistributedDataParallel(model)  # type: ignore[attr-defined]
    if number >= FAULT_AT and RANK == VICTIM:
        happens()
        time.sleep(LONGER)
    one_step.model(ones()).sum().backward()  # type: ignore[attr-defined]


def preprocess(number: int) -> None:
    """Rank 0 prepares for longer than a collective may take."""
    if number == 1:
        happens()
        if LIBRARY == "allranks":
            import allranks

            allranks.on_master(lambda: time.sleep(LONGER))
        else:
            if RANK == 0:
                time.sleep(LONGER)
            dist.barrier()
    reduce_all(number)


def long_run(number: int) -> None:
    """For a cut of the network: steps for some time."""
    if number == FAULT_AT:
        happens()
    end = time.monotonic() + 2.0
    while number == FAULT_AT and time.monotonic() < end:
        reduce_all(number)
        time.sleep(0.1)
    reduce_all(number)


FAULTS: dict[str, Callable[[int], None]] = {
    "an exception": one_step(raise_error),
    "an exception is caught, the rank lives on": one_step(live_on),
    "sys.exit(0), early": one_step(exit_early),
    "SIGKILL": one_step(lambda: kill_itself(signal.SIGKILL)),
    "SIGSTOP": one_step(lambda: kill_itself(signal.SIGSTOP)),
    "SIGTERM": one_step(lambda: kill_itself(signal.SIGTERM)),
    "segmentation fault": one_step(read_nowhere),
    "out of memory": one_step(run_out_of_memory),
    "a rank is missing at the start": reduce_all,
    "a slow rank": one_step(be_slow),
    "another collective": another_collective,
    "groups in another order": another_order,
    "a skipped call": skipped_call,
    "DDP, uneven batches": uneven_batches,
    "rank 0 prepares for long": preprocess,
    "Ctrl-C, while a rank is stopped": one_step(lambda: kill_itself(signal.SIGSTOP)),
    "the network is cut, and comes back": long_run,
}


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """The process group, as each library's users bring it up."""
    if LIBRARY == "allranks":
        import allranks

        with allranks.session(
            cpu=BACKEND == "gloo",
            timeout=TIMEOUT,
            stall_after=STALL_AFTER,
            rendezvous_timeout=RENDEZVOUS,
        ):
            yield
        return
    starting = FAULTS[FAULT] is reduce_all
    if BACKEND == "nccl":
        torch.cuda.set_device(device())
    dist.init_process_group(BACKEND, timeout=RENDEZVOUS if starting else TIMEOUT)
    yield
    dist.destroy_process_group()


def main() -> None:
    """Run the steps of a job."""
    if FAULTS[FAULT] is reduce_all:
        happens()
    with process_group():
        for number in range(STEPS):
            FAULTS[FAULT](number)
            if BACKEND == "nccl":
                torch.cuda.synchronize()
            time.sleep(0.1)
    print("DONE", file=sys.stderr, flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    FAULT, LIBRARY = sys.argv[1:]
    main()
