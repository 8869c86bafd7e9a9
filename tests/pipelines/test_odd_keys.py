"""Buckets and folders as they are: every legal key is read, or is one reject; none makes its bucket unlistable."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import pytest
from job_maker import check_accounting, make_job, rows_of, run
from source_maker import Store, as_jsonl, list_all, read_all

from latentlake import odd_keys
from latentlake.odd_keys import exact_key, is_odd, list_odd, read_odd
from latentlake.storage import open_storage
from pipelines.sources._bounds import UNLISTED

ODD = ("a//b", "/lead", "//", "x/./y", "x/../y", "..", ".", "ctl\x01", "tab\t", "del\x7f", "trail/", "a/b//", "a//../b")
PLAIN = (
    "y", "x/y", "lead", "trail", "b", "pct%20a%2Fb", "100%", "hash#a", "what?b=c&d", "e\u0301", "\u00e9", "back\\slash",
    "sp ace ", " ", "...", "..a", "a..", "a.", "<&>\"'", "\u2028", "emoji🙂", "star*[x]{}^`|~", "+", "a=b/c:d@e;f,g$h!", "l" * 900,
)  # fmt: skip


@pytest.fixture
def bucket(s3_endpoint: str) -> tuple[Any, str, dict[str, str]]:
    """A client, a bucket of its own, and the options that reach it."""
    client, name = boto3.client("s3", endpoint_url=s3_endpoint), f"odd-{secrets.token_hex(4)}"
    client.create_bucket(Bucket=name)
    return client, name, {"aws_endpoint": s3_endpoint}


def content_of(key: str) -> bytes:
    return f"the text under {key!r}".encode()


def fill(client: Any, bucket: str, keys: Mapping[str, bytes]) -> None:
    for key, content in keys.items():
        client.put_object(Bucket=bucket, Key=key, Body=content)


def test_which_keys_are_odd():
    assert [key for key in (*ODD, *PLAIN) if is_odd(key)] == list(ODD)
    assert is_odd("nl\n") and is_odd("") and is_odd("\r/a")


@pytest.mark.parametrize("prefix", ["", "data/"])
def test_every_key_is_read(bucket: tuple[Any, str, dict[str, str]], prefix: str):
    client, name, options = bucket
    contents = {key: content_of(key) for key in (*ODD, *PLAIN)}
    fill(client, name, {prefix + key: content for key, content in contents.items()})
    fill(client, name, {prefix + "folder/": b"", "other/z": b"z"} if prefix else {"folder/": b""})
    source = Store(f"s3://{name}/{prefix}".rstrip("/"), options).source("files")
    found, _ = read_all(source)
    assert found == contents


def test_a_run_on_odd_keys(bucket: tuple[Any, str, dict[str, str]], tmp_path: Path):
    client, name, options = bucket
    fill(client, name, {key: content_of(key) for key in (*ODD, *PLAIN)})
    job = make_job(tmp_path, {"kind": "files", "uri": f"s3://{name}", "storage_options": options})
    report = run(job)
    check_accounting(report)
    assert (report["counts"]["embedded"], report["counts"]["rejected"]) == (len(ODD) + len(PLAIN), 0)
    assert {row["object_id"]: row["text"].encode() for row in rows_of(job).values()} == {
        key: content_of(key) for key in (*ODD, *PLAIN)
    }
    again = run(job)
    assert (again["state"], again["objects_read"]) == ("unchanged", 0)


def test_odd_keys_on_any_page(bucket: tuple[Any, str, dict[str, str]], monkeypatch: pytest.MonkeyPatch):
    """Whichever page the listing fails on, nothing is lost or listed twice."""
    client, name, options = bucket
    monkeypatch.setattr(odd_keys, "PAGE", 2)
    keys = {f"{n:05}": b"x" for n in range(1001)} | {"01000/../x": b"x", "zz\x02": b"x", "zz//": b"x"}
    fill(client, name, keys)
    listing = list_all(Store(f"s3://{name}", options).source("files"))
    assert sorted(listing["object_id"].to_pylist()) == sorted(keys)


def test_where_a_listing_goes_on(bucket: tuple[Any, str, dict[str, str]]):
    client, name, options = bucket
    fill(client, name, {"/lead": b"x", "trail/": b"x", "plain": b"x", "plainer": b"x"})
    place = open_storage(f"s3://{name}", options)
    assert [exact_key(place, path) for path in ("lead", "trail", "plain", "plai")] == ["/lead", "trail/", "plain", None]
    assert [item["path"] for page in list_odd(place, "plain") for item in page] == ["plainer", "trail/"]


def test_under_an_odd_key_only_what_was_listed_is_read(bucket: tuple[Any, str, dict[str, str]]):
    client, name, options = bucket
    fill(client, name, {"a//b": b"one", "gone/": b"x"})
    source = Store(f"s3://{name}", options).source("files")
    listing = list_all(source)
    fill(client, name, {"a//b": b"two"})
    client.delete_object(Bucket=name, Key="gone/")
    changed, gone = source.read_objects(listing, []).contents
    assert isinstance(changed, OSError) and "gone since it was listed" in str(gone)
    assert read_odd(source.storage, "a//b", None) == b"two"


@pytest.mark.parametrize("odd", ["a//b.jsonl", "x/../b.jsonl", "b\x01.jsonl"])
def test_a_table_file_under_an_odd_key_is_one_reject(bucket: tuple[Any, str, dict[str, str]], odd: str):
    client, name, options = bucket
    rows = [{"id": "1", "body": "x"}]
    fill(client, name, {odd: as_jsonl(rows), "good.jsonl": as_jsonl(rows)})
    listing = list_all(Store(f"s3://{name}", options).source("jsonl", id="id", content="body"))
    errors = dict(zip(listing["object_id"].to_pylist(), listing["error"].to_pylist(), strict=True))
    assert errors == {"1": None, odd: f"{UNLISTED}: only `files` reads objects of such a key"}


def test_odd_names_on_a_disk(tmp_path: Path):
    """Every name that a disk takes is read, but those that are no UTF-8, which are rejects."""
    names = [
        "nl\n",
        "ctl\x01",
        "tab\t",
        "del\x7f",
        "back\\slash",
        " ",
        "...",
        "e\u0301",
        "\u00e9",
        "a" * 255,
        "%2F",
        "\u2028",
    ]
    for name in (*names, *(f"{name}/x" for name in names[:-3])):
        path = tmp_path / (name if "/" in name else f"f-{name}"[:255])
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.txt")).write_bytes(b"x")
    listing = list_all(Store(str(tmp_path), {}).source("files"))
    assert listing.num_rows == 2 * len(names) - 3 + 1
    errors = {
        name: error
        for name, error in zip(listing["object_id"].to_pylist(), listing["error"].to_pylist(), strict=True)
        if error
    }
    assert errors == {"\\xff\\xfe.txt": "the name is not UTF-8"}
    found, _ = read_all(Store(str(tmp_path), {}).source("files"))
    assert sum(content == b"x" for content in found.values()) == listing.num_rows - 1
