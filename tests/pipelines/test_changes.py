"""What a listing asks for, next to what the table holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentlake.table import REJECTS_SCHEMA
from operators.errors import LatentLakeError
from pipelines.planning.changes import INCOMPLETE, WORK_SCHEMA, Comparison, table_objects
from pipelines.sources.base import LISTING_SCHEMA, as_listing
from pipelines.state.manifest import Carried, Changes, Retry

COLUMNS = ("a", "b")


def entry(name: str, version: str | None = "1", uri: str | None = "f", position: int | None = None) -> dict[str, Any]:
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


@dataclass(frozen=True)
class Found:
    """What a comparison gave, read to its end."""

    changes: Changes
    entries: pa.Table
    work: pa.Table
    gone: list[str]
    left: list[str]


def whole(pieces: Iterator[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *pieces])


def changes_of(
    now: list[dict[str, Any]],
    before: list[dict[str, Any]] | None,
    table: dict[str, str],
    rejects: list[dict[str, Any]] | None = None,
    columns: tuple[str, ...] = COLUMNS,
    retry: Retry | None = None,
) -> Found:
    objects = pa.table(
        {"object_id": pa.array(list(table), pa.string()), "object_hash": pa.array(list(table.values()), pa.string())}
    )
    with Comparison() as comparison:
        assert comparison.load(in_pieces(as_listing(now))) == len(now)
        entries = whole(comparison.entries(), LISTING_SCHEMA)
        changes = comparison.find_changes(
            None if before is None else in_pieces(as_listing(before)),
            in_pieces(objects),
            in_pieces(pa.Table.from_pylist(rejects or [], schema=REJECTS_SCHEMA)),
            columns,
            retry,
        )
        work = whole(comparison.work(), WORK_SCHEMA)
        gone, left = (
            [i for piece in ids for i in piece["object_id"].to_pylist()]
            for ids in (comparison.gone(), comparison.left())
        )
    assert (changes.work, changes.work_bytes) == (work.num_rows, sum(size or 0 for size in work["size"].to_pylist()))
    assert (changes.gone, changes.left) == (len(gone), len(left))
    return Found(changes, entries, work, gone, left)


def in_pieces(table: pa.Table, rows: int = 3) -> Iterator[pa.Table]:
    return (table.slice(start, rows) for start in range(0, table.num_rows, rows))


def work_of(found: Found) -> dict[str, str | None]:
    """The hash that the table has of each object to read, by id."""
    return dict(zip(found.work["object_id"].to_pylist(), found.work["base_hash"].to_pylist(), strict=True))


def carried(found: Found, column: str = "a") -> tuple[int, int, int]:
    counts = found.changes.carried[column]
    return counts.unchanged, counts.rejected, counts.filtered


def test_the_first_run_reads_everything():
    found = changes_of([entry("x"), entry("y")], None, {})
    assert work_of(found) == {"x": None, "y": None}
    assert found.changes == Changes(2, 2, 2, {c: Carried() for c in COLUMNS}, gone=0, in_table=0, left=0)
    assert found.changes.gone_share == 0.0


def test_new_unchanged_touched_and_gone():
    before = [entry("same"), entry("touched", "1"), entry("gone")]
    now = [entry("new"), entry("same"), entry("touched", "2")]
    found = changes_of(now, before, {"same": "h1", "touched": "h2", "gone": "h3"})
    assert work_of(found) == {"new": None, "touched": "h2"}
    assert carried(found) == carried(found, "b") == (1, 0, 0)
    assert found.gone == ["gone"]
    assert (found.changes.in_table, found.changes.gone_share) == (3, 1 / 3)


def test_without_a_previous_listing_everything_is_read_and_compared():
    found = changes_of([entry("x"), entry("y")], None, {"x": "h", "old": "h"}, [reject("y"), reject("z"), reject("z")])
    assert work_of(found) == {"x": "h", "y": None}
    assert carried(found) == (0, 0, 0)
    assert (found.gone, found.left) == (["old"], ["z"])


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


def test_rejected_in_one_column_and_touched_since_lacks_that_vector():
    """Its content may be what it was: compared by its hash it would pass for unchanged, and its reject be settled."""
    rejects = [reject("x", "b", stage="embed"), reject("y", "other", stage="embed"), reject("z", stage="decode")]
    names = ("x", "y", "z")
    table = dict.fromkeys(names, "h")
    touched = [entry(name, "2") for name in names]
    for before in ([entry(name) for name in names], None):
        assert work_of(changes_of(touched, before, table, rejects)) == {"x": INCOMPLETE, "y": "h", "z": "h"}
    assert work_of(changes_of(touched, None, {}, rejects)) == dict.fromkeys(names)  # no row to lack anything


def test_rejected_in_every_column_is_not_embedded_again():
    listing = [entry("x"), entry("y")]
    rejects = [reject("x", "a", stage="embed"), reject("x", "b", stage="prepare"), reject("y", "a", stage="embed")]
    changes = changes_of(listing, listing, {}, rejects)
    assert work_of(changes) == {"y": None}  # what became of it in the other column is not known
    assert carried(changes, "a") == carried(changes, "b") == (0, 1, 0)
    single = changes_of([entry("x")], [entry("x")], {}, rejects[:1], columns=("a",))
    assert (work_of(single), carried(single)) == ({}, (0, 1, 0))


def test_no_objects_at_all():
    found = changes_of([], [], {})
    assert found.changes == Changes(0, 0, 0, {c: Carried() for c in COLUMNS}, gone=0, in_table=0, left=0)
    found = changes_of([], [entry("x")], {"x": "h"})
    assert (found.gone, found.changes.gone_share) == (["x"], 1.0)


def test_an_object_that_changed_and_could_not_be_read_is_not_taken_for_unchanged():
    found = changes_of([entry("x")], [entry("x")], {"x": "old"}, [reject("x", stage="read")])
    assert work_of(found) == {"x": "old"}
    assert carried(found) == (0, 0, 0)


def test_an_object_of_the_table_that_cannot_be_listed_stays_rejected():
    found = changes_of([entry("x")], [entry("x")], {"x": "old"}, [reject("x", stage="list")])
    assert work_of(found) == {}
    assert carried(found) == (0, 1, 0)


def test_work_in_pieces_keeps_the_order_of_the_listing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.planning.changes.LISTING_ROWS", 7)
    names = [f"o{k * 37 % 100}" for k in range(100)]
    found = changes_of([entry(n) for n in names], [entry(n) for n in names[::3]], dict.fromkeys(names, "h"))
    assert found.entries["object_id"].to_pylist() == names
    assert found.work["object_id"].to_pylist() == [n for k, n in enumerate(names) if k % 3]


def test_what_cannot_be_read_raises_its_own_error():
    def broken() -> Iterator[pa.Table]:
        yield as_listing([entry("x")])
        raise FileNotFoundError("part-000001.parquet")

    with Comparison() as comparison, pytest.raises(FileNotFoundError, match="part-000001"):
        comparison.load(broken())


INTERRUPTED = """
import os, signal, time
from pipelines.planning.changes import Comparison
from pipelines.sources.base import as_listing

