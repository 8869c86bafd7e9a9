"""References in storage options, endpoints, local paths, and an object store over loopback."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from lake_maker import TEXTS, LakeMaker
from moto.server import ThreadedMotoServer

import latentlake
from latentlake import listing, retries, store_options
from latentlake.storage import (
    Storage,
    is_reference,
    is_secret,
    lance_options,
    open_storage,
    resolve_options,
    write_once,
)
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


@pytest.fixture(scope="module")
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


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A folder that is not there yet: on disk, or in a bucket."""
    if request.param == "disk":
        return open_storage(str(tmp_path / "not yet" / "there"))
    return open_storage(f"s3://lake-bucket/not yet/{tmp_path.name}", request.getfixturevalue("s3"))


def test_put_if_absent(place: Storage):
    assert place.put_if_absent("a.json", b"mine")
    assert place.put_if_absent("a.json", b"mine")  # as after a lost answer
    assert not place.put_if_absent("a.json", b"another's")
    assert place.fs.cat_file(place.path("a.json")) == b"mine"
    assert place.put_if_absent("b.json", b"")
    assert place.list_names() == ["a.json", "b.json"]  # nothing half-written lies about


def test_put_if_absent_has_one_winner(place: Storage):
    def write(writer: int) -> list[bool]:
        return [place.put_if_absent(f"{name}.json", f"{writer}".encode() * 1000) for name in range(20)]

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(write, range(8)))
    for name in range(20):
        winners = [writer for writer in range(8) if outcomes[writer][name]]
        assert [f"{writer}".encode() * 1000 for writer in winners] == [place.fs.cat_file(place.path(f"{name}.json"))]


def test_put_if_absent_needs_a_disk_or_an_object_store():
    with pytest.raises(SpecError, match="local disk or in an object store"):
        open_storage("memory://lake").put_if_absent("a", b"")


def test_conditional_writes_are_probed_without_a_trace(place: Storage):
    place.check_conditional_writes()
    assert place.list_names() == []


def test_a_store_that_refuses_conditional_writes(s3: dict[str, str], tmp_path: Path):
    place = open_storage(f"s3://lake-bucket/{tmp_path.name}", {**s3, "aws_conditional_put": "disabled"})
    with pytest.raises(SpecError, match="conditional writes"):
        place.check_conditional_writes()
    assert place.list_names() == []


def test_names_and_removal(place: Storage):
    assert place.list_names() == []
    place.remove("nothing")
    for name in ("z.txt", "sub/a.txt", "sub/deeper/b.txt"):
        place.child(*name.split("/")[:-1]).fs.makedirs(place.path(*name.split("/")[:-1]), exist_ok=True)
        with place.fs.open(place.path(name), "wb") as file:
            file.write(name.encode())
    assert place.list_names() == ["sub", "z.txt"]
    assert place.child("z.txt").list_names() in ([], ["z.txt"])
    ((name, written),) = place.list_times()
    assert name == "z.txt" and abs(datetime.now(UTC) - written) < timedelta(minutes=1)
    assert place.child("nothing").list_times() == []
    place.remove("sub", "deeper")
    assert place.child("sub").list_names() == ["a.txt"]
    place.remove("z.txt")
    place.remove("sub")
    assert place.list_names() == []


def test_write_once(tmp_path: Path):
    path = tmp_path / "made" / "x"
    write_once(path, b"first")
    with pytest.raises(FileExistsError):
        write_once(path, b"second")
    assert path.read_bytes() == b"first"
    assert [found.name for found in path.parent.iterdir()] == ["x"]


