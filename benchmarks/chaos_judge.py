"""What is wrong with a run: from a program and what came back of it to complaints, purely.

``chaos_oracle.py`` has what is right, ``chaos_words.py`` reads what the ranks say.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from chaos_oracle import CODES, GOES_ON, PROMPT, TO_LEAVE, Case, expected, in_the_way
from chaos_programs import AWHILE, DEATHS, LINGER, OTHER_CALLS, PHASES
from chaos_words import (
    DIFFERENT,
    OTHER_LINES,
    accused,
    ending_of,
    explained,
    is_pythons_own,
    lines_by_rank,
    odd_lines,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from chaos_oracle import Rank, Rule
    from chaos_programs import Program


@dataclass(frozen=True)
class Played:
    """What came back of a program.

    Attributes:
        ranks: of each rank.
        output: of the launcher, the ranks' mixed in it.
        status: the launcher's exit code; None under env, and where it did not end.
        error: what ``launch`` raised.
        ended: when all had ended, on the monotonic clock.
        late: which processes had to be ended, as they ran on and on.
        processes: what was left of the job, each process in words, by its pid.
        files: what was left of it in the file system.
        held: descriptors and threads that the caller of ``launch`` holds more than before.
        killed: when the harness had to end the stopped rank, on the monotonic clock.
        sent: when Ctrl-C was sent, on the monotonic clock.
    """

    ranks: tuple[Rank, ...]
    output: str = ""
    status: int | None = None
    error: dict[str, Any] | None = None
    ended: float = 0.0
    late: tuple[str, ...] = ()
    processes: dict[int, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    held: dict[str, int] = field(default_factory=dict)
    killed: float | None = None
    sent: float | None = None


def ending(rank: Rank, victim: int, said: str) -> str:
    """How a rank ended, in one word of the oracle's; else "silent", or what its error says.

    Args:
        rank: what came back of it.
        victim: whom its error must name.
        said: all that it wrote, where its error is torch's own, of a handle to wait for.
    """
    errors = rank.told("error")
    if errors:
        return ending_of(explained(errors[0], said), victim)
    if rank.status == -signal.SIGINT and not rank.diary:
        return "interrupted"  # Before its program began.
    return "done" if rank.done else "silent"


@dataclass(frozen=True)
class Hearing:
    """A program, and what came back of it."""

    program: Program
    played: Played

    @property
    def kind(self) -> str:
        """Of the fault."""
        return self.program.fault.kind

    @property
    def victim(self) -> Rank:
        """The faulty rank."""
        return self.played.ranks[self.program.fault.rank]

    @property
    def others(self) -> list[Rank]:
        """The ranks whose ending the oracle tells: of another call, it is all ranks' error."""
        case = Case(self.program, self.victim, self.victim.number)
        joins = self.kind in OTHER_CALLS and not case.its_last()
        everyone = joins or self.kind in (*GOES_ON, "Ctrl-C")
        return [rank for rank in self.played.ranks if everyone or rank is not self.victim]

    @cached_property
    def rules(self) -> dict[int, Rule]:
        """What each of them is entitled to."""
        return {rank.number: expected(self._case(rank)) for rank in self.others}

    def said_by(self, rank: Rank) -> str:
        """All that a rank wrote."""
        return rank.output or dict(lines_by_rank(self.played.output)).get(rank.number, "")

    def _case(self, rank: Rank) -> Case:
        sent = self.played.sent
        early = sent is not None and rank.done_by(sent + LINGER)
        return Case(self.program, self.victim, rank.number, early)

    @property
    def since(self) -> float:
        """When the fault came; where it came nowhere, the beginning."""
        faults = [line["at"] + line["delay"] for line in self.victim.told("fault")]
        return float((faults or [self.beginning])[0])

    @property
    def beginning(self) -> float:
        """When the first rank began."""
        first = [rank.diary[0]["at"] for rank in self.played.ranks if rank.diary]
        return float(min(first, default=0.0))

    @property
    def asks_to_stop(self) -> bool:
        """Whether the faulty rank had called ``should_stop``, which remembers SIGTERM."""
        steps = self.program.steps
        answers = self.victim.told("answer")
        return any(steps[told["step"]].call == "should_stop" for told in answers)

    @property
    def failed(self) -> bool:
        """Whether an error has left one of these ranks."""
        return any(rank.told("error") for rank in self.others)


def complaints(program: Program, played: Played) -> list[str]:
    """What is wrong with a run; nothing, if all is as a user may expect."""
    hearing = Hearing(program, played)
    return [complaint for look in LOOKS for complaint in look(hearing)]


