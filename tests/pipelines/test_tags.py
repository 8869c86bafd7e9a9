"""Only the holder of a table moves its tags; what a writer does that was paused, and lost the table, is put right."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from damage_maker import DAMAGE
from job_maker import make_job, open_table, write_texts
from job_maker import run as run_job
from run_maker import lake_of, open_lance, work_folder

from latentlake.storage import Storage, open_storage
from operators.errors import WriterConflict
from pipelines.publish import tags
from pipelines.publish.tags import (
    TAGS_FOLDER,
    Mark,
    move_tag,
    note_names,
    read_marks,
    set_tag,
    settle_tags,
)
from pipelines.state.lease import ENDED, LEASE_FOLDER, Lease, entry_name, hold_table, read_last
from pipelines.state.tag_history import tags_of
from pipelines.upkeep.maintain import maintain_table
from pipelines.upkeep.rollback import roll_back


@pytest.fixture
def table(tmp_path: Path) -> lance.LanceDataset:
    """A table of six versions."""
    for number in range(6):
        lance.write_dataset(pa.table({"n": [number]}), tmp_path / "t.lance", mode="append" if number else "create")
    return lance.dataset(str(tmp_path / "t.lance"))


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    """The table's folder of work."""
    return open_storage(str(tmp_path / "work"))


def expire(lease: Lease) -> None:
    """Let a lease run out: its holder has not been heard of."""
    last = read_last(lease.place.child(LEASE_FOLDER))
    assert last is not None
    entry = replace(last, number=last.number + 1, token="asleep", host="elsewhere", renewed=time.time() - 1000)
    assert lease.place.child(LEASE_FOLDER).put_if_absent(entry_name(entry.number), json.dumps(asdict(entry)).encode())


def taken(place: Storage, holder: str) -> Lease:
    lease = Lease(place, holder)
    lease.take(False)
    return lease


def paused(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]) -> None:
    """Do something right before the next move of a tag, once it is too late to look again."""

    def set_late(*arguments: Any) -> None:
        monkeypatch.setattr(tags, "set_tag", set_tag)
        meanwhile()
        set_tag(*arguments)

    monkeypatch.setattr(tags, "set_tag", set_late)


def prod(table: lance.LanceDataset) -> int | None:
    return tags_of(table).get("prod")


def test_a_holder_makes_and_moves_a_tag(table: lance.LanceDataset, place: Storage):
    with hold_table(place, "a") as lease:
        for version in (2, 5, 3, 4, 6):
            move_tag(lease, table, "prod", version, "test")
            assert prod(table) == version
        assert read_marks(place) == {"prod": Mark(6)}
        settle_tags(lease, table)
        assert (prod(table), len(note_names(place.child(TAGS_FOLDER)))) == (6, 3)


def test_who_lost_the_table_before_does_not_touch_the_tag(table: lance.LanceDataset, place: Storage):
    lease = taken(place, "a")
    move_tag(lease, table, "prod", 2, "test")
    expire(lease)
    with hold_table(place, "b") as other:
        move_tag(other, table, "prod", 5, "test")
        with pytest.raises(WriterConflict, match="another writer took the table over"):
            move_tag(lease, table, "prod", 3, "test")
        assert prod(table) == 5


@pytest.mark.parametrize("end", ["ended", "holds the table still"])
@pytest.mark.parametrize("before", [None, 1, 2])
def test_who_loses_the_table_in_between_does_not_move_readers_back(
    table: lance.LanceDataset,
    place: Storage,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    before: int | None,
    end: str,
):
    """It sleeps between the proof of its lease and the move, and meanwhile a later version is published."""
    lease = taken(place, "a")
    if before is not None:
        move_tag(lease, table, "prod", before, "test")
    others: list[Lease] = []

    def meanwhile() -> None:
        expire(lease)
        other = taken(place, "b")
        settle_tags(other, table)
        move_tag(other, table, "prod", 5, "test")
        others.append(other)
        if end == "ended":
            other.give_back()

    paused(monkeypatch, meanwhile)
    with caplog.at_level(logging.WARNING), pytest.raises(WriterConflict, match="another writer took the table over"):
        move_tag(lease, table, "prod", 3, "test")
    if end == "ended":
        assert prod(table) == 5  # by whom it had lost to, or by itself
    else:
        assert prod(table) == 3
        settle_tags(others[0], table)  # as each run does at its end
        others[0].give_back()
    assert prod(table) == 5
    assert "moved tag 'prod' to version 3: it is put right" in caplog.text
    with hold_table(place, "c") as last:
        settle_tags(last, table)
        assert (prod(table), read_marks(place)["prod"].at) == (5, 5)


