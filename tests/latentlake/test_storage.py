"""References in storage options, endpoints, local paths, and an object store over loopback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from lake_maker import TEXTS, LakeMaker
from moto.server import ThreadedMotoServer

import latentlake
from latentlake.storage import is_reference, is_secret, lance_options, open_storage, resolve_options
from operators.errors import LatentLakeError, SpecError


def test_references_are_read_where_they_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LL_TEST_KEY", "from the environment")
    (tmp_path / "secret").write_text("from a file\n")
    options = {"a": "env:LL_TEST_KEY", "b": f"file:{tmp_path / 'secret'}", "c": "literal", "d": True}
    assert resolve_options(options) == {
        "a": "from the environment",
        "b": "from a file",
        "c": "literal",
        "d": "true",
    }
    assert open_storage("s3://bucket", options).options["a"] == "env:LL_TEST_KEY"  # what travels is the reference


@pytest.mark.parametrize("reference", ["env:LL_TEST_ABSENT", "file:/nowhere/secret"])
def test_a_reference_that_leads_nowhere(reference: str):
    with pytest.raises(SpecError, match=r"storage_options\.aws_secret_access_key"):
        resolve_options({"aws_secret_access_key": reference})


def test_secrets_and_references_by_name():
    assert is_secret("aws_secret_access_key") and is_secret("AWS_SESSION_TOKEN")
    assert not is_secret("aws_region") and not is_secret("aws_endpoint")
    assert is_reference("env:X") and not is_reference("AKIA")


def test_plain_http_endpoints_are_allowed(monkeypatch: pytest.MonkeyPatch):
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    assert lance_options("s3://b", {"aws_endpoint": "http://h:1"})["allow_http"] == "true"
    assert "allow_http" not in lance_options("s3://b", {"aws_endpoint": "https://h"})
    assert lance_options("s3://b", None) == {}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://h:2")
    assert lance_options("s3://b", None) == {"aws_endpoint": "http://h:2", "allow_http": "true"}


def test_local_places(tmp_path: Path):
    for uri in (str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}"):
        storage = open_storage(uri)
        assert (storage.root, storage.lance_uri, storage.lance_options) == (str(tmp_path), str(tmp_path), None)
    child = open_storage(str(tmp_path)).child("a", "b.txt")
    with child.fs.open(child.root, "wb") as file:
        file.write(b"made with its folder")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"made with its folder"


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """Options that reach an S3 server on loopback with the bucket `lake-bucket`."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {
        "aws_access_key_id": "test",
        "aws_secret_access_key": "test",
        "aws_region": "us-east-1",
        "aws_endpoint": f"http://{host}:{port}",
    }
    client = boto3.client(
        "s3",
        endpoint_url=options["aws_endpoint"],
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )
    client.create_bucket(Bucket="lake-bucket")
    yield options
    server.stop()


def test_a_lake_on_s3(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LL_TEST_SECRET", "test")
    options = {**s3, "aws_secret_access_key": "env:LL_TEST_SECRET"}
    place = open_storage("s3://lake-bucket/some/objects", options)
    with place.fs.open(place.path("a.txt"), "wb") as file:
        file.write("grüße".encode())
    assert place.fs.cat_file(place.path("a.txt")).decode() == "grüße"

    lake = latentlake.connect("s3://lake-bucket/some/lake", storage_options=options)
    assert lake.tables() == []
    maker = LakeMaker("s3://lake-bucket/some/lake", {**s3, "allow_http": "true"})
    maker.write_texts().tags.create("prod", 1)
    assert lake.tables() == ["notes"]
    table = lake.open("notes")
    assert (table.tag, table.count()) == ("prod", len(TEXTS))
    assert table.search(TEXTS[3], k=1).to_list()[0]["text"] == TEXTS[3]
    assert table.checkout(1).count() == len(TEXTS)
    assert table.rejects().num_rows == 0


def test_a_bucket_that_is_not_there(s3: dict[str, str]):
    lake = latentlake.connect("s3://no-such-bucket/lake", storage_options=s3)
    with pytest.raises(LatentLakeError, match="cannot be read"):
        lake.tables()
