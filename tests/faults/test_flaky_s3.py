"""Through a store that fails in every way a store can: the same objects, the same rows, one winner."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flaky_s3 import KINDS as FAULTS
from flaky_s3 import FlakyS3
from job_maker import check_accounting, make_job, open_table, rows_of, run
from source_maker import KINDS, ROWS, TABLE, TABLE_FORMATS, Store, list_all, make_case, read_all

from latentlake import retries
from latentlake.storage import Storage, open_storage
from operators.errors import SourceError, SpecError
from pipelines.sources import source_class

ALL = dict.fromkeys(FAULTS, 0.1)
QUICK = {"stall_s": 0.05}


@pytest.fixture
def flaky(s3_endpoint: str) -> Iterator[Callable[..., FlakyS3]]:
    """Starts proxies before the S3 server, and ends them."""
    started: list[FlakyS3] = []

    def start(**options: Any) -> FlakyS3:
        proxy = FlakyS3(s3_endpoint, **options)
        proxy.start()
        started.append(proxy)
        return proxy

    yield start
    for proxy in started:
        proxy.stop()


def place_behind(proxy: FlakyS3, tmp_path: Path, **options: str) -> Storage:
    return open_storage(f"s3://lake/{tmp_path.name}", {"aws_endpoint": proxy.endpoint, **options})


# the proxy


@pytest.mark.parametrize("kind", FAULTS)
def test_each_fault_looks_like_what_it_is(kind: str, flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path):
    key = f"objects/{tmp_path.name}"
    boto3.client("s3", endpoint_url=s3_endpoint).put_object(
        Bucket="objects", Key=tmp_path.name, Body=b"0123456789", ACL="public-read"
    )
    proxy = flaky(share=0, shares={kind: 1.0}, in_a_row=1, stall_s=0.3)
    met = []
    for number in range(8):  # every other request is spared, for no request fails twice in a row
        connection = http.client.HTTPConnection(proxy.endpoint.removeprefix("http://"), timeout=5)
        began, stalled = time.monotonic(), proxy.counts["stall"]
        try:
            connection.request("GET", f"/{key}")
            answer = connection.getresponse()
            body = answer.read()
            slow = proxy.counts["stall"] > stalled and time.monotonic() - began >= proxy.stall_s
            met.append("slow" if slow else answer.status)  # where nothing stalled, a busy machine may take as long
            assert body == b"0123456789" or answer.status == 503
        except http.client.IncompleteRead as failure:
            assert failure.partial == b"01234"
            met.append("cut")
        except ConnectionResetError:
            met.append("reset")
        assert (met[-1] == 200) == (number % 2 == 1)
        connection.close()
    assert set(met[::2]) == {{"slow_down": 503, "reset": "reset", "truncated": "cut", "stall": "slow"}[kind]}
    assert proxy.counts[kind] == 4


def test_faults_follow_from_the_seed(flaky: Callable[..., FlakyS3]):
    from flaky_s3 import Request

    def draws(seed: int) -> list[Any]:
        proxy = flaky(share=0.2, seed=seed)
        return [proxy.draw(Request("GET", f"/{k % 50}", {}, b"")) for k in range(200)]

    assert draws(1) == draws(1) != draws(2)
    hits = [kind for kind, _ in draws(1)]
    assert all(15 <= hits.count(kind) <= 65 for kind in FAULTS)


# sources


@pytest.mark.parametrize("kind", KINDS)
def test_a_source_reads_the_same(kind: str, flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path):
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    plain = Store(f"s3://objects/{tmp_path.name}", {"aws_endpoint": s3_endpoint}, client)
    case = make_case(kind, plain)
    for k in range(6):
        rows = [{**row, "id": f"{row['id']}-{k}"} for row in ROWS]
        plain.put(f"more/{k}.{kind}", b"%d" % k if kind == "files" else TABLE_FORMATS[kind](rows))
    proxy = flaky(shares=ALL, seed=3, **QUICK)
    behind = Store(plain.uri, {"aws_endpoint": proxy.endpoint}, client).source(
        kind, **({} if kind == "files" else TABLE)
    )
    assert list_all(behind).equals(list_all(case.source))
    contents, metadata = read_all(case.source)
    assert len(contents) == len(case.expected) + 6 * (1 if kind == "files" else len(ROWS))
    assert read_all(behind) == (contents, metadata)
    assert all(proxy.counts[fault] for fault in FAULTS), (proxy.counts, proxy.requests)


def test_a_stall_of_five_seconds_is_waited_for(flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path):
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    store = Store(f"s3://objects/{tmp_path.name}", {}, client)
    store.put("a.txt", b"a" * 100_000)
    proxy = flaky(share=0, shares={"stall": 1.0}, in_a_row=1, only=lambda request: request.path.endswith("a.txt"))
    source = Store(store.uri, {"aws_endpoint": proxy.endpoint}, client).source("files")
    began = time.monotonic()
    assert read_all(source)[0] == {"a.txt": b"a" * 100_000}
    assert proxy.counts["stall"] == 1 and 4.5 < time.monotonic() - began < 25  # before the timeout


def test_a_stall_longer_than_the_timeout_is_asked_again(
    flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path
):
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    store = Store(f"s3://objects/{tmp_path.name}", {}, client)
    store.put("a.txt", b"a" * 100_000)
    proxy = flaky(share=0, shares={"stall": 1.0}, in_a_row=1, stall_s=60)
    source = Store(store.uri, {"aws_endpoint": proxy.endpoint, "read_timeout": "1s"}, client).source("files")
    began = time.monotonic()
    assert read_all(source)[0] == {"a.txt": b"a" * 100_000}
    assert proxy.counts["stall"] == 2 and time.monotonic() - began < 40  # of the listing, and of the object


def test_a_dead_store_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LL_TEST_SECRET", "the-secret-itself")
    monkeypatch.setattr(retries, "AGAIN_S", 1)
    options = {
        "aws_endpoint": "http://127.0.0.1:9",
        "aws_access_key_id": "env:LL_TEST_SECRET",
        "aws_secret_access_key": "env:LL_TEST_SECRET",
        "client_retry_timeout": "2",
    }
    source = source_class("files")(uri="s3://objects/x", storage_options=options)
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"cannot list 's3://objects/x': .*error sending request") as failure:
        list_all(source)
    assert time.monotonic() - began < 30
    assert "the-secret-itself" not in str(failure.value)


@pytest.mark.parametrize("kind", ["files", "jsonl"])
def test_a_store_that_dies_ends_the_reading(
    kind: str, flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Not one reject an object, each after minutes."""
    monkeypatch.setattr(retries, "AGAIN_S", 1)
    monkeypatch.setattr(retries, "PROBE_S", 1)
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    store = Store(f"s3://objects/{tmp_path.name}", {}, client)
    for k in range(40):
        store.put(f"{k}.jsonl", b'{"id": "%d", "body": "x"}\n' % k)
    proxy = flaky(share=0)
    options = {"aws_endpoint": proxy.endpoint, "client_retry_timeout": "1"}
    source = Store(store.uri, options, client).source(
        kind, **({} if kind == "files" else {"id": "id", "content": "body"})
    )
    listing = list_all(source)
    proxy.stop()
    began = time.monotonic()
    with pytest.raises(SourceError, match=r"the store of 's3://objects/.*' does not answer: .*\n  Run again"):
        source.read_objects(listing, [])
    assert time.monotonic() - began < 40


