"""What a user is entitled to when something befalls a rank, and what a run did instead.

Pure functions: from a program and what came back of its run to a list of complaints.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos_programs import (
    DEATHS,
    FORKS,
    OTHER_CALLS,
    PAUSES,
    RENDEZVOUS,
    TIMEOUT,
    Program,
    Step,
)

PROMPT = 6.0
"""Seconds in which a death by itself is named on every rank that it concerns, on a busy machine."""

LATE = 8.0
"""Seconds that may pass after a timeout: the ranks are asked where they stand, and leave."""

TO_LEAVE = 5.0
"""Seconds in which a launcher ends the other ranks, and itself."""

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

    @property
    def phase(self) -> str:
        """The last phase that it has entered."""
        return str(([line["phase"] for line in self.told("phase")] or [""])[-1])

    @property
    def begun(self) -> int:
        """The last step that it began; -1 for none."""
        return max((line["step"] for line in self.told("phase")), default=-1)

    @property
    def made(self) -> int:
        """The last step that it made; -1 for none."""
        return max((line["step"] for line in self.told("did")), default=-1)

    @property
    def last(self) -> float | None:
        """When it ended, or when it gave up or was done."""
        final = [line["at"] for line in self.diary if line["what"] in ("error", "done")]
        return self.ended if self.ended is not None else max(final, default=None)


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
        processes: what was left of the job, each process in words.
        files: what was left of it in the file system.
        held: descriptors and threads that the caller of ``launch`` holds more than before.
    """

    ranks: tuple[Rank, ...]
    output: str = ""
    status: int | None = None
    error: dict[str, Any] | None = None
    ended: float = 0.0
    late: tuple[str, ...] = ()
    processes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    held: int = 0


@dataclass(frozen=True)
class Expected:
    """How the ranks that nothing befell may end.

    Attributes:
        ends: the endings that are right, see ``ending``.
        within: seconds from the fault to their end.
        why: the reason.
    """

    ends: frozenset[str]
    within: float
    why: str


def expect(ends: str, within: float, why: str) -> Expected:
    """An expectation; the endings are separated by spaces."""
    return Expected(frozenset(ends.split()), within, why)


def expected(program: Program, victim: Rank, other: int) -> Expected:
    """What a rank that nothing befell is entitled to."""
    kind = program.fault.kind
    if kind in ("none", *PAUSES, *FORKS):
        return expect("done", TIMEOUT.total_seconds() + LATE, "the job goes on")
    if kind == "Ctrl-C":
        return expect("interrupted named done", PROMPT + TO_LEAVE, "Ctrl-C is heard everywhere")
    if kind in OTHER_CALLS:
        return _of_another_call(program, other)
    if victim.done:
        return expect("done", PROMPT, "the faulty rank had made all its calls, and left in order")
    if not _has_answered(victim):
        seconds = RENDEZVOUS.total_seconds() + LATE
        return expect("missing named", seconds, "the ranks could not all meet")
    if kind == "stop":
        return _of_a_stop(program, victim, other)
    if needs(program, victim, other):
        return expect("named", PROMPT, "a death is seen by itself, and ends the calls that need it")
    return expect("named done", PROMPT, "no later call needs the faulty rank")


def _has_answered(victim: Rank) -> bool:
    """Whether its death came after the roll call, so that all know its process."""
    phases = {line["phase"] for line in victim.told("phase")}
    return bool(phases & {"connecting", "step", "end"})


def _of_a_stop(program: Program, victim: Rank, other: int) -> Expected:
    seconds = TIMEOUT.total_seconds() + LATE
    if victim.phase == "connecting":
        return expect("missing named stalled", seconds, "a stopped rank does not connect")
    if needs(program, victim, other):
        return expect("stalled", seconds, "a stopped rank may go on until the timeout")
    return expect("stalled done", seconds, "no later call needs the faulty rank")


def _of_another_call(program: Program, other: int) -> Expected:
    fault = program.fault
    members = program.members(program.steps[fault.step].over, fault.rank)
    follows = [
        step for step in program.steps[fault.step + 1 :] if program.members(step.over, fault.rank)
    ]
    if fault.kind == "a skipped call" and not follows:
        return expect("named done" if other not in members else "named", PROMPT, "it left instead")
    if other in members:
        return expect("mismatch", PROMPT, "the same exception on every rank that took part")
    after = program.steps[fault.step + 1 :]
    others = any(meets(program, step, other, one) for step in after for one in members)
    ends = "mismatch" if others else "mismatch done"
    return expect(ends, PROMPT, "a rank outside the group hears of the others' error")