def _at_results(hearing: Hearing) -> Iterator[str]:
    """No wrong number."""
    for rank in hearing.played.ranks:
        for wrong in rank.told("wrong"):
            yield f"rank {rank.number}, step {wrong['step']}: {wrong['told']}"


def _at_answers(hearing: Hearing) -> Iterator[str]:
    """Some calls say the same on all ranks of a group; ``should_stop`` no without a signal."""
    answers: dict[tuple[int, int], set[Any]] = {}
    for rank in hearing.played.ranks:
        for told in rank.told("answer"):
            group = hearing.program.steps[told["step"]].over
            first = hearing.program.members(group, rank.number)[0]
            answers.setdefault((told["step"], first), set()).add(told["answer"])
    # `allranks run` asks the ranks that are left to end, when one has failed.
    failing = hearing.program.launcher == "run" and hearing.kind not in GOES_ON
    asked = hearing.kind == "terminate" or failing
    for (step, _), told_by_all in answers.items():
        call = hearing.program.steps[step].call
        if len(told_by_all) > 1:
            yield f"step {step}: {call}() differs between ranks"
        elif call == "shared_seed" and not all(0 <= seed < 2**63 for seed in told_by_all):
            yield f"step {step}: {told_by_all} is no seed of 63 bits"
        elif call == "should_stop" and True in told_by_all and not asked:
            yield f"step {step}: should_stop(), and nobody was asked to stop"


def _at_others(hearing: Hearing) -> Iterator[str]:
    """Each rank that nothing befell ends as it must, and in time."""
    for rank in hearing.others:
        may_name, said = _whom_it_may_name(hearing, rank), hearing.said_by(rank)
        rule, end = hearing.rules[rank.number], ending(rank, may_name, said)
        if end == "silent" and _may_be_ended(hearing, rank):
            continue
        if end not in rule.ends.split():
            right = " or ".join(rule.ends.split())
            yield f"rank {rank.number}: {end}; expected: {right}, since {rule.why}"
        seconds = (rank.gave_up or hearing.since) - hearing.since
        if end != "done" and seconds > rule.within + in_the_way(hearing.program):
            yield (
                f"rank {rank.number} ended {seconds:.1f} s after the fault, not within "
                f"{rule.within:g} s: {rule.why}"
            )


def _whom_it_may_name(hearing: Hearing, rank: Rank) -> int:
    """The faulty rank; after Ctrl-C any other that it has ended."""
    errors = rank.told("error")
    if hearing.kind != "Ctrl-C" or not errors or errors[0]["rank"] is None:
        return hearing.victim.number
    named = hearing.played.ranks[errors[0]["rank"]]
    end = ending(named, hearing.victim.number, hearing.said_by(named))
    return named.number if end in ("interrupted", "silent") else hearing.victim.number


def _may_be_ended(hearing: Hearing, rank: Rank) -> bool:
    """Whether the launcher may have ended a rank before it could say anything."""
    whole = hearing.played
    if hearing.kind == "Ctrl-C" and hearing.program.launcher == "run":
        return not rank.told("did")  # It passes Ctrl-C on first, which no rank ignores.
    return hearing.program.launcher != "env" and bool(whole.status or whole.error or whole.late)


def _at_the_end(hearing: Hearing) -> Iterator[str]:
    """The job as a whole ends in time."""
    within = max((rule.within for rule in hearing.rules.values()), default=PROMPT)
    bound = within + hearing.program.fault.seconds + TO_LEAVE + in_the_way(hearing.program)
    # A job that goes on has no time to lose at all: a stall that heals is one too many.
    goes_on = hearing.kind in GOES_ON
    seconds = hearing.played.ended - (hearing.beginning if goes_on else hearing.since)
    if hearing.played.late:
        yield f"still there at the end, and killed: {'; '.join(hearing.played.late)}"
    elif seconds > bound:
        moment = "beginning" if goes_on else "fault"
        yield f"all had ended {seconds:.1f} s after the {moment}, not within {bound:g} s"


def _at_statuses(hearing: Hearing) -> Iterator[str]:
    """Exit codes of each process that nobody else watches over."""
    for rank in hearing.played.ranks:
        codes = _codes(hearing, rank)
        if rank.status is not None and rank.status not in codes:
            yield f"rank {rank.number}: exit code {rank.status}, expected {sorted(codes)}"


def _codes(hearing: Hearing, rank: Rank) -> set[int]:
    if rank is hearing.victim and rank not in hearing.others:
        return _codes_of_the_victim(hearing)
    if hearing.kind == "Ctrl-C":
        return {1, -signal.SIGINT} | ({0} if rank.done else set())
    return {0} if rank.done else {1}


