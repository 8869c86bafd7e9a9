"""Files as a source: names, links, folders, and what is left out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boto3
import fsspec
import pytest
from source_maker import Store, list_all, read_all

from operators.batch import RowError
from operators.errors import SourceError
from pipelines.sources import source_class


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
