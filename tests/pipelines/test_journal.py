"""How a row that kills its process is found: what one attempt leaves to the next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentlake.storage import Storage, open_storage
from operators.errors import LatentLakeError
from pipelines.state.journal import ATTEMPTS_FOLDER, MAX_FRUITLESS, Journal, forgive

IDS = ["a", "b", "c", "d", "e"]
ALL = np.arange(len(IDS))


@pytest.fixture
def place(tmp_path: Path) -> Storage:
    """Folder of a run."""
    return open_storage(str(tmp_path / "run"))


def begin(place: Storage, key: str = "000000001-read") -> Journal:
    """An attempt that nobody ends: what is done with it next is what its process did before it died."""
    return Journal(place, key).__enter__()


def note(place: Storage, key: str = "000000001-read") -> dict[str, Any]:
    folder = place.child(ATTEMPTS_FOLDER)
    return dict(json.loads(folder.fs.cat_file(folder.path(f"{key}.json"))))


def units(journal: Journal, rows: np.ndarray = ALL) -> list[list[str]]:
    return [[IDS[row] for row in unit] for unit in journal.units(rows, IDS)]


def die_at(journal: Journal, row: str, rows: np.ndarray = ALL) -> None:
    """Take units until the one that holds `row`."""
    for unit in journal.units(rows, IDS):
        if row in [IDS[at] for at in unit]:
            return
    raise AssertionError(f"no unit held '{row}'")


def test_an_attempt_that_ends_leaves_nothing(place: Storage):
    with Journal(place, "000000001-read") as journal:
        before = note(place)
        assert not journal.careful
        assert units(journal) == [IDS]
        assert note(place) == before  # a first attempt notes no units: that costs nothing
        assert not journal.is_dead(IDS).any()
    assert place.child(ATTEMPTS_FOLDER).list_names() == []


def test_an_exception_is_no_death(place: Storage):
    with pytest.raises(KeyError), Journal(place, "000000001-read"):
        raise KeyError
    assert place.child(ATTEMPTS_FOLDER).list_names() == []
    assert not begin(place).careful


def test_stages_and_shards_have_notes_of_their_own(place: Storage):
    begin(place)
    assert not begin(place, "000000001-h").careful
    assert not begin(place, "000000002-read").careful
    assert begin(place).careful


def test_the_row_that_a_process_dies_of(place: Storage):
    begin(place)  # the first attempt dies, and nobody knows where
    second = begin(place)
    assert second.careful
    die_at(second, "c")
    assert note(place)["working_on"] == IDS
    third = begin(place)  # one by one now
    assert note(place)["alone"] == IDS
    die_at(third, "c")
    assert note(place)["working_on"] == ["c"]
    again = begin(place)  # once may be chance
    assert not again.is_dead(IDS).any()
    die_at(again, "c")
    fourth = begin(place)
    assert fourth.is_dead(IDS).tolist() == [False, False, True, False, False]
    assert units(fourth) == [["a"], ["b"], ["d"], ["e"]]
    assert note(place)["working_on"] == []
    fourth.__exit__(None)
    assert place.child(ATTEMPTS_FOLDER).list_names() == []


def test_what_was_under_way_as_the_driver_died_is_innocent(place: Storage):
    begin(place)
    for _ in range(2):
        die_at(begin(place), "c")
    assert note(place)["working_on"] == ["c"]
    forgive(place)
    next_run = begin(place)
    assert next_run.careful and not next_run.is_dead(IDS).any()
    die_at(next_run, "c")
    assert not begin(place).is_dead(IDS).any()  # it died alone once, under the driver that lives


def test_only_the_rows_of_the_unit_are_worked_on_alone(place: Storage):
    begin(place)
    second = begin(place)
    assert units(second, np.array([0, 1])) == [["a", "b"]]
    die_at(second, "d", np.array([2, 3, 4]))
    third = begin(place)
    assert units(third, np.array([0, 1])) == [["a", "b"]]
    die_at(third, "d", np.array([2, 3, 4]))
    assert note(place)["working_on"] == ["d"]


def test_a_dead_row_stays_dead_and_a_second_one_is_found(place: Storage):
    begin(place)
    die_at(begin(place), "a")
    die_at(begin(place), "b")
    die_at(begin(place), "b")
    fourth = begin(place)
    assert fourth.is_dead(IDS).tolist() == [False, True, False, False, False]
    die_at(fourth, "e")
    die_at(begin(place), "e")
    fifth = begin(place)
    assert fifth.is_dead(IDS).tolist() == [False, True, False, False, True]
    assert units(fifth) == [["a"], ["c"], ["d"]]


def test_units_without_rows(place: Storage):
    begin(place)
    journal = begin(place)
    assert units(journal, np.zeros(0, dtype=np.int64)) == []
    assert journal.is_dead([]).tolist() == []


def test_deaths_that_tell_nothing_end_the_run_and_the_next_begins_anew(place: Storage):
    begin(place)
    for _ in range(MAX_FRUITLESS - 1):
        assert begin(place).careful
    with pytest.raises(LatentLakeError, match=rf"000000001-read: the process died {MAX_FRUITLESS} times.*memory"):
        begin(place)
    assert not begin(place).careful


def test_a_death_that_tells_something_is_not_fruitless(place: Storage):
    begin(place)
    for _ in range(MAX_FRUITLESS - 1):
        begin(place)
    assert note(place)["fruitless"] == MAX_FRUITLESS - 1
    # A unit that is under way when the process dies starts the count again.
    folder = place.child(ATTEMPTS_FOLDER)
    folder.fs.pipe_file(
        folder.path("000000001-read.json"), json.dumps(note(place) | {"working_on": ["a", "b"]}).encode()
    )
    begin(place)
    assert note(place)["fruitless"] == 0
    for _ in range(MAX_FRUITLESS - 1):
        begin(place)


@pytest.mark.parametrize("text", [b"", b'{"working_on": ["a'])
def test_a_note_that_was_half_written(place: Storage, text: bytes):
    begin(place)
    folder = place.child(ATTEMPTS_FOLDER)
    folder.fs.pipe_file(folder.path("000000001-read.json"), text)
    journal = begin(place)
    assert journal.careful and not journal.is_dead(IDS).any()
    assert units(journal) == [IDS]


def test_on_an_object_store(s3_endpoint: str):
    place = open_storage("s3://lake/journal/run", {"aws_endpoint": s3_endpoint})
    begin(place)
    for _ in range(3):
        die_at(begin(place), "a")
    with Journal(place, "000000001-read") as journal:
        assert journal.is_dead(IDS).tolist() == [True, False, False, False, False]
    assert place.child(ATTEMPTS_FOLDER).list_names() == []


@settings(max_examples=30, deadline=None)
@given(st.sets(st.integers(0, 11)), st.integers(1, 12))
def test_any_set_of_deadly_rows_is_found(tmp_path_factory: pytest.TempPathFactory, deadly: set[int], size: int):
    place, ids = open_storage(str(tmp_path_factory.mktemp("run"))), [f"o{k}" for k in range(12)]

    def attempt(journal: Journal) -> list[int] | None:
        """Rows that were worked on; None: the process died."""
        done = []
        for start in range(0, 12, size):
            for unit in journal.units(np.arange(start, min(start + size, 12)), ids):
                if deadly & set(unit.tolist()):
                    return None
                done += unit.tolist()
        return done

    # One death unnoted; each row that kills does it twice alone, and at most once in its unit.
    for _ in range(2 + 3 * len(deadly)):
        journal = begin(place)
        if (done := attempt(journal)) is not None:
            break
    else:
        pytest.fail("too many deaths")
    assert sorted(done) == sorted(set(range(12)) - deadly)
    assert journal.is_dead(ids).tolist() == [k in deadly for k in range(12)]


def test_what_overran_is_dead_at_once(place: Storage):
    journal = begin(place)
    next(iter(journal.units(ALL, IDS)))
    journal.overrun("c", 7)
    second = begin(place)
    assert second.careful and second.is_dead(IDS).tolist() == [False, False, True, False, False]
    assert "took longer than 7 s (limits.object_timeout_s)" in second.fault_of("c")
    assert note(place)["fruitless"] == 0
    assert units(second) == [["a", "b", "d", "e"]]


def test_a_unit_that_overran_is_worked_on_one_by_one(place: Storage):
    journal = begin(place)
    next(iter(journal.units(ALL, IDS)))
    journal.overrun(None, 7)
    second = begin(place)
    assert note(place)["alone"] == IDS
    die_at(second, "d")
    second.overrun(None, 7)  # it stands alone now
    third = begin(place)
    assert units(third) == [["a"], ["b"], ["c"], ["e"]]


def test_hangs_that_tell_nothing_end_the_run_too(place: Storage):
    for _ in range(MAX_FRUITLESS):
        begin(place).overrun(None, 7)
    with pytest.raises(LatentLakeError, match="the process died"):
        begin(place)


def test_an_older_note_is_read(place: Storage):
    begin(place)
    folder = place.child(ATTEMPTS_FOLDER)
    old = {"working_on": [], "alone": ["a"], "died_alone": [], "dead": ["b"], "fruitless": 0, "attempt": ""}
    folder.fs.pipe_file(folder.path("000000001-read.json"), json.dumps(old).encode())
    assert begin(place).is_dead(IDS).tolist() == [False, True, False, False, False]
