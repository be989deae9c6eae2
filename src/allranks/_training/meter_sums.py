"""What meters count and sum, and how the sums of all ranks become one, in one exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from allranks._collectives.pickling import dump_bytes, load_bytes
from allranks._collectives.scalars import exact_sum
from allranks._transport import process_groups
from allranks._transport.headers import Header, exchange_and_combine

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class MeterSums(NamedTuple):
    """A meter's count and total, in two parts, so that no part is summed over the ranks twice.

    Attributes:
        common_count: what all ranks together had counted when they last synchronised.
        common_total: their total then.
        own_count: what this rank has counted since.
        own_total: its total since.
    """

    common_count: float = 0
    common_total: float = 0.0
    own_count: float = 0
    own_total: float = 0.0

    def with_count(self, count: float) -> MeterSums:
        """With another count: 0 begins anew, all else changes this rank's own part."""
        if not count:
            return self._replace(common_count=0, own_count=count)
        return self._replace(own_count=count - self.common_count)

    def with_total(self, total: float) -> MeterSums:
        """With another total: 0 begins anew, all else changes this rank's own part."""
        if not total:
            return self._replace(common_total=0.0, own_total=total)
        return self._replace(own_total=total - self.common_total)


def exchange_sums(
    call: str, sums: Mapping[str, MeterSums], error: str | None = None
) -> dict[str, MeterSums]:
    """Make one of the sums of all ranks, in one exchange. Collective over WORLD.

    Args:
        call: the call that the ranks made.
        sums: this rank's, by the names of its meters; ranks may have different ones.
        error: why this rank cannot make the call, or None.

    Returns:
        The sums of each meter that any rank has, all of it the common part: the same bits in the
        same order on every rank.

    Raises:
        CollectiveError: a rank cannot make the call, or ``setup`` was not called.
        MismatchError: the ranks made different calls.
    """
    members = process_groups.members_of(call, None)
    header = Header(call, _written(sums), f"{call}: {error}" if error else None)
    return _read(exchange_and_combine(members, header, _combine))


def _written(sums: Mapping[str, MeterSums]) -> bytes:
    return dump_bytes({name: tuple(one) for name, one in sums.items()})


def _read(body: bytes) -> dict[str, MeterSums]:
    return {name: MeterSums(*one) for name, one in load_bytes(body).items()}


def _combine(bodies: list[bytes]) -> bytes:
    ranks = list(map(_read, bodies))
    names = dict.fromkeys(name for told in ranks for name in told)
    return _written({name: _together([t[name] for t in ranks if name in t]) for name in names})


def _together(told: Sequence[MeterSums]) -> MeterSums:
    """One meter of several ranks.

    The common part counts once. A rank where the meter is new, or began anew, has none.
    """
    common = {repr(one[:2]): one[:2] for one in told}  # By repr, since NaN is not equal to itself.
    counts, totals = zip(*common.values(), *(one[2:] for one in told), strict=True)
    return MeterSums(exact_sum(counts), exact_sum(totals))
