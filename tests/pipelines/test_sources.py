"""One contract over every source kind, on disk and in an object store, and what is particular to each."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import boto3
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_maker import (
    KINDS,
    ROWS,
    TABLE,
    TABLE_FORMATS,
    Store,
    as_csv,
    as_jsonl,
    as_parquet,
    list_all,
    make_case,
    nothing_known,
    read_all,
)

from operators.batch import ReadError, RowError
from operators.errors import SourceError
from pipelines.sources import source_class, source_kinds
from pipelines.sources._tables import sample_files
from pipelines.sources.base import as_listing


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return Store(str(tmp_path / "in put é"), {})
    endpoint = request.getfixturevalue("s3_endpoint")
    name = f"{tmp_path.parent.name} é/{tmp_path.name}"
    return Store(f"s3://objects/{name}", {"aws_endpoint": endpoint}, boto3.client("s3", endpoint_url=endpoint))


@pytest.fixture
def disk(tmp_path: Path) -> Store:
    (tmp_path / "in").mkdir()
    return Store(str(tmp_path / "in"), {})


# the contract


def test_every_kind_has_a_case():
    assert set(KINDS) == set(source_kinds())


@pytest.mark.parametrize("kind", KINDS)
def test_the_listing(kind: str, store: Store):
    case = make_case(kind, store)
    listing = list_all(case.source)
    assert sorted(listing["object_id"].to_pylist()) == sorted(case.expected)
    assert listing["error"].null_count == listing.num_rows
    assert listing["version"].null_count == 0
    assert listing["size"].null_count == 0
    assert listing["position"].null_count == (listing.num_rows if kind == "files" else 0)
    assert listing.equals(list_all(case.source))
    uris = dict.fromkeys(listing["uri"].to_pylist())
    assert all(uri.startswith(store.uri) for uri in uris)
    assert len(uris) == (3 if kind == "files" else 2)


@pytest.mark.parametrize("kind", KINDS)
def test_reading_in_any_order(kind: str, store: Store):
    case = make_case(kind, store)
    listing = list_all(case.source)
    fields = case.source.metadata_fields(iter([listing]))
    years = {row["id"]: row["year"] for row in ROWS}
    for order in ([*range(listing.num_rows)], [*reversed(range(listing.num_rows))], [2, 0], [1], []):
        entries = listing.take(pa.array(order, pa.int64()))
        objects = case.source.read_objects(entries, fields)
        names = entries["object_id"].to_pylist()
        assert list(objects.contents) == [case.expected[name] for name in names]
        if kind == "files":
            assert objects.metadata.num_columns == 0
        else:
            assert objects.metadata.schema == pa.schema([("title", pa.string()), ("year", pa.int64())])
            assert objects.metadata["year"].to_pylist() == [years[name] for name in names]


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_a_file_that_is_known_is_not_opened(kind: str, store: Store, monkeypatch: pytest.MonkeyPatch):
    case = make_case(kind, store)
    before = list_all(case.source)
    first = before["uri"][0].as_py()
    opened = []
    scan = type(case.source).scan

    def watched(self: Any, storage: Any, uri: str) -> Any:
        opened.append(uri)
        return scan(self, storage, uri)

    monkeypatch.setattr(type(case.source), "scan", watched)

    def known(uri: str, version: str) -> Iterator[pa.Table] | None:
        rows = before.filter(pa.compute.equal(before["uri"], uri))
        return iter([rows]) if uri == first and rows["version"][0].as_py() == version else None

    assert list_all(case.source, known).equals(before)
    assert opened == [before["uri"][-1].as_py()]


@pytest.mark.parametrize("kind", TABLE_FORMATS)
@pytest.mark.parametrize(("key", "wrong"), [("id", "idd"), ("content", "bodi"), ("metadata", ["titel"])])
def test_a_column_that_is_not_there(kind: str, key: str, wrong: Any, disk: Store):
    disk.put(f"a.{kind}", TABLE_FORMATS[kind](ROWS))
    source = disk.source(kind, **{**TABLE, key: wrong})
    name = wrong if isinstance(wrong, str) else wrong[0]
    meant = TABLE[key] if isinstance(wrong, str) else "title"
    with pytest.raises(SourceError) as failure:
        listing = list_all(source)
        source.metadata_fields(iter([listing]))
    assert f"has no column '{name}'. Did you mean '{meant}'?" in str(failure.value)
    assert f"{disk.uri}/a.{kind}" in str(failure.value)
    assert "body" in str(failure.value).splitlines()[-1]  # its columns


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_folder_and_a_missing_one(kind: str, disk: Store):
    fields = {} if kind == "files" else TABLE
    assert list_all(disk.source(kind, **fields)).num_rows == 0
    assert disk.source(kind, **fields).metadata_fields(iter([])) == []
    with pytest.raises(SourceError, match=r"cannot list .*absent.*No such file"):
        list_all(disk.source(kind, "absent", **fields))


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_bucket(kind: str, s3_endpoint: str):
    fields = {} if kind == "files" else TABLE
    source = source_class(kind)(
        kind=kind, uri="s3://no-such/x", storage_options={"aws_endpoint": s3_endpoint}, **fields
    )
    with pytest.raises(SourceError, match=r"cannot list 's3://no-such/x': .*404"):
        list_all(source)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_file(kind: str, store: Store):
    make_case(kind, store)
    name = "a b/ü.txt" if kind == "files" else f"a b/ü#1.{kind}"
    source = store.source(kind, name, **({} if kind == "files" else TABLE))
    contents, _ = read_all(source)
    expected = {"ü.txt": b"one"} if kind == "files" else {row["id"]: row["body"] for row in ROWS[:3]}
    assert contents == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_vanishes_after_the_listing(kind: str, store: Store):
    case = make_case(kind, store)
    listing = list_all(case.source)
    fields = case.source.metadata_fields(iter([listing]))
    store.remove("c.txt" if kind == "files" else f"z.{kind}")
    gone = "c.txt" if kind == "files" else "vier"
    objects = case.source.read_objects(listing, fields)
    for name, content in zip(listing["object_id"].to_pylist(), objects.contents, strict=True):
        if name == gone:
            assert isinstance(content, ReadError) and str(content) == "gone since it was listed"
        else:
            assert content == case.expected[name]
    assert objects.metadata.num_rows in (0, listing.num_rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_change_gives_another_version(kind: str, store: Store):
    case = make_case(kind, store)
    before = dict(zip(*(list_all(case.source)[name].to_pylist() for name in ("object_id", "version")), strict=True))
    changed = "c.txt" if kind == "files" else "vier"
    store.put(
        "c.txt" if kind == "files" else f"z.{kind}", b"new" if kind == "files" else TABLE_FORMATS[kind](ROWS[3:] * 2)
    )
    listing = list_all(case.source)
    after = dict(zip(listing["object_id"].to_pylist(), listing["version"].to_pylist(), strict=True))
    assert {name for name in before if before[name] != after[name]} == {changed}


def test_the_identity_says_how_a_source_is_read_not_where_it_lies(disk: Store):
    source = disk.source("csv", **TABLE)
    assert source.identity() == source.model_copy(update={"uri": "s3://b", "storage_options": {"a": "b"}}).identity()
    for change in ({"id": "x"}, {"content": "x"}, {"metadata": []}, {"delimiter": ";"}, {"include": ["x"]}):
        assert source.identity() != source.model_copy(update=change).identity()


# files


def put_names(disk: Store, *names: str) -> None:
    for name in names:
        disk.put(name, name.encode())


def test_files_globs(disk: Store):
    put_names(disk, "a.jpg", "b.JPG", "sub/c.jpg", "sub/d.png", "sub/thumbs/e.jpg", ".hidden/f.jpg")

    def ids(**fields: Any) -> set[str]:
        return set(list_all(disk.source("files", **fields))["object_id"].to_pylist())

    assert ids() == {"a.jpg", "b.JPG", "sub/c.jpg", "sub/d.png", "sub/thumbs/e.jpg", ".hidden/f.jpg"}
    assert ids(include=["*.jpg"]) == {"a.jpg", "sub/c.jpg", "sub/thumbs/e.jpg", ".hidden/f.jpg"}
    assert ids(include=["*.jpg", "*.JPG"], exclude=["thumbs/", ".*"]) == {"a.jpg", "b.JPG", "sub/c.jpg"}
    assert ids(include=["/sub/*"]) == {"sub/c.jpg", "sub/d.png", "sub/thumbs/e.jpg"}
    assert ids(include=["sub/*.png"]) == {"sub/d.png"}
    assert ids(include=["*.gif"]) == set()


def test_files_with_odd_names(store: Store):
    names = [
        "a b.txt",
        "ünï/世界.txt",
        "[x].txt",
        "#1?.txt",
        "50%25.txt",
        "'q\".txt",
        "a+b&c=d.txt",
        "~t.txt",
        "-x.txt",
    ]
    for name in names:
        store.put(name, name.encode())
    contents, _ = read_all(store.source("files"))
    assert contents == {name: name.encode() for name in names}


def test_files_are_listed_in_the_order_of_names_on_disk(disk: Store):
    put_names(disk, "b/2", "b/1", "a", "c")
    assert list_all(disk.source("files"))["object_id"].to_pylist() == ["a", "c", "b/1", "b/2"]


def test_links_and_what_is_no_regular_file(disk: Store, tmp_path: Path):
    root = Path(disk.uri)
    put_names(disk, "real.txt", "folder/in.txt")
    (root / "dangling").symlink_to(root / "nowhere")
    (root / "itself").symlink_to(root / "itself")
    (root / "good-link").symlink_to(root / "real.txt")
    (root / "folder-link").symlink_to(root / "folder")
    (root / "round").symlink_to(root)
    os.mkfifo(root / "pipe")
    (root / "bare").mkdir()
    listing = list_all(disk.source("files"))
    errors = dict(zip(listing["object_id"].to_pylist(), listing["error"].to_pylist(), strict=True))
    assert {name for name, error in errors.items() if error is None} == {"real.txt", "folder/in.txt", "good-link"}
    assert errors["dangling"] == "cannot be read: No such file or directory"
    assert errors["itself"].startswith("cannot be read: ")
    assert errors["pipe"] == "not a regular file"
    assert len(errors) == 6
    contents, _ = read_all(disk.source("files"))  # opening the pipe would wait for ever
    assert contents["good-link"] == b"real.txt"
    for name in ("dangling", "itself", "pipe"):
        assert isinstance(contents[name], RowError) and str(contents[name]) == errors[name]
    assert listing.equals(list_all(disk.source("files")))  # versions too: nothing changed


def test_a_name_that_is_not_utf8(disk: Store):
    path = os.path.join(os.fsencode(disk.uri), b"caf\xe9.txt")  # noqa: PTH118 (bytes)
    with open(path, "wb") as file:  # noqa: PTH123
        file.write(b"x")
    listing = list_all(disk.source("files"))
    assert listing["object_id"].to_pylist() == ["caf\\xe9.txt"]
    assert listing["error"].to_pylist() == ["the name is not UTF-8"]


def test_folder_markers_of_a_bucket_are_no_objects(s3_endpoint: str, tmp_path: Path):
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    store = Store(f"s3://objects/markers-{tmp_path.name}", {"aws_endpoint": s3_endpoint}, client)
    for name in ("", "sub/", "sub/deeper/"):
        store.put(name, b"")
    store.put("sub/a.txt", b"a")
    store.put("empty.txt", b"")
    contents, _ = read_all(store.source("files"))
    assert contents == {"sub/a.txt": b"a", "empty.txt": b""}


def test_a_prefix_ends_at_a_folder(s3_endpoint: str, tmp_path: Path):
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    base = f"s3://objects/prefix-{tmp_path.name}"
    for folder in ("a#1", "a", "a#12", "a b"):
        Store(f"{base}/{folder}", {}, client).put("x.txt", folder.encode())
    for folder in ("a#1", "a", "a b"):
        contents, _ = read_all(Store(f"{base}/{folder}", {"aws_endpoint": s3_endpoint}, client).source("files"))
        assert contents == {"x.txt": folder.encode()}


def test_any_filesystem_that_fsspec_knows():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/ll-sources/a.txt": b"1", "/ll-sources/sub/b.txt": b"2"})
    try:
        source = source_class("files")(uri="memory://ll-sources")
        assert read_all(source)[0] == {"a.txt": b"1", "sub/b.txt": b"2"}
        assert read_all(source_class("files")(uri="memory://ll-sources/sub/b.txt"))[0] == {"b.txt": b"2"}
        with pytest.raises(SourceError, match="cannot list"):
            list_all(source_class("files")(uri="memory://ll-nowhere"))
    finally:
        memory.rm("/ll-sources", recursive=True)


# what the tables have in common


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


# JSON lines


def test_jsonl_lines_that_are_no_objects(disk: Store):
    lines = [
        b'{"id": "a", "body": "good", "year": 1}\n',
        b"\n",
        b"   \r\n",
        b'{"id": "b", "body": \n',
        b'["a", "list"]\n',
        b"17\n",
        b'{"id": "c", "body": "\xff"}\n',
        b'{"id": "\\ud800", "body": "surrogate"}\n',
        b"[" * 100_000 + b"\n",
        b'{"id": "d", "body": "last", "year": 2}',  # no line break at the end
    ]
    disk.put("x.jsonl", b"".join(lines))
    source = disk.source("jsonl", id="id", content="body", metadata=["year"])
    listing = list_all(source)
    offsets = [sum(len(line) for line in lines[:k]) for k in (0, 3, 4, 5, 6, 7, 8, 9)]
    assert listing["position"].to_pylist() == offsets
    broken = listing.filter(listing["error"].is_valid())
    assert broken["object_id"].to_pylist() == [f"x.jsonl:{offset}" for offset in offsets[1:-1]]
    reasons = broken["error"].to_pylist()
    assert [reason.split(":")[0] for reason in reasons] == [
        "the line is not JSON",
        "the line is not a JSON object",
        "the line is not a JSON object",
        "the line is not JSON",
        "no text in the id column 'id'",
        "the line is not JSON",
    ]
    contents, metadata = read_all(source)
    assert (contents["a"], contents["d"]) == ("good", "last")
    assert metadata["year"].to_pylist() == [1, *[None] * 6, 2]


def test_jsonl_byte_order_mark(disk: Store):
    disk.put("x.jsonl", b"\xef\xbb\xbf" + as_jsonl(ROWS[:2]))
    assert read_all(disk.source("jsonl", **TABLE))[0] == {row["id"]: row["body"] for row in ROWS[:2]}


def test_jsonl_a_line_may_lack_columns(disk: Store):
    disk.put(
        "x.jsonl",
        as_jsonl([{"id": "a"}, {"id": "b", "body": "x", "title": "t", "year": 1.5}, {"id": "c", "body": None}]),
    )
    contents, metadata = read_all(disk.source("jsonl", **TABLE))
    assert contents == {"a": None, "b": "x", "c": None}
    assert metadata.to_pydict() == {"title": [None, "t", None], "year": [None, 1.5, None]}


def test_jsonl_types_of_metadata(disk: Store):
    rows = [
        {"id": "a", "body": "x", "mixed": 1999, "numbers": 1, "tags": ["x"], "none": None, "huge": 2**70},
        {"id": "b", "body": "x", "mixed": "unknown", "numbers": 2.5, "tags": [], "none": None, "huge": 1},
    ]
    disk.put("x.jsonl", as_jsonl(rows))
    source = disk.source("jsonl", id="id", content="body", metadata=["mixed", "numbers", "tags", "none"])
    contents, metadata = read_all(source)
    assert [str(kind) for kind in metadata.schema.types] == ["string", "double", "list<item: string>", "string"]
    assert contents == {"a": "x", "b": "x"}
    assert metadata["mixed"].to_pylist() == ["1999", "unknown"]
    assert metadata["numbers"].to_pylist() == [1.0, 2.5]
    huge = disk.source("jsonl", id="id", content="body", metadata=["huge"])
    assert read_all(huge)[1]["huge"].to_pylist() == [str(2**70), "1"]


def test_jsonl_values_that_do_not_fit_behind_the_sample(disk: Store):
    rows = [{"id": str(k), "body": "x", "score": 4 if k < 1000 else 4.75} for k in range(1002)]
    disk.put("x.jsonl", as_jsonl(rows))
    contents, metadata = read_all(disk.source("jsonl", id="id", content="body", metadata=["score"]))
    assert str(contents["1001"]) == "metadata column 'score': 4.75 is not int64"
    assert metadata["score"].to_pylist()[999:] == [4, None, None]


def test_jsonl_metadata_that_cannot_be_stored(disk: Store):
    disk.put("x.jsonl", b'{"id": "a", "body": "x", "title": "t"}\n{"id": "b", "body": "y", "title": "\\ud800"}\n')
    contents, metadata = read_all(disk.source("jsonl", id="id", content="body", metadata=["title"]))
    assert contents["a"] == "x" and isinstance(contents["b"], RowError)
    assert metadata["title"].to_pylist() == ["t", None]


# CSV


def test_csv_quoting_line_breaks_and_byte_order_mark(disk: Store):
    text = 'id,body,title\r\n1,"a, b",x\r\n2,"two\r\nlines\nand ""quotes""",\r\n\r\n3,"last",z'
    disk.put("x.csv", b"\xef\xbb\xbf" + text.encode())
    source = disk.source("csv", id="id", content="body", metadata=["title"])
    contents, metadata = read_all(source)
    assert contents == {"1": "a, b", "2": 'two\r\nlines\nand "quotes"', "3": "last"}
    assert metadata["title"].to_pylist() == ["x", None, "z"]
    listing = list_all(source)
    data = b"\xef\xbb\xbf" + text.encode()
    cut = [data[p : p + s] for p, s in zip(listing["position"].to_pylist(), listing["size"].to_pylist(), strict=True)]
    assert cut == [b'1,"a, b",x\r\n', b'2,"two\r\nlines\nand ""quotes""",\r\n', b'3,"last",z']


