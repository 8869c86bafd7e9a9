"""One contract over every source kind, on disk and in an object store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from source_maker import KINDS, ROWS, TABLE, TABLE_FORMATS, Store, list_all, make_case, read_all

from operators.batch import ReadError
from operators.errors import SourceError
from pipelines.sources import source_class, source_kinds


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
