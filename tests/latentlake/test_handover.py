"""Tables as pylance's and lancedb's own objects."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import lance
import numpy as np
import pytest
from lake_maker import NO_VECTOR, TEXTS, LakeMaker
from libraries import library
from moto.server import ThreadedMotoServer

import latentlake
from latentlake import handover
from latentlake.building import build_index
from operators.chain import Chain
from operators.embedders.hashing import Config
from operators.errors import MissingExtra, SpecError

lancedb = library("lancedb")


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    options = {**keys, "aws_region": "us-east-1", "aws_endpoint": f"http://{host}:{port}"}
    client = boto3.client("s3", endpoint_url=options["aws_endpoint"], region_name="us-east-1", **keys)
    client.create_bucket(Bucket="handed")
    yield {**options, "allow_http": "true"}
    server.stop()


def write_indexed(maker: LakeMaker, type: str, metric: str = "cosine", dtype: str = "float32") -> np.ndarray:
    """A table `vectors` of 1,500 rows with an index; its vectors."""
    vectors = np.random.default_rng(0).standard_normal((1500, 16)).astype("f4")
    field = maker.vector_field("words", Config(dim=16), Chain("text"), dtype, metric)
    dataset = maker.write("vectors", {"id": [f"r{row}" for row in range(1500)]}, {"words": (field, vectors)})
    assert build_index(dataset, "words", metric, type).type == type
    return vectors


def test_lance_gets_the_same_version(maker: LakeMaker):
    maker.write_texts(no_vector=[NO_VECTOR])
    first = latentlake.connect(maker.uri).open("notes")
    maker.write_texts(mode="append")
    handed = first.to_lance()
    assert isinstance(handed, lance.LanceDataset)
    assert (handed.version, handed.count_rows()) == (first.version, len(TEXTS))
    handed.checkout_version(2)
    assert first.count() == len(TEXTS)


def test_lancedb_gets_the_same_version(maker: LakeMaker):
    maker.write_texts(no_vector=[NO_VECTOR])
    first = latentlake.connect(maker.uri).open("notes")
    maker.write_texts(mode="append")
    handed = first.to_lancedb()
    assert isinstance(handed, lancedb.table.Table)
    assert (handed.version, handed.count_rows()) == (1, len(TEXTS))
    assert first.checkout(2).to_lancedb().count_rows() == 2 * len(TEXTS)
    assert handed.to_arrow()["id"].to_pylist() == first.to_arrow()["id"].to_pylist()


@pytest.mark.parametrize("type", ["ivf_rq", "ivf_pq", "ivf_hnsw_sq", "ivf_flat"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_lancedb_searches_every_index_type(maker: LakeMaker, type: str, dtype: str):
    vectors = write_indexed(maker, type, dtype=dtype)
    table = latentlake.connect(maker.uri).open("vectors")
    handed = table.to_lancedb()
    hits = 0
    for row in range(0, 1500, 75):
        query = (
            handed.search(vectors[row], vector_column_name="words").distance_type("cosine").refine_factor(10).limit(10)
        )
        found = {hit["id"] for hit in query.to_list()}
        hits += len(found & {hit["id"] for hit in table.search(vectors[row], exact=True)})
    assert hits >= 0.8 * 200


def test_s3(s3: dict[str, str]):
    maker = LakeMaker("s3://handed/lake", s3)
    maker.write_texts()
    table = latentlake.connect(maker.uri, storage_options=s3).open("notes")
    assert table.to_lance().count_rows() == len(TEXTS)
    assert table.to_lancedb().count_rows() == len(TEXTS)


def test_what_lancedb_cannot_read_is_refused(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch):
    write_indexed(maker, "ivf_flat")
    table = latentlake.connect(maker.uri).open("vectors")

    def fail(*_: object) -> None:
        raise RuntimeError("lance error: an index of an unknown version, /src/x.rs:1:2")

    monkeypatch.setattr(handover, "search_once", fail)
    with pytest.raises(SpecError, match=r"(?s)index 'words_idx' \(ivf_flat\): lance error: an index .*to_lance"):
        table.to_lancedb()
    for part in Path(table.uri).glob("data/*"):
        part.unlink()
    monkeypatch.undo()
    with pytest.raises(SpecError, match="cannot be read by lancedb"):
        table.to_lancedb()


def test_without_lancedb_the_extra_is_named(shared_lake: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(MissingExtra, match=r"latentlake\[lancedb\]"):
        latentlake.connect(shared_lake).open("notes").to_lancedb()
