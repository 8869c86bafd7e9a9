"""The log of a table's tags: what is written is read, in order, whoever puts entries together meanwhile."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from latentlake import tag_log
from latentlake.storage import Storage, open_storage
from latentlake.tag_log import TagMove, entry_names, fold_moves, log_folder, read_moves, write_move


@pytest.fixture
def work(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "work"))


def move(number: int, tag: str = "prod") -> TagMove:
    return TagMove(number, tag, number - 1, number, 1000.5 + number, "ada@box", "publish", 'it\'s "good"')


def test_moves_are_read_in_the_order_of_their_numbers(work: Storage):
    assert read_moves(work) == []
    for number in (3, 1, 12, 2, 3):  # noting one again changes nothing
        write_move(work, move(number))
    assert read_moves(work) == [move(number) for number in (1, 2, 3, 12)]
    assert read_moves(work)[0].time == datetime(1970, 1, 1, 0, 16, 41, 500000, UTC)


def test_old_moves_are_put_together_and_none_is_lost(work: Storage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tag_log, "KEPT_SINGLE", 5)
    written = []
    for number in range(1, 24):
        write_move(work, move(number))
        written.append(move(number))
        fold_moves(work)
        fold_moves(work)
        assert read_moves(work) == written
    assert len(entry_names(log_folder(work))) <= 2 * 5 + 1


def test_a_reader_that_meets_the_folding_reads_again(work: Storage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tag_log, "KEPT_SINGLE", 2)
    for number in range(1, 9):
        write_move(work, move(number))
    read, folded = tag_log.read_entries, []

    def read_late(folder: Storage, names: Any) -> Any:
        if not folded:
            folded.append(True)
            fold_moves(work)
        return read(folder, names)

    monkeypatch.setattr(tag_log, "read_entries", read_late)
    assert read_moves(work) == [move(number) for number in range(1, 9)]


def test_in_an_object_store(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tag_log, "KEPT_SINGLE", 3)
    work = open_storage("s3://lake/tag-log", {"aws_endpoint": s3_endpoint})
    for number in range(1, 9):
        write_move(work, move(number))
        fold_moves(work)
        assert read_moves(work) == [move(earlier) for earlier in range(1, number + 1)]
    assert len(entry_names(log_folder(work))) < 6


def test_a_fold_that_was_cut_short_is_no_second_move(work: Storage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tag_log, "KEPT_SINGLE", 2)
    for number in range(1, 9):
        write_move(work, move(number))
    with monkeypatch.context() as patches, pytest.raises(SystemExit):
        patches.setattr(Storage, "remove", lambda *_: (_ for _ in ()).throw(SystemExit))
        fold_moves(work)
    assert read_moves(work) == [move(number) for number in range(1, 9)]
    fold_moves(work)
    assert read_moves(work) == [move(number) for number in range(1, 9)]


def test_what_cannot_be_read_is_left_out_and_told(work: Storage, caplog: pytest.LogCaptureFixture):
    write_move(work, move(1))
    write_move(work, move(2))
    log_folder(work).put("000000000001.json", b'{"number": 1')
    with caplog.at_level(logging.WARNING):
        assert read_moves(work) == [move(2)]
    assert "000000000001.json: the log of the table's tags is not whole" in caplog.text