def endless():
    for number in range(1000):
        yield as_listing([{"object_id": "x", "uri": "/x", "version": "1", "size": 1, "position": None, "error": None}])
        if not number:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
try:
    with Comparison() as comparison:
        comparison.load(endless())
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_is_one():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr


def test_without_room_the_error_says_what_to_do():
    rows = as_listing([entry(f"{number:032}") for number in range(20_000)])
    with pytest.raises(LatentLakeError, match="set TMPDIR"), Comparison(memory_mb=1) as comparison:
        comparison.load([rows])


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(KeyError), Comparison() as comparison:
        comparison.load([as_listing([entry("x")])])
        comparison.find_changes(None, [], [], COLUMNS)
        next(comparison.work())
        assert list(tmp_path.iterdir())
        raise KeyError
    assert not list(tmp_path.iterdir())


# duplicates


def test_duplicates_get_an_id_of_their_own_and_the_first_stays():
    now = [entry("a", position=0), entry("b", position=9), entry("a", position=20), entry("a", uri="g", position=3)]
    found = changes_of(now, None, {"a": "h"})
    assert found.entries["object_id"].to_pylist() == ["a", "b", "f:20", "g:3"]
    message = "duplicate id 'a', first in f at 0"
    assert found.entries["error"].to_pylist() == [None, None, message, message]
    assert found.entries["position"].to_pylist() == [0, 9, 20, 3]
    assert work_of(found) == {"a": "h", "b": None, "f:20": None, "g:3": None}


def test_an_error_of_the_listing_stays():
    found = changes_of([entry("a") | {"error": "broken"}, entry("b")], None, {})
    assert found.entries["error"].to_pylist() == ["broken", None]


