"""What a listing asks for, next to what the table holds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import lance
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from latentlake.table import REJECTS_SCHEMA
from pipelines.changes import WORK_SCHEMA, Changes, find_changes, table_objects
from pipelines.sources.base import as_listing

COLUMNS = ("a", "b")


def entry(name: str, version: str | None = "1", uri: str = "f", position: int | None = None) -> dict[str, Any]:
    return {"object_id": name, "uri": uri, "version": version, "size": 1, "position": position}


def reject(name: str, column: str | None = None, outcome: str = "rejected", stage: str = "decode") -> dict[str, Any]:
    return {
        "object_id": name,
        "column": column,
        "outcome": outcome,
        "stage": stage,
        "error": "e",
        "run_id": "r",
        "version": 1,
    }


def changes_of(
    now: list[dict[str, Any]],
    before: list[dict[str, Any]] | None,
    table: dict[str, str],
    rejects: list[dict[str, Any]] | None = None,
    columns: tuple[str, ...] = COLUMNS,
) -> Changes:
    objects = pa.table(
        {"object_id": pa.array(list(table), pa.string()), "object_hash": pa.array(list(table.values()), pa.string())}
    )
    return find_changes(
        as_listing(now),
        None if before is None else as_listing(before),
        objects,
        pa.Table.from_pylist(rejects or [], schema=REJECTS_SCHEMA),
        columns,
    )


def work_of(changes: Changes) -> dict[str, str | None]:
    """The hash that the table has of each object to read, by id."""
    return dict(zip(changes.work["object_id"].to_pylist(), changes.work["base_hash"].to_pylist(), strict=True))


def carried(changes: Changes, column: str = "a") -> tuple[int, int, int]:
    found = changes.carried[column]
    return found.unchanged, found.rejected, found.filtered


def test_the_first_run_reads_everything():
    changes = changes_of([entry("x"), entry("y")], None, {})
    assert (changes.listed, work_of(changes)) == (2, {"x": None, "y": None})
    assert changes.work.schema.equals(WORK_SCHEMA)
    assert [asdict(changes.carried[c]) for c in COLUMNS] == [{"unchanged": 0, "rejected": 0, "filtered": 0}] * 2
    assert (len(changes.gone), changes.in_table, changes.gone_share) == (0, 0, 0.0)


def test_new_unchanged_touched_and_gone():
    before = [entry("same"), entry("touched", "1"), entry("gone")]
    now = [entry("new"), entry("same"), entry("touched", "2")]
    changes = changes_of(now, before, {"same": "h1", "touched": "h2", "gone": "h3"})
    assert work_of(changes) == {"new": None, "touched": "h2"}
    assert carried(changes) == carried(changes, "b") == (1, 0, 0)
    assert changes.gone.to_pylist() == ["gone"]
    assert (changes.in_table, changes.gone_share) == (3, 1 / 3)


def test_without_a_previous_listing_everything_is_read_and_compared():
    changes = changes_of([entry("x"), entry("y")], None, {"x": "h", "old": "h"}, [reject("y")])
    assert work_of(changes) == {"x": "h", "y": None}
    assert carried(changes) == (0, 0, 0)
    assert changes.gone.to_pylist() == ["old"]


def test_listed_before_but_nothing_is_known_of_it():
    assert work_of(changes_of([entry("x")], [entry("x")], {})) == {"x": None}


def test_an_object_that_moved_or_whose_version_cannot_be_told_is_read():
    before = [entry("moved", uri="f"), entry("shifted", position=3), entry("unknown", None), entry("same", position=9)]
    now = [entry("moved", uri="g"), entry("shifted", position=4), entry("unknown", None), entry("same", position=9)]
    table = dict.fromkeys(("moved", "shifted", "unknown", "same"), "h")
    assert set(work_of(changes_of(now, before, table))) == {"moved", "shifted", "unknown"}


def test_rejected_and_filtered_before():
    names = ["rejected", "filtered", "unread", "listed-badly"]
    rejects = [
        reject("rejected"),
        reject("filtered", outcome="filtered", stage="drop_short_text"),
        reject("unread", stage="read"),
        reject("listed-badly", stage="list"),
    ]
    listing = [entry(name) for name in names]
    changes = changes_of(listing, listing, {}, rejects)
    assert work_of(changes) == {"unread": None}
    assert carried(changes) == carried(changes, "b") == (0, 2, 1)
    touched = [entry(name, "2") for name in names]
    assert set(work_of(changes_of(touched, listing, {}, rejects))) == set(names)


def test_rejected_in_one_column():
    rejects = [reject("x", "b", stage="embed"), reject("x", "b", stage="embed"), reject("y", "other", stage="embed")]
    listing = [entry("x"), entry("y")]
    changes = changes_of(listing, listing, {"x": "h", "y": "h"}, rejects)
    assert work_of(changes) == {}
    assert (carried(changes, "a"), carried(changes, "b")) == ((2, 0, 0), (1, 1, 0))


def test_rejected_in_every_column_is_not_embedded_again():
    listing = [entry("x"), entry("y")]
    rejects = [reject("x", "a", stage="embed"), reject("x", "b", stage="prepare"), reject("y", "a", stage="embed")]
    changes = changes_of(listing, listing, {}, rejects)
    assert work_of(changes) == {"y": None}  # what became of it in the other column is not known
    assert carried(changes, "a") == carried(changes, "b") == (0, 1, 0)
    single = changes_of([entry("x")], [entry("x")], {}, rejects[:1], columns=("a",))
    assert (work_of(single), carried(single)) == ({}, (0, 1, 0))


def test_no_objects_at_all():
    changes = changes_of([], [], {})
    assert (changes.listed, changes.work.num_rows, changes.work.schema.equals(WORK_SCHEMA)) == (0, 0, True)
    changes = changes_of([], [entry("x")], {"x": "h"})
    assert (changes.gone.to_pylist(), changes.gone_share) == (["x"], 1.0)


def test_objects_of_a_table(tmp_path: Any):
    assert table_objects(None).num_rows == 0
    rows = pa.table({"object_id": ["a", "a", "b"], "object_hash": ["1", "1", "2"], "id": ["a#0", "a#1", "b"]})
    found = table_objects(lance.write_dataset(rows, str(tmp_path / "t.lance")))
    assert sorted(zip(*found.to_pydict().values(), strict=True)) == [("a", "1"), ("b", "2")]


# the invariant


@dataclass(frozen=True)
class Fate:
    """What one object was and is. Versions None: it is not in that listing."""

    before: str | None
    now: str | None
    stored: bool
    whole: tuple[str, str] | None  # outcome and stage
    partly: frozenset[str]


fates = st.builds(
    Fate,
    before=st.sampled_from([None, "1", "2"]),
    now=st.sampled_from([None, "1", "2"]),
    stored=st.booleans(),
    whole=st.sampled_from(
        [None, ("rejected", "decode"), ("rejected", "read"), ("rejected", "list"), ("filtered", "op")]
    ),
    partly=st.frozensets(st.sampled_from(["a", "b", "other"])),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(fates, max_size=12), st.booleans())
def test_work_and_what_is_carried_account_for_every_entry(objects: list[Fate], first: bool):
    names = {f"o{k}": fate for k, fate in enumerate(objects)}
    rejects = [reject(n, None, *fate.whole) for n, fate in names.items() if fate.whole]
    rejects += [reject(n, column, stage="embed") for n, fate in names.items() for column in fate.partly]
    changes = changes_of(
        [entry(n, fate.now) for n, fate in names.items() if fate.now],
        None if first else [entry(n, fate.before) for n, fate in names.items() if fate.before],
        {n: "h" for n, fate in names.items() if fate.stored},
        rejects,
    )
    listed = {n for n, fate in names.items() if fate.now}
    work = work_of(changes)
    assert changes.listed == len(listed)
    assert set(work) <= listed and len(work) == changes.work.num_rows
    for column in COLUMNS:
        assert min(carried(changes, column)) >= 0
        assert sum(carried(changes, column)) + len(work) == len(listed)
    assert all(base_hash == ("h" if names[n].stored else None) for n, base_hash in work.items())
    assert set(changes.gone.to_pylist()) == {n for n, fate in names.items() if fate.stored and not fate.now}
    for n, fate in names.items():
        if fate.now and (first or fate.now != fate.before):
            assert n in work  # what is new or touched is read
        if not first and fate.now and fate.now == fate.before and fate.stored:
            assert (n in work) == (fate.whole == ("rejected", "read"))


def test_an_object_that_changed_and_could_not_be_read_is_not_taken_for_unchanged():
    found = changes_of([entry("x")], [entry("x")], {"x": "old"}, [reject("x", stage="read")])
    assert work_of(found) == {"x": "old"}
    assert carried(found) == (0, 0, 0)


def test_an_object_of_the_table_that_cannot_be_listed_stays_rejected():
    found = changes_of([entry("x")], [entry("x")], {"x": "old"}, [reject("x", stage="list")])
    assert work_of(found) == {}
    assert carried(found) == (0, 1, 0)
