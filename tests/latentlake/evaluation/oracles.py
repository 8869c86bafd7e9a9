"""An evaluation with all-MiniLM-L6-v2 beside what sentence-transformers, numpy, scipy and pytrec_eval compute without us.

Each function gives (measure, ours, expected).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from lake_maker import LakeMaker
from scipy.stats import spearmanr

import latentlake
from latentlake.evaluation.judgements import read_judgements, read_queries
from operators.chain import Chain
from operators.embedders.sentence_transformers import Config

Values = list[tuple[str, float, float]]
ROUNDING = 5.1e-6  # MTEB rounds its scores to five digits
TREC = {"nDCG@10": "ndcg_cut_10", "AP": "map", "R@100": "recall_100"}


def embed_cranfield(lake: str, data: Path, model: str, most: int | None = None) -> latentlake.Table:
    """The abstracts of Cranfield, or `most` of them, with the model's vectors; `object_id` is the number of the abstract."""
    rows = [r for r in pq.read_table(data / "cranfield" / "corpus.parquet").to_pylist() if r["text"].strip()][:most]
    config = Config(model=model).resolve()
    texts, objects = [row["text"] for row in rows], [row["id"] for row in rows]
    LakeMaker(lake).write_texts("abstracts", texts, config=config, chain=Chain("text"), objects=objects)
    return latentlake.connect(lake).open("abstracts")


def encode(table: latentlake.Table, model: str, texts: list[str], role: Any = "document") -> np.ndarray:
    """Vectors as the evaluation has them; a sample of them is compared with sentence-transformers' own.

    All by both would not do: their last bits differ, which lets ranks swap, and with them the fifth digit of a correlation.
    """
    from sentence_transformers import SentenceTransformer

    found = table.embed(texts, "words", role=role)
    chosen = np.random.default_rng(0).permutation(len(texts))[:20]
    own = SentenceTransformer(model, device="cpu").encode([texts[n] for n in chosen], normalize_embeddings=True)
    np.testing.assert_allclose(found[chosen], own, atol=1e-5)
    return found.astype(np.float64)


def run(table: latentlake.Table, **task: Any) -> dict[str, float]:
    """Values of a task, by measure."""
    found = table.evaluate({"tasks": [task]}, resamples=20, record=False)
    return {result.measure: result.value for result in found.results}


def cranfield(table: latentlake.Table, data: Path, model: str) -> Values:
    """Retrieval, against pytrec_eval on a numpy ranking of the stored vectors."""
    import pytrec_eval

    folder = data / "cranfield"
    files = {name: folder / f"{name}.parquet" for name in ("queries", "qrels")}
    ours = run(table, kind="retrieval", **files, measures=list(TREC), depth=1400)
    stored = table.to_arrow(["object_id", "words"])
    documents = np.stack(stored["words"].to_numpy())
    names = stored["object_id"].to_pylist()
    queries = pq.read_table(files["queries"]).to_pydict()
    products = encode(table, model, queries["text"], "query") @ documents.T
    ranked = {
        query: {names[place]: -float(rank) for rank, place in enumerate(np.argsort(-row, kind="stable"))}
        for query, row in zip(queries["query_id"], products, strict=True)
    }
    qrels: dict[str, dict[str, int]] = {}
    for row in pq.read_table(files["qrels"]).to_pylist():
        qrels.setdefault(row["query_id"], {})[row["doc_id"]] = row["relevance"]
    own = pytrec_eval.RelevanceEvaluator(qrels, set(TREC.values())).evaluate(ranked)
    return [
        (name, ours[name], float(np.mean([values[trec] for values in own.values()]))) for name, trec in TREC.items()
    ]


def stsb(table: latentlake.Table, data: Path, model: str) -> Values:
    """STS-B, against scipy on their cosines."""
    path = data / "stsb" / "dev.parquet"
    rows = pq.read_table(path).to_pydict()
    cosines = np.einsum("nd,nd->n", encode(table, model, rows["sentence1"]), encode(table, model, rows["sentence2"]))
    return [("Spearman", run(table, kind="sts", pairs=path)["Spearman"], float(spearmanr(cosines, rows["score"])[0]))]


def wordsim(table: latentlake.Table, data: Path, model: str) -> Values:
    """WordSim-353, against scipy on their cosines."""
    path = data / "words" / "wordsim353.tsv"
    rows = [line.split("\t") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    first, second = (encode(table, model, [row[side] for row in rows]) for side in (0, 1))
    cosines = np.einsum("nd,nd->n", first, second)
    expected = float(spearmanr(cosines, [float(row[2]) for row in rows])[0])
    return [("Spearman", run(table, kind="word_similarity", pairs=path)["Spearman"], expected)]


def analogies(table: latentlake.Table, data: Path, model: str) -> Values:
    """questions-words, against 3CosAdd written out for each question in float64."""
    path = data / "words" / "questions-words.txt"
    questions = [line.split() for line in path.read_text().splitlines() if line and not line.startswith(":")]
    words = sorted({word for question in questions for word in question})
    vectors = dict(zip(words, encode(table, model, words), strict=True))
    matrix = np.stack([vectors[word] for word in words])
    right = 0
    for a, b, c, d in questions:
        scores = matrix @ (vectors[b] - vectors[a] + vectors[c])
        best = next(words[n] for n in np.argsort(-scores) if words[n] not in (a, b, c))
        right += best == d
    return [("accuracy", run(table, kind="analogies", questions=path)["accuracy"], right / len(questions))]


def mteb(table: latentlake.Table, data: Path, model: str) -> Values:
    """nDCG@10 of MTEB with our embedder, against ours."""
    import mteb as library

    from latentlake.evaluation.mteb_models import as_mteb_model, local_retrieval

    folder = data / "cranfield"
    files = {name: folder / f"{name}.parquet" for name in ("queries", "qrels")}
    texts = table.to_arrow(["object_id", "text"]).to_pydict()
    corpus = dict(zip(texts["object_id"], texts["text"], strict=True))
    task = local_retrieval("Cranfield", corpus, read_queries(files["queries"]), read_judgements(files["qrels"]))
    embedder = as_mteb_model(latentlake.create_text_embedder("sentence-transformers", model, device="cpu"))
    told = library.evaluate(embedder, task, cache=None, show_progress_bar=False).task_results[0].scores["test"][0]
    ours = run(table, kind="retrieval", **files, measures=["nDCG@10"])
    return [("nDCG@10", ours["nDCG@10"], told["ndcg_at_10"])]
