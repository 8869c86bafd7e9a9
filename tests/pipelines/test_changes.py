"""What a listing asks for, next to what the table holds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import lance
import pyarrow as pa
import pytest
from changes_maker import COLUMNS, carried, changes_of, entry, reject, work_of

from operators.errors import LatentLakeError
from pipelines.planning.changes import INCOMPLETE, Comparison, table_objects
from pipelines.sources.base import as_listing
from pipelines.state.manifest import Carried, Changes, Retry


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