def needs(program: Program, victim: Rank, other: int) -> bool:
    """Whether a rank has a call before it that cannot end without the faulty rank."""
    fault = program.fault
    at_once = fault.phase == "step" and fault.delay is None
    first = fault.step if at_once else max(victim.begun, victim.made) + 1
    steps = program.steps[max(first, 0) :]
    return any(meets(program, step, other, fault.rank) for step in steps)


def meets(program: Program, step: Step, one: int, other: int) -> bool:
    """Whether one rank's call cannot end before another has come to it."""
    members = program.members(step.over, one)
    if other not in members or one == other:
        return False
    if step.call == "master_first":
        return other == 0  # It lets rank 0 go first, and waits for nobody else.
    if step.call == "broadcast" and not step.verified(program.check):
        return members[step.src % len(members)] == other
    return True


NAMES = re.compile(r"\b[Rr]anks? (\d+(?:(?:-|, )\d+)*)")
ACCUSED = re.compile(
    r"\branks? (\d+(?:(?:-|, )\d+)*)(?: \(pid \d+(?: on [^)]*)?\))?:? "
    r"(?:was killed|was ended|has died|died|failed(?!: (?:\w+\.)*(?:PeerFailed|MissingRanks|"
    r"Rendezvous|Stalled)Error)(?! in the same way)|has left|left with|is gone|in no collective|"
    r"no answer|does not answer|its store|cannot be asked)",
    re.IGNORECASE,
)
"""Whom a text says to be at fault."""


def accused(text: str) -> set[int]:
    """The ranks that a text says to be at fault."""
    return {rank for found in ACCUSED.findall(text) for rank in numbers(found)}


def named(text: str) -> set[int]:
    """All ranks that a text names."""
    return {rank for found in NAMES.findall(text) for rank in numbers(found)}


def numbers(ranges: str) -> Iterator[int]:
    """The numbers of "0-1, 3"."""
    for part in ranges.split(", "):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def ending(rank: Rank, victim: int) -> str:
    """How a rank ended, in one word; what is not right whatever the fault, with its text."""
    errors = rank.told("error")
    if not errors:
        return "done" if rank.done else "silent"
    error = errors[0]
    return of_error(error, victim)


def of_error(error: dict[str, Any], victim: int) -> str:
    """What an error says, in one word."""
    kind, text, told = error["kind"], error["text"], f"{error['kind']}: {error['text']:.400}"
    if kind == "KeyboardInterrupt":
        return "interrupted"
    if kind == "MismatchError" or (kind == "PeerFailedError" and "MismatchError" in text):
        return "mismatch" if victim in named(text) else told
    if kind == "StalledError" or (kind == "PeerFailedError" and "StalledError" in text):
        right = victim in named(text) and accused(_after(text, "StalledError")) <= {victim}
        return "stalled" if right else told
    if kind == "PeerFailedError":
        return "named" if error["rank"] == victim else told
    if kind == "MissingRanksError" and error["missing"]:
        return "missing" if list(error["missing"]) == [victim] else told
    if kind in ("RendezvousError", "MissingRanksError"):
        return "named" if victim in named(text) else told
    return told


def _after(text: str, word: str) -> str:
    return text[text.index(word) :] if word in text else text


