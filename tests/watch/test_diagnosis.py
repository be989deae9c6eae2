"""From what ranks tell of themselves to a verdict, without any process."""

from __future__ import annotations

from dataclasses import replace

import pytest

from allranks._system.typed_json import parsed, written
from allranks._watch.diagnosis import RankStatus, ReportedCollective, verdict

REDUCE = ReportedCollective("WORLD", 41, "all_reduce", "float32[1024]", "train.py:88")


def waiting(rank: int, call: ReportedCollective = REDUCE, **more) -> RankStatus:
    told = {
        "seconds": 60.4,
        "line": call.line,
        "call": call,
        "group": call.group,
        "members": (0, 1, 2, 3),
        "made": {call.group: call.number},
        "recent": (call,),
    }
    return RankStatus(rank=rank, who=f"rank {rank} (pid 1 on h)", **{**told, **more})


def elsewhere(rank: int, **more) -> RankStatus:
    told = {
        "seconds": 71.2,
        "line": "data.py:31 in load_shard",
        "made": {"WORLD": 40},
        "stack": ("data.py:31 in load_shard", "train.py:12 in main"),
    }
    return RankStatus(rank=rank, who=f"rank {rank} (pid 1 on h)", **{**told, **more})


def told(standings: list[RankStatus], fates: dict[int, str] | None = None) -> str:
    return verdict(standings[0], {one.rank: one for one in standings}, fates or {})


def test_a_rank_that_has_not_come() -> None:
    assert told([waiting(0), waiting(1), elsewhere(2), waiting(3)]) == (
        "all_reduce #41 on WORLD has waited 60 s. "
        "Ranks 0-1, 3: in all_reduce float32[1024], train.py:88. "
        "Rank 2: in no collective, at data.py:31 in load_shard, for 71 s. "
        "Rank 2 stands at data.py:31 in load_shard < train.py:12 in main."
    )


def test_different_collectives() -> None:
    other = replace(REDUCE, op="broadcast", data="float32[8]", line="train.py:90")
    text = told([waiting(0), waiting(1), waiting(2, other), waiting(3)])
    assert "Ranks 0-1, 3: in all_reduce float32[1024], train.py:88. " in text
    assert "Rank 2: in broadcast float32[8], train.py:90. " in text
    assert text.endswith(
        "Their calls first differ at #41: ranks 0-1, 3: all_reduce float32[1024] at train.py:88; "
        "rank 2: broadcast float32[8] at train.py:90."
    )


def test_a_rank_that_is_a_call_ahead_of_one_that_waits_for_the_silent() -> None:
    ahead = replace(REDUCE, number=42)
    text = told([waiting(0), waiting(1, ahead)], {2: "no answer from h2", 3: "no answer from h2"})
    assert text.endswith("Ranks 2-3: no answer from h2.")


def test_different_collectives_that_nobody_remembers() -> None:
    other = replace(REDUCE, op="broadcast")
    text = told([waiting(0, recent=()), waiting(1, other, recent=())])
    assert text.endswith(" Ranks 2-3: no answer. They are in different collectives.")


def test_a_skipped_call_is_found_where_the_calls_begin_to_differ() -> None:
    first = [
        ReportedCollective("WORLD", n, "all_reduce", "float32[8]", f"train.py:{40 + n}")
        for n in (1, 2, 3)
    ]
    skipped = [first[0], replace(first[2], number=2)]
    late = elsewhere(2, recent=tuple(skipped), made={"WORLD": 2}, line="train.py:50")
    here = [waiting(rank, first[2], recent=tuple(first)) for rank in (0, 1)]
    assert (
        "Their calls are alike, but their lines differ from #2: ranks 0-1: all_reduce float32[8] "
        "at train.py:42; rank 2: all_reduce float32[8] at train.py:43." in told([*here, late])
    )


def on_lines(*lines: int) -> list[ReportedCollective]:
    calls = enumerate(lines, start=1)
    return [
        ReportedCollective("WORLD", n, "all_reduce", "float32[8]", f"train.py:{line}")
        for n, line in calls
    ]


def test_one_call_on_two_lines_is_not_taken_for_the_difference() -> None:
    theirs = on_lines(40, 40, 40)
    mine = on_lines(30, 40, 40)
    mine[2] = replace(mine[2], op="broadcast")
    here = [waiting(rank, theirs[2], recent=tuple(theirs)) for rank in (0, 1, 3)]
    assert (
        "Their calls first differ at #3: ranks 0-1, 3: all_reduce float32[8] at train.py:40; "
        "rank 2: broadcast float32[8] at train.py:40."
        in told([*here, waiting(2, mine[2], recent=tuple(mine))])
    )


def test_lines_that_differ_before_the_calls_do_are_told_beside() -> None:
    theirs, mine = on_lines(40, 41, 42), on_lines(40, 42, 43)
    mine[2] = replace(mine[2], op="broadcast")
    here = [waiting(rank, theirs[2], recent=tuple(theirs)) for rank in (0, 1, 3)]
    assert (
        "rank 2: broadcast float32[8] at train.py:43; their lines differ from #2: "
        "ranks 0-1, 3: all_reduce float32[8] at train.py:41; "
        "rank 2: all_reduce float32[8] at train.py:42."
        in told([*here, waiting(2, mine[2], recent=tuple(mine))])
    )


