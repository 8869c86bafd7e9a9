"""A little of `make fuzz` in every test run; and that it finds what it looks for."""

from __future__ import annotations

import fuzz
import plays
import pytest
from corpus import CORPUS
from fuzz import Finding, fuzz_round
from targets import CPU_S, damaged, play, try_object, try_table

FILES = 12  # of each kind


@pytest.mark.parametrize("kind", list(CORPUS))
def test_damaged_files(kind: str):
    faults = [finding for finding in fuzz_round(kind, range(FILES)) if finding and finding.what == "fault"]
    assert faults == []


def test_a_seed_makes_one_file():
    for kind in CORPUS:
        files = [damaged(kind, seed) for seed in range(8)]
        assert files == [damaged(kind, seed) for seed in range(8)]
        assert len(set(files)) > 5


def test_what_it_finds(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fuzz, "play", plays.faulty)
    monkeypatch.setattr(fuzz, "SILENCE_S", 5.0)
    found = list(fuzz_round("text", range(8)))
    assert len(found) == 8
    assert [at for at, finding in enumerate(found) if finding is None] == [0, 1, 3, 7]
    assert found[2] == Finding("fault", "text", 2, "text came out")
    assert (found[4].what, found[4].why) == ("death", "SIGABRT")
    assert (found[5].what, found[5].why) == ("death", "nothing came from it for 5 s")
    assert found[6].seed == 6


def test_what_comes_out_is_a_fault(monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise IndexError("a reader broke")

    monkeypatch.setattr("targets.try_table", broken)
    monkeypatch.setattr("targets.try_object", broken)
    for kind in ("jsonl", "text"):
        assert list(play(kind, range(1))) == [("begin", 0, ""), ("fault", 0, "IndexError came out: a reader broke")]
    assert CPU_S > 1


def test_whole_files_pass():
    assert try_table("jsonl", b'{"id": 1, "text": "a"}\n') is None
    assert try_table("csv", b"id,text\n1,a\n") is None
    assert try_object("text", b"a text") is None and try_object("text", b"") is None