def _codes_of_the_victim(hearing: Hearing) -> set[int]:
    fault, victim = hearing.program.fault, hearing.victim
    left = {0} if victim.done else set()
    if fault.kind == "stop":
        return {-signal.SIGKILL} | left  # The harness ends it.
    if fault.kind in OTHER_CALLS:
        return left or {1}
    # A signal may come too late to find the process, or be remembered by should_stop().
    late = fault.delay is not None or (fault.kind == "terminate" and hearing.asks_to_stop)
    return {CODES[fault.kind]} | (left if late else set())


def _at_run(hearing: Hearing) -> Iterator[str]:
    """``allranks run`` has the exit code of the rank that failed first."""
    if hearing.program.launcher != "run" or hearing.played.late:
        return
    codes = {128 - code if code < 0 else code for code in _codes_of_the_job(hearing)}
    if hearing.played.status not in codes:
        yield f"allranks run: exit code {hearing.played.status}, expected {sorted(codes)}"
    dead = hearing.kind in DEATHS and hearing.kind != "exit 0" and hearing.played.status != 0
    named = f"allranks: rank {hearing.victim.number} (pid "
    own = [line for _, text in _own_texts(hearing) for line in text.splitlines()]
    if dead and not any(line.startswith(named) for line in own):
        yield f"allranks run does not name rank {hearing.victim.number}: {' '.join(own):.400}"


def _codes_of_the_job(hearing: Hearing) -> set[int]:
    if hearing.kind == "Ctrl-C":
        done = all(rank.done for rank in hearing.played.ranks)
        return {-signal.SIGINT} | ({0} if done else set())
    if hearing.kind in DEATHS and hearing.kind != "exit 0":
        return _codes_of_the_victim(hearing)
    if hearing.kind == "stop" and not hearing.failed:
        return _codes_of_the_victim(hearing)
    return {1} if hearing.failed else {0}


def _at_launch(hearing: Hearing) -> Iterator[str]:
    """``launch`` raises what the rank raised that failed first, or tells how it ended."""
    error = hearing.played.error
    if hearing.program.launcher != "launch" or hearing.played.late:
        return
    if error is None and not all(rank.done for rank in hearing.played.ranks):
        yield "launch returned, though not all ranks were done"
    elif error is not None and not _is_right(hearing, error):
        yield f"launch raised {error['kind']}: {error['text']:.400}"


def _is_right(hearing: Hearing, error: dict[str, Any]) -> bool:
    fault = hearing.program.fault
    raised = {"raise": "Boom", "interrupt": "KeyboardInterrupt", "Ctrl-C": "KeyboardInterrupt"}
    if fault.kind in GOES_ON:
        return False
    if fault.kind in raised:
        return bool(error["kind"] == raised[fault.kind])
    if fault.kind in DEATHS:
        return (error["rank"], error["exit_code"]) == (fault.rank, CODES[fault.kind])
    if error["kind"] == "RankFailedError":  # The harness has killed the one that was stopped.
        return bool(error["rank"] == fault.rank)
    return ending_of(error, fault.rank) in ("mismatch", "stalled", "missing", "named")


def _at_forks(hearing: Hearing) -> Iterator[str]:
    """A fork that makes a call is refused at once."""
    if hearing.kind != "fork that calls" or not hearing.victim.told("fault"):
        return
    told = hearing.victim.told("child")
    if not told:
        yield "the fork's call was not refused: it had not returned"
    elif told[0]["kind"] not in ("CollectiveError", "DetectionError"):
        yield f"the fork's call: {told[0]['kind']}: {told[0]['text']}"
    elif told[0]["at"] > hearing.since + AWHILE:
        yield f"the fork's call was refused after {told[0]['at'] - hearing.since:.1f} s"


def _at_leftovers(hearing: Hearing) -> Iterator[str]:
    """Nothing is left, but what a rank has forked under env://: that is its launcher's to end.

    `allranks run`, `launch` and the plugin are launchers of ours, and end it; as srun and torchrun
    do. A rank by itself leaves what its program has put into the background, as any python does.
    """
    forks = {told["pid"] for told in hearing.victim.told("fork")}
    excused = forks if hearing.program.launcher == "env" else set()
    left = [told for pid, told in hearing.played.processes.items() if pid not in excused]
    for one in (*left, *hearing.played.files):
        yield f"left: {one}"
    for what, more in hearing.played.held.items():
        if more > 0:
            yield f"the caller of launch holds {more} {what} more"


