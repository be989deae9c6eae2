"""What ranks say: whom their words and errors accuse, and what no user should have to read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NAMES = re.compile(r"\b[Rr]anks? (\d+(?:(?:-|, )\d+)*)")
ACCUSED = re.compile(
    r"\branks? (\d+(?:(?:-|, )\d+)*)(?: \(pid \d+(?: on [^)]*)?\))?:? "
    r"(?:was killed|was ended|has died|died|failed(?!: (?:\w+\.)*(?:PeerFailed|MissingRanks|"
    r"Rendezvous|Stalled)Error)(?! in the same way)|has left(?!, and its store)|left with|is gone|"
    r"in no collective|no answer|does not answer|its store|cannot be asked(?!, without the store))",
    re.IGNORECASE,
)
"""Whom a text says to be at fault."""

DIFFERENT = re.compile(r"different collectives|first differ|wait in different groups")
"""What a verdict says of a program whose ranks do not make the same calls."""

OTHER_LINES = "but their lines differ"
"""What it says of one that makes the same calls on several lines, which is a hint."""


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


def ending_of(error: dict[str, Any], victim: int) -> str:
    """What an error says, in one word of the oracle's; all of it, where no word fits."""
    kind, text = error["kind"], error["text"]
    names_it = victim in named(text)
    word, right = {
        "KeyboardInterrupt": ("interrupted", True),
        "MismatchError": ("mismatch", shows_apart(text, victim)),
        "StalledError": ("stalled", accused(text) == {victim}),
        "PeerFailedError": ("named", error["rank"] == victim),
        "MissingRanksError": ("missing", list(error["missing"] or []) == [victim]),
        "RendezvousError": ("named", names_it and blames_nothing_else(text, victim)),
    }.get(kind, ("", False))
    if kind == "PeerFailedError" and (told := TOLD.search(text)):
        first = {**error, "kind": told[1], "text": text[told.start(1) :]}
        word = ending_of(first, victim)  # Another has failed of the same before.
        right = ":" not in word
    return word if right and word else f"{kind}: {text:.400}"


def explained(error: dict[str, Any], said: str) -> dict[str, Any]:
    """An error, or, where it is torch's own, the line by which allranks explains it at the end."""
    if error["kind"] != "RuntimeError" or not (found := EXPLAINED.search(said)):
        return error
    return {**error, "kind": "PeerFailedError", "text": found[0], "rank": int(found[1])}


def shows_apart(text: str, victim: int) -> bool:
    """Whether a text shows one rank's call, and another one of all others that it shows."""
    calls = dict(SHOWN.findall(text))
    its_own = calls.pop(str(victim), None)
    return its_own is not None and bool(calls) and its_own not in calls.values()


def blames_nothing_else(text: str, victim: int) -> bool:
    """Whether a text accuses neither another rank nor the network."""
    return accused(text) <= {victim} and "firewall" not in text


SHOWN = re.compile(r"\branks? (\d+(?:(?:-|, )\d+)*): (.*?)(?=; rank|; and \d|\. Every|$)")
EXPLAINED = re.compile(r"^PeerFailedError: rank (\d+) .*$", re.MULTILINE)
TOLD = re.compile(r"failed: (MismatchError|StalledError):")


ODD = re.compile(
    r"Exception ignored|Exception in thread|terminate called|Fatal Python|Aborted|core dumped|"
    r"Segmentation fault|double free|corrupt|never awaited"
)
OURS = re.compile(r"allranks\.errors\.|.*\bBoom\b|KeyboardInterrupt|SystemExit|ExceptionGroup")
CHAIN = ("The above exception", "During handling")
TORCHS = re.compile(r"\[.*\[c10d\]|frame #|Exception raised from|<omitting python frames>|\^+$")
"""Torch's warnings of a lost store, which may come between two lines of a traceback."""


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
        if line[:1].isspace() or not line or TORCHS.match(line):
            continue
        later = next((one for one in lines[number + 1 :] if one.strip()), "")
        if not OURS.match(line) and not later.startswith(CHAIN):
            yield f"a traceback that ends with {line[:300]}"
        return


def is_pythons_own(odd: str) -> bool:
    """Whether it is Ctrl-C in what the interpreter itself does at its exit."""
    return odd.startswith("Exception ignored") and "/allranks/" not in odd


PREFIX = re.compile(r"^ *(\d+)│ ?(.*)$")


def lines_by_rank(output: str) -> list[tuple[int, str]]:
    """A launcher's output, apart by rank; its own lines under -1."""
    by_rank: dict[int, list[str]] = {}
    for line in output.splitlines():
        found = PREFIX.match(line)
        rank, text = (int(found[1]), found[2]) if found else (-1, line)
        by_rank.setdefault(rank, []).append(text)
    return [(rank, "\n".join(lines)) for rank, lines in by_rank.items()]
