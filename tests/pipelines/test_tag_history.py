"""What the tags of a table have marked, and what readers were taken back from, by the log and the ledger."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentlake.storage import Storage, open_storage
from latentlake.tag_log import WORK_FOLDER, TagMove, write_move
from pipelines.state import tag_history
from pipelines.state.ledger import record_run
from pipelines.state.tag_history import TagHistory, read_tag_history, taken_back


@pytest.fixture
def lake(tmp_path: Path) -> Storage:
    return open_storage(str(tmp_path / "lake"))


class Past:
    """Writes a table's log and ledger, one second per event."""

    def __init__(self, lake: Storage) -> None:
        self.lake, self.clock = lake, 1000.0

    def move(self, tag: str, before: int | None, version: int | None, by: str = "job 'j'") -> None:
        self.clock += 1
        write_move(
            self.lake.child(WORK_FOLDER, "t"), TagMove(int(self.clock), tag, before, version, self.clock, "a@b", by, "")
        )

    def line(self, monkeypatch: pytest.MonkeyPatch, state: str, version: int, tag: str | None, **told: Any) -> None:
        self.clock += 1
        now = datetime.fromtimestamp(self.clock, UTC)

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:
                return now

        monkeypatch.setattr("pipelines.state.ledger.datetime", Clock)
        line = {"run_id": f"r{self.clock}", "table": "t", "job": "j", "state": state, "started_at": now, "report": {}}
        record_run(self.lake, {**line, "version": version, "tag": tag, **told})


def test_a_table_without_a_past(lake: Storage):
    assert read_tag_history(lake, "t", {}) == {}
    assert read_tag_history(lake, "t", {"prod": 4}) == {"prod": TagHistory([4], set())}


def test_what_readers_were_taken_back_from(lake: Storage):
    past = Past(lake)
    for before, version in ((None, 1), (1, 3), (3, 5), (5, 3)):
        past.move("prod", before, version)
    assert read_tag_history(lake, "t", {"prod": 3}) == {"prod": TagHistory([1, 3], {5})}
    past.move("prod", 3, 1)
    assert read_tag_history(lake, "t", {"prod": 1})["prod"].taken_back == {3, 5}
    past.move("prod", 1, 5)  # and forth
    assert read_tag_history(lake, "t", {"prod": 5}) == {"prod": TagHistory([1, 5], {3})}
    past.move("candidate", None, 7)
    past.move("candidate", 7, 6)
    assert taken_back(read_tag_history(lake, "t", {"prod": 5, "candidate": 6})) == {3, 7}


def test_a_tag_that_was_moved_by_hand_is_where_it_is(lake: Storage):
    past = Past(lake)
    past.move("prod", None, 2)
    past.move("prod", 2, 4)
    assert read_tag_history(lake, "t", {"prod": 2}) == {"prod": TagHistory([2], {4})}
    assert read_tag_history(lake, "t", {"prod": 9}) == {"prod": TagHistory([2, 4, 9], set())}
    assert read_tag_history(lake, "t", {}) == {"prod": TagHistory([2, 4], set())}  # it was removed


def test_upkeep_writes_what_is_bad_again_and_it_stays_bad(lake: Storage, monkeypatch: pytest.MonkeyPatch):
    past = Past(lake)
    for tag in ("prod", "candidate"):
        past.move(tag, None, 2)
        past.move(tag, 2, 4)
    past.move("prod", 4, 2)
    past.move("candidate", 4, 6, "maintain")
    past.line(monkeypatch, "maintained", 6, "candidate", base_version=4)
    found = read_tag_history(lake, "t", {"prod": 2, "candidate": 6})
    assert found == {"prod": TagHistory([2], {4, 6}), "candidate": TagHistory([2, 6], set())}
    past.line(monkeypatch, "maintained", 7, None, base_version=6)  # which no tag followed
    assert taken_back(read_tag_history(lake, "t", {"prod": 2, "candidate": 6})) == {4, 6, 7}


def test_tuning_makes_a_version_to_go_back_from_and_of_a_bad_one_a_bad_one(
    lake: Storage, monkeypatch: pytest.MonkeyPatch
):
    past = Past(lake)
    past.move("prod", None, 2)
    past.move("prod", 2, 3, "tune")
    past.line(monkeypatch, "tuned", 3, "prod", base_version=2)
    assert read_tag_history(lake, "t", {"prod": 3}) == {"prod": TagHistory([2, 3], set())}
    past.move("prod", 3, 2)
    past.line(monkeypatch, "tuned", 4, None, base_version=3)
    assert read_tag_history(lake, "t", {"prod": 2}) == {"prod": TagHistory([2], {3, 4})}


def test_what_was_before_there_was_a_log(lake: Storage, monkeypatch: pytest.MonkeyPatch):
    past = Past(lake)
    past.line(monkeypatch, "published", 1, "prod")
    past.line(monkeypatch, "refused", 2, None, base_version=1)
    past.line(monkeypatch, "published", 3, "prod")
    past.line(monkeypatch, "maintained", 4, "prod", base_version=3)
    past.line(monkeypatch, "published", 6, "prod")
    past.line(monkeypatch, "rolled back", 4, "prod", base_version=6)
    assert read_tag_history(lake, "t", {"prod": 4}) == {"prod": TagHistory([1, 4], {6})}
    past.line(monkeypatch, "maintained", 8, "prod", base_version=6)  # the bad head, compacted: published once, as ever
    assert read_tag_history(lake, "t", {"prod": 4})["prod"].taken_back == {6, 8}
    past.move("prod", 4, 9)
    past.line(monkeypatch, "published", 9, "prod")
    assert read_tag_history(lake, "t", {"prod": 9}) == {"prod": TagHistory([1, 4, 9], {6, 8})}


@given(st.lists(st.integers(1, 8), max_size=12))
def test_marks_only_grow_and_what_is_marked_was_not_taken_back(versions: list[int]):
    history = TagHistory()
    for version in versions:
        history.move(version)
        assert history.marks == sorted(set(history.marks)) and history.marks[-1] == version
        assert not history.taken_back & set(history.marks)
    assert {*history.marks, *history.taken_back} == set(versions)
    assert all(version > history.marks[-1] or version < history.marks[-1] for version in history.taken_back)


def test_the_states_that_leave_a_tag_are_those_of_the_ledger():
    assert set(tag_history.MOVED) <= set(tag_history_states())


def tag_history_states() -> tuple[str, ...]:
    from pipelines.state.ledger import STATES

    return STATES
