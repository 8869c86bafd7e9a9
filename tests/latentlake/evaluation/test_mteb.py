"""Our embedders in MTEB, on Cranfield: its nDCG is ours. Not among the libraries of `dev`: 254 MB with what it needs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from lake_maker import LakeMaker
from PIL import Image

import latentlake
from latentlake.evaluation.judgements import read_judgements, read_queries
from latentlake.evaluation.mteb_models import as_mteb_model, local_retrieval
from operators.errors import MissingExtra, SpecError


def test_ndcg_of_mteb_is_ours(data: Path, tmp_path: Path):
    mteb = pytest.importorskip("mteb", reason="install 'latentlake[mteb]' to compare with MTEB")
    folder = data / "cranfield"
    rows = [row for row in pq.read_table(folder / "corpus.parquet").to_pylist() if row["text"].strip()]
    maker = LakeMaker(str(tmp_path / "lake"))
    maker.write_texts("abstracts", [row["text"] for row in rows], objects=[row["id"] for row in rows])
    files = {name: folder / f"{name}.parquet" for name in ("queries", "qrels")}
    found = (
        latentlake.connect(maker.uri)
        .open("abstracts")
        .evaluate(
            {"tasks": [{"kind": "retrieval", **files, "measures": ["nDCG@10", "R@100"]}]}, resamples=20, record=False
        )
    )
    task = local_retrieval(
        "Cranfield",
        {row["id"]: row["text"] for row in rows},
        read_queries(files["queries"]),
        read_judgements(files["qrels"]),
    )
    model = as_mteb_model(latentlake.create_text_embedder("hashing", dim=256))
    told = mteb.evaluate(model, task, cache=None, show_progress_bar=False).task_results[0].scores["test"][0]
    # Hashed words tie, and trec_eval sorts equal scores by the names of documents.
    assert told["ndcg_at_10"] == pytest.approx(found.find("nDCG@10").value, abs=1e-3)
    assert told["recall_at_100"] == pytest.approx(found.find("R@100").value, abs=1e-3)
    assert told["ndcg_at_10"] > 0.15


def test_a_task_of_another_modality_is_refused():
    mteb = pytest.importorskip("mteb", reason="install 'latentlake[mteb]' to compare with MTEB")
    model = as_mteb_model(latentlake.create_text_embedder("hashing", dim=256), "me/words")
    assert model.mteb_model_meta.name == "me/words" and isinstance(model, mteb.EncoderProtocol)
    rest = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    with pytest.raises(SpecError, match="the task gives audio; the model takes text"):
        model.encode([{"audio": []}], **rest)
    assert model.encode([], **rest).shape == (0, 256)


def test_pictures_and_sound_are_embedded_as_ours():
    pytest.importorskip("mteb", reason="install 'latentlake[mteb]' to compare with MTEB")
    rest = {"task_metadata": None, "hf_split": "test", "hf_subset": "default"}
    images = latentlake.create_image_embedder("hashing", dim=32)
    pictures = [Image.new("RGB", (20, 10), colour) for colour in ("red", "blue", "green")]
    batches = [{"image": pictures[:2], "text": ["a", "b"]}, {"image": pictures[2:], "text": ["c"]}]
    np.testing.assert_array_equal(as_mteb_model(images).encode(batches, **rest), images.embed_batch(pictures))
    sounds = latentlake.create_audio_embedder("hashing", dim=32)
    tone = np.sin(np.arange(8000) / 10).astype(np.float32)
    found = as_mteb_model(sounds).encode([{"audio": [{"array": tone, "sampling_rate": 8000}]}], **rest)
    np.testing.assert_array_equal(found, sounds.embed_batch([(tone, 8000)]))


def test_without_mteb_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "mteb", None)
    with pytest.raises(MissingExtra, match=r"latentlake\[mteb\]"):
        as_mteb_model(latentlake.create_text_embedder("hashing"))
