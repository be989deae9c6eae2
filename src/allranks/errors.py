"""Every error that allranks raises, in one tree.

::

    AllranksError
    |-- DetectionError (RuntimeError)          the environment does not say who this process is
    |-- ConfigError (ValueError)               a setting is wrong, or contradicts the launcher
    |-- DeviceError (RuntimeError)             no usable device for this rank
    |-- RendezvousError (ConnectionError, RuntimeError)
    |   |-- MissingRanksError (TimeoutError)   some ranks did not come in time
    |   |-- WrongJobError                      the store belongs to another job
    |   |-- DuplicateRankError                 two processes claim one rank
    |   `-- WorldMismatchError                 ranks disagree on the world size
    |-- RankFailedError (RuntimeError)         a launched rank ended without a result
    `-- CollectiveError (RuntimeError)
        |-- MismatchError (ValueError)         ranks made different calls
        |-- PeerFailedError                    another rank failed first
        `-- StalledError (TimeoutError)        a collective did not complete in time

Each leaf also derives from the built-in type that callers would expect, so that code which
catches ``RuntimeError`` or ``TimeoutError`` around ``torch.distributed`` keeps working. All of
them survive pickle, so that a process pool can carry them to its parent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from allranks._system.printable import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "AllranksError",
    "CollectiveError",
    "ConfigError",
    "DetectionError",
    "DeviceError",
    "DuplicateRankError",
    "MismatchError",
    "MissingRanksError",
    "PeerFailedError",
    "RankFailedError",
    "RendezvousError",
    "StalledError",
    "WorldMismatchError",
    "WrongJobError",
]


class AllranksError(Exception):
    """The root of every error that allranks raises.

    Its text may hold words of other ranks and hosts; what a terminal would obey in them is shown
    as escapes.
    """

    def __str__(self) -> str:
        """The message, as a terminal may have it."""
        return printable(super().__str__())


class DetectionError(AllranksError, RuntimeError):
    """The environment is half-set or contradicts itself, so this process's rank is unknown.

    Attributes:
        variables: the variables at fault and the values seen; None for one that is not set.
    """

    def __init__(self, message: str, variables: Mapping[str, str | None] | None = None) -> None:
        super().__init__(message)
        self.variables: dict[str, str | None] = dict(variables or {})


class ConfigError(AllranksError, ValueError):
    """A setting given to ``setup`` is wrong, or contradicts what the launcher says."""


class DeviceError(AllranksError, RuntimeError):
    """This rank cannot have the device that it needs."""


class RendezvousError(AllranksError, ConnectionError, RuntimeError):
    """The ranks of this job did not find each other."""


class MissingRanksError(RendezvousError, TimeoutError):
    """Some ranks did not arrive before the deadline.

    Attributes:
        missing: the ranks that did not arrive; empty where this rank cannot know them.
    """

    def __init__(self, message: str, *, missing: Iterable[int] = ()) -> None:
        super().__init__(message)
        self.missing: tuple[int, ...] = tuple(missing)


class WrongJobError(RendezvousError):
    """The store that answered belongs to another job, or to a job that is already complete."""


class DuplicateRankError(RendezvousError):
    """Two processes claim the same rank.

    Attributes:
        rank: the rank claimed twice.
    """

    def __init__(self, message: str, *, rank: int | None = None) -> None:
        super().__init__(message)
        self.rank: int | None = rank


class WorldMismatchError(RendezvousError):
    """The ranks disagree on the world size."""


class RankFailedError(AllranksError, RuntimeError):
    """A launched rank ended without a result, or badly after it, or its error cannot be carried.

    Attributes:
        rank: the rank, or None where it is the launcher that failed.
        exit_code: its exit code, or minus the number of the signal that ended it; None where it
            raised an exception.
    """

    def __init__(
        self, message: str, *, rank: int | None = None, exit_code: int | None = None
    ) -> None:
        super().__init__(message)
        self.rank: int | None = rank
        self.exit_code: int | None = exit_code


class CollectiveError(AllranksError, RuntimeError):
    """A collective call cannot be done; every rank that made the call gets the same error."""


class MismatchError(CollectiveError, ValueError):
    """The ranks called different collectives, or with data that do not fit together."""


class PeerFailedError(CollectiveError):
    """Another rank failed first, so this collective can never complete.

    Attributes:
        rank: the rank that failed first.
        traceback: the end of that rank's traceback, as Python prints it; "" where there is none.
    """

    def __init__(self, message: str, *, rank: int | None = None, traceback: str = "") -> None:
        super().__init__(message)
        self.rank: int | None = rank
        self.traceback: str = traceback


class StalledError(TimeoutError, CollectiveError):  # In this order, or it cannot be copied.
    """A collective did not complete within the group's timeout."""

    def __str__(self) -> str:
        """The message, as a terminal may have it."""
        return AllranksError.__str__(self)
