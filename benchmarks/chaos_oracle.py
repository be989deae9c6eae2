"""What a user is entitled to when something befalls a rank: a table, and what its rows ask.

An ending is one word: "done" (all calls made, cleaned up), "named" (an error that names the faulty
rank), "missing" (it did not come, says the roll call), "stalled" (a StalledError whose verdict
accuses it alone), "mismatch" (a MismatchError that shows its call), "interrupted" (Ctrl-C).
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from chaos_programs import DEATHS, FAULTS, FORKS, OTHER_CALLS, PAUSES, RENDEZVOUS, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from chaos_programs import Program

PROMPT = 6.0
"""Seconds in which a death by itself is named on every rank that it concerns, on a busy machine."""

LATE = 8.0
"""Seconds that may pass after a timeout: the ranks are asked where they stand, and leave."""

TO_LEAVE = 5.0
"""Seconds in which a launcher ends the other ranks, and itself."""

INTERPRETERS_END = 0.7
"""Seconds of CPU that torch takes at the end of an interpreter (measured, 0.66)."""


def in_the_way(program: Program) -> float:
    """Seconds in which the interpreters of many ranks end, which share this machine's cores."""
    many = max(0, program.ranks - 4) if program.launcher == "env" else 0
    return INTERPRETERS_END * many / (os.cpu_count() or 1)


MEETING, CALLING = RENDEZVOUS.total_seconds() + LATE, TIMEOUT.total_seconds() + LATE

GOES_ON = ("none", *PAUSES, *FORKS)

CODES = {
    "raise": 1,
    "exit 0": 0,
    "exit 3": 3,
    "_exit": 4,
    "kill": -signal.SIGKILL,
    "segfault": -signal.SIGSEGV,
    "terminate": -signal.SIGTERM,
    "interrupt": -signal.SIGINT,
}
"""How a process ends by each death, as its parent sees it."""


@dataclass(frozen=True)
class Rank:
    """What came back of a rank.

    Attributes:
        number: the rank.
        diary: its lines, oldest first.
        output: what it wrote, where it was not mixed with the others' output.
        status: how it ended: an exit code, minus a signal's number; None where only its launcher
            knows, or where it did not end.
        ended: when, on the monotonic clock; None as above.
    """

    number: int
    diary: tuple[dict[str, Any], ...] = ()
    output: str = ""
    status: int | None = None
    ended: float | None = None

    def told(self, what: str) -> list[dict[str, Any]]:
        """The lines of its diary of one kind."""
        return [line for line in self.diary if line["what"] == what]

    @property
    def done(self) -> bool:
        """Whether it made all its calls, and has cleaned up."""
        return bool(self.told("done"))

    def done_by(self, moment: float | None) -> bool:
        """Whether it was done at a moment."""
        return moment is not None and any(line["at"] <= moment for line in self.told("done"))

    @property
    def phase(self) -> str:
        """The last phase that it has entered."""
        return str(([line["phase"] for line in self.told("phase")] or [""])[-1])

    @property
    def begun(self) -> int:
        """The last step that it began; -1 for none."""
        return max((line["step"] for line in self.told("phase")), default=-1)

    @property
    def gave_up(self) -> float | None:
        """When it ended; where only its launcher knows, when it had an error or was done."""
        final = [line["at"] for line in self.diary if line["what"] in ("error", "done")]
        return self.ended if self.ended is not None else min(final, default=None)