def test_csv_delimiter_and_long_fields(disk: Store):
    disk.put("x.csv", f"id;body\n1;{'x' * 300_000}\n2;a,b\n".encode())
    contents, _ = read_all(disk.source("csv", id="id", content="body", delimiter=";"))
    assert contents == {"1": "x" * 300_000, "2": "a,b"}


def test_csv_records_that_do_not_fit_the_header(disk: Store):
    disk.put("x.csv", b"id,body\n1,a\n2,b,c\n3\n4,d\re\n5,f\n")
    listing = list_all(disk.source("csv", id="id", content="body"))
    errors = dict(zip(listing["object_id"].to_pylist(), listing["error"].to_pylist(), strict=True))
    assert errors["x.csv:12"] == "line 3: the record has 3 fields, the header 2"
    assert errors["x.csv:18"] == "line 4: the record has 1 fields, the header 2"
    assert errors["x.csv:20"] == "line 5: a carriage return alone, outside quotes"
    assert {name for name, error in errors.items() if error is None} == {"1", "5"}
    contents, _ = read_all(disk.source("csv", id="id", content="body"))
    assert (contents["1"], contents["5"]) == ("a", "f")


def test_csv_types_of_metadata_and_a_value_that_does_not_fit(disk: Store):
    head = "id,body,n,f,flag,day,time,zip,na,none\n"
    good = "a,x,1,1.5,true,2020-01-02,2020-01-02 03:04:05,12:30:00,NA,\n"
    disk.put("x.csv", (head + good + good.replace("a,x", "b,y")).encode())
    names = ["n", "f", "flag", "day", "time", "zip", "na", "none"]
    source = disk.source("csv", id="id", content="body", metadata=names)
    listing = list_all(source)
    fields = source.metadata_fields(iter([listing]))
    kinds = ["int64", "double", "bool", "string", "string", "string", "string", "string"]
    assert [str(field.type) for field in fields] == kinds
    row = source.read_objects(listing, fields).metadata.to_pylist()[0]
    assert (row["n"], row["f"], row["flag"], row["day"]) == (1, 1.5, True, "2020-01-02")
    assert (row["zip"], row["na"], row["none"]) == ("12:30:00", "NA", None)

    disk.put("x.csv", (head + good + good.replace("a,x,1", "b,y,many") + good.replace("a,x,1", "c,z,")).encode())
    listing = list_all(source)
    objects = source.read_objects(listing, fields)
    assert [objects.contents[0], objects.contents[2]] == ["x", "z"]
    assert isinstance(objects.contents[1], RowError)
    assert str(objects.contents[1]) == "metadata column 'n': 'many' is not int64"
    assert objects.metadata["n"].to_pylist() == [1, None, None]


def test_csv_of_more_than_the_sample_with_line_breaks_in_its_fields(disk: Store):
    body = "line\n" * 2000
    rows = [{"id": str(k), "body": body, "year": k} for k in range(150)]  # 1.5 MB
    disk.put("x.csv", as_csv(rows))
    source = disk.source("csv", id="id", content="body", metadata=["year"])
    contents, metadata = read_all(source)
    assert contents == {str(k): body for k in range(150)}
    assert metadata["year"].to_pylist() == list(range(150))


def test_records_far_apart_are_fetched_in_several_requests(disk: Store):
    rows = [{"id": str(k), "body": str(k) * 700_000} for k in range(4)]
    disk.put("x.jsonl", as_jsonl(rows))
    source = disk.source("jsonl", id="id", content="body")
    listing = list_all(source)
    assert list(source.read_objects(listing.take([3, 0]), []).contents) == [rows[3]["body"], rows[0]["body"]]
