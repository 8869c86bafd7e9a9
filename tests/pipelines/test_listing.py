"""The listing snapshot: written in parts, read back, ids made unique, unchanged files known again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentlake.storage import open_storage
from operators.errors import SourceError
from pipelines.listing import known_files, mark_duplicates, read_listing, write_listing
from pipelines.sources import source_class
from pipelines.sources.base import LISTING_SCHEMA, as_listing


def entry(
    name: str, uri: str = "f", version: str | None = "1", position: int | None = 0, error: str | None = None
) -> Any:
    return {"object_id": name, "uri": uri, "version": version, "size": 1, "position": position, "error": error}


def listing_of(*entries: Any) -> pa.Table:
    return as_listing(list(entries))


def nothing_known(uri: str, version: str) -> None:
    return None


@pytest.fixture
def source(tmp_path: Path) -> Any:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / f"{name}.jsonl").write_text(
            "".join(f'{{"id": "{name}{k}", "other": "o{name}{k}", "body": ""}}\n' for k in range(3))
        )
    return source_class("jsonl")(uri=str(folder), id="id", content="body")


def test_written_and_read_in_order(source: Any, tmp_path: Path):
    place = open_storage(str(tmp_path / "run" / "listing"))
    assert read_listing(place) is None
    assert write_listing(source, nothing_known, place) == 6
    assert sorted(path.name for path in (tmp_path / "run" / "listing").iterdir()) == [
        "part-000000.parquet",
        "part-000001.parquet",
    ]
    listing = read_listing(place)
    assert listing is not None and listing.schema.equals(LISTING_SCHEMA)
    assert listing["object_id"].to_pylist() == ["a0", "a1", "a2", "b0", "b1", "b2"]


def test_a_listing_that_breaks_off_raises(source: Any, tmp_path: Path):
    (Path(source.uri) / "c.jsonl").write_text('{"di": 1}\n')
    with pytest.raises(SourceError):
        write_listing(source, nothing_known, open_storage(str(tmp_path / "listing")))


def test_a_source_without_objects(tmp_path: Path):
    (tmp_path / "in").mkdir()
    place = open_storage(str(tmp_path / "listing"))
    assert write_listing(source_class("files")(uri=str(tmp_path / "in")), nothing_known, place) == 0
    assert read_listing(place) is None


def known_of(source: Any, tmp_path: Path, reader: Any = None) -> Any:
    place = open_storage(str(tmp_path / "listing"))
    write_listing(source, nothing_known, place)
    return known_files(read_listing(place), reader or source)


def test_files_that_are_known(source: Any, tmp_path: Path):
    known = known_of(source, tmp_path)
    listing = read_listing(open_storage(str(tmp_path / "listing")))
    for name in ("a", "b"):
        rows = listing.filter(pa.compute.equal(listing["uri"], f"{source.uri}/{name}.jsonl"))
        found = known(rows["uri"][0].as_py(), rows["version"][0].as_py())
        assert found.to_pylist() == rows.to_pylist()
        assert known(rows["uri"][0].as_py(), "another version") is None
    assert known(f"{source.uri}/c.jsonl", "1") is None


def test_nothing_is_known_without_a_listing(source: Any):
    for listing in (None, LISTING_SCHEMA.empty_table()):
        assert known_files(listing, source)("f", "1") is None


@pytest.mark.parametrize("change", [{"id": "other"}, {"content": "id"}, {"include": ["a.jsonl"]}])
def test_a_listing_of_a_source_read_otherwise_is_not_used(source: Any, tmp_path: Path, change: dict[str, Any]):
    changed = source.model_copy(update=change)
    known = known_of(source, tmp_path, reader=changed)
    place = open_storage(str(tmp_path / "second"))
    write_listing(changed, known, place)
    afresh = open_storage(str(tmp_path / "afresh"))
    write_listing(changed, nothing_known, afresh)
    assert read_listing(place).to_pylist() == read_listing(afresh).to_pylist()
    if "id" in change:
        assert read_listing(place)["object_id"][0].as_py() == "oa0"


def test_a_listing_that_was_taken_over_can_be_taken_over_again(source: Any, tmp_path: Path):
    known = known_of(source, tmp_path)
    first = read_listing(open_storage(str(tmp_path / "listing")))
    for name in ("second", "third"):
        place = open_storage(str(tmp_path / name))
        write_listing(source, known, place)
        assert read_listing(place).equals(first)
        known = known_files(read_listing(place), source)
        assert known(first["uri"][0].as_py(), first["version"][0].as_py()) is not None


def test_parts_are_parquet_that_anyone_reads(source: Any, tmp_path: Path):
    write_listing(source, nothing_known, open_storage(str(tmp_path / "listing")))
    assert pq.read_table(tmp_path / "listing").num_rows == 6


# duplicates


def test_duplicates_get_an_id_of_their_own_and_the_first_stays():
    marked = mark_duplicates(
        listing_of(
            entry("a", "f", position=0),
            entry("b", "f", position=9),
            entry("a", "f", position=20),
            entry("a", "g", position=3),
        )
    )
    assert marked.schema.equals(LISTING_SCHEMA)
    assert marked["object_id"].to_pylist() == ["a", "b", "f:20", "g:3"]
    message = "duplicate id 'a', first in f at 0"
    assert marked["error"].to_pylist() == [None, None, message, message]
    assert marked["position"].to_pylist() == [0, 9, 20, 3]


def test_without_duplicates_nothing_changes():
    listing = listing_of(entry("a"), entry("b", error="broken"))
    assert mark_duplicates(listing) is listing
    assert mark_duplicates(LISTING_SCHEMA.empty_table()).num_rows == 0


def test_duplicates_over_parts():
    parts = pa.concat_tables([listing_of(entry("a", position=k)) for k in range(3)])
    assert mark_duplicates(parts)["object_id"].to_pylist() == ["a", "f:1", "f:2"]


def test_marking_twice_changes_nothing_more():
    once = mark_duplicates(listing_of(entry("a", position=0), entry("a", position=1)))
    assert mark_duplicates(once).equals(once)
