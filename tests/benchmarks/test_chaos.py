"""The judge of benchmarks/chaos.py: each thing that can be wrong with a run is caught."""

from __future__ import annotations

from dataclasses import replace

import pytest

import chaos_judge
from chaos_judge import Played, complaints
from chaos_oracle import CODES, Rank
from chaos_programs import Fault, Program
from chaos_steps import Step

STEPS = (Step("synchronize"), Step("all_gather_objects"))


def program(kind: str = "none", launcher: str = "env", **more) -> Program:
    fault = Fault(kind, rank=1, phase="step", step=1, **more)
    return Program(0, 3, launcher, STEPS, fault, None, True, True, True)


def line(at: float, what: str, **more) -> dict:
    return {"at": at, "what": what, **more}


def diary(*ends: dict, steps: int = 2) -> tuple[dict, ...]:
    begun = [line(0.0, "pid", pid=1, store=""), line(0.1, "phase", phase="setup", step=-1)]
    begun.append(line(0.2, "phase", phase="connecting", step=-1))
    for step in range(steps):
        begun += [line(1.0, "phase", phase="step", step=step), line(1.0, "did", step=step)]
    return (*begun, *ends)


def finished(number: int) -> Rank:
    return Rank(number, diary(line(2.0, "done")), status=0, ended=2.1)


def victim(kind: str = "kill") -> Rank:
    fault = line(1.0, "fault", delay=0.0)
    return Rank(1, diary(fault, steps=1), status=CODES.get(kind, 0), ended=1.0)


def slept() -> Rank:
    told = (line(1.0, "fault", delay=0.0), line(7.0, "done"))
    return Rank(1, diary(*told), status=0, ended=7.1)


def survivor(number: int, text: str = "", at: float = 2.0, kind: str = "PeerFailedError", **more):
    told = {"rank": 1, "missing": None, "text": text or "rank 1 (pid 1 on h) was killed", **more}
    return Rank(number, diary(line(at, "error", kind=kind, **told), steps=1), status=1, ended=at)


def killed(*survivors: Rank, **more) -> Played:
    others = survivors or (survivor(0), survivor(2))
    return Played((others[0], victim(), *others[1:]), ended=2.0, **more)


def whole(**more) -> Played:
    return Played(tuple(map(finished, range(3))), ended=2.1, **more)


def test_all_is_well():
    assert complaints(program(), whole()) == []
    assert complaints(program("kill"), killed()) == []


def only(program: Program, played: Played, text: str) -> None:
    """Exactly one complaint, with this text."""
    [complaint] = complaints(program, played)
    assert text in complaint


def test_a_wrong_number():
    wrong = line(1.5, "wrong", step=0, told="3 instead of 4")
    first = Rank(0, diary(wrong, line(2.0, "done")), status=0, ended=2.1)
    only(program(), Played((first, finished(1), finished(2)), ended=2.1), "3 instead of 4")


def test_an_answer_that_differs_between_ranks():
    ranks = [finished(0), slept(), finished(2)]
    answers = [line(1.5, "answer", step=0, answer=rank == 2) for rank in range(3)]
    ranks = [replace(r, diary=(*r.diary, a)) for r, a in zip(ranks, answers, strict=True)]
    for call in ("should_stop", "shared_seed"):
        asked = answering(program("terminate", delay=0.0), call)
        told = complaints(asked, Played(tuple(ranks), ended=2.1))
        assert told == [f"step 0: {call}() differs between ranks"]


def answering(program: Program, call: str) -> Program:
    return replace(program, steps=(Step(call), *STEPS[1:]))


def test_a_seed_that_is_none():
    for seed, wrong in ((2**63, True), (2**63 - 1, False)):
        answer = line(1.5, "answer", step=0, answer=seed)
        ranks = [replace(finished(n), diary=(*finished(n).diary, answer)) for n in range(3)]
        told = complaints(answering(program(), "shared_seed"), Played(tuple(ranks), ended=2.1))
        assert bool(told) is wrong