def test_one_object_that_always_fails_is_rejected(flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path):
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    store = Store(f"s3://objects/{tmp_path.name}", {}, client)
    for k in range(20):
        store.put(f"{k}.txt", b"%d" % k)
    proxy = flaky(
        share=0, shares={"slow_down": 1.0}, in_a_row=10**6, only=lambda request: request.path.endswith("/7.txt")
    )
    source = Store(store.uri, {"aws_endpoint": proxy.endpoint, "client_retry_timeout": "1"}, client).source("files")
    contents, _ = read_all(source)
    assert "503" in str(contents.pop("7.txt"))
    assert contents == {f"{k}.txt": b"%d" % k for k in range(20) if k != 7}


def test_a_store_that_throttles_for_a_while(flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path):
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    store = Store(f"s3://objects/{tmp_path.name}", {}, client)
    for k in range(30):
        store.put(f"{k}.txt", b"%d" % k)
    until = time.monotonic() + 3
    proxy = flaky(share=0, shares={"slow_down": 1.0}, in_a_row=10**6, only=lambda request: time.monotonic() < until)
    source = Store(store.uri, {"aws_endpoint": proxy.endpoint}, client).source("files")
    assert read_all(source)[0] == {f"{k}.txt": b"%d" % k for k in range(30)}
    assert proxy.counts["slow_down"] > 3


# the lake's storage


def test_put_if_absent_tells_the_truth(flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path):
    proxy = flaky(shares=ALL, seed=5, **QUICK)

    def write(writer: int) -> list[bool]:
        place = place_behind(proxy, tmp_path)
        return [place.put_if_absent(f"{number:03}", f"of {writer}".encode()) for number in range(30)]

    with ThreadPoolExecutor(6) as pool:
        outcomes = list(pool.map(write, range(6)))
    plain = open_storage(f"s3://lake/{tmp_path.name}", {"aws_endpoint": s3_endpoint})
    for number in range(30):
        winners = [f"of {writer}".encode() for writer in range(6) if outcomes[writer][number]]
        assert winners == [plain.fs.cat_file(plain.path(f"{number:03}"))]
    assert proxy.counts["reset lost"] and proxy.counts["slow_down lost"]


