"""Rows near to many vectors at once. Through an index in two stages, because Lance refines the hits of each query by itself.

First the candidates of all queries, as the index ranks them; then their vectors, each read once, and true distances.
Without refining, an index tells approximate distances (RQ twice the true one), so that rows which it lacks cannot be
ranked among its own: they are searched apart.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.building import find_index
from latentlake.indexes import IndexInfo, find_tail
from latentlake.recall import distances_between
from latentlake.results import DISTANCE
from latentlake.searching.candidates import ROW_ID, Scope, query_nearest, scan_nearest, vectors_in_order
from latentlake.searching.fusion import Ranking
from latentlake.searching.place import Place

QUERIES_AT_ONCE = 1024  # that are compared with every row
SCANNED_AT_ONCE = 32  # by one scan of an index; 256 took as much CPU and up to twice the time (100,000 x 384, 2 cores)
CANDIDATE_BYTES = 128 * 2**20  # of vectors of candidates, about, that are held at once


def find_near_many(place: Place, column: str, vectors: np.ndarray, n: int, scope: Scope) -> list[Ranking]:
    """The `n` rows nearest to each of many vectors (m, dim), at the recall of one search for each."""
    info = find_index(place.dataset, column)
    query = query_nearest(place, column, vectors, n, scope)
    refine = query.get("refine_factor") if info is not None and query["use_index"] else None
    many = QUERIES_AT_ONCE if refine is None else max(1, CANDIDATE_BYTES // (n * refine * vectors[:1].nbytes))
    found: list[Ranking] = []
    for start in range(0, len(vectors), many):
        asked = {**query, "q": vectors[start : start + many]}
        if info is None or refine is None:
            found += split(scan_nearest(place, asked, scope, []), column, len(asked["q"]))
        else:
            found += find_in_two_stages(place, info, asked, n * refine, n, scope)
    return found


def find_in_two_stages(
    place: Place, info: IndexInfo, query: dict[str, Any], candidates: int, n: int, scope: Scope
) -> list[Ranking]:
    """See the module: `candidates` rows of the index per query, compared by their true distances, and the rows that it lacks."""
    vectors, metric, column = query["q"], query["metric"], info.column
    unrefined = {name: value for name, value in query.items() if name != "refine_factor"} | {"k": candidates}
    first = []
    for start in range(0, len(vectors), SCANNED_AT_ONCE):
        block = vectors[start : start + SCANNED_AT_ONCE]
        first += split(scan_nearest(place, {**unrefined, "q": block}, scope, [], fast_search=True), column, len(block))
    tails: list[Ranking] | None = None
    if info.rows_unindexed:
        description = next(d for d in place.dataset.describe_indices() if d.name == info.name)
        flat = {**unrefined, "k": n, "use_index": False}
        tail = scan_nearest(place, flat, scope, [], fragments=find_tail(place.dataset, description))
        tails = split(tail, column, len(vectors))
    rows = np.unique(np.concatenate([ranking.rows for ranking in first]))
    there = vectors_in_order(place.dataset, rows, column)
    lengths = lengths_of(there) if metric == "cosine" else None
    found = []
    for at, ranking in enumerate(first):
        places = np.searchsorted(rows, ranking.rows)
        distances = true_distances(vectors[at], there[places], metric, None if lengths is None else lengths[places])
        ids = ranking.rows
        if tails is not None:
            ids, distances = np.append(ids, tails[at].rows), np.append(distances, tails[at].values)
        order = np.lexsort((ids, distances))[:n]
        found.append(Ranking(column, ids[order], distances[order]))
    return found


def lengths_of(vectors: np.ndarray) -> np.ndarray:
    """Lengths (L2) of vectors, float32 (n,), of (n, dim)."""
    return np.sqrt(np.einsum("nd,nd->n", vectors, vectors))


def true_distances(query: np.ndarray, rows: np.ndarray, metric: str, lengths: np.ndarray | None) -> np.ndarray:
    """Distances of rows (n, dim), of these lengths where the metric is cosine, to a query (dim,), float32 (n,)."""
    if lengths is None:
        return distances_between(query[None], rows, metric)[0]
    with np.errstate(divide="ignore", invalid="ignore"):  # a zero vector is near to nothing: NaN sorts last
        return 1 - (rows @ query) / (lengths * np.linalg.norm(query))


def split(found: pa.Table, column: str, queries: int) -> list[Ranking]:
    """What Lance found for many queries, by query."""
    index, ids, distances = (found[name].to_numpy() for name in ("query_index", ROW_ID, DISTANCE))
    order = np.argsort(index, kind="stable")
    ends = np.searchsorted(index[order], np.arange(queries + 1))
    places = [order[start:end] for start, end in pairwise(ends)]
    return [Ranking(column, ids[place], distances[place]) for place in places]
