"""Columns that hold one bit a number: written, searched, reused, indexed, refused where they cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from job_maker import HASHING, make_job, open_table, run, write_texts

from operators.errors import FingerprintMismatch, InvalidSpec, SpecError
from pipelines.job.jobfile import parse_job

TEXTS = {f"{n}.txt": f"text number {n} about subject {n % 7} and {n * n}" for n in range(300)}


def binary_job(tmp_path: Path, texts: dict[str, str] = TEXTS, **sections: Any) -> dict[str, Any]:
    """A column of floats beside one of bits, of the same model."""
    bits = {**HASHING, "column": "b", "dtype": "binary"}
    return make_job(tmp_path, write_texts(tmp_path / "in", texts), [HASHING, bits], **sections)


def test_bits_are_the_signs_of_the_numbers(tmp_path: Path):
    job = binary_job(tmp_path)
    run(job)
    table = open_table(job)
    assert table.schema.field("b").type == pa.list_(pa.uint8(), 8)
    assert table.provenance("b").metric == "hamming"
    assert table.provenance("b").fingerprint != table.provenance("h").fingerprint
    rows = table.to_arrow(["h", "b"])
    floats, bits = (np.array(rows[name].to_pylist()) for name in ("h", "b"))
    np.testing.assert_array_equal(np.unpackbits(bits.astype(np.uint8), axis=1), floats > 0)


def test_bits_are_searched_by_text_row_numbers_and_bits(tmp_path: Path):
    job = binary_job(tmp_path)
    run(job)
    table = open_table(job)
    row = table.to_arrow(["h", "b"], where="id = '7.txt'").to_pylist()[0]
    for query in (TEXTS["7.txt"], np.array(row["h"]), np.array(row["b"], dtype=np.uint8)):
        hits = table.search(query, column="b", k=30).to_list()
        assert "7.txt" in {hit["id"] for hit in hits if hit["_distance"] == 0}
    assert "7.txt" not in {hit["id"] for hit in table.search(id="7.txt", column="b", k=3)}
    with pytest.raises(SpecError, match=r"takes vectors of shape \(64,\) or \(8,\); this one is \(5,\)"):
        table.search(np.zeros(5), column="b")


def test_unchanged_bits_stay_and_equal_content_is_reused(tmp_path: Path):
    job = binary_job(tmp_path)
    run(job)
    write_texts(tmp_path / "in", {"copy.txt": TEXTS["7.txt"]})
    report = run(job)
    counts = report["columns"]["b"]
    assert (counts["unchanged"], counts["reused"], counts["embedded"]) == (len(TEXTS), 1, 0)
    rows = {row["id"]: row["b"] for row in open_table(job).to_arrow(["id", "b"]).to_pylist()}
    assert rows["copy.txt"] == rows["7.txt"]


def test_an_index_of_bits(tmp_path: Path):
    job = binary_job(tmp_path, index=[{"column": "b", "type": "ivf_flat"}])
    (index,) = [index for index in run(job)["indexes"] if index["column"] == "b"]
    assert index["type"] == "ivf_flat" and index["recall"] > 0.9
    hits = open_table(job).search(TEXTS["7.txt"], column="b", k=30).to_list()
    assert "7.txt" in {hit["id"] for hit in hits if hit["_distance"] == 0}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"column": "b", "metric": "cosine"}, "vectors stored as binary are compared by hamming, not by cosine"),
        ({"column": "h", "metric": "hamming"}, "vectors stored as float32 are compared by cosine, l2 or dot, not by hamming"),
    ],
)  # fmt: skip
def test_a_metric_that_does_not_fit_the_column(tmp_path: Path, index: dict[str, Any], message: str):
    with pytest.raises(InvalidSpec, match=message):
        parse_job(binary_job(tmp_path, index=[index]))


def test_a_type_of_index_that_bits_do_not_have(tmp_path: Path):
    with pytest.raises(SpecError, match="bits are indexed by ivf_flat alone, not by ivf_pq"):
        run(binary_job(tmp_path, index=[{"column": "b", "type": "ivf_pq"}]))


def test_numbers_that_do_not_fill_bytes_are_refused_before_anything_starts(tmp_path: Path):
    bits = {**HASHING, "column": "b", "dtype": "binary", "dim": 60}
    with pytest.raises(SpecError, match=r"gives 60\.\n  Set truncate_dim: 56"):
        run(make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), [bits]))
    assert not (tmp_path / "lake" / "t.lance").exists()
    run(make_job(tmp_path, write_texts(tmp_path / "in", TEXTS), [{**bits, "truncate_dim": 56}]))


def test_a_column_of_numbers_takes_no_bits(tmp_path: Path):
    job = binary_job(tmp_path)
    run(job)
    job["embed"][0]["dtype"] = "binary"
    with pytest.raises(FingerprintMismatch, match=r"dtype \(float32 -> binary\)"):
        run(job)
