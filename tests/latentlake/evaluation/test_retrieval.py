"""Retrieval, against pytrec_eval on rankings that numpy makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import pytrec_eval
from lake_maker import TEXTS, LakeMaker
from sklearn.feature_extraction.text import HashingVectorizer

import latentlake
from latentlake.evaluation import canonical_measure, compare
from latentlake.evaluation.judgements import read_beir, read_judgements, read_queries
from latentlake.evaluation.measures import measure_queries, parse_measures
from operators.errors import NotFound, SpecError

TREC = {"nDCG@10": "ndcg_cut_10", "AP": "map", "RR": "recip_rank", "R@100": "recall_100", "P@10": "P_10"}


@pytest.fixture(scope="session")
def cranfield(data: Path, tmp_path_factory: pytest.TempPathFactory) -> latentlake.Table:
    """The abstracts of Cranfield with hashed words; `object_id` is the number of the abstract."""
    rows = pq.read_table(data / "cranfield" / "corpus.parquet").to_pylist()
    rows = [row for row in rows if row["text"].strip()]
    maker = LakeMaker(str(tmp_path_factory.mktemp("cranfield")))
    maker.write_texts("abstracts", [row["text"] for row in rows], objects=[row["id"] for row in rows])
    return latentlake.connect(maker.uri).open("abstracts")


def ranked(texts: list[str], queries: list[str], names: list[str]) -> list[list[str]]:
    """Documents by the cosine of hashed words, nearest first, of equally near ones the first first."""
    vectorizer = HashingVectorizer(n_features=256, norm="l2", alternate_sign=False, token_pattern=r"(?u)\w+")
    products = (vectorizer.transform(queries) @ vectorizer.transform(texts).T).toarray()
    return [[names[place] for place in np.argsort(-row, kind="stable")] for row in products]


def test_cranfield_equals_pytrec_eval_on_numpy_rankings(cranfield: latentlake.Table, data: Path):
    folder = data / "cranfield"
    task = {
        "kind": "retrieval",
        "queries": folder / "queries.parquet",
        "qrels": folder / "qrels.parquet",
        "depth": 1400,
    }
    found = cranfield.evaluate({"tasks": [{**task, "measures": list(TREC)}]})
    documents = cranfield.to_arrow(["object_id", "text"]).to_pydict()
    queries = pq.read_table(folder / "queries.parquet").to_pydict()
    orders = ranked(documents["text"], queries["text"], documents["object_id"])
    run = {
        query: {name: float(len(order) - rank) for rank, name in enumerate(order)}
        for query, order in zip(queries["query_id"], orders, strict=True)
    }
    qrels: dict[str, dict[str, int]] = {}
    for row in pq.read_table(folder / "qrels.parquet").to_pylist():
        qrels.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    expected = pytrec_eval.RelevanceEvaluator(qrels, set(TREC.values())).evaluate(run)
    assert len(found.results) == len(TREC)
    for result in found.results:
        own = {query: values[TREC[result.measure]] for query, values in expected.items()}
        assert result.value == pytest.approx(np.mean(list(own.values())), abs=1e-6)
        assert result.low < result.value < result.high and result.n == 225
        values = found.values(result).to_pydict()
        # Hashed words tie, and Lance and numpy round ties apart; the mean does not see it.
        assert dict(zip(values["id"], values["value"], strict=True)) == pytest.approx(own, abs=1e-4)


def test_two_systems_are_compared_query_by_query(cranfield: latentlake.Table, data: Path):
    folder = data / "cranfield"
    task = {"kind": "retrieval", "queries": folder / "queries.parquet", "qrels": folder / "qrels.parquet"}
    one = cranfield.evaluate({"tasks": [{**task, "measures": ["nDCG@10"]}]})
    same = compare(one, one)[0]
    assert (same.value, same.low, same.high, same.n) == (0, 0, 0, 225)
    key = one.results[0].key
    worse = dict(one.samples)
    worse[key] = type(worse[key])("mean", worse[key].ids, worse[key].data - 0.01)
    other = type(one)(**{**vars(one), "samples": worse})
    found = compare(one, other)[0]
    # Every query loses the same: the difference is sure although each figure is not.
    assert (found.value, found.low, found.high) == pytest.approx((-0.01, -0.01, -0.01))


def test_modes_stand_side_by_side_with_the_index_and_without(data: Path, tmp_path: Path):
    """Each mode has the values of what `Table.search` finds."""
    rows = pq.read_table(data / "cranfield" / "corpus.parquet").to_pylist()[:300]
    maker = LakeMaker(str(tmp_path / "lake"))
    dataset = maker.write_texts("t", [row["text"] for row in rows], objects=[row["id"] for row in rows])
    dataset.create_index("words", index_type="IVF_FLAT", metric="cosine", num_partitions=2)
    dataset.create_scalar_index("text", "INVERTED", with_position=True)
    table = latentlake.connect(maker.uri).open("t")
    folder = data / "cranfield"
    asked = pq.read_table(folder / "queries.parquet").slice(0, 40)
    judged = pq.read_table(folder / "qrels.parquet")
    pq.write_table(asked, tmp_path / "queries.parquet")
    pq.write_table(judged.filter(pc.is_in(judged["query_id"], asked["query_id"])), tmp_path / "qrels.parquet")
    task = {"kind": "retrieval", "queries": tmp_path / "queries.parquet", "qrels": tmp_path / "qrels.parquet"}
    found = table.evaluate({"tasks": [{**task, "measures": ["nDCG@10", "R@100"]}]}, resamples=20, record=False)
    modes = ["vector", "vector exact", "text", "hybrid", "hybrid exact"]
    assert [(r.mode, r.measure) for r in found.results] == [(m, n) for m in modes for n in ("nDCG@10", "R@100")]
    assert {r.mode: r.column for r in found.results} == {**dict.fromkeys(modes, "words"), "text": "text"}
    queries, qrels = asked.to_pydict(), read_judgements(tmp_path / "qrels.parquet")
    for mode in ("vector", "text", "hybrid"):
        column = {} if mode == "text" else {"column": "words"}
        run = {}
        for query, text in zip(queries["query_id"], queries["text"], strict=True):
            hits = table.search(text, k=10, mode=mode, **column)
            run[query] = {hit["object_id"]: -float(rank) for rank, hit in enumerate(hits)}
        own = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut_10"}).evaluate(run)
        expected = np.mean([own[query]["ndcg_cut_10"] if query in own else 0 for query in qrels])
        assert found.find("nDCG@10", mode=mode).value == pytest.approx(expected, abs=2e-3)  # ties of hashed words


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "queries.tsv").write_text("q1\topen the file\nq2\tcompare strings\n")
    (tmp_path / "qrels.txt").write_text("q1 0 doc3 1\nq2 0 doc2 2\nq2 0 doc4 1\nq3 0 doc1 1\n")
    return tmp_path


def suite_of(folder: Path, **settings: object) -> dict:
    return {
        "tasks": [{"kind": "retrieval", "queries": folder / "queries.tsv", "qrels": folder / "qrels.txt", **settings}]
    }


def test_chunks_count_as_their_document_where_the_nearest_stands(maker: LakeMaker, files: Path):
    objects = ["doc3", "doc3", "doc2", "doc3", "doc4", "doc5"]
    maker.write_texts(objects=objects, texts=["open file", "read it", "compare strings", "open the file", *TEXTS[4:]])
    table = latentlake.connect(maker.uri).open("notes")
    found = table.evaluate(suite_of(files, measures=["P@2", "RR", "R@3"]))
    # q1: doc3's three chunks stand first and count once; q2: doc2 first, then doc4.
    values = {result.measure: found.values(result).to_pydict() for result in found.results}
    assert values["RR"] == {"id": ["q1", "q2"], "value": [1.0, 1.0]}
    assert values["P@2"]["value"] == [0.5, 1.0] and values["R@3"]["value"] == [1.0, 1.0]


def test_judged_documents_that_are_missing_are_told(maker: LakeMaker, files: Path):
    maker.write_texts(texts=TEXTS[:4])
    table = latentlake.connect(maker.uri).open("notes")
    assert table.evaluate(suite_of(files)).notes == (
        "task 'retrieval': 1 of 3 relevant documents are not in the table",
    )
    maker.write_texts("others", objects=["a", "b", "c", "d", "e", "f"])
    with pytest.raises(SpecError, match=r"none of the 3 relevant documents is in column 'object_id'"):
        latentlake.connect(maker.uri).open("others").evaluate(suite_of(files))
    with pytest.raises(NotFound, match=r"no column 'docno' of document names[\s\S]*`documents`"):
        table.evaluate(suite_of(files, documents="docno"))
    with pytest.raises(SpecError, match="column 'length' of table 'notes' holds int64"):
        table.evaluate(suite_of(files, documents="length"))


def test_pictures_are_not_searched_with_texts_of_words(shared_lake: str, files: Path):
    with pytest.raises(SpecError, match="needs a vector column that is searched with text"):
        latentlake.connect(shared_lake).open("pictures").evaluate(suite_of(files))
    notes = latentlake.connect(shared_lake).open("notes")
    with pytest.raises(SpecError, match="no task of suite 'suite' fits"):
        notes.evaluate(suite_of(files), columns=[])


def test_beir_folders_and_trec_topics(tmp_path: Path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "a wing"}\n{"_id": "2", "text": "a jet"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\td1\t2\n1\td2\t0\n")
    assert read_beir(tmp_path, "test") == ({"1": "a wing", "2": "a jet"}, {"1": {"d1": 2, "d2": 0}})
    with pytest.raises(SpecError, match=r"no BEIR folder with the split 'dev'[\s\S]*Splits: test"):
        read_beir(tmp_path, "dev")
    topics = tmp_path / "topics.401-450"
    topics.write_text(
        "<top>\n\n<num> Number: 401\n<title> foreign minorities, Germany\n\n<desc> Description:\nWhat language\n"
        "differences?\n\n<narr> Narrative:\nA relevant one.\n</top>\n<top>\n<num> Number: 402 </num>\n"
        "<title> behavioral genetics </title>\n<desc> Description:\nWhat?\n</top>\n"
    )
    assert read_queries(topics) == {"401": "foreign minorities, Germany", "402": "behavioral genetics"}
    assert read_queries(topics, "desc")["401"] == "What language differences?"
    with pytest.raises(SpecError, match=r"no <narr>[\s\S]*`topic_field`"):
        read_queries(topics, "narr")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.tsv", "only words", "not an id, a tab and a text"),
        ("q.jsonl", '{"_id": "1"}\n', "no column of query texts"),
        ("q.jsonl", "[1]", "expected JSON objects"),
        ("q.csv", "id,text\n1,a\n1,b\n", "1 query ids appear more than once"),
        ("q.csv", "id,text\n", "holds no query"),
    ],
)
def test_bad_queries(tmp_path: Path, name: str, content: str, message: str):
    (tmp_path / name).write_text(content)
    with pytest.raises(SpecError, match=message):
        read_queries(tmp_path / name)


def test_bad_judgements(tmp_path: Path):
    path = tmp_path / "qrels.txt"
    for content, message in (
        ("1 0 d1\n", "is not query, iteration, document and grade"),
        ("1 0 d1 good\n", "'good' is not a grade"),
        ("", "holds no judgement"),
    ):
        path.write_text(content)
        with pytest.raises(SpecError, match=message):
            read_judgements(path)


def test_names_of_measures():
    names = {
        "ndcg@10": "nDCG@10",
        "MAP": "AP",
        "mrr@5": "RR@5",
        "recall@100": "R@100",
        "Precision@1": "P@1",
        "R@3": "R@3",
    }
    for given, expected in names.items():
        assert canonical_measure(given) == expected
        assert list(parse_measures([given])) == [expected]
    for wrong in ("dcgn@10", "nDCG@ten", ""):
        with pytest.raises(SpecError, match=f"no measure '{wrong}'"):
            parse_measures([wrong])


def test_a_query_without_hits_has_nothing():
    found = measure_queries(parse_measures(["AP", "RR@10"]), {"a": {"d": 1}, "b": {"d": 1}}, {"a": ["x", "d"], "b": []})
    assert found == {"AP": {"a": 0.5, "b": 0.0}, "RR@10": {"a": 0.5, "b": 0.0}}
