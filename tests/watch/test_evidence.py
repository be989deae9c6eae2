"""What is kept of a rank's last moments is whole, whoever writes it."""

from __future__ import annotations

import json
import threading

from allranks._watch import evidence

ROUNDS = 200


def test_two_threads_of_a_rank_write_whole_records(tmp_path, monkeypatch, capfd) -> None:
    """The watch's and the program's: whichever is last stays, and none is torn."""
    monkeypatch.setenv(evidence.DIRECTORY, str(tmp_path))
    begin, seen = threading.Barrier(3), []

    def keep(size: int) -> None:
        begin.wait()
        for _ in range(ROUNDS):
            evidence.keep(0, "why", {"text": "x" * size})

    writers = [threading.Thread(target=keep, args=(size,)) for size in (10, 1_000_000)]
    for writer in writers:
        writer.start()
    begin.wait()
    while any(writer.is_alive() for writer in writers):
        if (tmp_path / "rank-0.json").exists():
            seen.append(len(json.loads((tmp_path / "rank-0.json").read_text())["text"]))
    assert set(seen) <= {10, 1_000_000}
    assert [path.name for path in tmp_path.iterdir()] == ["rank-0.json"]
    assert capfd.readouterr().err == ""


def test_a_text_that_is_no_utf8_is_kept(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(evidence.DIRECTORY, str(tmp_path))
    evidence.keep_verdict("h\udcff")
    assert (tmp_path / "verdict.txt").read_text() == "h\\udcff\n"
