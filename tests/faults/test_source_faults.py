"""Objects that vanish, change, or are not what the listing says: a clear reject, and never another object's content."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from source_maker import KINDS, ROWS, TABLE, TABLE_FORMATS, Store, list_all, make_case, read_all

from latentlake.storage import Storage, open_storage
from operators.batch import ReadError, RowError
from pipelines.flow.reading import batch_of
from pipelines.sources import _tables, source_class
from pipelines.sources import files as files_module
from pipelines.sources._bounds import GONE, OUTSIDE, is_below, version_of
from pipelines.sources.base import SourceConfig, as_listing

CHANGED = "the file changed since it was listed; the next run reads it again"


@pytest.fixture(params=["disk", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "disk":
        return Store(str(tmp_path / "in put é"), {})
    endpoint = request.getfixturevalue("s3_endpoint")
    return Store(f"s3://objects/{tmp_path.name}", {"aws_endpoint": endpoint}, boto3.client("s3", endpoint_url=endpoint))


def read(source: SourceConfig, listing: pa.Table, fields: list[pa.Field] | None = None) -> dict[str, Any]:
    objects = source.read_objects(listing, fields or [])
    return dict(zip(listing["object_id"].to_pylist(), objects.contents, strict=True))


# versions


@pytest.mark.parametrize("kind", KINDS)
def test_a_version_is_told_as_it_is_listed(kind: str, store: Store):
    case = make_case(kind, store)
    listing = list_all(case.source)
    for uri, version in zip(listing["uri"].to_pylist(), listing["version"].to_pylist(), strict=True):
        assert version_of(case.source.storage, uri) == version


def test_a_version_on_any_other_filesystem():
    memory = fsspec.filesystem("memory")
    memory.pipe({"/ll-versions/a.jsonl": b'{"id": "a", "body": "one"}\n'})
    try:
        source = source_class("jsonl")(uri="memory://ll-versions", id="id", content="body")
        listing = list_all(source)
        assert version_of(source.storage, listing["uri"][0].as_py()) == listing["version"][0].as_py() is not None
        assert read(source, listing) == {"a": "one"}
        memory.pipe({"/ll-versions/a.jsonl": b'{"id": "a", "body": "two"}\n'})
        assert str(read(source, listing)["a"]) == CHANGED
    finally:
        memory.rm("/ll-versions", recursive=True)


# gone, or changed, since it was listed


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_gone_is_rejected_at_reading(kind: str, store: Store):
    case = make_case(kind, store)
    listing = list_all(case.source)
    for name in ("c.txt", "a b/ü.txt", "deep/er/[x]#1.txt") if kind == "files" else (f"a b/ü#1.{kind}", f"z.{kind}"):
        store.remove(name)
    work = listing.append_column("base_hash", pa.nulls(listing.num_rows, pa.string()))
    batch = batch_of(work, case.source.read_objects(listing, []))
    assert set(batch["error"]) == {"read: gone since it was listed"}


def test_a_file_that_changed_is_read_as_it_is_now(store: Store):
    store.put("a.txt", b"old")
    source = store.source("files")
    listing = list_all(source)
    store.put("a.txt", b"new, and longer")
    assert read(source, listing) == {"a.txt": b"new, and longer"}


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_rows_of_a_file_that_changed_are_rejected(kind: str, store: Store):
    case = make_case(kind, store)
    listing = list_all(case.source)
    fields = case.source.metadata_fields(iter([listing]))
    read(case.source, listing, fields)  # whatever is kept of the file is kept
    swapped = [{**ROWS[3], "body": "evil"}]  # a row of the same length where the other one was
    store.put(f"z.{kind}", TABLE_FORMATS[kind](swapped))
    objects = case.source.read_objects(listing, fields)
    for name, content in zip(listing["object_id"].to_pylist(), objects.contents, strict=True):
        if name == "vier":
            assert isinstance(content, ReadError) and str(content) == CHANGED
        else:
            assert content == case.expected[name]
    years = {row["id"]: row["year"] for row in ROWS} | {"vier": None}
    names = listing["object_id"].to_pylist()
    assert objects.metadata["year"].to_pylist() == [years[name] for name in names]
    work = listing.append_column("base_hash", pa.nulls(listing.num_rows, pa.string()))
    assert f"read: {CHANGED}" in batch_of(work, objects)["error"]
    assert read(case.source, list_all(case.source), fields)["vier"] == "evil"  # the next run


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_rows_of_a_file_that_changes_while_it_is_read(kind: str, store: Store, monkeypatch: pytest.MonkeyPatch):
    case = make_case(kind, store)
    listing = list_all(case.source)
    fetch = type(case.source).fetch
    changed = TABLE_FORMATS[kind]([{**ROWS[3], "body": "evil"}])
    original = TABLE_FORMATS[kind](ROWS[3:])
    last = listing.filter(pa.compute.equal(listing["object_id"], "vier"))

    def late(self: Any, storage: Storage, uri: str, *rest: Any) -> Any:
        store.put(f"z.{kind}", changed)  # behind the first look at the version
        return fetch(self, storage, uri, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(type(case.source), "fetch", late)
        assert str(read(case.source, last)["vier"]) == CHANGED
    # The file comes back as it was, to the nanosecond: nothing of the other content was kept.
    store.put(f"z.{kind}", original)
    if store.client is None:
        mtime = int(last["version"][0].as_py().split("-")[1])
        os.utime(Path(store.uri) / f"z.{kind}", ns=(mtime, mtime))
    assert read(case.source, last) == {"vier": "last"}


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_row_has_another_rows_content(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    """Whatever happens to a file, before or while its rows are read: a row's own content, or a reject."""
    kind = data.draw(st.sampled_from(list(TABLE_FORMATS)))
    store = Store(str(tmp_path_factory.mktemp("rows")), {})
    ids = [f"{k}" for k in range(6)]

    def put(generation: int) -> None:
        order = data.draw(st.permutations(ids))
        rows = [{"id": name, "body": f"{name}-{generation}-" + "x" * data.draw(st.integers(0, 3))} for name in order]
        store.put(f"a.{kind}", TABLE_FORMATS[kind](rows))

    put(0)
    source = store.source(kind, id="id", content="body")
    listing = list_all(source)
    for generation in range(1, 4):
        if data.draw(st.booleans()):
            put(generation)
        shard = listing.take(pa.array(data.draw(st.lists(st.integers(0, 5), unique=True)), pa.int64()))
        for name, content in read(source, shard).items():
            assert isinstance(content, ReadError) or content.startswith(f"{name}-0-")


