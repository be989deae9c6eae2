"""Random programs of collectives, and a fault in each: data that follow from one seed.

Ranks, harness and judge draw the same program from its seed, and from how many ranks it may have,
so that nothing else need travel. ``chaos_steps.py`` has the calls.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import timedelta

from chaos_steps import (
    LEADERS,
    MAKERS,
    NODE,
    NOT_TO_BE_SKIPPED,
    TURNS,
    WORLD,
    Check,
    Step,
    draw_steps,
)

TIMEOUT = timedelta(seconds=12)
RENDEZVOUS = timedelta(seconds=12)
STALL_AFTER = timedelta(seconds=3)

AWHILE = 3.0
"""Seconds for which a rank waits for its fork's call to be refused, before it goes on."""

LINGER = 1.0
"""Seconds for which a rank waits, once Ctrl-C was sent, so that one that ignores it is late."""

LAUNCHERS = ("env", "run", "launch")

RANKS = (2, 4)
"""The least and the most ranks of a program, where nothing else is asked for."""

DEATHS = ("raise", "exit 0", "exit 3", "_exit", "kill", "segfault", "terminate", "interrupt")
PAUSES = ("sleep", "stop and go on")
FORKS = ("fork that lives on", "fork that calls")
OTHER_CALLS = ("another call", "a skipped call")
FAULTS = ("none", "stop", "Ctrl-C", *DEATHS, *PAUSES, *FORKS, *OTHER_CALLS)

SIGNALLED = ("kill", "segfault", "terminate", "interrupt", "stop", "stop and go on", "Ctrl-C")
"""Faults that may come at any moment, from a timer; the others come where the program stands."""

PHASES = ("start", "setup", "roll call", "connecting", "step", "new_group", "end", "after", "exit")
"""What a rank goes through, in order, save that the groups are made in steps.

``setup`` begins before the ranks have met, ``connecting`` when all have answered the roll call and
gloo begins to connect them; ``end`` is followed by the cleanup, ``after`` follows it, ``exit`` is
among the interpreter's last functions.
"""

AT_ONCE_PHASES = ("start", "step", "step", "step", "end", "after")
"""Where the program itself stands, and can raise, exit, sleep or fork."""

OFTEN = ("connecting", "step", "step", "new_group")
"""Phases in which others wait."""

LATEST = {"start": 0.03, "setup": 0.2, "roll call": 0.03, "connecting": 0.05, "exit": 0.02}
"""Seconds to the fault from the moment that a phase has begun, at most; elsewhere 0.01."""


class Boom(Exception):  # noqa: N818 - what the faulty rank raises, and nothing else does
    """The fault of a rank that raises."""


@dataclass(frozen=True)
class Fault:
    """What befalls one rank, and when.

    Attributes:
        kind: one of FAULTS.
        rank: the faulty rank.
        phase: one of PHASES.
        step: the index of the step, in the phases "step" and "new_group".
        delay: seconds from the beginning of the phase to the signal; None for at once, between
            two lines of the program.
        seconds: how long it sleeps, or is stopped.
        other: the call that it makes instead.
    """

    kind: str = "none"
    rank: int = 0
    phase: str = "start"
    step: int = -1
    delay: float | None = None
    seconds: float = 0.0
    other: Step | None = None

    def __str__(self) -> str:
        """For people."""
        if self.kind == "none":
            return "no fault"
        at = f"{self.phase} {self.step}" if self.step >= 0 else self.phase
        when = "" if self.delay is None else f", {1e3 * self.delay:.3f} ms after its beginning"
        lasts = f" for {self.seconds:.1f} s" if self.seconds else ""
        other = f": {self.other}" if self.other else ""
        return f"{self.kind}{lasts}{other} on rank {self.rank}, at {at}{when}"


@dataclass(frozen=True)
class Program:
    """What a job does.

    Attributes:
        seed: all the rest follows from it.
        ranks: how many.
        launcher: one of LAUNCHERS.
        steps: what all ranks call, one after the other.
        fault: what befalls one of them.
        check: the setting of ``setup``.
        session: whether it uses ``session()``, else ``setup()`` and ``cleanup()``.
        host_sockets: whether headers may take the host's sockets.
        peer_memory: whether a rank may read its peer's memory.
        among: the least and the most ranks that it might have had.
    """

    seed: int
    ranks: int
    launcher: str
    steps: tuple[Step, ...]
    fault: Fault
    check: Check
    session: bool
    host_sockets: bool
    peer_memory: bool
    among: tuple[int, int] = RANKS

    def members(self, group: str, rank: int) -> tuple[int, ...]:
        """The ranks of the group of that name in which a rank is, in its order, or none."""
        everyone = tuple(range(self.ranks))
        if group in (WORLD, NODE):
            return everyone
        if group == LEADERS:
            return (0,) if rank == 0 else ()
        made = next(step for step in self.steps if step.group == group and step.colors)
        if made.colors[rank] is None:
            return ()
        mine = [other for other in everyone if made.colors[other] == made.colors[rank]]
        return tuple(sorted(mine, key=lambda other: made.keys[other]) if made.keys else mine)

    def callers(self, step: Step, rank: int) -> tuple[int, ...]:
        """The ranks that make a step's call together with a rank, or none if it makes none."""
        members = self.members(step.over, rank)
        called = step.pair(members) if step.call == "send" else members
        return called if rank in called else ()

    def makes_group(self, number: int) -> bool:
        """Whether a step makes a group: the first that needs that of the host makes it."""
        step = self.steps[number]
        if not step.needs_node_group:
            return step.call in MAKERS
        return not any(earlier.needs_node_group for earlier in self.steps[:number])

    @property
    def environ(self) -> dict[str, str]:
        """The variables that switch a way off."""
        ways = {
            "ALLRANKS_HOST_SOCKETS": self.host_sockets,
            "ALLRANKS_PEER_MEMORY": self.peer_memory,
        }
        return {name: "0" for name, on in ways.items() if not on}

    def __str__(self) -> str:
        """For people."""
        how = "session()" if self.session else "setup() and cleanup()"
        facts = [
            f"{self.ranks} ranks under {self.launcher}, check={self.check}, {how}, {self.environ}",
            *(f"step {number}: {step}" for number, step in enumerate(self.steps)),
            f"fault: {self.fault}",
        ]
        return "\n".join(facts)


