"""What the defaults of ANN indexes cost in recall: as tables are built now, beside √n partitions as before 2026-11.

Vectors: 384-d, clustered, cosine (see `index_threshold`); queries are held out. For each way: seconds to build, recall@10
against exact search and the median milliseconds of a query; the same after an append of 200 rows that extends the index,
and under filters that keep 1 % and 10 % of the rows. Before: 40 partitions probed, whatever the filter. Prints a table.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from index_threshold import make_vectors

from latentlake.indexes import choose_index, nearest

DIMENSION = 384
FILTERS = {"no filter": None, "1 %": "share = 0", "10 %": "share < 10"}


def make_table(vectors: np.ndarray, start: int = 0) -> pa.Table:
    """Rows of clustered vectors; `share` is a random percent, the same in every run."""
    share = np.random.default_rng(start + 3).integers(0, 100, len(vectors))
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION)
    return pa.table({"id": np.arange(start, start + len(vectors)), "share": share, "v": column})


def ask_before(dataset: Any, query: np.ndarray, where: str | None) -> dict[str, Any]:
    """A search as it was asked for before: a fixed effort."""
    return {"column": "v", "q": query, "k": 10, "metric": "cosine", "minimum_nprobes": 40, "refine_factor": 10}


def ask_now(dataset: Any, query: np.ndarray, where: str | None) -> dict[str, Any]:
    """A search as `Table.search` asks for it."""
    return nearest("v", query, 10, "cosine", kept=None if where is None else kept_share(dataset, where))


def kept_share(dataset: Any, where: str) -> tuple[int, int]:
    """Rows that a filter keeps, and all of them."""
    return dataset.count_rows(where), dataset.count_rows()


def measure(
    dataset: Any, queries: np.ndarray, where: str | None, ask: Callable[[Any, np.ndarray, str | None], dict[str, Any]]
) -> tuple[float, float]:
    """Recall@10 against exact search, and the median milliseconds of a query, counting what it takes to ask it."""
    times, hits = [], 0
    for query in queries:
        exact = dataset.to_table(
            columns=["id", "_distance"],
            nearest=nearest("v", query, 10, "cosine", exact=True),
            filter=where,
            prefilter=True,
        )
        began = time.perf_counter()
        found = dataset.to_table(
            columns=["id", "_distance"], nearest=ask(dataset, query, where), filter=where, prefilter=True
        )
        times.append((time.perf_counter() - began) * 1000)
        hits += len(set(exact["id"].to_pylist()) & set(found["id"].to_pylist()))
    return hits / (10 * len(queries)), statistics.median(times)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--queries", type=int, default=100)
    asked = parser.parse_args()
    print(f"pylance {version('pylance')}, {asked.rows:,} x {DIMENSION}, cosine, {asked.queries} queries, IVF_RQ")
    print(
        f"{'':8} {'build s':>8} {'partitions':>11} "
        + " ".join(f"{name + ', recall':>18} {'ms':>6}" for name in FILTERS)
    )
    queries = make_vectors(asked.queries, DIMENSION, 2)
    now = choose_index(max(asked.rows, 20_000), DIMENSION, "cosine", "auto") or {}
    ways = {"before": ({**now, "num_partitions": round(asked.rows**0.5)}, ask_before), "now": (now, ask_now)}
    built: dict[str, float] = {}
    for name, (choice, ask) in ways.items():
        with tempfile.TemporaryDirectory() as folder:
            uri = str(Path(folder) / "t.lance")
            dataset = lance.write_dataset(make_table(make_vectors(asked.rows, DIMENSION, 1)), uri)
            began = time.perf_counter()
            dataset.create_index("v", **choice)
            built[name] = time.perf_counter() - began
            for moment in (name, "+ 200"):
                if moment != name:
                    dataset = lance.write_dataset(
                        make_table(make_vectors(200, DIMENSION, 4), asked.rows), uri, mode="append"
                    )
                    dataset.optimize.optimize_indices()
                partitions = dataset.stats.index_stats("v_idx")["indices"][0]["num_partitions"]
                figures = [measure(dataset, queries, where, ask) for where in FILTERS.values()]
                seconds = f"{built[name]:>8.2f}" if moment == name else " " * 8
                print(
                    f"{moment:8} {seconds} {partitions:>11} "
                    + " ".join(f"{recall:>18.3f} {ms:>6.1f}" for recall, ms in figures),
                    flush=True,
                )
    print(f"build: {built['before'] / built['now']:.0f} x faster")


if __name__ == "__main__":
    main()