@pytest.mark.parametrize("changes", [0, 1, 3, 4])
def test_a_local_file_that_changes_while_it_is_read(changes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.txt"
    path.write_bytes(b"content 0")
    source = source_class("files")(uri=str(tmp_path))
    listing = list_all(source)
    fstat, looks, done = os.fstat, 0, 0

    def restless(handle: int) -> os.stat_result:
        nonlocal looks, done
        looks += 1
        if looks % 3 == 0 and done < changes:  # opened, about to be read, read
            done += 1
            with path.open("r+b") as file:
                file.write(f"content {done}".encode())
            os.utime(path, (done, done))
        return fstat(handle)

    monkeypatch.setattr(files_module.os, "fstat", restless)
    content = read(source, listing)["a.txt"]
    if changes < 4:
        assert content == f"content {changes}".encode()
    else:
        assert str(content) == "it changed while it was read, 4 times"


def test_a_file_of_this_very_moment_is_read_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Another change could have the same time; a time in the future says nothing."""
    path = tmp_path / "a.txt"
    path.write_bytes(b"x")
    monkeypatch.setattr(files_module.time, "sleep", (naps := []).append)
    for age, expected in ((60, 0), (-60, 0)):
        os.utime(path, (time.time() - age,) * 2)
        naps.clear()
        assert files_module.read_local(str(path)) == b"x"
        assert len(naps) == expected
    monkeypatch.setattr(files_module.time, "time", lambda: path.stat().st_mtime + 0.001)
    with pytest.raises(ReadError, match="changed while it was read"):
        files_module.read_local(str(path))


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path):
    (tmp_path / "a.txt").write_text("x")
    source = source_class("files")(uri=str(tmp_path))
    listing = list_all(source)
    (tmp_path / "a.txt").unlink()
    os.mkfifo(tmp_path / "a.txt")
    assert str(read(source, listing)["a.txt"]) == "not a regular file"


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_a_pipe_among_the_files_of_a_table_is_a_reject(kind: str, tmp_path: Path):
    os.mkfifo(tmp_path / f"a.{kind}")
    listing = list_all(source_class(kind)(uri=str(tmp_path), **TABLE))
    assert listing["error"].to_pylist() == ["not a regular file"]


# out of the source


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A source with a secret beside it."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "sub" / "real.txt").write_text("real")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "in-two").mkdir()
    (tmp_path / "in-two" / "near.txt").write_text("near")
    return tmp_path


def test_links_out_of_the_source_are_refused(tree: Path):
    root = tree / "in"
    links = {
        "out": tree / "secret.txt",
        "out-relative": Path("../secret.txt"),
        "out-near": tree / "in-two" / "near.txt",
        "good": root / "sub" / "real.txt",
        "sub/up": Path("../sub/real.txt"),
        "twice": root / "out",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    (root / "folder").symlink_to(tree / "in-two")
    listing = list_all(source_class("files")(uri=str(root)))
    errors = dict(zip(listing["object_id"].to_pylist(), listing["error"].to_pylist(), strict=True))
    refused = {"out", "out-relative", "out-near", "twice"}
    assert errors == {
        name: "a link out of the source" if name in refused else None for name in [*links, "sub/real.txt"]
    }
    contents = read_all(source_class("files")(uri=str(root)))[0]
    assert {name for name, content in contents.items() if isinstance(content, RowError)} == refused
    assert contents["good"] == contents["sub/up"] == b"real"
    work = listing.append_column("base_hash", pa.nulls(listing.num_rows, pa.string()))
    batch = batch_of(work, source_class("files")(uri=str(root)).read_objects(listing, []))
    assert sum(error == "list: a link out of the source" for error in batch["error"]) == 4


def test_a_source_may_itself_be_a_link(tree: Path):
    (tree / "alias").symlink_to(tree / "in")
    (tree / "one").symlink_to(tree / "secret.txt")
    assert read_all(source_class("files")(uri=str(tree / "alias")))[0] == {"sub/real.txt": b"real"}
    assert read_all(source_class("files")(uri=str(tree / "one")))[0] == {"one": b"secret"}  # the job names it


@pytest.mark.parametrize("kind", TABLE_FORMATS)
def test_a_link_out_of_a_source_of_tables(kind: str, tree: Path):
    (tree / f"secret.{kind}").write_bytes(TABLE_FORMATS[kind](ROWS[:2]))
    (tree / "in" / f"a.{kind}").write_bytes(TABLE_FORMATS[kind](ROWS[2:]))
    (tree / "in" / f"b.{kind}").symlink_to(tree / f"secret.{kind}")
    contents = read_all(source_class(kind)(uri=str(tree / "in"), **TABLE))[0]
    assert str(contents.pop(f"b.{kind}")) == "a link out of the source"
    assert contents == {row["id"]: row["body"] for row in ROWS[2:]}


def test_a_file_that_became_a_link_out(tree: Path):
    source = source_class("files")(uri=str(tree / "in"))
    listing = list_all(source)
    (tree / "in" / "sub" / "real.txt").unlink()
    (tree / "in" / "sub" / "real.txt").symlink_to(tree / "secret.txt")
    assert str(read(source, listing)["sub/real.txt"]) == OUTSIDE


def test_patterns_do_not_lead_out(tree: Path):
    for pattern in ("../*", "../secret.txt", "/../secret.txt", "**/../../secret.txt", str(tree / "secret.txt")):
        assert list_all(source_class("files")(uri=str(tree / "in"), include=[pattern])).num_rows == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_tampered_listing_does_not_lead_out(kind: str, tree: Path, s3_endpoint: str):
    write = TABLE_FORMATS.get(kind, lambda rows: b"secret")
    secret = tree / f"secret.{kind}"
    secret.write_bytes(write(ROWS))
    fields = {} if kind == "files" else TABLE
    local = source_class(kind)(uri=str(tree / "in"), **fields)
    for uri in (
        str(secret),
        f"{tree}/in/../secret.{kind}",
        f"file://{secret}",
        "/etc/passwd",
        f"{tree}/in-two/near.txt",
    ):
        check_refused(local, uri)
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    for key in ("private/a", "in-two/a"):
        client.put_object(Bucket="objects", Key=f"{tree.name}/{key}", Body=write(ROWS))
    remote = source_class(kind)(
        uri=f"s3://objects/{tree.name}/in", storage_options={"aws_endpoint": s3_endpoint}, **fields
    )
    for key in ("private/a", "in-two/a"):
        check_refused(remote, f"s3://objects/{tree.name}/{key}")
    for key in ("in/../private/a", "in/./../private/a"):  # names of S3, which lead nowhere: no such object is there
        check_refused(remote, f"s3://objects/{tree.name}/{key}", GONE if kind == "files" else OUTSIDE)
    check_refused(remote, "s3://lake/a")
    check_refused(remote, str(secret))


def check_refused(source: SourceConfig, uri: str, why: str = OUTSIDE) -> None:
    entry = {"object_id": "x", "uri": uri, "version": None, "size": 10, "position": 0}
    content = read(source, as_listing([entry]))["x"]
    assert isinstance(content, ReadError) and str(content) == why, (uri, content)


@pytest.mark.parametrize(
    ("place", "uri", "below"),
    [
        ("s3://b/in", "s3://b/in/a", True),
        ("s3://b/in", "s3://b/in", True),
        ("s3://b", "s3://b/any/thing", True),
        ("s3://b/in", "s3://b/in2/a", False),
        ("s3://b/in", "s3://c/in/a", False),
        ("s3://b/in", "s3://b/in/../x", False),
        ("s3://b/in", "s3://b/in/a..b/...", True),
        ("s3a://b/in", "s3a://b/in/a", True),
        ("memory://in", "memory://in/a", True),
        ("memory://in", "memory://out/a", False),
        ("/", "/etc/hosts", True),
    ],
)
def test_what_is_below(place: str, uri: str, below: bool):
    assert is_below(open_storage(place), uri) == below


# memory


def test_ranges_are_fetched_in_bounded_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_tables, "REQUEST_BYTES", 1000)
    path = tmp_path / "x"
    path.write_bytes(os.urandom(20_000))
    starts, sizes = list(range(0, 20_000, 500)), [100] * 40
    sizes[7] = 450
    asked: list[int] = []
    storage = open_storage(str(tmp_path))
    cat_file = storage.fs.cat_file

    def watched(path: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        content: bytes = cat_file(path, start, end)
        return content

    monkeypatch.setattr(storage.fs, "cat_file", watched)
    found = list(_tables.fetch_ranges(storage, str(path), starts, sizes))
    assert found == [path.read_bytes()[a : a + n] for a, n in zip(starts, sizes, strict=True)]
    assert max(asked) <= 1000 and len(asked) == 20