def test_duplicates_without_a_place():
    found = changes_of([entry("a"), entry("a", uri=None)], None, {})
    assert found.entries["object_id"].to_pylist() == ["a", "None:None"]
    assert found.entries["error"][1].as_py() == "duplicate id 'a', first in f at None"


def test_duplicates_that_were_rejected_before_are_carried():
    listing = [entry("a", position=0), entry("a", position=1)]
    found = changes_of(listing, listing, {"a": "h"}, [reject("f:1", stage="list")])
    assert (work_of(found), carried(found)) == ({}, (1, 1, 0))


def test_the_id_of_a_duplicate_may_be_taken():
    listing = [entry("f:1", position=0), entry("a", position=5), entry("a", position=1)]
    found = changes_of(listing, listing, {"f:1": "h", "a": "h"})
    assert found.work["position"].to_pylist() == [1]  # "f:1" was the entry at 0 before
    listing = [entry("f:None"), entry("a"), entry("a")]
    found = changes_of(listing, listing, {"f:None": "h", "a": "h"})
    assert (found.changes.work, carried(found)) == (0, (3, 0, 0))  # no entry counts twice


# doing again what was rejected


def test_what_was_rejected_is_tried_again_and_all_else_is_carried():
    rejects = [
        reject("decoded"),
        reject("unread", stage="read"),
        reject("partly", "b", stage="embed"),
        reject("other", "c", stage="embed"),
        reject("filtered", outcome="filtered", stage="drop_short_text"),
        reject("left"),
    ]
    now = [entry(name, "2") for name in ("same", "decoded", "unread", "partly", "other", "filtered", "new")]
    table = dict.fromkeys(("same", "unread", "partly", "other", "gone"), "h")
    found = changes_of(now, None, table, rejects, retry=Retry(None))
    assert work_of(found) == {"decoded": None, "unread": "h", "partly": INCOMPLETE, "new": None}
    assert carried(found) == carried(found, "b") == (2, 0, 1)
    assert (found.gone, found.left, found.changes.in_table, found.changes.gone_share) == ([], [], 5, 0.0)
    found = changes_of(now, None, table, rejects, retry=Retry("read"))
    assert work_of(found) == {"unread": "h", "new": None}
    assert (carried(found), carried(found, "b")) == ((3, 1, 1), (2, 2, 1))
    found = changes_of(now, None, table, rejects, retry=Retry("drop_short_text"))
    assert work_of(found) == {"filtered": None, "new": None}
    assert (carried(found), carried(found, "b")) == ((3, 2, 0), (2, 3, 0))


# what the table holds


@pytest.fixture
def table(tmp_path: Path) -> lance.LanceDataset:
    vectors = [[1.0], None, [1.0], [1.0]]
    rows = pa.table(
        {
            "id": ["a#0", "a#1", "b", "c"],
            "object_id": ["a", "a", "b", "c"],
            "object_hash": ["1", "1", "2", "3"],
            "v": pa.array(vectors, pa.list_(pa.float32(), 1)),
            "w": pa.array(vectors[::-1], pa.list_(pa.float32(), 1)),
        }
    )
    return lance.write_dataset(rows, str(tmp_path / "t.lance"))


@pytest.mark.parametrize(
    ("complete_for", "hashes"),
    [
        ((), ["1", "1", "2", "3"]),
        (("v", "absent"), ["1", "", "2", "3"]),
        (("v", "w"), ["1", "", "", "3"]),
        (("absent",), ["1", "1", "2", "3"]),
    ],
)
def test_objects_of_a_table(table: lance.LanceDataset, complete_for: tuple[str, ...], hashes: list[str]):
    rows = pa.concat_tables(table_objects(table, complete_for)).to_pydict()
    assert (rows["object_id"], rows["object_hash"]) == (["a", "a", "b", "c"], hashes)


def test_no_table_no_objects():
    assert list(table_objects(None)) == []


def test_an_object_that_lacks_a_vector_in_one_row_is_incomplete(table: lance.LanceDataset):
    with Comparison() as comparison:
        comparison.load([as_listing([entry("a"), entry("b")])])
        changes = comparison.find_changes(None, table_objects(table, ["v"]), [], ["v"])
        (work,) = comparison.work()
    assert work["base_hash"].to_pylist() == [INCOMPLETE, "2"]
    assert (changes.in_table, changes.gone) == (3, 1)


# the rules, told once more