@dataclass
class _Judge:
    """Gathers what is wrong with a run."""

    program: Program
    played: Played
    complaints: list[str] = field(default_factory=list)

    @property
    def victim(self) -> Rank:
        return self.played.ranks[self.program.fault.rank]

    @property
    def others(self) -> list[Rank]:
        kind, faulty = self.program.fault.kind, self.program.fault.rank
        nobody = kind in ("none", "Ctrl-C", *PAUSES, *FORKS)
        return [rank for rank in self.played.ranks if nobody or rank.number != faulty]

    @property
    def since(self) -> float:
        """When the fault came; where it came nowhere, the beginning."""
        faults = [line["at"] + line["delay"] for line in self.victim.told("fault")]
        first = [rank.diary[0]["at"] for rank in self.played.ranks if rank.diary]
        return float((faults or [min(first, default=0.0)])[0])

    def complain(self, text: str) -> None:
        self.complaints.append(text)

    def of_results(self) -> None:
        """No wrong number, and one answer on all ranks of ``should_stop``."""
        answers: dict[int, dict[int, set[bool]]] = {}
        for rank in self.played.ranks:
            for wrong in rank.told("wrong"):
                self.complain(f"rank {rank.number}, step {wrong['step']}: {wrong['told']}")
            for told in rank.told("answer"):
                step = self.program.steps[told["step"]]
                leader = self.program.members(step.over, rank.number)[0]
                by_group = answers.setdefault(told["step"], {})
                by_group.setdefault(leader, set()).add(told["answer"])
        for number, by_group in answers.items():
            if any(len(told) > 1 for told in by_group.values()):
                self.complain(f"step {number}: should_stop() differs between ranks")
            stopping = any(True in told for told in by_group.values())
            if stopping and self.program.fault.kind != "terminate":
                asked = self.program.launcher == "run"  # It ends all with SIGTERM.
                if not asked:
                    self.complain(f"step {number}: should_stop(), and nobody was asked to stop")

    def of_others(self) -> None:
        """Each rank that nothing befell ends as it must, and in time."""
        for rank in self.others:
            due = expected(self.program, self.victim, rank.number)
            end = ending(rank, self.victim.number)
            if end == "silent" and self._may_be_ended():
                continue
            if end not in due.ends:
                self.complain(
                    f"rank {rank.number}: expected {' or '.join(sorted(due.ends))}, since "
                    f"{due.why}; it ended thus: {end}"
                )
            if rank.last is not None and end != "done" and rank.last > self.since + due.within:
                self.complain(
                    f"rank {rank.number} ended {rank.last - self.since:.1f} s after the fault, "
                    f"expected within {due.within:g} s: {due.why}"
                )

    def _may_be_ended(self) -> bool:
        """Whether the launcher may have ended a rank before it could say anything."""
        return self.program.launcher != "env" and bool(
            self.played.status or self.played.error or self.played.late
        )

    def of_end(self) -> None:
        """The job as a whole ends in time."""
        due = [expected(self.program, self.victim, rank.number).within for rank in self.others]
        bound = max(due, default=PROMPT) + self.program.fault.seconds + TO_LEAVE
        if self.played.late:
            self.complain(f"still there at the end, and killed: {'; '.join(self.played.late)}")
        elif self.played.ended > self.since + bound and self.program.fault.kind != "none":
            seconds = self.played.ended - self.since
            self.complain(f"all had ended {seconds:.1f} s after the fault, expected {bound:g} s")

    def of_statuses(self) -> None:
        """Exit codes: of each process, of ``allranks run``, and what ``launch`` raises."""
        if self.program.launcher == "env":
            for rank in self.played.ranks:
                self._of_status(rank)
        elif self.program.launcher == "run" and not self.played.late:
            right = {_of_a_shell(code) for code in self._codes_of_the_job()}
            if self.played.status not in right:
                self.complain(f"allranks run: {self.played.status}, expected {sorted(right)}")
        elif self.program.launcher == "launch" and not self.played.late:
            self._of_launch()

    def _of_status(self, rank: Rank) -> None:
        if rank.status is None:
            return
        codes = {0} if rank.done else {1}
        if rank in self.others:
            if ending(rank, self.victim.number) == "interrupted":
                codes = {-signal.SIGINT}
            if self.program.fault.kind == "Ctrl-C":
                codes = {0, 1, -signal.SIGINT}
        else:
            codes = self._codes_of_the_victim()
        if rank.status not in codes:
            self.complain(f"rank {rank.number}: exit code {rank.status}, expected {sorted(codes)}")

    def _codes_of_the_victim(self) -> set[int]:
        fault, victim = self.program.fault, self.victim
        if fault.kind == "stop":
            return {-signal.SIGKILL, 0 if victim.done else -signal.SIGKILL}  # The harness ends it.
        if fault.kind in OTHER_CALLS:
            return {0} if victim.done else {1}
        # A signal may come too late to find the process, or be remembered by should_stop().
        late = fault.delay is not None or (fault.kind == "terminate" and victim.told("answer"))
        return {CODES[fault.kind], *([0] if late and victim.done else [])}

    def _codes_of_the_job(self) -> set[int]:
        """Of the rank that failed first, as a shell shows it; 0 where all are done."""
        kind = self.program.fault.kind
        if kind == "Ctrl-C":
            return {130, *([0] if all(rank.done for rank in self.played.ranks) else [])}
        failed = any(rank.told("error") for rank in self.others)
        if kind == "stop":
            return {1} if failed else self._codes_of_the_victim()
        if kind in DEATHS and kind != "exit 0":
            return self._codes_of_the_victim()
        return {1} if failed else {0}

    def _of_launch(self) -> None:
        fault, error = self.program.fault, self.played.error
        if error is None:
            if not all(rank.done for rank in self.played.ranks):
                self.complain("launch returned, though not all ranks were done")
            return
        told = f"launch raised {error['kind']}: {error['text']:.400}"
        if fault.kind in ("none", *PAUSES, *FORKS):
            self.complain(told)
        elif fault.kind == "Ctrl-C":
            if error["kind"] not in ("KeyboardInterrupt", "PeerFailedError"):
                self.complain(told)
        elif fault.kind in ("raise", "interrupt"):
            if error["kind"] != {"raise": "Boom", "interrupt": "KeyboardInterrupt"}[fault.kind]:
                self.complain(told)
        elif fault.kind in DEATHS:
            if (error["rank"], error["exit_code"]) != (fault.rank, CODES[fault.kind]):
                self.complain(told)
        elif error["kind"] == "RankFailedError":
            if error["rank"] != fault.rank:
                self.complain(told)
        elif of_error(error, fault.rank) not in ("mismatch", "stalled", "missing", "named"):
            self.complain(told)

    def of_forks(self) -> None:
        """A fork that makes a call is refused at once."""
        fault = self.program.fault
        if fault.kind != "fork that calls" or not self.victim.told("fault"):
            return
        told = self.victim.told("child")
        if not told:
            self.complain("the fork's call was not refused: it had not returned at the end")
        elif told[0]["kind"] not in ("CollectiveError", "DetectionError"):
            self.complain(f"the fork's call: {told[0]['kind']}: {told[0]['text']}")
        elif told[0]["at"] > self.since + PROMPT:
            self.complain(f"the fork's call was refused after {told[0]['at'] - self.since:.1f} s")

    def of_leftovers(self) -> None:
        """Nothing is left."""
        self.complaints += [f"left: {one}" for one in (*self.played.processes, *self.played.files)]
        if self.played.held > 0:
            self.complain(f"the caller of launch holds {self.played.held} descriptors more")

    def of_output(self) -> None:
        """What is said accuses nobody else, and shows nothing of our own insides."""
        fault = self.program.fault
        outputs = [(rank.number, rank.output) for rank in self.played.ranks]
        for number, text in [*outputs, *lines_by_rank(self.played.output)]:
            self.complaints += [f"rank {number} wrote: {line}" for line in odd_lines(text)]
            if number == fault.rank and fault.kind != "none":
                continue  # It speaks of others, who have left it.
            for line in text.splitlines():
                wrong = accused(line) - {fault.rank} if fault.kind in _BY_ITSELF else set()
                if wrong:
                    self.complain(f"rank {number} accuses rank {sorted(wrong)}: {line:.400}")
        if fault.kind == "none" and (text := self.played.output + "".join(t for _, t in outputs)):
            self.complain(f"without a fault, this was written: {text:.400}")


