"""``MetricLogger``: the meters of a training script, and a loop that shows them."""

from __future__ import annotations

import sys
from collections import defaultdict
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeVar

from allranks._process_group.ranks import is_master
from allranks._system.graph_breaks import outside_graphs
from allranks._system.printable import brief_repr
from allranks._training.loop_lines import LoopLines
from allranks._training.loop_state import LoopState
from allranks._training.meter_sums import exchange_sums
from allranks._training.smoothed_value import SmoothedValue, as_number

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from allranks._training.loop_bar import LoopBar

T = TypeVar("T")


class MetricLogger:
    """Meters by name, and a loop that shows them.

    ``logger.loss`` is ``logger.meters["loss"]``, unless the name is that of a method.

    Attributes:
        meters: a dict that makes a ``SmoothedValue`` where a name is used first.
        delimiter: what stands between the meters in ``str``, and between the parts of a line.
    """

    def __init__(self, delimiter: str = "\t") -> None:
        """Make a logger without meters. Not collective.

        Args:
            delimiter: what stands between the meters, and between the parts of a line.
        """
        self.meters: defaultdict[str, SmoothedValue] = defaultdict(SmoothedValue)
        self.delimiter: str = delimiter

    def update(self, **kwargs: Any) -> None:
        """Add a number to each of these meters. Not collective.

        Args:
            **kwargs: numbers, numpy scalars, or tensors of one element on any device; a None is
                skipped.

        Raises:
            TypeError: one of them is something else; the error names it. Nothing was changed.
        """
        given = {name: value for name, value in kwargs.items() if value is not None}
        numbers = {name: as_number(value, name) for name, value in given.items()}
        for name, number in numbers.items():
            self.meters[name].update(number)

    def add_meter(self, name: str, meter: SmoothedValue) -> None:
        """Take a meter of your own making, in place of any other of that name. Not collective.

        Args:
            name: its name.
            meter: the meter.

        Raises:
            TypeError: it is no ``SmoothedValue``.
        """
        if why := _why_no_meter(name, meter):
            raise TypeError(f"add_meter: {why}")
        self.meters[name] = meter

    @outside_graphs
    def synchronize_between_processes(self) -> None:
        """Make count and total of all meters those of all ranks. Collective over WORLD.

        All meters take one exchange of small messages. Ranks may have different meters: each is
        summed over the ranks that have it, and afterwards all ranks have it. All ranks get the
        same bits. It may be called again, such as after each epoch and at the end: only what came
        since the last call is summed, on top of what all ranks have in common. The windows, and so
        median, ``avg``, ``max`` and ``value``, stay each rank's own. In a world of one nothing
        changes.

        Raises:
            CollectiveError: a rank has put something else than a ``SmoothedValue`` into
                ``meters`` (the same error on every rank), or ``setup`` was not called in a world
                of several ranks. Nothing was changed.
            MismatchError: the ranks made different calls. Nothing was changed.
        """
        error = self._why_not_synchronized()
        mine = {} if error else {name: meter.sums for name, meter in self.meters.items()}
        call = "MetricLogger.synchronize_between_processes"
        for name, sums in exchange_sums(call, mine, error).items():
            self.meters[name].sums = sums

    def _why_not_synchronized(self) -> str | None:
        """What is no meter, among those that a program has put into ``meters`` itself."""
        whys = (_why_no_meter(name, meter) for name, meter in self.meters.items())
        return next(filter(None, whys), None)

    def log_every(
        self, iterable: Iterable[T], print_freq: float, header: str | None = None
    ) -> Iterator[T]:
        """Yield the items, and let rank 0 show how the loop goes. Not collective.

        Rank 0 prints a line for every ``print_freq``-th item, from the first one on, and for the
        last one; and one for the whole loop when it has come to its end. Where its standard output
        is a terminal, a progress bar takes the place of the lines for items, and what the program
        prints scrolls by above it; under ``allranks run`` it is a pipe. The other ranks print
        nothing. Times are in seconds: ``time`` is that of a whole item, ``data`` that part of it
        for which the loop has waited for the item, both on average over the last 20 items;
        ``max mem`` is the most memory that torch has held on CUDA, in units of 2**20 bytes.

        Args:
            iterable: the items; its length may be unknown, and it may be empty.
            print_freq: every how many items a line is printed; 0 means for the last one only.
            header: what each line begins with.

        Yields:
            The items, on every rank.

        Raises:
            ValueError: ``print_freq`` is negative. It is raised when the first item is asked for.
            DetectionError: nothing is set up, and the environment is half-set.
        """
        if print_freq < 0:
            raise ValueError(f"log_every: print_freq={print_freq} is negative")
        if not is_master():
            for item in iterable:
                yield item
            return
        loop = LoopState(header or "", _length(iterable), self.__str__, self.delimiter)
        with closing(_display(loop, print_freq)) as display:
            loop.wait_for_item()
            for item in iterable:
                loop.begin_item()
                yield item
                loop.end_item()
                display.show()
                loop.wait_for_item()
            display.finish()

    def __getattr__(self, name: str) -> SmoothedValue:
        """The meter of that name."""
        meters: dict[str, SmoothedValue] = self.__dict__.get("meters", {})  # None yet, in a copy.
        if name not in meters:
            raise AttributeError(f"{type(self).__name__} has no attribute and no meter {name!r}")
        return meters[name]

    def __str__(self) -> str:
        """All meters with their names, in the order in which they came."""
        return self.delimiter.join(f"{name}: {meter}" for name, meter in self.meters.items())


def _why_no_meter(name: str, meter: object) -> str | None:
    if isinstance(meter, SmoothedValue):
        return None
    return f"meter {name!r} is a {type(meter).__name__}, no SmoothedValue: {brief_repr(meter)}"


def _length(iterable: Any) -> int | None:
    try:
        return len(iterable)
    except (TypeError, NotImplementedError):
        return None


def _display(loop: LoopState, print_freq: float) -> LoopBar | LoopLines:
    if not _can_draw():
        return LoopLines(loop, print_freq)
    from allranks._training.loop_bar import LoopBar

    return LoopBar(loop)


def _can_draw() -> bool:
    """Whether standard output is a terminal, on which nobody else draws a bar."""
    isatty = getattr(sys.stdout, "isatty", None)  # A program's own stream may lack it.
    if hasattr(sys.stdout, "rich_proxied_file") or not (isatty and isatty()):
        return False
    from rich.console import Console

    return Console().is_interactive
