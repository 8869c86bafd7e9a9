"""From how many rows on does an ANN index pay? Exact search beside the index that `type: auto` builds, by table size.

Vectors: clustered, 384-d, cosine (clusters stand for topics; noise keeps neighbours apart). For each size: latency of
one query, exact and indexed (median of `--queries`), recall@10 of the index against exact search on held-out queries of
the same clusters, and the seconds that building takes. Prints a table and JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

from latentlake.indexes import choose_index, nearest


def make_vectors(rows: int, dimension: int, seed: int) -> np.ndarray:
    """Clustered unit vectors, float32 (rows, dimension): one centre for about 200 rows."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((max(1, 200_000 // 200), dimension))
    vectors = centres[rng.integers(0, len(centres), rows)] + 0.6 * rng.standard_normal((rows, dimension))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def time_queries(table: lance.LanceDataset, queries: np.ndarray, exact: bool) -> tuple[float, list[set[int]]]:
    """Median milliseconds of a query, and the row ids that each one found."""
    times, found = [], []
    for query in queries:
        began = time.perf_counter()
        hits = table.to_table(nearest=nearest("v", query, 10, "cosine", exact=exact), columns=["id", "_distance"])
        times.append((time.perf_counter() - began) * 1000)
        found.append(set(hits["id"].to_pylist()))
    return statistics.median(times), found


def measure(rows: int, queries: int, dimension: int = 384) -> dict[str, float]:
    """Figures for one table size."""
    with tempfile.TemporaryDirectory() as folder:
        vectors = pa.FixedSizeListArray.from_arrays(pa.array(make_vectors(rows, dimension, 1).reshape(-1)), dimension)
        table = lance.write_dataset(pa.table({"id": np.arange(rows), "v": vectors}), f"{folder}/t.lance")
        asked = make_vectors(queries, dimension, 2)
        exact_ms, truth = time_queries(table, asked, exact=True)
        choice = choose_index(max(rows, 10**6), dimension, "cosine", "auto") or {}
        began = time.perf_counter()
        table.create_index("v", **choice)
        build_s = time.perf_counter() - began
        index_ms, found = time_queries(table, asked, exact=False)
    recall = sum(len(a & b) for a, b in zip(truth, found, strict=True)) / (10 * queries)
    return {"rows": rows, "exact_ms": exact_ms, "index_ms": index_ms, "recall": recall, "build_s": build_s}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000])
    parser.add_argument("--queries", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    print(f"pylance {version('pylance')}, 384-d, cosine, {asked.queries} queries")
    print(f"{'rows':>8} {'exact ms':>9} {'index ms':>9} {'recall@10':>10} {'build s':>8}")
    figures = []
    for rows in asked.rows:
        found = measure(rows, asked.queries)
        figures.append(found)
        print(
            f"{rows:>8} {found['exact_ms']:>9.1f} {found['index_ms']:>9.1f} {found['recall']:>10.3f} {found['build_s']:>8.1f}",
            flush=True,
        )
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