@pytest.mark.parametrize("late", [False, True], ids=["before the move", "after it"])
def test_a_holder_that_died_as_it_moved_the_tag(
    table: lance.LanceDataset, place: Storage, monkeypatch: pytest.MonkeyPatch, late: bool
):
    """What it did stands, what it did not do is for the next one to do."""
    lease = taken(place, "a")
    move_tag(lease, table, "prod", 2, "test")

    def die(*arguments: Any) -> None:
        if late:
            set_tag(*arguments)
        raise SystemExit

    with monkeypatch.context() as patches, pytest.raises(SystemExit):
        patches.setattr(tags, "set_tag", die)
        move_tag(lease, table, "prod", 4, "test")
    ENDED.add(lease.token)
    with hold_table(place, "b") as other:
        settle_tags(other, table)
        assert prod(table) == (4 if late else 2)
        move_tag(other, table, "prod", 6, "test")
        assert read_marks(place) == {"prod": Mark(6, loose=(4,))}
    set_tag(table, "prod", 4)  # it was asleep, not dead
    with hold_table(place, "c") as other:
        settle_tags(other, table)
    assert prod(table) == 6


@pytest.mark.parametrize("version", [1, 3, 6, None])
def test_a_tag_that_was_moved_by_hand_is_left_alone(table: lance.LanceDataset, place: Storage, version: int | None):
    with hold_table(place, "a") as lease:
        move_tag(lease, table, "prod", 2, "test")
    table.tags.delete("prod") if version is None else set_tag(table, "prod", version)
    with hold_table(place, "b") as lease:
        settle_tags(lease, table)
        assert prod(table) == version
        assert read_marks(place)["prod"].at == version
        move_tag(lease, table, "prod", 5, "test")
    assert prod(table) == 5


def test_a_note_that_comes_late_is_not_the_last(table: lance.LanceDataset, place: Storage):
    stale = taken(place, "a")
    expire(stale)
    with hold_table(place, "b") as lease:
        move_tag(lease, table, "prod", 5, "test")
        tags.write_marks(stale, {"prod": Mark(1, next=2)})
        assert read_marks(place)["prod"].at == 5


@pytest.mark.parametrize("damage", DAMAGE)
def test_notes_that_cannot_be_read_say_nothing(table: lance.LanceDataset, place: Storage, damage: str):
    with hold_table(place, "a") as lease:
        move_tag(lease, table, "prod", 2, "test")
        folder = place.child(TAGS_FOLDER)
        name = note_names(folder)[-1]
        folder.put(name, DAMAGE[damage](folder.fs.cat_file(folder.path(name))))
        assert read_marks(place) == {}
        move_tag(lease, table, "prod", 5, "test")
    assert prod(table) == 5


def test_runs_upkeep_and_rollback_move_tags_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    job = make_job(tmp_path, write_texts(tmp_path / "in", {"a.txt": "one", "b.txt": "two"}))
    lake, folder = lake_of(job), work_folder(job)

    def marked() -> int | None:
        assert read_marks(folder)["prod"] == Mark(prod(open_lance(job)))
        return prod(open_lance(job))

    for number in range(3):
        write_texts(tmp_path / "in", {f"{number}.txt": f"new {number}"})
        assert run_job(job)["version"] == marked() == number + 1
    assert roll_back(lake, "t") == (3, 2) and marked() == 2
    roll_back(lake, "t", version=3)
    done: dict[str, Any] = maintain_table(lake, "t")
    assert done["version"] == marked() and TAGS_FOLDER in folder.list_names()

    def meanwhile() -> None:
        expire(Lease(folder, "x"))
        write_texts(tmp_path / "in", {"later.txt": "later"})
        run_job(job)

    before = open_table(job).version
    paused(monkeypatch, meanwhile)
    with pytest.raises(WriterConflict):
        roll_back(lake, "t", version=1)
    assert (open_table(job).version > before) and open_table(job).count() == 6
    assert read_marks(folder)["prod"].at == open_table(job).version