def test_what_travels_holds_no_secret(s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LL_TEST_SECRET", "the-secret-itself")
    place = open_storage(f"s3://lake-bucket/{tmp_path.name}", {**s3, "aws_secret_access_key": "env:LL_TEST_SECRET"})
    assert place.put_if_absent("a", b"1") and place.fs.exists(place.path("a"))  # the connections are open
    sent = pickle.dumps(place)
    assert b"the-secret-itself" not in sent
    assert pickle.loads(sent) == place and pickle.loads(sent).fs.cat_file(place.path("a")) == b"1"


@pytest.mark.parametrize("size", [0, 10, 20_000_000])
def test_a_file_appears_whole_when_it_is_closed(
    s3: dict[str, str], size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retries, "DRAFT_BYTES", 1 << 20)  # what is longer waits on disk
    place = open_storage(f"s3://lake-bucket/{tmp_path.name}", s3)
    content = bytes(range(250)) * (size // 250)
    with place.fs.open(place.path("x"), "wb") as file:
        file.write(content)
        assert not place.fs.exists(place.path("x"))
    assert place.fs.cat_file(place.path("x")) == content


def test_a_file_whose_writing_failed_does_not_appear(s3: dict[str, str], tmp_path: Path):
    place = open_storage(f"s3://lake-bucket/{tmp_path.name}", s3)

    def write() -> None:
        with place.fs.open(place.path("x"), "wb") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write()
    abandoned = place.fs.open(place.path("y"), "wb")
    abandoned.write(b"half")
    del abandoned
    assert place.list_names() == []


def test_patience_can_be_set_as_lance_names_it(s3: dict[str, str], tmp_path: Path):
    options = {**s3, "timeout": "5s", "client_max_retries": "2", "client_retry_timeout": "7"}
    place = open_storage(f"s3://lake-bucket/{tmp_path.name}", options)
    assert place.put_if_absent("a", b"1") and place.list_names() == ["a"]
    assert place.lance_options == {**retries.lance_patience(), **options, "allow_http": "true"}
    arguments = store_options.store_arguments(lance_options(place.uri, place.options))
    assert arguments["client_options"] == {**retries.CLIENT_OPTIONS, "timeout": "5s", "allow_http": True}
    assert (arguments["retry_config"]["max_retries"], arguments["retry_config"]["retry_timeout"].seconds) == (2, 7)
    assert not arguments["config"].keys() & options.keys() - s3.keys()


def test_pages_go_on_behind_the_last_one(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """A listing of many pages, of 10 objects each, each of which breaks off once."""
    import obstore
    from obstore.exceptions import GenericError

    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")
    monkeypatch.setattr(listing, "list_ahead", partial(listing.list_ahead, size=10))
    place = open_storage("s3://lake-bucket/many", s3)
    names = [f"{k:02}" for k in range(25)]
    for name in names:
        place.put(name, b"x")
    real, streams = obstore.list, []

    def breaking(*args: Any, **options: Any) -> Iterator[Any]:
        streams.append(options["offset"])
        pages = real(*args, **options)
        yield next(pages, [])
        raise GenericError("Generic S3 error: HTTP error: request or response body error")

    monkeypatch.setattr(obstore, "list", breaking)
    found = [item["path"].rsplit("/", 1)[-1] for page in place.list_pages() for item in page]
    assert found == names
    assert streams[0] is None
    assert {"many/09", "many/19"} <= set(streams)


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


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("aws_regoin", "eu-central-1", "no option 'aws_regoin'"),
        ("aws_endpoint", "localhost:9000", "not a URL"),
        ("aws_endpoint", "not a url", "not a URL"),
        ("endpoint_url", "http://localhost:port", "not a URL"),
        ("allow_http", "yes", "neither true nor false"),
        ("timeout", "soon", 'parse "soon"'),
        ("client_max_retries", "many", "not a whole number"),
    ],
)
def test_an_option_that_no_store_knows_is_named(name: str, value: str, told: str):
    options = {"aws_access_key_id": "env:HOME", "aws_secret_access_key": "env:HOME", name: value}
    with pytest.raises(SpecError, match=told):
        Storage("s3://bucket/x", options).list_names()
    with pytest.raises(SpecError, match=told):
        _ = Storage("s3://bucket/x", options).lance_options


@pytest.mark.parametrize("prefix", ["", "aws_", "AWS_"])
def test_options_of_the_http_client_have_any_name_that_a_store_gives_them(prefix: str):
    """obstore panics at them under a store's prefix, which other tools use, and at most of them without it."""
    values = {"allow_http": "true", "http1_only": "true", "pool_idle_timeout": "30s", "user_agent": "us/1"}
    given = (
        {prefix + name if prefix.islower() else (prefix + name).upper() for name in values} if prefix else set(values)
    )
    options = {name: values[name.lower().removeprefix("aws_")] for name in given}
    place = Storage("s3://bucket/x", {"aws_access_key_id": "a", "aws_secret_access_key": "b", **options})
    assert place.fs
    assert place.lance_options is not None
    assert values.items() <= place.lance_options.items()
