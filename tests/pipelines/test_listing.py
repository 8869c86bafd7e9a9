"""The listing snapshot: written in parts, read back, unchanged files known again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latentlake.storage import Storage, open_storage
from operators.errors import SourceError
from pipelines.planning.listing import known_files, read_listing, write_listing, write_parquet
from pipelines.sources import source_class
from pipelines.sources.base import LISTING_SCHEMA


def whole(place: Storage) -> pa.Table:
    """A listing in one piece."""
    pieces = read_listing(place)
    assert pieces is not None
    return pa.concat_tables(pieces)


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


@pytest.mark.parametrize(("rows", "parts"), [(50_000, 1), (6, 1), (5, 2), (3, 2)])
def test_written_and_read_in_order(source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, parts: int):
    """Small files share a part: a source may have very many of them."""
    monkeypatch.setattr("pipelines.planning.listing.LISTING_ROWS", rows)
    place = open_storage(str(tmp_path / "run" / "listing"))
    assert read_listing(place) is None
    assert write_listing(source, nothing_known, place) == 6
    assert sorted(path.name for path in (tmp_path / "run" / "listing").iterdir()) == [
        f"part-{part:06}.parquet" for part in range(parts)
    ]
    listing = whole(place)
    assert listing.schema.equals(LISTING_SCHEMA)
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
    return known_files(place, reader or source)


def test_files_that_are_known(source: Any, tmp_path: Path):
    known = known_of(source, tmp_path)
    listing = whole(open_storage(str(tmp_path / "listing")))
    for name in ("a", "b"):
        rows = listing.filter(pa.compute.equal(listing["uri"], f"{source.uri}/{name}.jsonl"))
        found = known(rows["uri"][0].as_py(), rows["version"][0].as_py())
        assert pa.concat_tables(found).to_pylist() == rows.to_pylist()
        assert known(rows["uri"][0].as_py(), "another version") is None
    assert known(f"{source.uri}/c.jsonl", "1") is None


def test_nothing_is_known_without_a_listing(source: Any, tmp_path: Path):
    empty = open_storage(str(tmp_path / "empty"))
    write_parquet(LISTING_SCHEMA.empty_table(), empty, "part-000000.parquet")
    for place in (None, open_storage(str(tmp_path / "absent")), empty):
        assert known_files(place, source)("f", "1") is None


def test_objects_that_are_files_need_no_index(tmp_path: Path):
    place = open_storage(str(tmp_path / "listing"))
    place.fs.makedirs(place.root)
    (tmp_path / "listing" / "part-000000.parquet").write_text("no Parquet")
    assert known_files(place, source_class("files")(uri=str(tmp_path)))("f", "1") is None


def test_a_file_of_many_entries_is_known_over_parts(source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.sources._tables.LISTING_ROWS", 2)
    monkeypatch.setattr("pipelines.planning.listing.LISTING_ROWS", 2)
    known = known_of(source, tmp_path)
    assert len(list((tmp_path / "listing").iterdir())) == 4
    first = whole(open_storage(str(tmp_path / "listing")))
    place = open_storage(str(tmp_path / "second"))
    write_listing(source, known, place)
    pieces = list(read_listing(place) or ())
    assert pa.concat_tables(pieces).equals(first)
    assert max(piece.num_rows for piece in pieces) == 2
    again = known_files(place, source)
    for name in ("a", "b"):
        rows = first.filter(pa.compute.equal(first["uri"], f"{source.uri}/{name}.jsonl"))
        found = again(rows["uri"][0].as_py(), rows["version"][0].as_py())
        assert found is not None and pa.concat_tables(found).to_pylist() == rows.to_pylist()


@pytest.mark.parametrize("change", [{"id": "other"}, {"content": "id"}, {"include": ["a.jsonl"]}])
def test_a_listing_of_a_source_read_otherwise_is_not_used(source: Any, tmp_path: Path, change: dict[str, Any]):
    changed = source.model_copy(update=change)
    known = known_of(source, tmp_path, reader=changed)
    place = open_storage(str(tmp_path / "second"))
    write_listing(changed, known, place)
    afresh = open_storage(str(tmp_path / "afresh"))
    write_listing(changed, nothing_known, afresh)
    assert whole(place).to_pylist() == whole(afresh).to_pylist()
    if "id" in change:
        assert whole(place)["object_id"][0].as_py() == "oa0"


def test_a_listing_that_was_taken_over_can_be_taken_over_again(source: Any, tmp_path: Path):
    known = known_of(source, tmp_path)
    first = whole(open_storage(str(tmp_path / "listing")))
    for name in ("second", "third"):
        place = open_storage(str(tmp_path / name))
        write_listing(source, known, place)
        assert whole(place).equals(first)
        known = known_files(place, source)
        assert known(first["uri"][0].as_py(), first["version"][0].as_py()) is not None


def test_parts_are_parquet_that_anyone_reads(source: Any, tmp_path: Path):
    write_listing(source, nothing_known, open_storage(str(tmp_path / "listing")))
    assert pq.read_table(tmp_path / "listing").num_rows == 6