def test_a_late_rank_is_not_accused_of_a_branch_that_it_took() -> None:
    theirs, mine = on_lines(30, 40, 41), on_lines(35, 40)
    here = [waiting(rank, theirs[2], recent=tuple(theirs)) for rank in (0, 1, 3)]
    text = told([*here, elsewhere(2, recent=tuple(mine), made={"WORLD": 2})])
    assert "differ" not in text
    text = told([*here, elsewhere(2, recent=tuple(mine[:1]), made={"WORLD": 1})])
    assert "Their calls are alike, but their lines differ from #1: " in text


def test_lines_that_differ_are_no_reason_where_all_else_agrees() -> None:
    branch = replace(REDUCE, line="train.py:90")
    text = told([waiting(0), waiting(1, branch), elsewhere(2, made={"WORLD": 41}), waiting(3)])
    assert "differ" not in text


def test_all_are_there() -> None:
    text = told([waiting(rank) for rank in range(4)])
    assert text.endswith(
        "All are in it: the network between them is slow or cut, or a rank is very busy."
    )


def receiving(rank: int, peer: int, **more) -> RankStatus:
    waits = waiting(rank, members=(rank, peer), recent=(), made={})
    return replace(waits, call=None, ours=f"recv from rank {peer}", **more)


def test_a_message_concerns_two_ranks() -> None:
    fates = {1: "no answer from h", 2: "has left, 3 s ago: it called cleanup()"}
    assert told([receiving(0, 1)], fates) == (
        "recv from rank 1 on WORLD has waited 60 s. Rank 0: in recv from rank 1, train.py:88. "
        "Rank 1: no answer from h."
    )


def test_what_the_other_one_waits_for_is_told_too() -> None:
    made = replace(REDUCE, group="three")
    asleep = {3: "no answer from h"}
    text = told([receiving(0, 1), waiting(1, made, members=(1, 3)), elsewhere(2)], asleep)
    assert "Rank 1: in all_reduce float32[1024] #41 on three" in text
    assert "Rank 3: no answer from h." in text
    assert "Rank 2" not in text
    assert "order" not in text


def test_two_groups_in_different_order() -> None:
    one, other = replace(REDUCE, group="a"), replace(REDUCE, group="b", line="train.py:90")
    text = told([waiting(0, one, members=(0, 1)), waiting(1, other, members=(0, 1))])
    assert text.startswith("all_reduce #41 on a has waited 60 s. ")
    assert "Rank 1: in all_reduce float32[1024] #41 on b, train.py:90. " in text
    assert text.endswith(
        "They wait in different groups: every rank must make its calls on these groups in the "
        "same order."
    )


@pytest.mark.parametrize(
    "fate",
    [
        "has left, 3 s ago: its program ended with exit code 0, at train.py:12",
        "no answer (pid 7 on h2)",
        "no answer (pid 7 on h2); its process is stopped (SIGSTOP, or a terminal's Ctrl-Z)",
    ],
)
def test_each_fate_is_a_sentence(fate: str) -> None:
    text = told([waiting(0), waiting(1), waiting(3)], {2: fate})
    assert f" Rank 2: {fate}." in text
    assert "Ranks 0-1, 3: in all_reduce" in text


def test_ranks_outside_of_the_group_are_not_told_of() -> None:
    pair = replace(REDUCE, group="pair")
    waits = [waiting(rank, pair, members=(0, 3)) for rank in (0, 3)]
    text = told([waits[0], elsewhere(1), waits[1]], {2: "is dead"})
    assert "Ranks 0, 3: in all_reduce" in text
    assert "Rank 1" not in text
    assert "dead" not in text


def test_our_own_calls_are_told_in_our_words() -> None:
    ours = {"ours": "all_reduce(sum) of dict('loss': number)", "call": None}
    here = [replace(waiting(rank), **ours) for rank in (0, 1, 3)]
    text = told([*here, elsewhere(2)])
    assert text.startswith("all_reduce(sum) of dict('loss': number) on WORLD has waited 60 s. ")
    assert "Ranks 0-1, 3: in all_reduce(sum) of dict('loss': number), train.py:88. " in text


def test_many_ranks_stay_readable() -> None:
    members = tuple(range(1000))
    here = [waiting(rank, members=members) for rank in range(990)]
    text = told([*here, *(elsewhere(rank) for rank in range(990, 999))])
    assert "Ranks 0-989: in all_reduce" in text
    assert "Ranks 990-998: in no collective" in text
    assert "Rank 999: no answer." in text
    assert len(text) < 1000


@pytest.mark.parametrize("standing", [waiting(1), elsewhere(2)])
def test_a_standing_travels_as_json(standing: RankStatus) -> None:
    assert parsed(RankStatus, written(standing)) == standing