_BY_ITSELF = ("none", *DEATHS, *PAUSES, *FORKS)
"""Faults after which only the faulty rank may be accused; of others, those that gave up may be."""

ODD = re.compile(
    r"Exception ignored|Exception in thread|terminate called|Fatal Python|Aborted|core dumped|"
    r"Segmentation fault|double free|corrupt|never awaited"
)
OURS = re.compile(r"allranks\.errors\.|.*\bBoom\b|KeyboardInterrupt|SystemExit|ExceptionGroup")
CHAIN = ("The above exception", "During handling")


def odd_lines(text: str) -> Iterator[str]:
    """Lines that no user should see: crashes, and tracebacks that end in no error of ours."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if ODD.search(line):
            yield " / ".join(lines[number : number + 12])[:800]
        if line.startswith("Traceback (most"):
            yield from _odd_end(lines[number + 1 :])


def _odd_end(lines: Sequence[str]) -> Iterator[str]:
    """The end of a traceback, where it is no error of ours and leads to none."""
    for number, line in enumerate(lines):
        if line[:1].isspace() or not line:
            continue
        later = next((one for one in lines[number + 1 :] if one.strip()), "")
        if not OURS.match(line) and not later.startswith(CHAIN):
            yield f"a traceback that ends with {line[:300]}"
        return


PREFIX = re.compile(r"^(\d+)│ ?(.*)$")


def lines_by_rank(output: str) -> list[tuple[int, str]]:
    """A launcher's output, apart by rank; its own lines under -1."""
    by_rank: dict[int, list[str]] = {}
    for line in output.splitlines():
        found = PREFIX.match(line)
        rank, text = (int(found[1]), found[2]) if found else (-1, line)
        by_rank.setdefault(rank, []).append(text)
    return [(rank, "\n".join(lines)) for rank, lines in by_rank.items()]


def _of_a_shell(code: int) -> int:
    return 128 - code if code < 0 else code


def complaints(program: Program, played: Played) -> list[str]:
    """What is wrong with a run; nothing, if all is as a user may expect."""
    judge = _Judge(program, played)
    judge.of_results()
    judge.of_others()
    judge.of_end()
    judge.of_statuses()
    judge.of_forks()
    judge.of_leftovers()
    judge.of_output()
    return judge.complaints
