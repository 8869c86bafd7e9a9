"""Rows near to a vector: for one query as Lance ranks them, for many queries at once, and within a range of distances."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from latentlake.filters import explain_filter
from latentlake.indexes import nearest
from latentlake.keys import take_rows
from latentlake.results import DISTANCE
from latentlake.searching.fusion import Ranking
from latentlake.searching.place import Place
from latentlake.searching.request import Request
from latentlake.tuning.settings import read_settings

ROW_ID = "_rowid"


@dataclass(frozen=True)
class Scope:
    """Which rows a search is over, and how: a filter with the rows that it keeps of how many, whether exactly, and a range.

    Rows with `low` <= distance < `high` are in the range. The nearest rows say nothing of how many lie at `low` or beyond, so
    that Lance has to read past the others, in exact search: through a quantised index it would compare with approximate
    distances, of RQ and SQ with twice the true one. For the same reason `high` is compared with what a search gives.
    """

    where: str | None
    kept: tuple[int, int] | None
    exact: bool
    low: float | None = None
    high: float | None = None

    def in_range(self, distances: np.ndarray) -> np.ndarray:
        """Which distances (n,) are in the range; bool (n,)."""
        kept = np.ones(len(distances), dtype=bool)
        if self.low is not None:
            kept &= distances >= self.low
        return kept if self.high is None else kept & (distances < self.high)


def scope_of(place: Place, request: Request) -> Scope:
    """The scope of a search; counts what the filter keeps, unless the search is exact."""
    where, (low, high) = request.where, request.distance_range or (None, None)
    exact = request.exact or request.mode == "text" or low is not None
    kept = None
    if where is not None and not exact:
        with explain_filter(where):
            kept = (place.dataset.count_rows(where), place.dataset.count_rows())
    return Scope(where, kept, exact, low, high)


def scan_nearest(
    place: Place,
    query: dict[str, Any],
    scope: Scope,
    names: Sequence[str],
    *,
    fragments: Sequence[Any] | None = None,
    fast_search: bool = False,
) -> pa.Table:
    """What Lance finds: `names`, `_distance` and `_rowid`, nearest first; in some fragments, or in what is indexed (`fast_search`)."""
    columns = [*dict.fromkeys(names), DISTANCE]
    with explain_filter(scope.where):
        return place.dataset.scanner(
            columns=columns,
            nearest=query,
            filter=scope.where,
            prefilter=True,
            with_row_id=True,
            fragments=fragments,
            fast_search=fast_search or None,
        ).to_table()


def query_nearest(place: Place, column: str, vector: np.ndarray, n: int, scope: Scope) -> dict[str, Any]:
    """Lance's query for the `n` rows nearest to one vector (dim,), or to each of many (m, dim)."""
    settings = read_settings(place.dataset.schema, column)
    query = nearest(column, vector, n, place.provenance(column).metric, scope.exact, scope.kept, settings)
    return query if scope.low is None else {**query, "distance_range": (scope.low, scope.high)}


def find_near(place: Place, column: str, vector: np.ndarray, n: int, scope: Scope, left_out: np.ndarray) -> Ranking:
    """The `n` rows nearest to a vector, without those left out; see `Ranking`."""
    found = scan_near(place, column, vector, n, scope, left_out, [])
    return Ranking(column, found[ROW_ID].to_numpy(), found[DISTANCE].to_numpy())


def scan_near(
    place: Place,
    column: str,
    vector: np.ndarray,
    n: int,
    scope: Scope,
    left_out: np.ndarray,
    names: Sequence[str],
) -> pa.Table:
    """`names`, `_distance` and `_rowid` of the `n` rows nearest to a vector, nearest first, without those left out."""
    found = scan_nearest(place, query_nearest(place, column, vector, n + len(left_out), scope), scope, names)
    if scope.high is not None or len(left_out):
        kept = scope.in_range(found[DISTANCE].to_numpy()) & ~np.isin(found[ROW_ID].to_numpy(), left_out)
        found = found.filter(pa.array(kept))
    return found.slice(0, n)


def take_in_order(dataset: Any, rows: np.ndarray, names: Sequence[str]) -> pa.Table:
    """`names` of the rows of these ids, in their order."""
    if not len(rows):
        return pa.schema([dataset.schema.field(name) for name in names]).empty_table()
    found = take_rows(dataset, set(rows.tolist()), names)
    there = found[ROW_ID].to_numpy()
    if np.array_equal(there, rows):  # vectors of many rows are copied once less
        return found.select(list(names))
    order = np.argsort(there)
    return found.take(order[np.searchsorted(there, rows, sorter=order)]).select(list(names))


def vectors_in_order(dataset: Any, rows: np.ndarray, column: str) -> np.ndarray:
    """Vectors of the rows of these ids, in their order: float32 (n, dim), NaN for a row that has none, or bits uint8 (n, dim / 8)."""
    found = take_in_order(dataset, rows, [column])[column]
    kind = np.uint8 if found.type.value_type == pa.uint8() else np.float32
    size = found.type.list_size
    chunks = [chunk.fill_null([0] * size) if chunk.null_count else chunk for chunk in found.chunks]
    values = [np.asarray(chunk.flatten()).astype(kind, copy=False) for chunk in chunks]
    vectors = (
        np.concatenate([np.zeros(0, kind), *values]).reshape(-1, size)
        if len(values) != 1
        else values[0].reshape(-1, size)
    )
    if kind is np.float32 and found.null_count:
        vectors = np.where(found.is_null().to_numpy()[:, None], np.float32("nan"), vectors)
    return vectors
