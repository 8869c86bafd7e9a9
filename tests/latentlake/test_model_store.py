"""Models in an object store: the revision of a local copy, one copy per content, and the reader's trust. moto; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pytest
from lake_maker import LakeMaker

import latentlake
from latentlake import model_store
from latentlake.model_store import COPIES, fetch_model
from operators.batch import make_batch
from operators.embedders import static
from operators.embedders._weights import find_weights_file
from operators.errors import ModelNotFound, SpecError
from operators.model_files import find_model, revision_of_files, unpinned_model

WORDS = "red 1 0 0\ngreen 0 1 0\nblue 0 0 1\n"


@pytest.fixture
def bucket(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A client of a bucket, and a cache of this test's own; each look asks the store."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(model_store, "FRESH_S", -1.0)
    client = boto3.client("s3", "us-east-1", endpoint_url=s3_endpoint)
    client.create_bucket(Bucket="models")
    yield client
    for found in client.list_objects_v2(Bucket="models").get("Contents", []):
        client.delete_object(Bucket="models", Key=found["Key"])
    client.delete_bucket(Bucket="models")


def put(client: Any, **files: str) -> None:
    for name, text in files.items():
        client.put_object(Bucket="models", Key=name.replace("__", "/").replace("_", "."), Body=text.encode())


def copies(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob(f"cache/**/{COPIES}/*"))


def vectors_of(config: static.Config, *texts: str) -> np.ndarray:
    batch = {**make_batch(list(texts), texts), "text": np.array(texts, dtype=object)}
    return config.load("cpu").embed(config.prepare(batch, "document"))


def test_a_file_has_the_revision_and_the_vectors_of_a_local_copy(bucket: Any, tmp_path: Path):
    put(bucket, words_vec=WORDS, other__words_vec="far away 1 2")
    (tmp_path / "words.vec").write_text(WORDS)
    stored = static.Config(model="s3://models/words.vec").resolve()
    local = static.Config(model=str(tmp_path / "words.vec")).resolve()
    assert (stored.model, stored.revision) == ("s3://models/words.vec", local.revision)
    assert stored.fingerprint_fields() == local.fingerprint_fields()
    np.testing.assert_array_equal(vectors_of(stored, "red blue", "green"), vectors_of(local, "red blue", "green"))
    assert len(copies(tmp_path)) == 1 and unpinned_model(stored) is None


def test_a_folder_has_the_revision_of_a_local_copy(bucket: Any, tmp_path: Path):
    files = {"m__config_json": "{}", "m__1__Pooling_json": '{"a": 1}', "mine__other_json": "no"}
    put(bucket, **files)
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "m" / "1" / "Pooling.json").write_text('{"a": 1}')
    folder, commit = find_model("s3://models/m", None, ["*.json"])
    assert commit is None
    found, local = ([path for path in place.rglob("*") if path.is_file()] for place in (folder, tmp_path / "m"))
    assert len(found) == 2 and revision_of_files(found, folder) == revision_of_files(local, tmp_path / "m")


def test_what_was_overwritten_is_copied_again_and_what_was_not_is_not(bucket: Any, tmp_path: Path):
    put(bucket, w_safetensors="first")
    first = find_weights_file("s3://models/w.safetensors")
    assert first.read_text() == "first" and fetch_model("s3://models/w.safetensors") == first
    kept = first.stat().st_mtime_ns
    put(bucket, w_safetensors="other")  # of the same size
    second = find_weights_file("s3://models/w.safetensors")
    assert second.read_text() == "other" and first.read_text() == "first"
    put(bucket, w_safetensors="first")
    assert find_weights_file("s3://models/w.safetensors") == first and first.stat().st_mtime_ns == kept
    assert len(copies(tmp_path)) == 2


def test_a_listing_is_kept_for_a_while(bucket: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(model_store, "FRESH_S", 3600.0)
    put(bucket, fresh_pt="a")
    first = fetch_model("s3://models/fresh.pt")
    bucket.delete_object(Bucket="models", Key="fresh.pt")
    assert fetch_model("s3://models/fresh.pt") == first


def test_what_is_not_there(bucket: Any):
    put(bucket, m__config_json="{}")
    bucket.put_object(Bucket="models", Key="evil/../../out.json", Body=b"{}")
    for place in ("s3://models/nothing", "s3://models/m/config.jso"):
        with pytest.raises(ModelNotFound, match="no model at"):
            find_model(place, None, ["*"])
    with pytest.raises(ModelNotFound, match=r"cannot be listed.*illegal"):
        find_model("s3://models/evil", None, ["*"])
    with pytest.raises(ModelNotFound, match="no model 'ftp://m'"):
        find_model("ftp://m", None, ["*"])


@pytest.mark.parametrize("allowed", [(), {"s3://models/words"}, {"s3://other"}, {"s3://models/words.vec/deeper"}])
def test_a_place_that_a_table_names_is_not_read(bucket: Any, tmp_path: Path, allowed: Any):
    put(bucket, words_vec=WORDS)
    maker = LakeMaker(str(tmp_path / "lake"))
    maker.write_texts(texts=["red", "green", "blue"], config=static.Config(model="s3://models/words.vec").resolve())
    for copy in copies(tmp_path):
        (copy / "words.vec").unlink()
        copy.rmdir()
    table = latentlake.connect(maker.uri, allow_models=allowed, allow_downloads=True).open("notes")
    with pytest.raises(
        SpecError, match=r"at 's3://models/words.vec', a place that you did not allow\.\n.*allow_models="
    ):
        table.search("blue")
    assert copies(tmp_path) == [] and len(table.search(id="doc1", k=2)) == 2


@pytest.mark.parametrize(
    "given",
    [
        {"allow_models": {"s3://models/words.vec"}},
        {"allow_models": {"s3://models"}},
        {"models": {"words": "s3://models/copy.vec"}},
    ],
)
def test_a_place_that_the_reader_allows_is_read(bucket: Any, tmp_path: Path, given: dict[str, Any]):
    put(bucket, words_vec=WORDS, copy_vec=WORDS)
    maker = LakeMaker(str(tmp_path / "lake"))
    maker.write_texts(texts=["red", "green", "blue"], config=static.Config(model="s3://models/words.vec").resolve())
    (hit,) = latentlake.connect(maker.uri, **given).open("notes").search("blue", k=1)
    assert hit["text"] == "blue"