def test_a_put_whose_answer_is_lost_is_known_to_have_happened(flaky: Callable[..., FlakyS3], tmp_path: Path):
    for seed in range(6):  # some come late, when the object has been written
        proxy = flaky(share=0, shares={"reset": 1.0}, seed=seed, in_a_row=1, only=lambda r: r.method == "PUT")
        assert place_behind(proxy, tmp_path).put_if_absent(f"{seed}", b"mine")
        assert not place_behind(proxy, tmp_path).put_if_absent(f"{seed}", b"another's")


def test_what_is_absent_is_known_to_be(flaky: Callable[..., FlakyS3], tmp_path: Path):
    """Also where the answer that says so breaks off."""
    place = place_behind(flaky(share=0, shares={"truncated": 1.0}, in_a_row=2), tmp_path)
    with pytest.raises(FileNotFoundError):
        place.fs.cat_file(place.path("a.json"))
    assert not place.fs.exists(place.path("a.json"))
    assert place.list_names() == []


def test_files_are_written_listed_and_removed(
    flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(retries, "DRAFT_BYTES", 6 << 20)  # what is longer goes in parts
    proxy = flaky(shares=ALL, seed=7, **QUICK)
    place = place_behind(proxy, tmp_path)
    plain = open_storage(f"s3://lake/{tmp_path.name}", {"aws_endpoint": s3_endpoint})
    table = pa.table({"id": [str(k) * 10 for k in range(1000)]})
    for number in range(20):
        with place.fs.open(place.path("parts", f"{number:03}.parquet"), "wb") as file:
            pq.write_table(table, file)
        place.fs.pipe_file(place.path(f"{number:03}.json"), b"{}")
    assert place.list_names() == [*(f"{number:03}.json" for number in range(20)), "parts"]
    with place.fs.open(place.path("large"), "wb") as file:
        file.write(b"0123456789" * 1_200_000)
    assert plain.fs.cat_file(plain.path("large")) == b"0123456789" * 1_200_000
    for name in place.child("parts").list_names():
        with place.fs.open(place.path("parts", name), "rb") as file:
            assert pq.read_table(file).equals(table)
    place.remove("parts")
    for number in range(20):
        place.remove(f"{number:03}.json")
    assert plain.list_names() == ["large"]
    assert all(proxy.counts[fault] for fault in FAULTS)


def test_a_store_that_ignores_conditional_writes_is_found_out(
    flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path
):
    place = place_behind(flaky(share=0, drop_headers=("If-None-Match",)), tmp_path)
    with pytest.raises(SpecError, match="ignores conditional writes"):
        place.check_conditional_writes()
    assert place.list_names() == []
    place_behind(flaky(shares=ALL, seed=11, **QUICK), tmp_path).check_conditional_writes()  # faults are no reason


# a whole job


@pytest.mark.slow
def test_a_job_writes_the_same_table(flaky: Callable[..., FlakyS3], s3_endpoint: str, tmp_path: Path):
    client = boto3.client("s3", endpoint_url=s3_endpoint)
    store = Store(f"s3://objects/{tmp_path.name}", {}, client)
    for k in range(300):
        store.put(f"{k % 7}/{k:03}.txt", f"Text {k}, {'again ' * (k % 5)}".encode())
    proxy = flaky(shares={"stall": 0.005}, seed=13, stall_s=1.0)

    def job_behind(endpoint: str, lake: str) -> dict[str, Any]:
        options = {"aws_endpoint": endpoint}
        source = {"kind": "files", "uri": store.uri, "storage_options": options}
        table = {"uri": f"s3://lake/{tmp_path.name}/{lake}", "storage_options": options}
        return make_job(tmp_path, source, table=table, shard={"max_objects": 60})

    clean, broken = job_behind(s3_endpoint, "clean"), job_behind(proxy.endpoint, "broken")
    expected, report = run(clean), run(broken)
    check_accounting(report)
    assert report["counts"] == expected["counts"] and report["counts"]["embedded"] == 300
    found = rows_of({**broken, "table": {**broken["table"], "storage_options": {"aws_endpoint": s3_endpoint}}})
    assert found == rows_of(clean)  # ids, hashes and every bit of every vector
    assert open_table(clean).count() == open_table(broken).count() == 300
    assert all(proxy.counts[fault] > 10 for fault in FAULTS if fault != "stall"), proxy.counts
