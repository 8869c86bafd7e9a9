"""Modes, fusion, examples, diversity, grouping, paging and ranking again: against plain numpy and sorted lists."""

from __future__ import annotations

import itertools
import json
import math
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pytest
from command_line import latentlake_here
from doc_commands import commands
from hypothesis import given, settings
from hypothesis import strategies as st
from lake_maker import COLOURS, TEXTS, LakeMaker

import latentlake
from latentlake.query import QueryModels, encode_sound
from latentlake.searching.diversity import diversify
from latentlake.searching.fulltext import read_pieces
from latentlake.searching.fusion import Ranking, fuse_ranks, fuse_scores
from operators.batch import make_batch
from operators.chain import Chain
from operators.decode import find_decoder
from operators.embedders.hashing import Config
from operators.errors import ModelNotFound, NotFound, SpecError, UnknownName

DIM = 32
ROWS = 400


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> latentlake.Table:
    """400 rows of 80 objects, with the vector columns `v` (cosine), `w` (cosine), `flat` (l2) and `inner` (dot), and a text."""
    maker = LakeMaker(str(tmp_path_factory.mktemp("searching") / "lake"))
    rng = np.random.default_rng(0)
    words = ["fox", "bear", "wolf", "hare", "lynx", "elk", "owl", "crow", "pike", "carp"]
    vectors = rng.normal(size=(ROWS, DIM)) + 2 * rng.normal(size=(8, DIM))[rng.integers(0, 8, ROWS)]
    others = rng.normal(size=(ROWS, DIM))
    data = {
        "id": [f"doc{row // 5}#{row % 5}" for row in range(ROWS)],
        "object_id": [f"doc{row // 5}" for row in range(ROWS)],
        "chunk": pa.array([row % 5 for row in range(ROWS)], pa.int32()),
        "start": pa.array([row % 5 * 100 for row in range(ROWS)], pa.int64()),
        "text": [" ".join(rng.choice(words, 1 + row % 6)) for row in range(ROWS)],
        "title": [words[row % 10] for row in range(ROWS)],
        "even": [row % 2 == 0 for row in range(ROWS)],
    }
    columns = {}
    for name, values, metric in (
        ("v", vectors, "cosine"),
        ("w", others, "cosine"),
        ("flat", vectors, "l2"),
        ("inner", vectors, "dot"),
    ):
        field = maker.vector_field(name, Config(dim=DIM), Chain("text"), "float32", metric)
        columns[name] = (field, values.astype(np.float32))
    maker.write("many", data, columns)
    return latentlake.connect(maker.uri).open("many")


def vectors_of(table: latentlake.Table, column: str) -> np.ndarray:
    return np.stack(table.to_arrow([column])[column].to_numpy())


def ids_of(table: latentlake.Table) -> np.ndarray:
    return np.array(table.to_arrow(["id"])["id"].to_pylist())


def cosine_distances(vectors: np.ndarray, query: np.ndarray) -> np.ndarray:
    vectors, query = vectors.astype(np.float64), query.astype(np.float64)
    return 1 - vectors @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)


def found_ids(result: latentlake.SearchResult) -> list[str]:
    return [row["id"] for row in result]


@pytest.fixture
def query() -> np.ndarray:
    return np.random.default_rng(7).normal(size=DIM).astype(np.float32)


# Paging and ranges