def range_of(text: str) -> tuple[int, int]:
    """How many ranks there may be, from "4-32" or "8".

    Raises:
        ValueError: it is something else.
    """
    least, dash, most = text.partition("-")
    among = int(least), int(most if dash else least)
    if not 2 <= among[0] <= among[1]:
        raise ValueError(f"{text}: expected two numbers of ranks from 2 on, such as 4-32")
    return among


def drawn(seed: int, among: tuple[int, int] = RANKS) -> Program:
    """The program of a seed; as many seeds in a row as FAULTS have all of them.

    Args:
        seed: any number.
        among: the least and the most ranks that it may have.
    """
    chance, kind = random.Random(seed), FAULTS[seed % len(FAULTS)]
    while True:
        program = _faultless(chance, seed, among)
        fault = _fault(chance, program, kind)
        if fault is not None:
            return replace(program, fault=fault)


def _faultless(chance: random.Random, seed: int, among: tuple[int, int]) -> Program:
    ranks = chance.randint(*among)
    return Program(
        seed=seed,
        ranks=ranks,
        launcher=chance.choice(LAUNCHERS),
        steps=draw_steps(chance, ranks),
        fault=Fault(),
        check=chance.choice((None, None, True, "lines")),
        session=chance.random() < 0.7,
        host_sockets=chance.random() < 0.6,
        peer_memory=chance.random() < 0.6,
        among=among,
    )


def _fault(chance: random.Random, program: Program, kind: str) -> Fault | None:
    """A fault of this kind; None where the program has no place for it."""
    rank = chance.randrange(program.ranks)
    if kind == "stop" and _goes_first(program, rank):
        return None  # The others wait for its turn however long, and say so.
    if kind == "none":
        return Fault()
    if kind in OTHER_CALLS:
        return _other_call(chance, program, Fault(kind, rank, "step"))
    timed = kind in SIGNALLED and chance.random() < 0.75
    phase = chance.choice(OFTEN + PHASES if timed else AT_ONCE_PHASES)
    if kind in ("interrupt", "Ctrl-C") and phase == "exit":
        phase = "end"  # What Python itself says of Ctrl-C at its exit is not ours.
    places = _places(program, phase, rank)
    if not places:
        phase, places = "setup", [-1]
        timed = kind in SIGNALLED
        phase = phase if timed else "start"
    seconds = chance.choice((0.1, 1.0, 5.0)) if kind in PAUSES else 0.0
    # As many faults within microseconds as within milliseconds.
    delay = 10 ** chance.uniform(-6, 0) * LATEST.get(phase, 0.01) if timed else None
    return Fault(kind, rank, phase, chance.choice(places), delay, seconds)


def _goes_first(program: Program, rank: int) -> bool:
    """Whether others wait for a rank's turn in any step."""
    turns = [step for step in program.steps if step.call in TURNS]
    return any(program.callers(step, rank)[:1] == (rank,) for step in turns)


def _places(program: Program, phase: str, rank: int) -> list[int]:
    """The steps in which a fault of this phase may come to a rank."""
    if phase == "step":
        mine = enumerate(program.steps)
        return [number for number, step in mine if program.callers(step, rank)]
    if phase == "new_group":
        makers = filter(program.makes_group, range(len(program.steps)))
        return [n for n in makers if program.members(program.steps[n].group, rank)]
    return [-1]


def _other_call(chance: random.Random, program: Program, fault: Fault) -> Fault | None:
    """A step at which the rank's call differs from the others', where all compare their calls."""
    places = [
        number
        for number, step in enumerate(program.steps)
        if step.call not in NOT_TO_BE_SKIPPED
        and step.verified(program.check)
        and len(program.members(step.over, fault.rank)) > 1
        and (fault.kind == "another call" or _tells(program, number, fault.rank))
    ]
    if not places:
        return None
    step = chance.choice(places)
    calls = ("synchronize", "all_gather_objects", "agree")
    instead = chance.choice([one for one in calls if one != program.steps[step].call])
    other = Step(instead, program.steps[step].group) if fault.kind == "another call" else None
    return replace(fault, step=step, other=other)


def _tells(program: Program, number: int, rank: int) -> bool:
    """Whether the call that a rank makes next tells that it has skipped this one."""
    skipped = program.steps[number]
    for at, later in enumerate(program.steps[number + 1 :], number + 1):
        if program.callers(later, rank):
            kept = later.call == "node_group" and not program.makes_group(at)
            exchange = later.verified(program.check) and not kept
            return exchange and later.over == skipped.over and later.call != skipped.call
    return True  # It leaves instead.