names = st.one_of(
    st.sampled_from(["a", "b", "c", "d", "f:0", "f:1", "g:1", "f:None"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=2),
)
listings = st.lists(
    st.builds(
        entry,
        names,
        version=st.sampled_from([None, "1", "1", "2"]),
        uri=st.sampled_from(["f", "f", "g"]),
        position=st.sampled_from([None, 0, 1]),
    ),
    max_size=12,
)
faults = st.one_of(
    st.builds(reject, names, column=st.sampled_from(["a", "b", "o'ther"]), stage=st.sampled_from(["embed", "prepare"])),
    st.builds(reject, names, stage=st.sampled_from(["read", "list", "decode"])),
    st.builds(reject, names, outcome=st.just("filtered"), stage=st.just("op")),
)


def marked(listing: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The listing with duplicates marked."""
    first: dict[str, dict[str, Any]] = {}
    rows = []
    for row in listing:
        origin = first.setdefault(row["object_id"], row)
        if origin is not row:
            error = f"duplicate id '{row['object_id']}', first in {origin['uri']} at {origin['position']}"
            row = {**row, "object_id": f"{row['uri']}:{row['position']}", "error": error}
        rows.append({"error": None, **row})
    return rows


def verdict(
    row: dict[str, Any],
    before: list[dict[str, Any]] | None,
    table: dict[str, str],
    rejects: list[dict[str, Any]],
    retry: Retry | None,
) -> str | dict[str, str]:
    """What becomes of an entry: "work", or for each column what it is carried as."""
    mine = [r for r in rejects if r["object_id"] == row["object_id"]]
    of_all = [r for r in mine if r["column"] is None]
    if retry:
        ours = [r for r in mine if r["column"] in (None, *COLUMNS)]
        if any(r["stage"] == retry.stage or (retry.stage is None and r["outcome"] == "rejected") for r in ours):
            return "work"
    else:
        then = next((r for r in before or [] if r["object_id"] == row["object_id"]), None)
        if then is None or row["version"] is None or any(then[k] != row[k] for k in ("uri", "version", "position")):
            return "work"
        if any(r["stage"] == "read" for r in of_all):
            return "work"
    missing = {
        c: any(r["outcome"] == "rejected" for r in of_all) or any(r["column"] == c for r in mine) for c in COLUMNS
    }
    if row["object_id"] in table:
        return {c: "rejected" if missing[c] else "unchanged" for c in COLUMNS}
    if all(missing.values()):
        return dict.fromkeys(COLUMNS, "rejected")
    return dict.fromkeys(COLUMNS, "filtered") if any(r["outcome"] == "filtered" for r in of_all) else "work"


@settings(max_examples=100, deadline=None)
@given(
    listings,
    st.none() | listings,
    st.booleans(),
    st.dictionaries(names, st.sampled_from(["h", "", "i"]), max_size=6),
    st.lists(faults, max_size=8),
    st.none() | st.builds(Retry, st.sampled_from([None, "read", "embed", "op"])),
)
def test_every_entry_is_judged_by_the_rules(
    now: list[dict[str, Any]],
    before: list[dict[str, Any]] | None,
    still: bool,
    table: dict[str, str],
    rejects: list[dict[str, Any]],
    retry: Retry | None,
):
    before = [*now[1:3], *now[:1], *now[3:]] if still else before
    found = changes_of(now, before, table, rejects, retry=retry)
    entries, then = marked(now), None if before is None else marked(before)
    assert found.entries.to_pylist() == entries
    verdicts = [verdict(row, then, table, rejects, retry) for row in entries]
    work = [row for row, said in zip(entries, verdicts, strict=True) if said == "work"]
    assert found.work.drop_columns("base_hash").to_pylist() == work
    for row in found.work.to_pylist():
        partly = any(r["object_id"] == row["object_id"] and r["column"] in COLUMNS for r in rejects)
        held = table.get(row["object_id"])
        assert row["base_hash"] == (INCOMPLETE if partly and held is not None else held)
    for column in COLUMNS:
        said = [v[column] for v in verdicts if isinstance(v, dict)]
        assert carried(found, column) == tuple(said.count(w) for w in ("unchanged", "rejected", "filtered"))
        assert sum(carried(found, column)) + found.changes.work == found.changes.listed == len(now)
    listed = {row["object_id"] for row in entries}
    assert sorted(found.gone) == ([] if retry else sorted(table.keys() - listed))
    assert sorted(found.left) == ([] if retry else sorted({r["object_id"] for r in rejects} - listed))
    assert found.changes.in_table == len(table)
