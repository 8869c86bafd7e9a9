"""Many searches at once, beside one by one: `Table.search_many` and `Table.search`, exactly and through an index.

Vectors: 384-d, clustered, cosine (see `index_threshold`); queries are held out, and given as vectors, so that no model takes
part. Both ways run in this process, with the same threads, in turns; milliseconds per query, of wall clock and of CPU,
are the least of `--rounds`, since other work on the machine only adds to them. Recall@10 is against exact search. Prints a table.
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

import lance
import numpy as np
import pyarrow as pa
from index_threshold import make_vectors

import latentlake
from latentlake.indexes import choose_index
from latentlake.provenance import FIELD_KEY, Provenance, fingerprint_of, identity_of
from operators.chain import Chain
from operators.embedders.hashing import Config

DIMENSION = 384
K = 10


def make_table(folder: str, rows: int) -> latentlake.Table:
    """A table of texts with the vector column `v`, without an index."""
    config, chain = Config(dim=DIMENSION).resolve(), Chain("text")
    stored = Provenance(
        fingerprint=fingerprint_of(config, chain, "float32"),
        identity=identity_of(config, chain, "float32"),
        embedder=config.model_dump(mode="json"),
        chain=chain.to_json(),
        dtype="float32",
    )
    vectors = make_vectors(rows, DIMENSION, 1)
    kind = pa.list_(pa.float32(), DIMENSION)
    fields = [
        pa.field("id", pa.string()),
        pa.field("text", pa.string()),
        pa.field("v", kind, metadata={FIELD_KEY: stored.to_json().encode()}),
    ]
    ids = [f"r{row}" for row in range(rows)]
    texts = [f"a text of some length for the row {row}, as a result shows it" for row in range(rows)]
    columns = [
        pa.array(ids),
        pa.array(texts),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMENSION),
    ]
    lance.write_dataset(pa.Table.from_arrays(columns, schema=pa.schema(fields)), f"{folder}/t.lance")
    return latentlake.connect(folder).open("t")


def found_ids(results: Sequence[latentlake.SearchResult]) -> list[set[str]]:
    """Ids of the rows of each result."""
    return [set(result.to_arrow()["id"].to_pylist()) for result in results]


def milliseconds(search: Callable[[], object], queries: int) -> tuple[float, float]:
    """Wall and CPU time of one query, where `search` answers so many."""
    began, worked = time.perf_counter(), time.process_time()
    search()
    return (time.perf_counter() - began) * 1000 / queries, (time.process_time() - worked) * 1000 / queries


def compare(table: latentlake.Table, queries: np.ndarray, rounds: int, exact: bool) -> dict[str, float]:
    """Times and recall, one by one and at once."""

    def one_by_one() -> list[latentlake.SearchResult]:
        return [table.search(query, k=K, exact=exact) for query in queries]

    def at_once() -> list[latentlake.SearchResult]:
        return table.search_many(queries, k=K, exact=exact)

    truth = found_ids(table.search_many(queries, k=K, exact=True))
    recalls = [
        sum(len(a & b) for a, b in zip(truth, found_ids(search()), strict=True)) / (K * len(queries))
        for search in (one_by_one, at_once)
    ]
    times = [[milliseconds(search, len(queries)) for search in (one_by_one, at_once)] for _ in range(rounds)]
    (single, single_cpu), (many, many_cpu) = np.min(times, axis=0).tolist()
    return {
        "single_ms": single,
        "many_ms": many,
        "single_cpu_ms": single_cpu,
        "many_cpu_ms": many_cpu,
        "single_recall": recalls[0],
        "many_recall": recalls[1],
    }


def line(found: dict[str, float]) -> str:
    """A line of the table."""
    wall = f"{found['single_ms']:>10.2f} {found['many_ms']:>8.2f} {found['single_ms'] / found['many_ms']:>7.1f}"
    cpu = f"{found['single_cpu_ms']:>8.2f} {found['many_cpu_ms']:>8.2f} {found['single_cpu_ms'] / found['many_cpu_ms']:>7.1f}"
    return f"{wall} {cpu} {found['single_recall']:>12.3f} {found['many_recall']:>8.3f}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, nargs=2, default=(20_000, 100_000), help="of the exact and the indexed table"
    )
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the figures here")
    asked = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"pylance {version('pylance')}, numpy {np.__version__}, {os.cpu_count()} CPUs, load {load:.1f} at the start")
    print(f"{asked.queries} queries, k = {K}, {DIMENSION}-d, cosine, {asked.rounds} rounds")
    head = f"{'single ms':>10} {'many ms':>8} {'ratio':>7} {'CPU ms':>8} {'many':>8} {'ratio':>7}"
    print(f"{'':28} {head} {'recall, one':>12} {'many':>8}")
    queries = make_vectors(asked.queries, DIMENSION, 2)
    figures = {}
    for rows, exact in zip(asked.rows, (True, False), strict=True):
        with tempfile.TemporaryDirectory() as folder:
            table = make_table(folder, rows)
            if not exact:
                dataset = lance.dataset(str(Path(folder) / "t.lance"))
                dataset.create_index("v", **(choose_index(max(rows, 20_000), DIMENSION, "cosine", "auto") or {}))
                table = latentlake.connect(folder).open("t")
            name = f"{rows:,} rows, {'exact' if exact else table.indexes()[0].type}"
            found = figures["exact" if exact else "index"] = compare(table, queries, asked.rounds, exact)
            print(f"{name:28} {line(found)}", flush=True)
    if asked.json:
        asked.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
