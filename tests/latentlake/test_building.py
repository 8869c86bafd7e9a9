"""What is carried over from an earlier report of an index: its recall, and how many vectors there are. Real Lance."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest

from latentlake import indexes, recall
from latentlake.building import build_index, count_known, open_version
from latentlake.indexes import count_vectors, describe_indexes, extend_index, has_vector
from latentlake.recall import measure_recall

DIM = 32


def rows_of(count: int, seed: int, null: float = 0.0) -> pa.Table:
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((50, DIM))
    vectors = (centres[draw.integers(0, 50, count)] + 0.5 * draw.standard_normal((count, DIM))).astype("f4")
    mask = pa.array(draw.random(count) < null)
    return pa.table(
        {
            "number": draw.integers(0, 1_000_000, count),
            "v": pa.FixedSizeListArray.from_arrays(vectors.reshape(-1), DIM, mask=mask),
        }
    )


def write(folder: Path, count: int, seed: int = 0, null: float = 0.0, mode: str = "append") -> Any:
    return lance.write_dataset(rows_of(count, seed, null), str(folder / "t.lance"), mode=mode)


def bytes_read(dataset: Any) -> int:
    return int(dataset.io_stats_incremental().read_bytes)


def test_an_extension_reads_what_is_added_and_carries_the_recall(tmp_path: Path):
    dataset = write(tmp_path, 30_000)
    first = build_index(dataset, "v", "cosine", "ivf_rq")
    assert (first.rows, first.measured_at, first.added) == (30_000, dataset.version, 0)
    dataset = write(tmp_path, 100, 1, 0.5)
    bytes_read(dataset)
    report = build_index(dataset, "v", "cosine", "ivf_rq", first)
    assert bytes_read(dataset) < 30_000 * DIM * 4 / 20
    assert report.rows == count_vectors(dataset, "v") < 30_100
    assert (report.recall, report.measured_at, report.added) == (first.recall, first.measured_at, 100)
    assert report.version == dataset.version > first.version
    again = build_index(dataset, "v", "cosine", "ivf_rq", report)
    assert (again.added, again.measured_at) == (100, first.measured_at)


def test_rows_that_are_known_to_have_vectors_are_not_looked_at(tmp_path: Path):
    """Not once more, that is, than to count them and to index them."""
    write(tmp_path, 1000)
    build_index(lance.dataset(str(tmp_path / "t.lance")), "v", "cosine", "ivf_flat")
    read = []
    for vectors in (1100, None):
        dataset = write(tmp_path, 100, 1)
        (found,) = describe_indexes(dataset)
        bytes_read(dataset)
        extend_index(dataset, found, vectors)
        read.append(bytes_read(dataset))
        assert describe_indexes(dataset)[0].rows_unindexed == 0
    assert read[0] < read[1] - 100 * DIM * 4 / 2, read


@pytest.mark.parametrize("change", ["much is added", "another type", "merged", "rebuilt by another", "version is gone"])
def test_recall_is_measured_again_where_the_index_is_another(
    tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
):
    dataset = write(tmp_path, 2000)
    first = build_index(dataset, "v", "cosine", "ivf_flat")
    dataset = write(tmp_path, 600 if change == "much is added" else 50, 1)
    if change == "merged":
        monkeypatch.setattr(indexes, "MAX_SEGMENTS", 1)
    elif change == "rebuilt by another":
        dataset.create_index("v", "IVF_FLAT", name="v_idx", metric="cosine", replace=True)
    elif change == "version is gone":
        build_index(dataset, "v", "cosine", "ivf_flat")
        dataset.cleanup_old_versions(retain_versions=1)
    report = build_index(dataset, "v", "cosine", "ivf_rq" if change == "another type" else "ivf_flat", first)
    assert (report.measured_at, report.added) == (dataset.version, 0)
    assert report.rows == count_vectors(dataset, "v")


@pytest.mark.parametrize("null", [0.0, 0.3])
@pytest.mark.parametrize("seed", range(8))
def test_vectors_are_counted_by_what_came_and_went(tmp_path: Path, seed: int, null: float):
    draw = np.random.default_rng(seed)
    for number in range(3):
        dataset = write(tmp_path, 3000, 10 * seed + number, null)
    report = build_index(dataset, "v", "cosine", "none")
    for step in range(6):
        kind = draw.integers(0, 5)
        if kind == 0:
            dataset = write(tmp_path, 200, 100 * seed + step, 0.5)
        elif kind == 1:
            dataset.delete(f"number % 7 = {step}")
        elif kind == 2 and dataset.count_rows():
            first = dataset.get_fragments()[0].fragment_id
            dataset.delete(f"_rowid >= {first << 32} AND _rowid < {(first + 1) << 32}")
        elif kind == 3 and dataset.count_rows():
            dataset.optimize.compact_files()
        else:
            dataset.checkout_version(max(1, dataset.version - 2)).restore()
            dataset = lance.dataset(dataset.uri)
        counted = count_known(dataset, "v", open_version(dataset, report), report)
        assert counted == count_vectors(dataset, "v"), (step, kind)
        if seed % 2:
            report = replace(report, rows=counted, version=dataset.version)


def test_deleted_rows_are_looked_at_and_no_others(tmp_path: Path):
    dataset = write(tmp_path, 30_000, null=0.3)
    report = build_index(dataset, "v", "cosine", "none")
    dataset.delete("number % 500 = 3")
    bytes_read(dataset)
    counted = count_known(dataset, "v", open_version(dataset, report), report)
    assert bytes_read(dataset) < 30_000 * DIM * 4 / 10
    assert counted == count_vectors(dataset, "v") < report.rows


@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_recall_of_a_sample_is_near_that_of_all_vectors(tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch):
    dataset = write(tmp_path, 12_000, null=0.1)
    dataset.create_index("v", "IVF_RQ", metric=metric, num_bits=1)
    whole = measure_recall(dataset, "v", metric, queries=300)
    monkeypatch.setattr(recall, "SAMPLE_BYTES", 3200 * DIM * 4)
    monkeypatch.setattr(recall, "RUN_ROWS", 800)
    assert -0.15 < measure_recall(dataset, "v", metric) - whole < 0.06  # too low rather than too high
    monkeypatch.setattr(indexes, "REFINE_FACTOR", 1)  # what misses much is not taken for good
    assert measure_recall(dataset, "v", metric) < 0.7


def test_distances_are_those_of_lance(tmp_path: Path):
    dataset = write(tmp_path, 500)
    rows = dataset.to_table(with_row_id=True)
    vectors = np.asarray(rows["v"].combine_chunks().flatten()).reshape(-1, DIM)
    for metric in ("cosine", "l2", "dot"):
        nearest = {"column": "v", "q": vectors[7], "k": 500, "metric": metric, "use_index": False}
        found = dataset.scanner(columns=["_distance"], nearest=nearest, with_row_id=True).to_table().sort_by("_rowid")
        ours = recall.distances_between(vectors[7:8], vectors, metric)[0]
        assert np.allclose(ours, found["_distance"].to_numpy(), atol=1e-4)
    bits = np.random.default_rng(0).integers(0, 256, (5, 4), dtype=np.uint8)
    expected = [[np.unpackbits(a ^ b).sum() for b in bits] for a in bits[:2]]
    assert recall.distances_between(bits[:2], bits, "hamming").tolist() == expected


def test_queries_are_found_where_few_rows_have_a_vector(tmp_path: Path):
    dataset = write(tmp_path, 20_000, null=0.995)
    ids, vectors = recall.sample_vectors(dataset, "v", 20, 0)
    assert len(ids) == len(vectors) == 20
    with_one = dataset.scanner(columns=[], filter=has_vector("v"), with_row_id=True).to_table()["_rowid"].to_pylist()
    assert set(ids.tolist()) <= set(with_one)
