"""The form of a launcher's file: what it reads, and what it would give a process."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from allranks._launchers.fields import Environ, WorldFields
    from allranks._launchers.simulated_process import SimulatedProcess
    from allranks._launchers.world import Launcher


def _nothing(_environ: Environ) -> tuple[str, ...]:
    return ()


class Reader(NamedTuple):
    """What the file of a launcher gives.

    Attributes:
        name: its name.
        read: the fields of this process's ``World``; None where it did not start the process.
            Pure. Raises DetectionError where its variables are incomplete or contradict each other.
        simulate: what it would give a process, for tests; None where another reader has it.
        variables: shown as evidence; the first is set wherever the launcher left any.
        sets_too: the launchers whose variables it sets too.
        prefixes: how the names of all variables begin by which it tells a process its rank.
        lost: the variables that only a process has that it started, where no reader could take
            them, since others are missing.
    """

    name: Launcher
    read: Callable[[Environ], WorldFields | None]
    simulate: Callable[[SimulatedProcess], dict[str, str]] | None
    variables: tuple[str, ...] = ()
    sets_too: tuple[Launcher, ...] = ()
    prefixes: tuple[str, ...] = ()
    lost: Callable[[Environ], tuple[str, ...]] = _nothing

    @property
    def takes_rank(self) -> bool:
        """Whether it numbers processes in RANK, which for others is a second opinion."""
        return "RANK" in self.variables

    @property
    def reason(self) -> str:
        """Why others were ignored."""
        if self.name == "env":
            return "RANK and WORLD_SIZE say who this process is"
        return f"{self.name} started this process"

    def left_traces(self, environ: Environ) -> bool:
        """Whether its variables are set, by whichever ancestor of this process."""
        return bool(self.variables) and self.variables[0] in environ
