"""An index of segments, against numpy and against Lance's own build: the same partitions, the same rows found. Real Lance."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentlake.building import build_index
from latentlake.indexes import build_whole, choose_index, find_index
from latentlake.segments import (
    build_segment,
    commit_segment,
    group_fragments,
    join_segments,
    remove_segments,
    train_models,
)
from latentlake.storage import open_storage
from latentlake.tuning.choice import count_partitions
from latentlake.tuning.goal import Goal
from latentlake.tuning.queries import split
from latentlake.tuning.settings import read_settings

DIM, FRAGMENT = 32, 3000
ROWS = 4 * FRAGMENT
NULL = (*range(100), *range(FRAGMENT, 2 * FRAGMENT))  # all of the second fragment


def vectors_of(rows: int, seed: int = 0) -> np.ndarray:
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(9).standard_normal((50, DIM))
    return (centres[draw.integers(0, 50, rows)] + 0.5 * draw.standard_normal((rows, DIM))).astype("f4")


def table_of(vectors: np.ndarray, no_vector: Any = (), start: int = 0) -> pa.Table:
    mask = np.isin(np.arange(len(vectors)), no_vector)
    flat = pa.array(vectors.reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1], mask=pa.array(mask))
    return pa.table({"number": np.arange(start, start + len(vectors)), "v": column})


def write(folder: Path, vectors: np.ndarray, no_vector: Any = (), name: str = "t") -> Any:
    return lance.write_dataset(
        table_of(vectors, no_vector), str(folder / f"{name}.lance"), max_rows_per_file=FRAGMENT, mode="overwrite"
    )


def build_split(dataset: Any, column: str, name: str, build: Any, rows: int) -> None:
    """What the tasks of a run do, in this process."""
    trained = train_models(dataset, column, build, rows)
    segments = [
        build_segment(lance.dataset(dataset.uri, version=dataset.version), column, name, trained, group)
        for group in group_fragments(dataset, 3)
    ]
    assert len(segments) == 3
    joined = join_segments(dataset, segments)
    assert lance.dataset(dataset.uri).version == dataset.version  # nothing is committed yet
    commit_segment(dataset, column, name, joined)
    remove_segments(open_storage(dataset.uri), segments)


def nearest_by_numpy(vectors: np.ndarray, query: np.ndarray, metric: str, among: np.ndarray) -> set[int]:
    kept, query = vectors[among].astype("f8"), query.astype("f8")
    distance = {
        "l2": lambda: ((kept - query) ** 2).sum(1),
        "dot": lambda: -(kept @ query),
        "cosine": lambda: -(kept @ query) / np.linalg.norm(kept, axis=1),
        "hamming": lambda: np.unpackbits(vectors[among] ^ query.astype("u1"), axis=1).sum(1),
    }[metric]()
    return set(among[np.argsort(distance, kind="stable")[:10]].tolist())


def recall_of(dataset: Any, vectors: np.ndarray, metric: str, among: np.ndarray, asked: np.ndarray) -> float:
    """Of the whole index, every candidate refined that it offers."""
    hits = 0
    for query in asked:
        near = {"column": "v", "q": query, "k": 10, "metric": metric, "search_effort": 1.0, "refine_factor": 20}
        found = dataset.scanner(columns=["number", "_distance"], nearest=near, fast_search=True).to_table()
        hits += len(nearest_by_numpy(vectors, query, metric, among) & set(found["number"].to_pylist()))
    return hits / (10 * len(asked))


@pytest.mark.parametrize(
    ("type", "metric", "dtype"),
    [
        ("ivf_flat", "cosine", "f4"),
        ("ivf_pq", "l2", "f4"),
        ("ivf_rq", "cosine", "f4"),
        ("ivf_rq", "dot", "f4"),
        ("ivf_rq", "cosine", "f2"),
        ("ivf_flat", "hamming", "u1"),
    ],
)
def test_segments_make_the_index_of_a_single_build(tmp_path: Path, type: Any, metric: str, dtype: str):
    """With a fragment without vectors, and rows that were deleted. `fast_search` sees nothing but the index."""
    vectors, asked = vectors_of(ROWS), vectors_of(20, 1)
    if dtype == "u1":
        vectors, asked = np.packbits(vectors > 0, axis=1), np.packbits(asked > 0, axis=1)
    vectors, asked = vectors.astype(dtype), asked.astype(dtype)
    dataset = write(tmp_path, vectors, NULL)
    dataset.delete("number >= 11000")
    among = np.setdiff1d(np.arange(11000), NULL)
    build = choose_index(len(among), vectors.shape[1], metric, type)
    found, partitions = {}, {}
    for builder in (build_whole, build_split):
        builder(dataset, "v", "v_idx", build, len(among))
        index = find_index(dataset, "v")
        assert index is not None
        assert (index.type, index.metric, index.segments, index.rows_unindexed) == (type, metric, 1, 0)
        found[builder] = recall_of(dataset, vectors, metric, among, asked)
        partitions[builder] = count_partitions(dataset, "v_idx")
    is_exact = type == "ivf_flat" and metric != "hamming"  # whose distances are often equal
    assert found[build_split] >= (1.0 if is_exact else found[build_whole] - 0.05)
    size = 8192 if type == "ivf_pq" else 4096  # of Lance's partitions; it counts rows without a vector too
    assert partitions == {build_whole: 11000 // size, build_split: max(1, len(among) // size)}


def test_an_index_of_segments_lives_on_as_any_other(tmp_path: Path):
    """It takes the place of the one before, which an older version keeps; it is extended, and no other file is left."""
    vectors = vectors_of(ROWS)
    dataset = write(tmp_path, vectors)
    build_index(dataset, "v", "l2", "ivf_rq")
    before = dataset.version
    report = build_index(dataset, "v", "cosine", "ivf_flat", builder=build_split)
    assert (report.type, report.recall, report.measured_at) == ("ivf_flat", 1.0, dataset.version)
    older = find_index(lance.dataset(dataset.uri, version=before), "v")
    assert older is not None and (older.type, older.metric) == ("ivf_rq", "l2")
    kept = {segment.uuid for index in dataset.describe_indices() for segment in index.segments}
    kept |= {s.uuid for index in lance.dataset(dataset.uri, version=before).describe_indices() for s in index.segments}
    assert {path.name for path in (tmp_path / "t.lance" / "_indices").iterdir()} == kept
    more = vectors_of(500, 5)
    dataset = lance.write_dataset(table_of(more, start=ROWS), dataset.uri, mode="append")
    build_index(dataset, "v", "cosine", "ivf_flat", report)
    found = find_index(dataset, "v")
    assert found is not None and found.rows_unindexed == 0
    every = np.concatenate([vectors, more])
    assert recall_of(dataset, every, "cosine", np.arange(len(every)), more[:20]) == 1.0


def test_a_tuned_index_is_built_so_too(tmp_path: Path):
    dataset, built = write(tmp_path, vectors_of(ROWS)), []

    def builder(*asked: Any) -> None:
        built.append(asked[1:])
        build_split(*asked)

    queries = split(vectors_of(80, 3), "file")
    build_index(dataset, "v", "l2", "ivf_flat", None, Goal(0.9), lambda _: queries, builder)
    assert built == [("v", "v_idx", {"index_type": "IVF_FLAT", "metric": "l2"}, ROWS)]
    assert read_settings(dataset.schema, "v") is not None


def test_segments_of_other_models_are_refused(tmp_path: Path):
    dataset = write(tmp_path, vectors_of(ROWS))
    build = choose_index(ROWS, DIM, "cosine", "ivf_flat")
    first, second = group_fragments(dataset, 2)
    segments = [
        build_segment(dataset, "v", "v_idx", train_models(dataset, "v", build, rows), group)
        for rows, group in ((ROWS, first), (2 * ROWS, second))
    ]
    with pytest.raises(Exception, match="mismatch across shards"):
        join_segments(dataset, segments)
    assert find_index(dataset, "v") is None


def test_why_scalar_quantisation_is_left_out(tmp_path: Path):
    """Lance puts codes of different scales together without a word; should that change, `UNFIT` may."""
    vectors = vectors_of(ROWS) * np.repeat([0.1, 1, 5, 20], FRAGMENT)[:, None].astype("f4")
    draw = np.random.default_rng(2)
    asked = vectors[draw.integers(0, ROWS, 20)] * (1 + 0.1 * draw.standard_normal((20, DIM))).astype("f4")
    dataset = write(tmp_path, vectors)
    build: dict[str, Any] = {"index_type": "IVF_SQ", "metric": "l2"}
    found = []
    for apart in (False, True):
        if apart:
            ivf = train_models(dataset, "v", {"index_type": "IVF_FLAT", "metric": "l2"}, ROWS)
            shared = {**ivf, **build}
            segments = [build_segment(dataset, "v", "v_idx", shared, [number]) for number in range(4)]
            commit_segment(dataset, "v", "v_idx", join_segments(dataset, segments))
        else:
            build_whole(dataset, "v", "v_idx", build, ROWS)
        near = {"column": "v", "k": 10, "metric": "l2", "search_effort": 1.0}
        hits = 0
        for query in asked:
            ids = dataset.to_table(columns=["number", "_distance"], nearest={**near, "q": query})["number"].to_pylist()
            hits += len(nearest_by_numpy(vectors, query, "l2", np.arange(ROWS)) & set(ids))
        found.append(hits / 200)
    single, joined = found
    assert joined < single - 0.2


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=40), st.integers(1, 50), st.integers(1, 20_000))
def test_groups_hold_each_fragment_once(sizes: list[int], least: int, most_rows: int):
    fragments = [SimpleNamespace(fragment_id=7 * n, count_rows=lambda rows=rows: rows) for n, rows in enumerate(sizes)]
    groups = group_fragments(SimpleNamespace(get_fragments=lambda: fragments), least, most_rows)
    assert [number for group in groups for number in group] == [7 * n for n in range(len(sizes))]
    total, wanted = sum(sizes), min(len(sizes), max(least, -(-max(1, sum(sizes)) // most_rows)))
    assert 1 <= len(groups) <= wanted
    assert all(sum(sizes[number // 7] for number in group) <= total / wanted + max(sizes) + 1e-6 for group in groups)