def test_only_should_stop_remembers_a_signal():
    fault, answer = line(1.0, "fault", delay=0.0), line(0.5, "answer", step=0, answer=False)
    for call, right in (("should_stop", True), ("shared_seed", False)):
        told = replace(finished(1), diary=(*finished(1).diary, fault, answer))
        played = Played((finished(0), told, finished(2)), ended=2.1)
        assert (complaints(answering(program("terminate"), call), played) == []) is right


def asked_to_stop(kind: str, launcher: str) -> list[str]:
    answer = line(1.5, "answer", step=0, answer=True)
    ranks = [replace(r, diary=(*r.diary, answer)) for r in (finished(0), slept(), finished(2))]
    asked = answering(program(kind, launcher), "should_stop")
    return complaints(asked, of_run(Played(tuple(ranks), ended=7.1), 0))


def test_an_answer_that_nobody_asked_for():
    told = ["step 0: should_stop(), and nobody was asked to stop"]
    assert asked_to_stop("none", "run") == told
    assert asked_to_stop("sleep", "run") == told
    assert asked_to_stop("terminate", "run") == []


def test_the_name_of_another_rank():
    only(program("kill"), killed(survivor(0, rank=2), survivor(2)), "expected: named")


def test_an_error_that_names_nobody():
    nobody = survivor(0, "gloo did not connect them", kind="RendezvousError", rank=None)
    only(program("kill"), killed(nobody, survivor(2)), "gloo did not connect them")


def test_an_error_that_is_not_ours():
    only(program("kill"), killed(survivor(0, "reset", kind="RuntimeError"), survivor(2)), "reset")


def test_a_rank_that_goes_on_without_the_dead_one():
    only(program("kill"), killed(finished(0), survivor(2)), "rank 0: done")


def test_a_rank_that_says_nothing():
    silent = Rank(0, diary(steps=1), status=1, ended=2.0)
    only(program("kill"), killed(silent, survivor(2)), "rank 0: silent")


def test_a_late_end():
    late = killed(survivor(0), survivor(2, at=9.0))
    only(program("kill"), late, "rank 2 ended 8.0 s after the fault")


def test_a_job_that_ends_late():
    only(program("kill"), replace(killed(), ended=40.0), "all had ended 39.0 s after")


def test_a_process_that_had_to_be_ended():
    only(program(), whole(late=("rank-0 (pid 7), S",)), "rank-0 (pid 7)")


@pytest.mark.parametrize(
    ("left", "told"),
    [
        ({"processes": {7: "process 7"}}, "left: process 7"),
        ({"files": ("file tmp/x",)}, "left: file tmp/x"),
        ({"held": {"descriptors": 2, "threads": -3}}, "holds 2 descriptors"),
        ({"held": {"descriptors": -2, "threads": 1}}, "holds 1 threads"),
    ],
)
def test_what_is_left(left, told):
    only(program(), whole(**left), told)


def test_exit_codes_of_processes():
    only(program("kill"), killed(replace(survivor(0), status=-6), survivor(2)), "exit code -6")
    dead = replace(victim(), status=1)
    only(program("kill"), Played((survivor(0), dead, survivor(2)), ended=2.0), "expected [-9]")


def of_run(played: Played, status: int) -> Played:
    ranks = tuple(replace(rank, status=None, ended=None) for rank in played.ranks)
    output = played.output or ("allranks: rank 1 (pid 1) was killed by SIGKILL" if status else "")
    return replace(played, ranks=ranks, status=status, output=output)


def test_exit_codes_of_run():
    assert complaints(program("kill", "run"), of_run(killed(), 137)) == []
    only(program("kill", "run"), of_run(killed(), 1), "allranks run: exit code 1, expected [137]")
    ended = replace(of_run(whole(), 1), output="")
    only(program("none", "run"), ended, "allranks run: exit code 1, expected [0]")