@given(offset=st.integers(0, 60), k=st.integers(1, 40), pages=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_pages_put_together_are_one_large_page(many: latentlake.Table, offset: int, k: int, pages: int):
    query = np.random.default_rng(offset).normal(size=DIM)
    whole = many.search(query, column="v", k=offset + k * pages)
    cut = [many.search(query, column="v", k=k, offset=offset + page * k) for page in range(pages)]
    assert list(itertools.chain(*map(found_ids, cut))) == found_ids(whole)[offset:]


def test_pages_of_text_and_of_hybrid_search(many: latentlake.Table, query: np.ndarray):
    for options in (
        {"query": "fox bear", "mode": "text"},
        {"query": query, "text": "fox bear", "mode": "hybrid", "column": "v"},
    ):
        whole = found_ids(many.search(**options, k=90))
        assert len(set(whole)) == 90
        assert [id for at in range(0, 90, 30) for id in found_ids(many.search(**options, k=30, offset=at))] == whole


@pytest.mark.parametrize(("low", "high"), [(None, 0.9), (0.8, None), (0.8, 1.0), (0.0, 2.1), (1.9, 2.0)])
def test_a_range_of_distances(many: latentlake.Table, query: np.ndarray, low: float | None, high: float | None):
    distances = cosine_distances(vectors_of(many, "v"), query)
    order = np.argsort(distances, kind="stable")
    kept = [at for at in order if (low is None or distances[at] >= low) and (high is None or distances[at] < high)]
    found = many.search(query, column="v", k=30, distance_range=(low, high))
    assert found_ids(found) == ids_of(many)[kept[:30]].tolist()
    second = many.search(query, column="v", k=5, offset=5, distance_range=(low, high))
    assert found_ids(second) == ids_of(many)[kept[5:10]].tolist()


@pytest.mark.parametrize("limits", [(None, 0.9), (0.8, None), (0.8, 1.0)])
def test_groups_within_a_range_of_distances(
    many: latentlake.Table, query: np.ndarray, limits: tuple[float | None, float | None]
):
    distances = cosine_distances(vectors_of(many, "v"), query)
    kept = [at for at in np.argsort(distances) if (limits[0] or -1) <= distances[at] < (limits[1] or 3)]
    expected = list(dict.fromkeys(at // 5 for at in kept))[:12]
    found = many.search(query, column="v", k=12, distance_range=limits, group_by="object_id")
    assert [row["object_id"] for row in found] == [f"doc{number}" for number in expected]


def test_options_that_cannot_be(many: latentlake.Table, query: np.ndarray):
    refused: list[tuple[dict[str, Any], str]] = [
        ({"offset": -1}, "offset is -1"),
        ({"pool": 50}, "pool is 50"),
        ({"distance_range": (0.5, 0.5)}, "first must be less"),
        ({"mmr": 1.5}, "mmr is 1.5"),
        ({"mmr": 0.5, "k": 101}, "101 rows are asked for, of a pool of 100"),
        ({"mmr": 0.5, "distance_range": (0, 1)}, "goes with the order by distance alone"),
        ({"match": "all"}, "`match` cannot be used here"),
        ({"text": "a"}, "`text` cannot be used here: the words are the query"),
        ({"text_column": "text"}, "reads no words"),
        ({"fusion": "scores"}, "nothing to fuse"),
        ({"weights": {"v": 1}}, "nothing to fuse"),
        ({"column": ["v", "w"], "weights": {"x": 1.0}}, "no part 'x' has a weight"),
        ({"column": ["v", "w"], "weights": {"v": -1.0}}, "must be 0 or more"),
        ({"column": []}, "names no column"),
        ({"mode": "hybrid"}, "give them as `text=`"),
    ]
    for options, message in refused:
        with pytest.raises(SpecError, match=message):
            many.search(query, **{"column": "v", **options})
    for options in ({"exact": True}, {"column": "v"}, {"mmr": 0.5}, {"unlike": "a"}):
        with pytest.raises(SpecError, match="compares no vectors"):
            many.search("fox", mode="text", **options)
    with pytest.raises(SpecError, match="needs words"):
        many.search(mode="text")
    with pytest.raises(UnknownName, match="mode"):
        many.search("fox", mode="texts")  # type: ignore[arg-type]
    with pytest.raises(NotFound, match="no column 'object'"):
        many.search(query, column="v", group_by="object")


# Fusion

RANKED = st.lists(st.integers(0, 30), unique=True, max_size=20)


def ranking(part: str, rows: list[int], better: bool = False) -> Ranking:
    values = np.arange(len(rows), dtype=np.float32)
    return Ranking(part, np.array(rows, np.uint64), -values if better else values, better)


@given(lists=st.lists(RANKED, min_size=1, max_size=4), data=st.data())
def test_fused_ranks_do_not_depend_on_the_order_of_parts(lists: list[list[int]], data: st.DataObject):
    parts = [ranking(f"p{at}", rows) for at, rows in enumerate(lists)]
    weights = {part.part: data.draw(st.floats(0, 5)) for part in parts}
    shuffled = data.draw(st.permutations(parts))
    for fuse in (fuse_ranks, fuse_scores):
        one, other = fuse(parts, weights), fuse(shuffled, weights)
        assert one[0].tolist() == other[0].tolist()
        assert one[1].tolist() == other[1].tolist()


@given(lists=st.lists(RANKED, min_size=1, max_size=4))
def test_fused_ranks_equal_the_formula(lists: list[list[int]]):
    rows, scores = fuse_ranks([ranking(f"p{at}", rows) for at, rows in enumerate(lists)], {})
    expected = {
        row: sum(1 / (60 + found.index(row) + 1) for found in lists if row in found)
        for row in {r for f in lists for r in f}
    }
    assert dict(zip(rows.tolist(), scores.tolist(), strict=True)) == pytest.approx(expected)
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)


def test_fused_scores_equal_the_formula():
    near = Ranking("v", np.array([1, 2, 3], np.uint64), np.array([0.1, 0.2, 0.5], np.float32))
    words = Ranking("text", np.array([3, 4], np.uint64), np.array([9.0, 4.0], np.float32), higher_is_better=True)
    rows, scores = fuse_scores([near, words], {"v": 0.5, "text": 2.0})
    assert dict(zip(rows.tolist(), scores.tolist(), strict=True)) == pytest.approx(
        {3: 2.0, 1: 0.5, 2: 0.5 * 0.75, 4: 0.0}
    )


def test_hybrid_scores_do_not_change_with_k(many: latentlake.Table, query: np.ndarray):
    for fusion in ("rrf", "scores"):
        options: dict[str, Any] = {
            "column": "v",
            "mode": "hybrid",
            "text": "fox bear",
            "fusion": fusion,
            "columns": ["id"],
        }
        few, some = (many.search(query, k=k, **options).to_list() for k in (5, 80))
        assert few == some[:5]
        assert set(few[0]) == {"id", "_score", "_distance", "_bm25"}
        scores = [row["_score"] for row in some]
        assert scores == sorted(scores, reverse=True)


def test_hybrid_search_is_the_fusion_of_its_parts(many: latentlake.Table, query: np.ndarray):
    near = found_ids(many.search(query, column="v", k=100))
    words = found_ids(many.search("fox bear", mode="text", k=100))
    expected = {
        id: sum(weight / (61 + found.index(id)) for found, weight in ((near, 1.0), (words, 0.5)) if id in found)
        for id in {*near, *words}
    }
    found = many.search(query, column="v", mode="hybrid", text="fox bear", weights={"text": 0.5}, k=100)
    assert {row["id"]: row["_score"] for row in found} == pytest.approx(
        {row["id"]: expected[row["id"]] for row in found}
    )
    assert found[0]["_score"] == pytest.approx(max(expected.values()))
    for row in found:
        assert (row["_distance"] is None) == (row["id"] not in near)
        assert (row["_bm25"] is None) == (row["id"] not in words)


def test_several_columns_are_fused(many: latentlake.Table, query: np.ndarray):
    parts = {column: found_ids(many.search(query, column=column, k=100)) for column in ("v", "w")}
    expected = {
        id: sum(1 / (61 + found.index(id)) for found in parts.values() if id in found)
        for id in {*parts["v"], *parts["w"]}
    }
    found = many.search(query, column=["v", "w"], k=50)
    assert {row["id"]: row["_score"] for row in found} == pytest.approx(
        {row["id"]: expected[row["id"]] for row in found}
    )
    distances = dict(zip(ids_of(many), cosine_distances(vectors_of(many, "w"), query), strict=True))
    for row in found:
        assert row["_distance_w"] is None or row["_distance_w"] == pytest.approx(distances[row["id"]], abs=1e-5)
    assert "_distance_v" in found[0]
    assert "_distance" not in found[0]
    by_row = many.search(id="doc3#1", column=["v", "w"], k=20)
    assert "doc3#1" not in found_ids(by_row)


# Examples


def test_examples_are_a_mean_of_directions(many: latentlake.Table):
    vectors, ids = vectors_of(many, "v").astype(np.float64), ids_of(many)
    units = dict(zip(ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))
    asked = units["doc1#0"] + units["doc2#0"] - units["doc9#3"]
    order = ids[np.argsort(cosine_distances(vectors, asked), kind="stable")].tolist()
    expected = [id for id in order if id not in ("doc1#0", "doc2#0", "doc9#3")][:15]
    found = many.search(id=["doc1#0", "doc2#0"], unlike_id="doc9#3", column="v", k=15)
    assert found_ids(found) == expected
    by_vector = many.search(
        [vectors[5].astype(np.float32), 3 * vectors[10].astype(np.float32)], unlike=[vectors[48]], column="v", k=18
    )
    assert [id for id in found_ids(by_vector) if id not in ("doc1#0", "doc2#0", "doc9#3")][:15] == expected


def test_examples_that_mean_nothing(many: latentlake.Table):
    with pytest.raises(SpecError, match="cancel out"):
        many.search(id="doc1#0", unlike_id="doc1#0", column="v")
    with pytest.raises(SpecError, match="compared by l2"):
        many.search(id="doc1#0", unlike_id="doc2#0", column="flat")
    with pytest.raises(NotFound, match="no row 'doc999'"):
        many.search(id=["doc1#0", "doc999"], column="v")
    mean = (vectors_of(many, "flat")[0] + vectors_of(many, "flat")[7]) / 2
    best = many.search([vectors_of(many, "flat")[0], vectors_of(many, "flat")[7]], column="flat", k=1)[0]
    assert best["_distance"] == pytest.approx(((vectors_of(many, "flat") - mean) ** 2).sum(axis=1).min(), rel=1e-5)


def test_texts_and_rows_as_examples(shared_lake: str):
    notes = latentlake.connect(shared_lake).open("notes")
    both = notes.search([TEXTS[2], TEXTS[3]], k=5)
    assert set(found_ids(both)[:2]) == {"doc2", "doc3"}
    less = notes.search(TEXTS[4], unlike=TEXTS[3], k=5)
    assert found_ids(less)[-1] == "doc3"
    assert "without" in less._repr_html_()


def test_sound_in_memory_is_decoded_like_its_file():
    samples = np.random.default_rng(0).normal(size=8000).astype(np.float32)
    decoded = find_decoder("audio").decode(make_batch(["a"], [encode_sound((samples, 16_000))]))
    assert decoded["error"][0] is None
    assert decoded["audio"][0].rate == 16_000
    np.testing.assert_array_equal(decoded["audio"][0].samples, samples)
    with pytest.raises(SpecError, match="sound is"):
        encode_sound((np.ones((2, 2)), 16_000))


def test_sound_finds_sound(maker: LakeMaker):
    rng, rate = np.random.default_rng(0), 16_000
    sounds = [
        np.sin(np.arange(rate) * pitch).astype(np.float32) + 0.01 * rng.normal(size=rate).astype(np.float32)
        for pitch in (0.05, 0.2, 0.6, 1.1)
    ]
    chain, config = Chain("audio"), Config(dim=64)
    vectors = maker.embed(config, chain, [encode_sound((sound, rate)) for sound in sounds])
    field = maker.vector_field("heard", config, chain, "float32", "cosine")
    maker.write("sounds", {"id": ["a", "b", "c", "d"]}, {"heard": (field, vectors)})
    best = latentlake.connect(maker.uri).open("sounds").search((sounds[2], rate), k=1)[0]
    assert (best["id"], best["_distance"]) == ("c", pytest.approx(0, abs=1e-6))


# Diversity


@given(
    relevance=st.lists(st.floats(-1, 1), min_size=1, max_size=12),
    n=st.integers(1, 12),
    seed=st.integers(0, 100),
)
def test_a_balance_of_one_keeps_the_order(relevance: list[float], n: int, seed: int):
    likeness = np.random.default_rng(seed).uniform(-1, 1, (len(relevance), len(relevance)))
    ordered = np.sort(relevance)[::-1]
    assert diversify(ordered, likeness, 1.0, n).tolist() == list(range(min(n, len(relevance))))
    assert sorted(diversify(ordered, likeness, 0.3, len(relevance)).tolist()) == list(range(len(relevance)))


@pytest.mark.parametrize("column", ["v", "flat", "inner"])
def test_maximal_marginal_relevance(many: latentlake.Table, query: np.ndarray, column: str):
    assert found_ids(many.search(query, column=column, k=20, mmr=1.0)) == found_ids(
        many.search(query, column=column, k=20)
    )
    vectors = vectors_of(many, column).astype(np.float64)
    places = {id: at for at, id in enumerate(ids_of(many))}
    pool = [places[id] for id in found_ids(many.search(query, column=column, k=100))]

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        if column == "v":
            return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
        return -float(((a - b) ** 2).sum()) if column == "flat" else float(a @ b)

    chosen: list[int] = []
    while len(chosen) < 10:
        left = [at for at in pool if at not in chosen]
        gains = [
            0.4 * alike(query, vectors[at]) - 0.6 * max([alike(vectors[at], vectors[c]) for c in chosen], default=0.0)
            for at in left
        ]
        chosen.append(left[int(np.argmax(gains))])
    assert [places[id] for id in found_ids(many.search(query, column=column, k=10, mmr=0.4))] == chosen


def test_rows_without_a_vector_are_like_no_other(maker: LakeMaker):
    """Words find them, and there is nothing to compare."""
    maker.write_texts(no_vector=[4, 5])
    table = latentlake.connect(maker.uri).open("notes")
    found = table.search("compare two files", mode="hybrid", mmr=0.5, k=6)
    assert set(found_ids(found)) >= {"doc2", "doc3", "doc4"}
    assert {row["id"]: row["_distance"] for row in found}["doc4"] is None
    assert found[0]["id"] in ("doc2", "doc4")


# Grouping


@given(seed=st.integers(0, 1000), k=st.integers(1, 80), offset=st.integers(0, 20))
@settings(max_examples=20, deadline=None)
def test_groups_have_their_best_row_each(many: latentlake.Table, seed: int, k: int, offset: int):
    query = np.random.default_rng(seed).normal(size=DIM).astype(np.float32)
    distances = cosine_distances(vectors_of(many, "v"), query)
    best = sorted((distances[at : at + 5].min(), at + int(distances[at : at + 5].argmin())) for at in range(0, ROWS, 5))
    expected = ids_of(many)[[at for _, at in best]].tolist()[offset : offset + k]
    found = many.search(query, column="v", group_by="object_id", k=k, offset=offset)
    assert found_ids(found) == expected
    for row in found:  # with its span
        assert row["start"] == 100 * row["chunk"] == 100 * int(row["id"].partition("#")[2])


def test_groups_of_text_and_of_hybrid_search(many: latentlake.Table, query: np.ndarray):
    for options in ({"query": "fox", "mode": "text"}, {"query": query, "column": "v", "mode": "hybrid", "text": "fox"}):
        found = [row["object_id"] for row in many.search(**options, group_by="object_id", k=20)]
        assert len(found) == len(set(found)) == 20


# Words


def test_words_without_an_index(many: latentlake.Table):
    found = many.search("fox", mode="text", k=ROWS, columns=["text"])
    holds = [text for text in many.to_arrow(["text"])["text"].to_pylist() if "fox" in text.split()]
    assert sorted(row["text"] for row in found) == sorted(holds)
    assert found.to_arrow().column_names == ["text", "_score"]
    scores = [row["_score"] for row in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] > 0
    every = many.search("fox bear", mode="text", match="all", k=ROWS)
    assert every
    assert all({"fox", "bear"} <= set(row["text"].split()) for row in every)
    phrase = many.search("fox bear", mode="text", match="phrase", k=ROWS)
    assert phrase
    assert all("fox bear" in row["text"] for row in phrase)
    where = many.search("fox", mode="text", where="even", k=ROWS)
    assert where
    assert all(row["even"] for row in where)
    titles = many.search("fox", mode="text", text_column="title", k=ROWS)
    assert {row["title"] for row in titles} == {"fox"}
    assert len(titles) == ROWS / 10
    either = many.search("fox", mode="text", text_column=["title", "text"], k=ROWS)
    assert len(either) == sum(row["title"] == "fox" or "fox" in row["text"].split() for row in many)


def test_a_query_with_signs(many: latentlake.Table):
    found = many.search('+fox -bear "owl crow" elk', mode="text", match="query", k=ROWS)
    assert found
    assert all("fox" in row["text"].split() and "bear" not in row["text"].split() for row in found)
    assert read_pieces('+fox -"a bear" half-open word~ other~2') == [
        ("+", None, "fox", 0),
        ("-", "a bear", "", 0),
        ("", None, "half-open", 0),
        ("", None, "word", 1),
        ("", None, "other", 2),
    ]
    for words, message in (
        ("-fox", "only what is not wanted"),
        ('"fox', "quote not closed"),
        ('"a b"~1', "may end in ~1"),
    ):
        with pytest.raises(SpecError, match=message):
            many.search(words, mode="text", match="query")


def test_words_that_cannot_be(many: latentlake.Table):
    for words, message in (("", "no words"), (" \n", "no words"), ("\ud800", "not Unicode"), (5, "words are a str")):
        with pytest.raises(SpecError, match=message):
            many.search(words, mode="text")
    with pytest.raises(SpecError, match=r"no full-text index.*\n.*declare `text_index: \[\{column: text\}\]`"):
        many.search("fox", mode="text", fuzzy=1)
    with pytest.raises(SpecError, match="no full-text index"):
        many.search("fox~1", mode="text", match="query")
    with pytest.raises(NotFound, match="no column 'txt'"):
        many.search("fox", mode="text", text_column="txt")
    with pytest.raises(SpecError, match="'chunk' holds int32, not texts"):
        many.search("fox", mode="text", text_column="chunk")


def test_a_full_text_index_finds_other_forms_phrases_and_near_words(maker: LakeMaker, caplog: pytest.LogCaptureFixture):
    dataset = maker.write_texts(
        texts=["the quick brown fox jumps", "a quick fox", "brown bears running", "foxes and bears"]
    )
    dataset.create_scalar_index("text", "INVERTED", name="text_idx")
    table = latentlake.connect(maker.uri).open("notes")
    assert set(found_ids(table.search("runs", mode="text"))) == {"doc2"}  # stemmed
    assert set(found_ids(table.search("quikc", mode="text", fuzzy=2))) == {"doc0", "doc1"}
    assert not len(table.search("quikc", mode="text"))
    with pytest.raises(SpecError, match=r"does not know where words stand.*\n.*phrase: true"):
        table.search("quick fox", mode="text", match="phrase")
    dataset.create_scalar_index("text", "INVERTED", name="text_idx", with_position=True, replace=True)
    lance.write_dataset(dataset.to_table(filter="id = 'doc1'"), dataset.uri, mode="append")
    table = latentlake.connect(maker.uri).open("notes")
    assert found_ids(table.search("quick fox", mode="text", match="phrase")) == [
        "doc1",
        "doc1",
    ]  # rows without an index too
    assert found_ids(table.search("fox", mode="text", k=9)).count("doc1") == 2
    assert not caplog.messages
    assert found_ids(table.search("quikc", mode="text", fuzzy=2, k=9)).count("doc1") == 1
    assert caplog.messages == ["fuzzy words are not looked for in 1 rows that the index of 'text' lacks"]
    native = lance.query.BooleanQuery([(lance.query.Occur.MUST, lance.query.MatchQuery("bears", "text"))])
    assert set(found_ids(table.search(native, mode="text"))) == {"doc2", "doc3"}


# Ranking again


class Longest:
    """A reranker that likes long texts."""

    def predict(self, pairs: list[tuple[str, str]]) -> np.ndarray:
        assert {words for words, _ in pairs} == {"fox"}
        return np.array([len(text) for _, text in pairs], dtype=np.float32)


def test_hits_are_ranked_again(many: latentlake.Table, query: np.ndarray):
    found = many.search("fox", mode="text", rerank=Longest(), k=10)
    pool = many.search("fox", mode="text", k=100)
    assert [row["_score"] for row in found] == sorted((len(row["text"]) for row in pool), reverse=True)[:10]
    bm25 = {row["id"]: row["_score"] for row in pool}
    assert {row["id"]: row["_bm25"] for row in found} == {row["id"]: bm25[row["id"]] for row in found}
    near = many.search(query, text="fox", column="v", rerank=Longest(), k=3)
    assert set(near[0]) >= {"_score", "_distance"}
    owls = many.search(lance.query.MatchQuery("owl", "text"), mode="text", text="fox", rerank=Longest(), k=5)
    assert all("owl" in row["text"].split() for row in owls)  # the query is searched for, its words are ranked by
    with pytest.raises(SpecError, match="words are a str"):
        many.search(query, column="v", rerank=Longest())
    two = SimpleNamespace(predict=lambda pairs: np.ones((len(pairs), 2)))
    with pytest.raises(SpecError, match="one score per text"):
        many.search("fox", mode="text", rerank=two)


def test_a_cross_encoder_is_loaded_once(many: latentlake.Table, tmp_path: Path):
    cross_encoder = pytest.importorskip("sentence_transformers").CrossEncoder
    folder = write_cross_encoder(tmp_path / "cross")
    found = many.search("fox bear", mode="text", rerank=folder, k=100)
    expected = cross_encoder(str(folder)).predict([("fox bear", row["text"]) for row in found])
    assert [row["_score"] for row in found] == pytest.approx(expected.tolist(), abs=1e-5)
    assert found[0]["_score"] > found[-1]["_score"]
    models = QueryModels({})
    assert models.reranker(folder) is models.reranker(str(folder))
    with pytest.raises(ModelNotFound, match="reranker '/gone/model' cannot be loaded"):
        many.search("fox", mode="text", rerank="/gone/model")


def write_cross_encoder(folder: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "fox", "bear", "wolf", "hare"]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=len(words), max_position_embeddings=32, num_labels=1, initializer_range=1.0, **sizes)
    BertForSequenceClassification(config).save_pretrained(folder)
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    return folder


# Many queries


@pytest.mark.parametrize("column", ["v", "flat", "inner"])
@pytest.mark.parametrize("where", [None, "even"])
def test_many_searches_find_what_single_ones_do(many: latentlake.Table, column: str, where: str | None):
    queries = np.random.default_rng(3).normal(size=(30, DIM)).astype(np.float32)
    together = many.search_many(queries, column=column, k=7, where=where, columns=["id", "text"])
    assert len(together) == 30
    for query, found in zip(queries, together, strict=True):
        alone = many.search(query, column=column, k=7, where=where, columns=["id", "text"])
        assert found_ids(found) == found_ids(alone)
        assert found.to_arrow().schema == alone.to_arrow().schema
        assert [row["_distance"] for row in found] == pytest.approx([row["_distance"] for row in alone], abs=1e-5)


def test_many_searches_in_other_modes(many: latentlake.Table):
    texts = ["fox bear", "owl", "a pike and a carp"]
    for options in ({"mode": "text"}, {"mode": "hybrid", "column": "v"}, {"column": ["v", "w"], "fusion": "scores"}):
        for text, found in zip(texts, many.search_many(texts, k=12, **options), strict=True):  # type: ignore[arg-type]
            alone = many.search(text, k=12, **options)  # type: ignore[arg-type]
            assert found_ids(found) == found_ids(alone)
            assert found.to_arrow().schema == alone.to_arrow().schema
    assert many.search_many([], column="v") == []
    with pytest.raises(SpecError, match="query 1 does not pass"):
        many.search_many(["fox", ""], column="v")


def test_colours_are_searched_together(shared_lake: str, tmp_path: Path):
    from PIL import Image

    pictures = latentlake.connect(shared_lake).open("pictures")
    queries = [Image.new("RGB", (50, 50), value) for value in COLOURS.values()]
    found = pictures.search_many(queries, column="small", k=1)
    assert [result[0]["id"] for result in found] == [f"{name}.png" for name in COLOURS]


# Indexes


@pytest.fixture(scope="module", params=["IVF_RQ", "IVF_PQ", "IVF_SQ", "IVF_HNSW_SQ", "IVF_FLAT"])
def indexed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> latentlake.Table:
    """3,000 rows with an index, and 300 that it lacks."""
    maker = LakeMaker(str(tmp_path_factory.mktemp("indexed") / "lake"))
    rng = np.random.default_rng(1)
    centres = 3 * rng.normal(size=(20, DIM))
    vectors = (centres[rng.integers(0, 20, 3300)] + rng.normal(size=(3300, DIM))).astype(np.float32)
    field = maker.vector_field("v", Config(dim=DIM), Chain("text"), "float32", "cosine")
    ids = [f"r{row}" for row in range(3300)]
    dataset = maker.write("big", {"id": ids[:3000], "text": ids[:3000]}, {"v": (field, vectors[:3000])})
    options = {"IVF_RQ": {"num_bits": 1}, "IVF_PQ": {"num_sub_vectors": 4}}.get(request.param, {})
    dataset.create_index("v", request.param, metric="cosine", name="v_idx", **options)
    maker.write("big", {"id": ids[3000:], "text": ids[3000:]}, {"v": (field, vectors[3000:])}, "append")
    return latentlake.connect(maker.uri).open("big")


def test_a_range_of_distances_through_an_index(indexed: latentlake.Table):
    """Lance compares a range with the distances of a quantised index: of RQ twice the true one, so that nothing came back."""
    vectors = vectors_of(indexed, "v")
    query = vectors[17] + 0.1
    distances = np.sort(cosine_distances(vectors, query))
    found = indexed.search(query, k=20, distance_range=(None, float(distances[10]) + 1e-6))
    assert len(found) >= 10
    assert all(row["_distance"] <= distances[10] + 1e-5 for row in found)
    ring = indexed.search(query, k=5, distance_range=(float(distances[10]), 2.1))
    assert [row["_distance"] for row in ring] == pytest.approx(distances[10:15].tolist(), abs=1e-5)


def test_distances_are_true_distances(indexed: latentlake.Table):
    """Those of an index that are not refined are not: RQ's are twice the true ones."""
    vectors, ids = vectors_of(indexed, "v"), ids_of(indexed)
    queries = vectors[[3, 700, 2999, 3100]] + 0.1
    for query, found in zip(queries, indexed.search_many(queries, k=10), strict=True):
        distances = dict(zip(ids, cosine_distances(vectors, query), strict=True))
        for result in (found, indexed.search(query, k=10)):
            assert [row["_distance"] for row in result] == pytest.approx(
                [distances[row["id"]] for row in result], abs=1e-5
            )


def test_many_searches_through_an_index_miss_no_more_than_single_ones(indexed: latentlake.Table):
    rng = np.random.default_rng(5)
    vectors = vectors_of(indexed, "v")
    queries = (vectors[rng.integers(0, 3300, 60)] + 0.5 * rng.normal(size=(60, DIM))).astype(np.float32)
    ids, hits = ids_of(indexed), {"alone": 0, "together": 0}
    tail = 0
    for query, together in zip(queries, indexed.search_many(queries, k=10), strict=True):
        best = set(ids[np.argsort(cosine_distances(vectors, query))[:10]])
        hits["together"] += len(best & set(found_ids(together)))
        hits["alone"] += len(best & set(found_ids(indexed.search(query, k=10))))
        tail += sum(int(id[1:]) >= 3000 for id in found_ids(together))
    assert hits["together"] >= hits["alone"] - 3
    assert hits["together"] > 540
    assert tail > 20  # rows that the index lacks are found: a tenth of all


def test_scores_are_never_nan(many: latentlake.Table, query: np.ndarray):
    found = many.search(query, column="v", mode="hybrid", text="fox", fusion="scores", k=100)
    assert all(math.isfinite(row["_score"]) for row in found)


# The first search, and the command line


def test_warming_up_loads_models_and_indexes(indexed: latentlake.Table, monkeypatch: pytest.MonkeyPatch):
    loads = []
    load = Config.load
    monkeypatch.setattr(Config, "load", lambda self, device, _: loads.append(device) or load(self, device))
    place = indexed.uri.rpartition("/")[0]
    table = latentlake.connect(place).open("big")
    session = table._dataset.session()
    before = session.index_cache_size_bytes()
    table.warm_up()
    assert session.index_cache_size_bytes() > before
    assert loads == ["auto"]
    table.search("a text")
    table.search_many(["a text", "another"])
    assert loads == ["auto"]
    with pytest.raises(NotFound, match="no vector column 'w'"):
        table.warm_up("w")


def test_the_commands_of_the_page(maker: LakeMaker, tmp_path: Path):
    texts = ["the boundary layer of a wing", "boundary layer and heat transfer", "a hot layer: heat transfer", "a book"]
    maker.write_texts("texts", texts)
    first, second = (shlex.split(line)[1:] for line in commands("docs/search.md", "Options"))
    hybrid = latentlake_here(*first, cwd=tmp_path)
    assert hybrid.returncode == 0, hybrid.stderr
    lines = hybrid.stdout.splitlines()
    assert lines[0].split() == ["score", "distance", "id", "snippet"]
    assert {line.split()[2] for line in lines[1:3]} == {"doc0", "doc1"}
    paged = latentlake_here(*second, cwd=tmp_path)
    assert (paged.returncode, paged.stdout) == (0, "no hits\n")  # the second page of two hits
    here = latentlake_here(*second[: second.index("--offset")], "--json", cwd=tmp_path)
    assert {hit["id"] for hit in json.loads(here.stdout)} == {"doc1", "doc2"}
    several = latentlake_here("search", "lake", "texts", "--id", "doc1", "--id", "doc2", "--mmr", "0.5", cwd=tmp_path)
    assert several.stdout.splitlines()[0].split() == ["distance", "id", "snippet"]
    assert {line.split()[1] for line in several.stdout.splitlines()[1:]} == {"doc0", "doc3"}
    wrong = latentlake_here("search", "lake", "texts", "--mode", "text", "wing", "--column", "words", cwd=tmp_path)
    assert (wrong.returncode, "compares no vectors" in wrong.stderr) == (2, True)
