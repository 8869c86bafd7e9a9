"""Listing several stretches at once gives what listing one after another does: the same objects, in the same order."""

from __future__ import annotations

import hashlib
import threading
import time
from bisect import bisect_right
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from obstore.exceptions import InvalidPathError
from obstore.store import S3Store

from latentlake.listing import PAGE, STRETCHES, WAITING, list_ahead, list_pages
from latentlake.storage import Storage
from pipelines.sources.files import walk_store

# Parts of names: numbered, hashed, dated, of other alphabets, with characters that a path escapes, and such as sort beside '/'.
PART = st.one_of(
    st.integers(0, 3000).map("{:05}".format),
    st.integers(0, 10**6).map("{:x}".format),
    st.sampled_from(["2026-11-27", "a", "a!", "a-", "a.b", "a0", "zz", "z~", "9%20", "é", "日本", "😀", "{x}", "A B"]),
)
KEYS = st.sets(st.lists(PART, min_size=1, max_size=3).map("/".join), max_size=60)


@pytest.fixture(scope="module")
def bucket(s3_endpoint: str) -> Iterator[tuple[S3Store, Any]]:
    """A bucket of its own: obstore's, and boto3's client."""
    client = boto3.client("s3", "us-east-1", endpoint_url=s3_endpoint, aws_access_key_id="a", aws_secret_access_key="b")
    client.create_bucket(Bucket="listing")
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    yield (
        S3Store("listing", endpoint=s3_endpoint, region="us-east-1", client_options={"allow_http": True}, **keys),
        client,
    )


@given(keys=KEYS, size=st.integers(1, 7))
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_same_objects_in_the_same_order(bucket: tuple[S3Store, Any], keys: set[str], size: int):
    store, _ = bucket
    for item in store.list().collect():
        store.delete(item["path"])
    names = {name for name in keys if not any(other.startswith(f"{name}/") for other in keys)}
    for name in names:
        store.put(f"in/{name}", b"x")
    store.put("in-beside", b"x")
    found = [item["path"] for page in list_ahead(store, "in", size) for item in page]
    assert found == [item["path"] for page in list_pages(store, "in", size=size) for item in page]
    assert sorted(found) == sorted(f"in/{name}" for name in names)


class SlowLister:
    """An S3 server that lists keys, a thousand per request, each after `delay_s`; it counts requests, and those at work at once."""

    def __init__(self, names: list[str], delay_s: float) -> None:
        self.names, self.delay_s = sorted(names), delay_s
        self.asked = self.now = self.most = 0
        lock = threading.Lock()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:
                query = dict(parse_qsl(urlsplit(handler.path).query))
                with lock:
                    self.asked, self.now = self.asked + 1, self.now + 1
                    self.most = max(self.most, self.now)
                time.sleep(self.delay_s)
                body = self.answer(query).encode()
                with lock:
                    self.now -= 1
                handler.send_response(200)
                handler.send_header("Content-Length", str(len(body)))
                handler.end_headers()
                handler.wfile.write(body)

            def log_message(handler, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.store = S3Store(
            "b",
            endpoint=f"http://127.0.0.1:{self._server.server_port}",
            region="us-east-1",
            client_options={"allow_http": True},
            skip_signature=True,
        )

    def answer(self, query: dict[str, str]) -> str:
        """What S3 answers: the keys behind the one that is named."""
        begin = bisect_right(self.names, query.get("continuation-token") or query.get("start-after", ""))
        page = [name for name in self.names[begin : begin + PAGE] if name.startswith(query.get("prefix", ""))]
        more = begin + PAGE < len(self.names)
        items = "".join(
            f"<Contents><Key>{name}</Key><Size>1</Size><LastModified>2026-11-27T00:00:00.000Z</LastModified></Contents>"
            for name in page
        )
        token = f"<NextContinuationToken>{page[-1]}</NextContinuationToken>" if more else ""
        return f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{items}</ListBucketResult>"

    def __enter__(self) -> SlowLister:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def hashed(count: int) -> list[str]:
    """Keys as hashes give them."""
    return [f"in/{hashlib.sha256(str(number).encode()).hexdigest()}" for number in range(count)]


def dated(count: int) -> list[str]:
    """Keys in a folder per day."""
    return [f"in/2026/{1 + number % 12:02}/{1 + number % 28:02}/{number}.jpg" for number in range(count)]


def numbered(count: int) -> list[str]:
    """Keys in one folder."""
    return [f"in/{number:08}.jpg" for number in range(count)]


@pytest.mark.parametrize(
    "names", [hashed(40_000), dated(40_000), numbered(40_000)], ids=["hashed", "dated", "numbered"]
)
def test_stretches_are_asked_for_at_once(names: list[str]):
    with SlowLister(names, 0.05) as server:
        found = [item["path"] for page in list_ahead(server.store, "in") for item in page]
    assert found == sorted(names)
    assert 3 <= server.most <= STRETCHES, "requests at work at once"
    assert server.asked <= 3 * len(names) / PAGE, "few are asked for twice"


def test_a_reader_that_waits_is_waited_for():
    """What is asked for ahead is bounded, and ends with its reader."""
    with SlowLister(numbered(400_000), 0.001) as server:
        pages = list_ahead(server.store, "in")
        next(pages)
        while server.asked != (server.asked, time.sleep(1))[0]:
            pass
        assert server.asked <= 2 * WAITING
        pages.close()
        asked = server.asked
        time.sleep(0.5)
        assert server.asked <= asked + STRETCHES
        assert not [thread for thread in threading.enumerate() if thread.name == "list"]


def test_a_failure_comes_to_the_reader(bucket: tuple[S3Store, Any], s3_endpoint: str):
    """obstore cannot list a key with an empty segment; a source then asks S3 itself."""
    store, client = bucket
    for name in (*(f"odd/{number:03}" for number in range(50)), "odd/030//x"):
        client.put_object(Bucket="listing", Key=name, Body=b"x")
    with pytest.raises(InvalidPathError):
        list(list_ahead(store, "odd", 5))
    place = Storage("s3://listing/odd", {"aws_endpoint": s3_endpoint})
    assert len(list(walk_store(place))) == 51