def test_run_names_the_dead_rank():
    silent = of_run(killed(output=" "), 137)
    only(program("kill", "run"), silent, "allranks run does not name rank 1")
    other = "allranks: rank 2 (pid 1) said so"
    only(program("kill", "run"), replace(silent, output=other), "does not name rank 1")
    said = "2│ allranks: rank 1 (pid 1) was killed by SIGKILL"
    only(program("kill", "run"), replace(silent, output=said), "does not name rank 1")
    last = (line(1.0, "fault", delay=0.0), line(1.5, "done"))
    late = replace(finished(1), diary=diary(*last))
    ranks = (finished(0), late, finished(2))
    assert complaints(program("kill", "run", delay=0.1), of_run(Played(ranks, ended=2.1), 0)) == []


def test_what_launch_raises():
    error = {
        "kind": "RankFailedError",
        "rank": 1,
        "exit_code": -9,
        "text": "rank 1",
        "missing": None,
    }
    assert complaints(program("kill", "launch"), killed(error=error)) == []
    other = {**error, "rank": 2}
    only(program("kill", "launch"), killed(error=other), "launch raised RankFailedError")
    only(program("none", "launch"), whole(error=error), "launch raised RankFailedError")
    only(program("kill", "launch"), killed(), "launch returned")


def stalled(text: str, kind: str = "StalledError") -> list[str]:
    ranks = (survivor(0, text, 15.0, kind), victim("stop"), survivor(2, text, 15.0, kind))
    return complaints(program("stop"), Played(ranks, ended=16.0))


def test_verdicts_on_a_stopped_rank():
    right = "x has waited 12 s. Ranks 0, 2: in x, a.py:3. Rank 1: no answer from h; it is stopped."
    ranks = (survivor(0, right, 15.0, "StalledError"), replace(victim(), status=-9))
    played = Played((*ranks, survivor(2, right, 15.0, "StalledError")), ended=16.0)
    assert complaints(program("stop"), played) == []
    wrong = right.replace("Rank 1: no", "Rank 1: in x. Rank 2: no")
    played = Played((survivor(0, wrong, 15.0, "StalledError"), *played.ranks[1:]), ended=16.0)
    only(program("stop"), played, "expected: stalled")


def test_a_mismatch_is_every_members_error():
    fault = line(1.0, "fault", delay=0.0)
    calls = "ranks 0, 2: synchronize; rank 1: agree"
    text = f"the ranks made different calls: {calls}. Every rank of the group must make"
    told = [survivor(n, text, 1.5, "MismatchError", rank=None) for n in range(3)]
    told[1] = replace(told[1], diary=(*told[1].diary, fault))
    done = replace(finished(1), diary=(*finished(1).diary, fault))
    other = program("another call", other=Step("agree"))
    assert complaints(other, Played(tuple(told), ended=2.0)) == []
    only(other, Played((finished(0), *told[1:]), ended=2.1), "expected: mismatch")
    only(other, Played((told[0], done, told[2]), ended=2.1), "rank 1: done; expected")


def interrupted(number: int, at: float = 2.0) -> Rank:
    error = line(at, "error", kind="KeyboardInterrupt", text="", rank=None, missing=None)
    fault = line(1.0, "fault", delay=0.0)
    return Rank(number, diary(fault, error, steps=1), status=-2, ended=at)


def test_ctrl_c_that_is_ignored():
    ctrl_c, fault = program("Ctrl-C"), line(1.0, "fault", delay=0.0)
    heard = Played(tuple(map(interrupted, range(3))), ended=2.0, sent=1.5)
    assert complaints(ctrl_c, heard) == []
    done = (*diary(), line(9.0, "done"), fault)
    ignored = [replace(finished(n), diary=done, ended=9.1) for n in range(3)]
    told = complaints(ctrl_c, Played(tuple(ignored), ended=9.1, sent=1.5))
    assert [one.split(";")[0] for one in told] == [f"rank {n}: done" for n in range(3)]
    whole = of_run(Played(tuple(ignored), ended=9.1, sent=1.5), 0)
    assert len(complaints(program("Ctrl-C", "run"), whole)) == 3


