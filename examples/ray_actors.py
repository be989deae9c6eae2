"""A group of Ray actors: each is one rank, wherever Ray puts it.

Ray gives its actors no rank, so the driver does: a rank, the world size, and where rank 0 runs.
Ray Train's workers have all of it in their environments, and call ``allranks.setup()`` alone.

    python examples/ray_actors.py --actors 4
"""

from __future__ import annotations

import argparse
import os
import socket

import ray

import allranks


class Rank:
    """One rank of the group."""

    def place(self) -> str:
        """Where rank 0 may host the meeting: its address, and a port that is free."""
        with socket.create_server(("", 0)) as free:
            host = ray.util.get_node_ip_address()
            return f"{f'[{host}]' if ':' in host else host}:{free.getsockname()[1]}"

    def by_settings(self, rank: int, world_size: int, place: str) -> dict[str, object]:
        """Come up by what ``setup`` is given."""
        allranks.setup(
            cpu=True, rank=rank, world_size=world_size, init_method=f"tcp://{place}", timeout=1
        )
        return self.told()

    def by_variables(self, rank: int, world_size: int, place: str) -> dict[str, object]:
        """Come up by the usual variables."""
        address, _, port = place.rpartition(":")
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world_size))
        os.environ.update(MASTER_ADDR=address.strip("[]"), MASTER_PORT=port)
        allranks.setup(cpu=True, timeout=1)
        return self.told()

    def told(self) -> dict[str, object]:
        """Where this rank stands, and the sum of all ranks."""
        world = allranks.world()
        return {
            "launcher": world.launcher,
            "rank": world.rank,
            "host": socket.gethostname(),
            "total": allranks.all_reduce(world.rank + 1),
        }

    def work(self) -> int:
        """A collective of all actors; a rank that is lost is named."""
        return int(allranks.all_reduce(1))

    def leave(self) -> None:
        """Take the group down."""
        allranks.cleanup()


RankActor = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(Rank)


def main() -> None:
    """Form a group of actors, let it work, and print where its ranks are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--actors", type=int, default=2)
    size = parser.parse_args().actors
    ray.init()
    actors = [RankActor.remote() for _ in range(size)]
    place = ray.get(actors[0].place.remote())
    for told in ray.get([a.by_settings.remote(rank, size, place) for rank, a in enumerate(actors)]):
        print(told)
    ray.get([actor.leave.remote() for actor in actors])


if __name__ == "__main__":
    main()