def _at_held(hearing: Hearing) -> Iterator[str]:
    """A rank whose job goes on holds nothing after its cleanup that it did not before."""
    for rank in hearing.played.ranks if hearing.kind in GOES_ON else ():
        for before, after in pairwise(rank.told("held")):
            for what, stay in _kept(hearing, rank).items():
                if (more := after[what] - before[what]) > stay:
                    yield f"rank {rank.number} holds {more} {what} more after its cleanup"


def _kept(hearing: Hearing, rank: Rank) -> dict[str, int]:
    """What a rank may keep: threads that make calls for it, and what these had to do with a store.

    Under env that is a socket, and a pipe where the rank serves the store.
    """
    env = hearing.program.launcher == "env"
    store = 3 if rank.number == 0 else 1
    return {"descriptors": store * env, "threads": 0, "waiting threads": 4}


def _at_the_fault(hearing: Hearing) -> Iterator[str]:
    """The fault came, and the launcher did not leave the rest of it to the harness."""
    if hearing.kind != "none" and not hearing.victim.told("fault") and _has_passed(hearing):
        yield f"the fault never struck: {hearing.program.fault}"
    if hearing.kind == "Ctrl-C" and hearing.victim.told("fault") and hearing.played.sent is None:
        yield "Ctrl-C was never sent"
    launched = hearing.program.launcher != "env"
    if hearing.played.killed is not None and launched and hearing.failed:
        yield "the launcher did not end the stopped rank, though others had failed"


def _has_passed(hearing: Hearing) -> bool:
    """Whether the faulty rank has gone beyond the moment of its fault."""
    fault = hearing.program.fault
    due, last = _place(fault.phase, fault.step), (-1, -1)
    for told in hearing.victim.told("phase"):
        last = max(last, _place(told["phase"], told["step"]))
    return hearing.victim.done or last > due


def _place(phase: str, step: int) -> tuple[int, int]:
    """Where a phase stands among the others; groups are made within steps."""
    return PHASES.index("step" if phase == "new_group" else phase), step


def struck(program: Program, played: Played) -> bool:
    """Whether the fault came to its rank before that was done."""
    victim = played.ranks[program.fault.rank]
    times = [told["at"] + told["delay"] for told in victim.told("fault")]
    leaving = program.fault.phase in ("after", "exit")
    return bool(times) and (leaving or not victim.done_by(times[0]))


def _at_output(hearing: Hearing) -> Iterator[str]:
    """What is said accuses nobody else, and shows nothing of our own insides."""
    by_itself = hearing.kind in (*GOES_ON, *DEATHS)  # After others, those that gave up are named.
    faulty = hearing.victim.number
    for number, text in _texts(hearing):
        for line in odd_lines(text):
            if not (hearing.kind in ("interrupt", "Ctrl-C") and is_pythons_own(line)):
                yield f"rank {number} wrote: {line}"
        if not by_itself or number == faulty:
            continue  # The faulty one speaks of others, who have left it.
        for line in text.splitlines():
            if wrong := accused(line) - {faulty}:
                yield f"rank {number} accuses rank {sorted(wrong)}: {line:.400}"
    yield from _differences(hearing)
    texts = [text for _, text in _texts(hearing) if text]
    if hearing.kind == "none" and texts:
        yield f"without a fault, this was written: {' '.join(texts):.400}"


def _differences(hearing: Hearing) -> Iterator[str]:
    """Where all ranks make the same calls on the same lines, nobody is told that they differ."""
    if hearing.kind not in (*GOES_ON, *DEATHS, "stop"):
        return
    for number, text in _texts(hearing):
        for line in text.splitlines():
            hints = hearing.kind in GOES_ON and OTHER_LINES in line
            if hints or DIFFERENT.search(line):
                yield f"rank {number} was told of calls that differ: {line:.600}"


def _own_texts(hearing: Hearing) -> list[tuple[int, str]]:
    """What the launcher itself wrote."""
    return [(rank, text) for rank, text in lines_by_rank(hearing.played.output) if rank < 0]


def _texts(hearing: Hearing) -> list[tuple[int, str]]:
    """What each rank wrote; the launcher's own words under -1."""
    own = [(rank.number, rank.output) for rank in hearing.played.ranks]
    return own + lines_by_rank(hearing.played.output)


LOOKS = (
    _at_results,
    _at_answers,
    _at_others,
    _at_the_end,
    _at_statuses,
    _at_run,
    _at_launch,
    _at_forks,
    _at_leftovers,
    _at_held,
    _at_the_fault,
    _at_output,
)