def test_ctrl_c_that_run_must_enforce():
    ranks = tuple(
        Rank(number, diary(line(1.0, "fault", delay=0.0), steps=1)) for number in range(3)
    )
    forced = of_run(Played(ranks, ended=7.0, sent=1.5), 130)
    told = complaints(program("Ctrl-C", "run"), forced)
    assert [one.split(";")[0] for one in told] == [f"rank {n}: silent" for n in range(3)]
    unbegun = replace(forced, ranks=tuple(replace(rank, diary=rank.diary[:3]) for rank in ranks))
    assert complaints(program("Ctrl-C", "run"), unbegun) == []


def test_ctrl_c_of_another_rank():
    ctrl_c = program("Ctrl-C")
    told = replace(survivor(2, rank=0), status=1)
    played = Played((interrupted(0), interrupted(1), told), ended=2.0, sent=1.5)
    assert complaints(ctrl_c, played) == []
    wrong = Played((finished(0), *played.ranks[1:]), ended=2.1, sent=1.5)
    only(ctrl_c, wrong, "expected: interrupted or named")


def test_ctrl_c_that_came_too_late():
    sent = Played((finished(0), interrupted(1), interrupted(2)), ended=2.1, sent=1.5)
    assert complaints(program("Ctrl-C"), sent) == []
    at_the_end = replace(program("Ctrl-C"), fault=Fault("Ctrl-C", rank=1, phase="end"))
    done = (*diary(), line(9.0, "done"))
    others = (replace(finished(0), diary=done), interrupted(1), interrupted(2))
    assert complaints(at_the_end, replace(sent, ranks=others, ended=9.1)) == []
    only(program("Ctrl-C"), replace(sent, sent=None, ranks=sent.ranks[1:2] * 3), "never sent")


def test_a_fault_that_never_struck():
    only(program("sleep", seconds=1.0), whole(), "the fault never struck: sleep")
    assert any("never struck" in one for one in complaints(program("kill"), whole()))
    steps = diary(steps=1)
    unreached = replace(program("sleep"), fault=Fault("sleep", rank=1, phase="new_group", step=0))
    ranks = (finished(0), Rank(1, steps, status=0, ended=2.1), finished(2))
    assert not any("struck" in one for one in complaints(unreached, Played(ranks, ended=2.1)))
    passed = replace(ranks[1], diary=diary())
    told = complaints(unreached, Played((ranks[0], passed, ranks[2]), ended=2.1))
    assert any("struck" in one for one in told)


def test_faults_that_struck():
    assert chaos_judge.struck(program("kill"), killed())
    assert not chaos_judge.struck(program("kill"), whole())
    late = replace(finished(1), diary=diary(line(2.0, "done"), line(2.1, "fault", delay=0.0)))
    assert not chaos_judge.struck(program("kill"), Played((finished(0), late, finished(2))))


def test_a_stall_that_heals():
    told = "all had ended 40.0 s after the beginning"
    only(program(), replace(whole(), ended=40.0), told)


def test_a_launcher_that_leaves_a_stopped_rank():
    right = "x has waited 12 s. Ranks 0, 2: in x, a.py:3. Rank 1: no answer from h; it is stopped."
    ranks = [survivor(n, right, 15.0, "StalledError") for n in range(3)]
    ranks[1] = replace(victim("stop"), status=-9)
    played = of_run(Played(tuple(ranks), ended=16.0), 1)
    assert complaints(program("stop", "run"), played) == []
    left = replace(played, killed=21.0, ended=21.1)
    only(program("stop", "run"), left, "did not end the stopped rank")
    stopped = replace(ranks[1], diary=diary(line(1.0, "fault", delay=0.0)))
    alone = Played((finished(0), stopped, finished(2)), ended=8.0, killed=7.9)
    nobody = replace(program("stop", "run"), fault=Fault("stop", rank=1, phase="end"))
    assert complaints(nobody, of_run(alone, 137)) == []


