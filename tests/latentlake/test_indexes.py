"""ANN indexes: the choice, building, extending, and recall against numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lance
import numpy as np
import pytest
from lake_maker import LakeMaker

import latentlake
from latentlake import indexes, recall
from latentlake.building import build_index
from latentlake.indexes import ANN_MIN_ROWS, choose_index
from latentlake.recall import measure_recall
from operators.chain import Chain
from operators.embedders.hashing import Config
from operators.errors import NotFound, SpecError, UnknownName

DIM = 16
TYPES = ["ivf_rq", "ivf_pq", "ivf_hnsw_sq", "ivf_flat"]


@pytest.fixture(autouse=True)
def small_tables_gain(monkeypatch: pytest.MonkeyPatch):
    """Let "auto" build an index at 1,000 rows."""
    monkeypatch.setattr(indexes, "ANN_MIN_ROWS", 1000)


def make_vectors(rows: int, seed: int = 0, dim: int = DIM) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((20, dim))[rng.integers(0, 20, rows)] + 0.3 * rng.standard_normal((rows, dim))).astype(
        "f4"
    )


def write_vectors(
    maker: LakeMaker,
    vectors: np.ndarray,
    *,
    metric: str = "cosine",
    dtype: str = "float32",
    mode: str = "create",
    no_vector: Any = (),
    start: int = 0,
) -> Any:
    field = maker.vector_field("words", Config(dim=vectors.shape[1]), Chain("text"), dtype, metric)
    names = [f"r{start + row}" for row in range(len(vectors))]
    data = {"id": names, "number": list(range(start, start + len(vectors)))}
    return maker.write("vectors", data, {"words": (field, vectors)}, mode, no_vector)


def test_the_threshold_is_the_measured_one():
    assert ANN_MIN_ROWS == 20_000


def test_choice():
    chosen = choose_index(63_800, 384, "cosine", "auto")
    assert chosen == {"index_type": "IVF_RQ", "metric": "cosine", "num_bits": 1}  # partitions are left to Lance
    assert choose_index(999, 384, "cosine", "auto") is None
    assert choose_index(10**6, 384, "cosine", "none") is None
    assert choose_index(255, 384, "cosine", "ivf_pq") is None  # too few to train on
    assert choose_index(0, 384, "l2", "ivf_flat") is None
    assert choose_index(2000, 30, "l2", "auto")["index_type"] == "IVF_FLAT"
    assert [choose_index(2000, dim, "l2", "ivf_pq")["num_sub_vectors"] for dim in (384, 30, 7, 3)] == [48, 3, 1, 1]
    for type in TYPES:
        assert "num_partitions" not in choose_index(3_000_000, 384, "dot", type)
    with pytest.raises(SpecError, match="divisible by 8"):
        choose_index(2000, 30, "l2", "ivf_rq")
    with pytest.raises(UnknownName, match=r"no index type 'ivf_pg'. Did you mean 'ivf_pq'\?"):
        choose_index(2000, 32, "l2", "ivf_pg")


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("metric", ["cosine", "l2", "dot"])
def test_every_type_and_metric(maker: LakeMaker, type: str, metric: str):
    dataset = write_vectors(maker, make_vectors(1500), metric=metric, no_vector=range(300))
    report = build_index(dataset, "words", metric, type)
    assert (report.column, report.type, report.rows) == ("words", type, 1200)
    assert report.recall is not None and report.recall > 0.9
    assert report.seconds > 0
    table = latentlake.connect(maker.uri).open("vectors")
    (info,) = table.indexes()
    assert (info.column, info.type, info.metric, info.rows_indexed, info.rows_unindexed) == (
        "words",
        type,
        metric,
        1500,
        0,
    )
    query = make_vectors(1500)[700]
    exact, found = table.search(query, exact=True).to_list(), table.search(query).to_list()
    assert len({row["id"] for row in exact} & {row["id"] for row in found}) >= 9
    assert [row["_distance"] for row in found] == sorted(row["_distance"] for row in found)


def test_float16(maker: LakeMaker):
    report = build_index(write_vectors(maker, make_vectors(1500), dtype="float16"), "words", "cosine")
    assert report.type == "ivf_rq"
    assert report.recall is not None and report.recall > 0.9


def test_small_and_empty_tables_are_searched_exactly(maker: LakeMaker, tmp_path: Path):
    small = write_vectors(maker, make_vectors(100))
    empty = write_vectors(LakeMaker(str(tmp_path / "empty")), make_vectors(0))
    nulls = write_vectors(LakeMaker(str(tmp_path / "nulls")), make_vectors(1200), no_vector=range(1200))
    for dataset, rows in ((small, 100), (empty, 0), (nulls, 0)):
        for type in ("auto", *TYPES):
            report = build_index(dataset, "words", "cosine", type)
            assert (report.type, report.rows, report.recall) == ("exact", rows, None)
        assert dataset.version == 1
        assert measure_recall(dataset, "words", "cosine") == 1.0


def test_extending_takes_the_new_rows_in(maker: LakeMaker):
    build_index(write_vectors(maker, make_vectors(1500)), "words", "cosine")
    dataset = write_vectors(maker, make_vectors(400, seed=1), mode="append", start=1500)
    (info,) = indexes.describe_indexes(dataset)
    assert (info.rows_indexed, info.rows_unindexed) == (1500, 400)
    query = make_vectors(400, seed=1)[7]
    table = latentlake.connect(maker.uri).open("vectors")
    assert table.search(query, k=1).to_list()[0]["number"] == 1507  # found before the index knows it
    report = build_index(dataset, "words", "cosine")
    assert (report.type, report.rows) == ("ivf_rq", 1900)
    (info,) = indexes.describe_indexes(dataset)
    assert (info.rows_indexed, info.rows_unindexed) == (1900, 0)
    version = dataset.version
    build_index(dataset, "words", "cosine")
    assert dataset.version == version  # nothing to do, nothing committed


def test_a_tail_without_vectors_is_left_alone(maker: LakeMaker):
    build_index(write_vectors(maker, make_vectors(1500)), "words", "cosine")
    dataset = write_vectors(maker, make_vectors(50), mode="append", start=1500, no_vector=range(50))
    version = dataset.version
    assert build_index(dataset, "words", "cosine").type == "ivf_rq"
    assert dataset.version == version


def test_an_index_that_grew_too_small_is_built_anew(maker: LakeMaker):
    build_index(write_vectors(maker, make_vectors(1500)), "words", "cosine")
    dataset = write_vectors(maker, make_vectors(2000, seed=1), mode="append", start=1500)
    build_index(dataset, "words", "cosine")
    (info,) = indexes.describe_indexes(dataset)
    assert (info.rows_indexed, info.segments) == (3500, 1)


def test_segments_are_merged(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(indexes, "MAX_SEGMENTS", 3)
    build_index(write_vectors(maker, make_vectors(2000)), "words", "cosine")
    segments = []
    for step in range(5):
        dataset = write_vectors(maker, make_vectors(100, seed=step), mode="append", start=2000 + 100 * step)
        build_index(dataset, "words", "cosine")
        segments.append(indexes.describe_indexes(dataset)[0].segments)
    assert max(segments) == 3
    assert indexes.describe_indexes(dataset)[0].rows_indexed == 2500
    assert measure_recall(dataset, "words", "cosine") > 0.8


def test_another_type_or_metric_replaces_and_none_drops(maker: LakeMaker):
    dataset = write_vectors(maker, make_vectors(1500))
    for type, metric, found in (
        ("auto", "cosine", "ivf_rq"),
        ("ivf_flat", "cosine", "ivf_flat"),
        ("auto", "cosine", "ivf_flat"),
        ("auto", "l2", "ivf_rq"),
    ):
        build_index(dataset, "words", metric, type)
        (info,) = indexes.describe_indexes(dataset)
        assert (info.type, info.metric) == (found, metric)
    assert build_index(dataset, "words", "l2", "none").type == "exact"
    assert indexes.describe_indexes(dataset) == []


def test_recall_equals_numpy(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(indexes, "NPROBES", 1)
    monkeypatch.setattr(indexes, "REFINE_FACTOR", 1)
    vectors = np.random.default_rng(0).standard_normal((400, DIM)).astype("f4")
    dataset = write_vectors(maker, vectors, metric="l2")
    dataset.create_index("words", "IVF_FLAT", metric="l2", num_partitions=40, name="words_idx")
    measured = measure_recall(dataset, "words", "l2", queries=400)
    squares = (vectors**2).sum(axis=1)
    distances = squares[:, None] + squares[None] - 2 * vectors @ vectors.T
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :10]
    hits = 0
    for row in range(400):
        query = indexes.nearest("words", vectors[row], 11, "l2")
        found = dataset.scanner(columns=["number", "_distance"], nearest=query).to_table()["number"].to_pylist()
        hits += len(set([number for number in found if number != row][:10]) & set(nearest[row]))
    assert 0.2 < measured < 0.95  # a poor search is seen to be poor
    assert measured == pytest.approx(hits / 4000, abs=0.001)


def test_ties_count_as_hits(maker: LakeMaker):
    vectors = np.repeat(make_vectors(30), 50, axis=0)
    dataset = write_vectors(maker, vectors, metric="l2")
    assert build_index(dataset, "words", "l2", "ivf_flat").recall == 1.0
    assert measure_recall(dataset, "words", "l2", k=3, queries=1) == 1.0


def test_recall_where_few_rows_have_a_vector(maker: LakeMaker):
    dataset = write_vectors(maker, make_vectors(5000), no_vector=range(600, 5000))
    dataset.delete("number < 200")
    ids, vectors = recall.sample_vectors(dataset, "words", 300, seed=1)
    assert len(set(ids.tolist())) == 300
    wanted = {tuple(vector) for vector in make_vectors(5000)[200:600].tolist()}
    assert {tuple(vector) for vector in vectors.tolist()} <= wanted
    assert np.array_equal(vectors, recall.sample_vectors(dataset, "words", 300, seed=1)[1])
    report = build_index(dataset, "words", "cosine", "ivf_flat")
    assert (report.type, report.rows) == ("ivf_flat", 400)
    assert report.recall is not None and report.recall > 0.9


def test_a_filter_that_leaves_few_rows_still_finds_k(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(indexes, "NPROBES", 1)
    build_index(write_vectors(maker, make_vectors(3000)), "words", "cosine", "ivf_flat")
    table = latentlake.connect(maker.uri).open("vectors")
    assert len(table.search(make_vectors(1)[0], k=10, where="number % 200 = 0")) == 10


def write_old_index(maker: LakeMaker, vectors: np.ndarray, type: str = "IVF_RQ") -> Any:
    """A table with an index of √n partitions, as they were built at first."""
    dataset = write_vectors(maker, vectors)
    partitions = round(len(vectors) ** 0.5)
    dataset.create_index("words", type, metric="cosine", num_partitions=partitions, name="words_idx")
    return dataset


def recall_under(table: latentlake.Table, queries: np.ndarray, where: str) -> float:
    hits = 0
    for query in queries:
        exact = {row["id"] for row in table.search(query, where=where, exact=True)}
        hits += len(exact & {row["id"] for row in table.search(query, where=where)})
    return hits / (10 * len(queries))


@pytest.mark.parametrize("few", [True, False], ids=["compared exactly", "probed with more effort"])
@pytest.mark.parametrize("old", [True, False], ids=["old index", "new index"])
def test_filters_lose_no_rows(maker: LakeMaker, monkeypatch: pytest.MonkeyPatch, few: bool, old: bool):
    vectors = np.random.default_rng(0).standard_normal((6000, 32)).astype("f4")
    monkeypatch.setattr(indexes, "NPROBES", 8)
    if old:
        write_old_index(maker, vectors, "IVF_FLAT")  # loses rows to partitions alone
    else:
        build_index(write_vectors(maker, vectors), "words", "cosine", "ivf_flat")
    monkeypatch.setattr(indexes, "ANN_MIN_ROWS", 1000 if few else 10)
    table = latentlake.connect(maker.uri).open("vectors")
    queries = np.random.default_rng(1).standard_normal((20, 32)).astype("f4")
    for where in ("number % 100 = 7", "number % 10 = 7"):
        assert recall_under(table, queries, where) >= 0.998


def test_effort_grows_as_a_filter_keeps_less():
    query = np.zeros(4, "f4")
    ask = lambda kept: indexes.nearest("v", query, 5, "l2", kept=kept)  # noqa: E731
    assert ask(None)["minimum_nprobes"] == indexes.NPROBES
    assert ask((10**6, 10**6))["minimum_nprobes"] == indexes.NPROBES
    assert ask((10**5, 10**6))["minimum_nprobes"] == 10 * indexes.NPROBES
    for few in (0, 1, 999):
        assert ask((few, 10**6)) == indexes.nearest("v", query, 5, "l2", exact=True)


def test_an_old_index_is_extended_and_not_built_anew(maker: LakeMaker):
    write_old_index(maker, make_vectors(3000, dim=128))
    dataset = write_vectors(maker, make_vectors(100, seed=1, dim=128), mode="append", start=3000)
    report = build_index(dataset, "words", "cosine")
    assert report.type == "ivf_rq"
    assert report.recall is not None and report.recall >= 0.97
    version = dataset.version
    assert build_index(dataset, "words", "cosine").recall == report.recall
    assert dataset.version == version  # it works as it is


def make_topics(rows: int, seed: int) -> np.ndarray:
    """Vectors of 384 numbers around 1,000 centres."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((1000, 384), "f4")
    return centres[rng.integers(0, 1000, rows)] + 0.6 * rng.standard_normal((rows, 384), "f4")


def test_the_defaults_at_their_threshold(maker: LakeMaker):
    dataset = write_vectors(maker, make_topics(20_000, 1))
    for more in (0, 200):
        if more:
            dataset = write_vectors(maker, make_topics(more, 2), mode="append", start=20_000)
        report = build_index(dataset, "words", "cosine")
        assert report.type == "ivf_rq"
        assert report.recall is not None and report.recall >= 0.99  # seldom below 0.999; its training is random
        table, queries = latentlake.connect(maker.uri).open("vectors"), make_topics(20, 3)
        for where in ("number >= 0", "number % 10 = 7", "number % 100 = 7"):
            assert recall_under(table, queries, where) >= 0.99


def test_odd_names_and_unknown_columns(maker: LakeMaker):
    dataset = write_vectors(maker, make_vectors(1200))
    with pytest.raises(NotFound, match=r"no vector column 'word'. Did you mean 'words'\?"):
        build_index(dataset, "word", "cosine")
    dataset.create_scalar_index("id", "BTREE")
    infos = {info.column: info for info in indexes.describe_indexes(lance.dataset(dataset.uri))}
    assert (infos["id"].type, infos["id"].metric, infos["id"].rows_indexed) == ("btree", None, 1200)
