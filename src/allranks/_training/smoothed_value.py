"""``SmoothedValue``: a series of numbers, over a window of the last ones and over all of them."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from allranks._collectives.scalars import exact_sum
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._training.meter_sums import MeterSums, exchange_sums

DEFAULT_FORMAT = "{median:.4f} ({global_avg:.4f})"


class SmoothedValue:
    """A meter: a series of numbers, over a window of the last ones and over all of them.

    The window is this rank's own, always. Count and total are this rank's own until
    ``synchronize_between_processes`` makes them those of all ranks; what comes afterwards is this
    rank's own again, on top of them, until the next synchronisation. All is computed in 64 bits,
    and without torch. NaN in the window makes its median, mean and maximum NaN. A meter without
    numbers has NaN for all of them, which a format for integers such as ``{value:d}`` refuses.

    Attributes:
        deque: the numbers in the window, the latest last. They are not weighted.
        fmt: how ``str`` shows the meter: a format with the fields ``median``, ``avg``,
            ``global_avg``, ``max`` and ``value``.
        sums: count and total, each in two parts: what all ranks have in common, and what is new.
    """

    def __init__(self, window_size: int | None = 20, fmt: str | None = None) -> None:
        """Make a meter without numbers. Not collective.

        Args:
            window_size: how many of the last numbers make the window; None means all.
            fmt: how ``str`` shows the meter; None means ``"{median:.4f} ({global_avg:.4f})"``.
        """
        self.deque: deque[float] = deque(maxlen=window_size)
        self.fmt: str = DEFAULT_FORMAT if fmt is None else fmt
        self.sums: MeterSums = MeterSums()

    def update(self, value: Any, n: Any = 1) -> None:
        """Add a number. Not collective.

        Args:
            value: a number, a numpy scalar, or a tensor of one element on any device.
            n: its weight in count and total, such as the size of the batch that it is the mean of.

        Raises:
            TypeError: one of them is something else. Nothing was changed.
        """
        number, weight = as_number(value, "value"), as_number(n, "n")
        sums = self.sums
        self.sums = sums._replace(
            own_count=sums.own_count + weight, own_total=sums.own_total + number * weight
        )
        self.deque.append(number)

    @outside_graphs
    def synchronize_between_processes(self) -> None:
        """Make count and total those of all ranks. Collective over WORLD.

        It may be called again: only what came since the last call is summed, on top of what all
        ranks have in common. The window stays this rank's own. In a world of one nothing changes.

        Raises:
            CollectiveError: ``setup`` was not called in a world of several ranks.
            MismatchError: the ranks made different calls. Nothing was changed.
        """
        call = "SmoothedValue.synchronize_between_processes"
        self.sums = exchange_sums(call, {"": self.sums})[""]

    @property
    def count(self) -> float:
        """The sum of the weights.

        To assign 0 begins anew; to assign another number changes the part that is this rank's own.
        """
        return self.sums.common_count + self.sums.own_count

    @count.setter
    def count(self, count: Any) -> None:
        self.sums = self.sums.with_count(as_number(count, "count"))

    @property
    def total(self) -> float:
        """The sum of the numbers, each times its weight; to assign one is as for ``count``."""
        return self.sums.common_total + self.sums.own_total

    @total.setter
    def total(self, total: Any) -> None:
        self.sums = self.sums.with_total(float(as_number(total, "total")))

    @property
    def median(self) -> float:
        """The median of the window; of an even number of numbers, the lower of the middle two."""
        if self._window_has_none():
            return math.nan
        return sorted(self.deque)[(len(self.deque) - 1) // 2]

    @property
    def avg(self) -> float:
        """The mean of the window."""
        return exact_sum(self.deque) / len(self.deque) if self.deque else math.nan

    @property
    def global_avg(self) -> float:
        """The mean of all numbers, by their weights: the total divided by the count."""
        return self.total / self.count if self.count else math.nan

    @property
    def max(self) -> float:
        """The greatest number in the window."""
        return math.nan if self._window_has_none() else max(self.deque)

    @property
    def value(self) -> float:
        """The latest number."""
        return self.deque[-1] if self.deque else math.nan

    def _window_has_none(self) -> bool:
        """Whether nothing in the window can be compared: it is empty, or holds a NaN."""
        return not self.deque or any(map(math.isnan, self.deque))

    def __str__(self) -> str:
        """The meter in its format."""
        return self.fmt.format(
            median=self.median,
            avg=self.avg,
            global_avg=self.global_avg,
            max=self.max,
            value=self.value,
        )


def as_number(value: Any, name: str) -> float:
    """A number of Python, from one, from a numpy scalar, or from a tensor of one element.

    Args:
        value: what is to be a number.
        name: what the error calls it.

    Raises:
        TypeError: it is something else.
    """
    if type(value) is float or type(value) is int:
        return value
    try:
        plain = value.item() if hasattr(value, "item") else value
    except Exception as error:
        raise TypeError(f"{_no_number(value, name)}: {type(error).__name__}: {error}") from error
    if not isinstance(plain, (int, float)):
        raise TypeError(_no_number(value, name))
    return plain


def _no_number(value: Any, name: str) -> str:
    return (
        f"{name}={brief_repr(value)} (a {type(value).__name__}) is neither a number nor a tensor "
        "of one element"
    )