@pytest.mark.parametrize("what", ["descriptors", "threads", "waiting threads"])
def test_what_a_rank_holds(what):
    before = {"descriptors": 9, "threads": 3, "waiting threads": 0}
    after = {"descriptors": 9, "threads": 3, "waiting threads": 4}
    after[what] += 1
    lines = (line(0.1, "held", **before), line(1.9, "held", **after))
    holding = replace(finished(2), diary=diary(*lines, line(2.0, "done")))
    played = of_run(Played((finished(0), finished(1), holding), ended=2.1), 0)
    only(program("none", "run"), played, f"{what} more after its cleanup")


def test_only_the_fork_is_excused():
    fork = (line(1.0, "fault", delay=0.0), line(1.0, "fork", pid=8), line(2.0, "done"))
    ranks = (finished(0), replace(finished(1), diary=diary(*fork)), finished(2))
    left = {8: "process 8", 9: "process 9"}
    forks = program("fork that lives on")
    only(forks, Played(ranks, ended=2.1, processes=left), "left: process 9")
    launched = of_run(Played(ranks, ended=2.1, processes=left), 0)
    assert len(complaints(program("fork that lives on", "run"), launched)) == 2


def test_a_fork_that_is_not_refused():
    faulty = finished(1)
    faulty = replace(faulty, diary=(*faulty.diary, line(1.0, "fault", delay=0.0)))
    ranks = (finished(0), faulty, finished(2))
    only(program("fork that calls"), Played(ranks, ended=2.1), "not refused")
    child = line(1.1, "child", kind="none", text="3.0")
    ranks = (finished(0), replace(faulty, diary=(*faulty.diary, child)), finished(2))
    only(program("fork that calls"), Played(ranks, ended=2.1), "the fork's call: none")


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("rank 2 (pid 5 on h) was killed by SIGKILL; 0.1 s ago", "accuses rank [2]"),
        ("Exception ignored in: <function x>", "Exception ignored"),
        ("terminate called without an active exception", "terminate called"),
        ('Traceback (most recent call last):\n  File "x"\nKeyError: 3', "KeyError: 3"),
    ],
)
def test_what_is_written(output, told):
    only(program("kill"), killed(replace(survivor(0), output=output), survivor(2)), told)


DIFFERENT = (
    "They are in different collectives.",
    "Their calls first differ at #39: rank 0: all_reduce; rank 1: broadcast.",
    "They wait in different groups: every rank must make its calls in the same order.",
)


@pytest.mark.parametrize("text", DIFFERENT)
def test_calls_that_do_not_differ(text):
    told = f"all_reduce #39 on WORLD has waited 4 s. {text}"
    only(program("kill"), killed(replace(survivor(0), output=told), survivor(2)), text)
    ranks = (replace(finished(0), output=told), slept(), finished(2))
    only(program("sleep", seconds=5.0), Played(ranks, ended=7.1), text)
    ranks = tuple(replace(rank, output=told) for rank in ranks)
    other = program("another call", other=Step("agree"))
    assert not any("calls that differ" in one for one in complaints(other, Played(ranks)))


def test_lines_that_do_not_differ():
    told = "Their calls are alike, but their lines differ from #3: rank 0: a.py:1; rank 1: a.py:2."
    ranks = (replace(finished(0), output=told), slept(), finished(2))
    only(program("sleep", seconds=5.0), Played(ranks, ended=7.1), "lines differ from #3")


def test_what_may_be_written():
    output = (
        "Traceback (most recent call last):\n  x\nRuntimeError: gloo\n\nThe above exception was "
        "the direct cause of the following exception:\n\nTraceback (most recent call last):\n"
        "  y\nallranks.errors.PeerFailedError: rank 1 (pid 1 on h) was killed by SIGKILL"
    )
    played = killed(replace(survivor(0), output=output), survivor(2))
    assert complaints(program("kill"), played) == []


def test_words_without_a_fault():
    only(program("none", "run"), of_run(whole(output="0│ a warning"), 0), "a warning")