@dataclass(frozen=True)
class Case:
    """What a rank that nothing befell has to do with the faulty one.

    Attributes:
        program: what the job does.
        victim: the faulty rank, as far as it came.
        other: the rank that nothing befell.
        early: whether that one was done before Ctrl-C could reach it.
    """

    program: Program
    victim: Rank
    other: int
    early: bool = False

    def always(self) -> bool:
        """In whatever case."""
        return True

    def victim_done(self) -> bool:
        """The faulty rank had made all its calls, and cleaned up."""
        return self.victim.done

    def may_be_done(self) -> bool:
        """The other rank was done when Ctrl-C came, or was about to be."""
        leaving = self.program.fault.phase in ("end", "after")
        return self.early or (leaving and self.other != self.victim.number)

    def not_met(self) -> bool:
        """The faulty rank had not answered the roll call, so that nobody may know its process."""
        phases = {line["phase"] for line in self.victim.told("phase")}
        return not phases & {"connecting", "step", "end"}

    def connecting(self) -> bool:
        """Gloo was about to connect the ranks, or had just done so."""
        return self.victim.phase == "connecting"

    def needed(self) -> bool:
        """The other rank has a call before it that cannot end without the faulty one."""
        fault = self.program.fault
        at_once = fault.phase == "step" and fault.delay is None
        first = fault.step if at_once else self.victim.begun + 1
        later = range(max(first, 0), len(self.program.steps))
        return any(self._meets(number, fault.rank) for number in later)

    def member(self) -> bool:
        """The other rank is in the group whose call the faulty one skips or replaces."""
        return self.other in self._members

    def meets_members(self) -> bool:
        """The other rank has a later call with a rank of that group."""
        later = range(self.program.fault.step + 1, len(self.program.steps))
        return any(self._meets(number, member) for number in later for member in self._members)

    def member_of_its_last(self) -> bool:
        """As ``member``, and the faulty rank makes no call afterwards, but leaves."""
        return self.member() and self.its_last()

    def its_last(self) -> bool:
        """The faulty rank makes no call afterwards, but leaves."""
        fault = self.program.fault
        later = self.program.steps[fault.step + 1 :]
        mine = any(self.program.callers(step, fault.rank) for step in later)
        return fault.kind == "a skipped call" and not mine

    @property
    def _members(self) -> tuple[int, ...]:
        fault = self.program.fault
        return self.program.members(self.program.steps[fault.step].over, fault.rank)

    def _meets(self, number: int, rank: int) -> bool:
        """Whether the other rank's call in a step cannot end before this one has come to it."""
        step = self.program.steps[number]
        callers = self.program.callers(step, self.other)
        if rank not in callers or rank == self.other:
            return False
        if self.program.makes_group(number):
            return True
        if step.call == "node_group":
            return False  # It has been made, by the first call that needed it.
        if step.call == "master_first":
            return rank == callers[0]  # It lets this one go first, and waits for nobody else.
        if step.call == "broadcast" and not step.verified(self.program.check):
            return callers[step.src % len(callers)] == rank
        return True


@dataclass(frozen=True)
class Rule:
    """How ranks may end that nothing befell.

    Attributes:
        kinds: of fault.
        when: the case that it is for.
        ends: the right endings, separated by spaces.
        within: seconds from the fault to their end.
        why: the reason.
    """

    kinds: tuple[str, ...]
    when: Callable[[Case], bool]
    ends: str
    within: float
    why: str


SKIPPED, STOPPED, INTERRUPTED = ("a skipped call",), ("stop",), ("Ctrl-C",)

RULES = (
    Rule(GOES_ON, Case.always, "done", PROMPT, "the job goes on"),
    Rule(INTERRUPTED, Case.may_be_done, "interrupted named done", PROMPT, "it was about to leave"),
    Rule(INTERRUPTED, Case.always, "interrupted named", PROMPT, "Ctrl-C is heard everywhere"),
    Rule(SKIPPED, Case.member_of_its_last, "named", PROMPT, "the faulty rank left instead"),
    Rule(SKIPPED, Case.its_last, "named done", PROMPT, "the faulty rank left instead"),
    Rule(OTHER_CALLS, Case.member, "mismatch", PROMPT, "all that took part have the same error"),
    Rule(OTHER_CALLS, Case.meets_members, "mismatch", PROMPT, "the members' error is told to all"),
    Rule(OTHER_CALLS, Case.always, "mismatch done", PROMPT, "it may be done before it hears"),
    Rule(FAULTS, Case.victim_done, "done", CALLING, "the faulty rank had left in order"),
    Rule(FAULTS, Case.not_met, "missing named", MEETING, "the ranks could not all meet"),
    Rule(STOPPED, Case.connecting, "missing named stalled", MEETING, "it does not connect"),
    Rule(STOPPED, Case.needed, "stalled", CALLING, "a stopped rank may go on until the timeout"),
    Rule(STOPPED, Case.always, "stalled done", CALLING, "no later call needs the faulty rank"),
    Rule(DEATHS, Case.needed, "named", PROMPT, "a death is seen by itself, and ends all calls"),
    Rule(DEATHS, Case.always, "named done", PROMPT, "no later call needs the faulty rank"),
)
"""The first that is of the fault's kind and case holds."""


def expected(case: Case) -> Rule:
    """What a rank that nothing befell is entitled to."""
    kind = case.program.fault.kind
    return next(rule for rule in RULES if kind in rule.kinds and rule.when(case))
