"""What sources of rows have in common, and Parquet."""

from __future__ import annotations

import io
import tempfile
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_maker import ROWS, TABLE, TABLE_FORMATS, Store, as_jsonl, as_parquet, list_all, nothing_known, read_all

from pipelines.sources import source_class
from pipelines.sources._tables import sample_files
from pipelines.sources.base import as_listing


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_rows_without_an_id(kind: str, disk: Store):
    rows = [*ROWS[:1], {"id": None, "body": "no id", "title": "t", "year": 1}, *ROWS[3:]]
    disk.put(f"sub/a.{kind}", TABLE_FORMATS[kind](rows))
    listing = list_all(disk.source(kind, **TABLE))
    first, missing, last = listing.to_pylist()
    assert (first["object_id"], last["object_id"]) == ("eins", "vier")
    assert missing["object_id"] == f"sub/a.{kind}:{missing['position']}"
    assert missing["error"] == "no value in the id column 'id'"
    contents, metadata = read_all(disk.source(kind, **TABLE))
    assert str(contents[missing["object_id"]]) == missing["error"]
    assert (contents["eins"], contents["vier"]) == (ROWS[0]["body"], "last")
    assert metadata["year"].to_pylist() == [1999, None, -4]


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_ids_that_are_numbers_become_text(kind: str, disk: Store):
    disk.put(f"a.{kind}", TABLE_FORMATS[kind]([{"id": 0, "body": "zero"}, {"id": 17, "body": "x"}]))
    assert read_all(disk.source(kind, id="id", content="body"))[0] == {"0": "zero", "17": "x"}


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_include_chooses_files_and_a_folder_may_look_like_a_file(kind: str, disk: Store):
    write = TABLE_FORMATS[kind]
    disk.put(f"data.{kind}/part-0.{kind}", write(ROWS[:2]))
    disk.put(f"data.{kind}/_SUCCESS", b"")
    disk.put(f"data.{kind}/part-1.odd", write(ROWS[2:]))
    assert list(read_all(disk.source(kind, f"data.{kind}", **TABLE))[0]) == ["eins", "zwei"]
    assert list(read_all(disk.source(kind, f"data.{kind}", include=["*.odd"], **TABLE))[0]) == ["drei/3", "vier"]
    assert list(read_all(disk.source(kind, f"data.{kind}/part-1.odd", **TABLE))[0]) == ["drei/3", "vier"]


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_a_table_without_rows(kind: str, disk: Store):
    content = as_parquet(ROWS[:1])
    if kind == "parquet":
        out = io.BytesIO()
        pq.write_table(pq.read_table(io.BytesIO(content)).slice(0, 0), out)
        content = out.getvalue()
    disk.put(f"a.{kind}", {"parquet": content, "jsonl": b"", "csv": b"id,body,title,year\n"}[kind])
    assert list_all(disk.source(kind, **TABLE)).num_rows == 0


