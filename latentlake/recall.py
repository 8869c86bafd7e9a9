"""Recall of search through an index, against exact search over all vectors, or over a sample of them that is bounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.indexes import has_vector, nearest, vector_field
from latentlake.tuning.settings import read_settings

SAMPLE_BYTES = 256 * 2**20  # of vectors that queries are compared with; a column that is smaller is searched whole
RUN_ROWS = 4096  # rows of the sample that stand together in the table
MAX_QUERIES = 2000
ENOUGH = 500  # neighbours that a sample should hold, all queries together
SPARSE_ROWS = 20_000  # rows looked at for some that have a vector


def measure_recall(dataset: Any, column: str, metric: str, k: int = 10, queries: int = 100, seed: int = 0) -> float:
    """Recall@k of search as we do it against exact search, from 0 to 1; 1.0 for a column without vectors.

    The queries are rows sampled from the table, each left out of its own hits; a row as near as the k-th of the exact
    search counts as a hit. Rows of the table flatter the index: real queries lie further from the data and miss more.

    Of a column of more than `SAMPLE_BYTES`, so much is compared; see `measure_on_sample`.
    """
    kind = vector_field(dataset, column).type
    size = max(1, SAMPLE_BYTES * 8 // (kind.list_size * kind.value_type.bit_width))
    total = dataset.count_rows()
    if total > size:
        queries = max(queries, min(MAX_QUERIES, ENOUGH * total // (k * size)))
    ids, vectors = sample_vectors(dataset, column, queries, seed)
    if metric == "cosine":
        kept = np.linalg.norm(vectors, axis=1) > 0
        ids, vectors = ids[kept], vectors[kept]
    if not len(ids):
        return 1.0
    settings = read_settings(dataset.schema, column)
    found = find_neighbours(dataset, nearest(column, vectors, k + 1, metric, settings=settings))
    if total > size:
        return measure_on_sample(dataset, column, metric, ids, vectors, found, k, size, seed)
    hits = expected = 0
    exact = find_neighbours(dataset, nearest(column, vectors, k + 1, metric, exact=True))
    for own, (exact_ids, exact_distances), (found_ids, found_distances) in zip(ids, exact, found, strict=True):
        wanted = exact_distances[exact_ids != own][:k]
        if not len(wanted):
            continue
        near = found_distances[found_ids != own][:k]
        hits += min(len(wanted), int((near <= wanted[-1] + tolerance(wanted[-1])).sum()))
        expected += len(wanted)
    return hits / expected if expected else 1.0


def measure_on_sample(
    dataset: Any,
    column: str,
    metric: str,
    ids: np.ndarray,
    vectors: np.ndarray,
    found: list[tuple[np.ndarray, np.ndarray]],
    k: int,
    size: int,
    seed: int,
) -> float:
    """Recall@k of what was `found` for the rows `ids`, judged by about `size` rows at random.

    Of the sampled rows that are nearer to a query than the k-th that was found, all queries together, the share that was
    found. What a search missed is among these rows as often as anywhere, so the share is right on average: it varies by
    some 0.01 where `ENOUGH` such rows are met. Where a search found only rows far off, it is too low rather than too high.
    """
    radii = np.full(len(ids), -np.inf, np.float32)
    hits = []
    for at, (own, (found_ids, distances)) in enumerate(zip(ids, found, strict=True)):
        others = found_ids != own
        hits.append(found_ids[others][:k])
        if others.any():
            farthest = distances[others][:k][-1]
            radii[at] = farthest + tolerance(farthest)
    near = met = 0
    for rows, values in sample_runs(dataset, column, size, seed):
        close = distances_between(vectors, values, metric) <= radii[:, None]
        for at in np.flatnonzero(close.any(axis=1)).tolist():
            there = rows[close[at]]
            there = there[there != ids[at]]
            near += len(there)
            met += int(np.isin(there, hits[at]).sum())
    return met / near if near else 1.0


def tolerance(distance: float) -> float:
    """Of rounding: two searches add up in another order."""
    return 1e-5 * max(1.0, abs(float(distance)))


def distances_between(queries: np.ndarray, rows: np.ndarray, metric: str) -> np.ndarray:
    """Distances as Lance has them, float32 (queries, rows): of (queries, dim) and (rows, dim)."""
    if metric == "hamming":
        return np.stack([np.bitwise_count(rows ^ query).sum(axis=1, dtype=np.float32) for query in queries])
    products = queries @ rows.T
    if metric == "dot":
        return 1 - products
    squares = np.einsum("nd,nd->n", queries, queries)[:, None], np.einsum("nd,nd->n", rows, rows)[None]
    if metric == "l2":
        return squares[0] + squares[1] - 2 * products
    with np.errstate(divide="ignore", invalid="ignore"):  # a zero vector is near to nothing
        return 1 - products / np.sqrt(squares[0] * squares[1])


def sample_runs(dataset: Any, column: str, size: int, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """About `size` rows at random, in runs of rows that stand together: ids, and vectors, of those that have one."""
    runs = -(-dataset.count_rows() // RUN_ROWS)
    chosen = np.random.default_rng(seed).choice(runs, min(runs, -(-size // RUN_ROWS)), replace=False)
    for run in np.sort(chosen).tolist():
        scanner = dataset.scanner(columns=[column], with_row_id=True, offset=run * RUN_ROWS, limit=RUN_ROWS)
        yield to_arrays(scanner.to_table(), column)


def sample_vectors(dataset: Any, column: str, rows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row ids, uint64 (n,), and vectors, float32 (n, dim) or bits uint8 (n, dim / 8), of at most `rows` rows at random that have one.

    Where few rows have one, those that stand first in the table make up for what is not met by chance.
    """
    total = dataset.count_rows()
    drawn = np.random.default_rng(seed).choice(total, min(total, 4 * rows), replace=False)
    found = dataset.take(np.sort(drawn).tolist(), columns=[column, "_rowid"])
    found = found.filter(found[column].is_valid())
    if found.num_rows < min(rows, total) and total > len(drawn):
        scanner = dataset.scanner(columns=[column], filter=has_vector(column), limit=SPARSE_ROWS, with_row_id=True)
        found = scanner.to_table()
    chosen = np.sort(np.random.default_rng(seed).permutation(found.num_rows)[:rows])
    return to_arrays(found.take(chosen), column)


def to_arrays(found: pa.Table, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Row ids and vectors of rows (`column` and `_rowid`), without those that have none; see `sample_vectors`."""
    found = found.filter(found[column].is_valid())
    kind = np.uint8 if found.schema.field(column).type.value_type == pa.uint8() else np.float32
    vectors = [np.asarray(chunk.flatten()).astype(kind) for chunk in found[column].chunks]
    length = found.schema.field(column).type.list_size
    return found["_rowid"].to_numpy(), np.concatenate([np.zeros(0, kind), *vectors]).reshape(-1, length)


def find_neighbours(dataset: Any, query: dict[str, Any]) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each vector of `query`, the ids (uint64) and distances (float32) of the rows nearest to it, nearest first."""
    found = dataset.scanner(columns=["_distance"], nearest=query, with_row_id=True).to_table()
    index, ids, distances = (found[name].to_numpy() for name in ("query_index", "_rowid", "_distance"))
    places = [np.flatnonzero(index == number) for number in range(len(query["q"]))]
    return [(ids[place], distances[place]) for place in places]