def test_parts_of_a_listing(disk: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipelines.sources._tables.LISTING_ROWS", 3)
    disk.put("a.jsonl", as_jsonl([{"id": str(k), "body": "x"} for k in range(7)]))
    pieces = list(disk.source("jsonl", id="id", content="body").list_objects(nothing_known))
    assert [piece.num_rows for piece in pieces] == [3, 3, 1]


@given(st.lists(st.integers(1, 3), max_size=60), st.integers(1, 7))
def test_files_that_types_are_told_from(entries: list[int], piece: int):
    """The first, the last, and some between, at most eight; each once, and none that has nothing to read."""
    uris = [f"f{n}" for n, count in enumerate(entries) for _ in range(count)]
    rows = [{"object_id": str(n), "uri": uri, "error": "broken" if uri == "f1" else None} for n, uri in enumerate(uris)]
    pieces = (as_listing(rows[start : start + piece]) for start in range(0, len(rows), piece))
    readable = [uri for uri in dict.fromkeys(uris) if uri != "f1"]
    chosen = sample_files(pieces)
    assert chosen == [uri for uri in readable if uri in chosen]
    assert len(chosen) == len(readable) if len(readable) <= 7 else 5 <= len(chosen) <= 8
    assert (chosen[:1], chosen[-1:]) == (readable[:1], readable[-1:])


# parquet


def test_parquet_over_row_groups_with_bytes_and_dictionaries(disk: Store):
    table = pa.table(
        {
            "id": pa.array([f"i{k}" for k in range(10)]).dictionary_encode(),
            "body": pa.array([bytes([k]) * 3 for k in range(10)], pa.binary()),
            "label": pa.array(["a", "b"] * 5).dictionary_encode(),
            "when": pa.array([date(2020, 1, k + 1) for k in range(10)]),
        }
    )
    path = Path(disk.uri) / "a" / "b" / "c.parquet"
    path.parent.mkdir(parents=True)
    with pq.ParquetWriter(path, table.schema) as writer:
        for start, stop in ((0, 3), (3, 3), (3, 4), (4, 10)):  # one group is empty
            writer.write_table(table.slice(start, stop - start), row_group_size=100)
    source = disk.source("parquet", id="id", content="body", metadata=["label", "when"])
    listing = list_all(source)
    fields = source.metadata_fields(iter([listing]))
    assert fields == [pa.field("label", pa.string()), pa.field("when", pa.date32())]
    for rows in ([9, 0, 3, 4, 2], [3], list(range(10))):
        objects = source.read_objects(listing.take(rows), fields)
        assert list(objects.contents) == [bytes([k]) * 3 for k in rows]
        assert objects.metadata["when"].to_pylist() == [date(2020, 1, k + 1) for k in rows]
        assert objects.metadata["label"].to_pylist() == ["ab"[k % 2] for k in rows]


def test_parquet_reads_a_row_group_once_for_successive_shards(disk: Store, monkeypatch: pytest.MonkeyPatch):
    disk.put("a.parquet", as_parquet([{"id": str(k), "body": str(k)} for k in range(6)]))
    source = disk.source("parquet", id="id", content="body")
    listing = list_all(source)
    reads = []
    iter_batches = pq.ParquetFile.iter_batches

    def counted(self: Any, rows: int, *, row_groups: list[int], **keywords: Any) -> Any:
        reads.extend(row_groups)
        return iter_batches(self, rows, row_groups=row_groups, **keywords)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    for row in range(6):
        assert list(source.read_objects(listing.slice(row, 1), []).contents) == [str(row)]
    assert reads == [0, 1, 2]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_parquet_windows_of_any_size(data: st.DataObject):
    """Whatever rows are asked for, in whatever order, over groups and windows of any size."""
    count, group, window = (data.draw(st.integers(1, n)) for n in (40, 20, 7))
    shards = data.draw(st.lists(st.lists(st.integers(0, count - 1), unique=True, max_size=12), max_size=4))
    rows = [{"id": str(k), "body": str(k) * (k % 5), "n": k} for k in range(count)]
    with tempfile.TemporaryDirectory() as folder, mock.patch("pipelines.sources.parquet.WINDOW_ROWS", window):
        pq.write_table(pa.Table.from_pylist(rows), f"{folder}/a.parquet", row_group_size=group)
        source = source_class("parquet")(uri=folder, id="id", content="body", metadata=["n"])
        listing = list_all(source)
        for shard in shards:
            objects = source.read_objects(listing.take(pa.array(shard, pa.int64())), [pa.field("n", pa.int64())])
            assert list(objects.contents) == [rows[k]["body"] for k in shard]
            assert objects.metadata["n"].to_pylist() == shard


def test_a_row_group_is_not_read_whole(disk: Store):
    body = pa.array([f"{k:06}" * 2000 for k in range(10_000)])  # 120 MB in one group
    table = pa.table({"id": pa.array([str(k) for k in range(10_000)]), "body": body})
    pq.write_table(table, f"{disk.uri}/a.parquet", row_group_size=10_000, compression="none", use_dictionary=False)
    del table, body
    source = disk.source("parquet", id="id", content="body")
    listing = list_all(source)
    before = pa.total_allocated_bytes()
    for start in range(0, 10_000, 1000):
        objects = source.read_objects(listing.slice(start, 10), [])
        assert objects.contents[9] == f"{start + 9:06}" * 2000
        assert pa.total_allocated_bytes() - before < 60 << 20


def test_what_is_no_parquet_is_one_reject(disk: Store):
    disk.put("a.parquet", b"PAR1 not really")
    disk.put("b.parquet", as_parquet(ROWS))
    listing = list_all(disk.source("parquet", **TABLE)).to_pylist()
    assert [row["object_id"] for row in listing] == ["a.parquet", *(row["id"] for row in ROWS)]
    assert listing[0]["error"].startswith("cannot be listed: ArrowInvalid: Parquet magic bytes not found")


def test_a_column_may_be_content_and_metadata_at_once(disk: Store):
    disk.put("a.parquet", as_parquet(ROWS))
    contents, metadata = read_all(disk.source("parquet", id="id", content="body", metadata=["body", "id"]))
    assert metadata["body"].to_pylist() == list(contents.values())
