"""The vectors of a column as points whose Euclidean distance ranks as the column's own metric does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from latentlake.columns import HASHES
from latentlake.filters import sql_string
from latentlake.provenance import Provenance
from latentlake.stored import MAP_KEY, PART_TYPES
from operators.errors import SpecError

if TYPE_CHECKING:
    from latentlake.table import Table


def pick_column(table: Table, column: str | None) -> str:
    """`column`, or without one the table's only vector column. Raises `SpecError` where there are several, `NotFound`."""
    names = table.vector_columns
    if column is None and len(names) != 1:
        raise SpecError(f"table '{table.name}' has {len(names)} vector columns; name one: {', '.join(names) or 'none'}")
    chosen = names[0] if column is None else column
    table.provenance(chosen)
    return chosen


def points_of(vectors: np.ndarray, stored: Provenance) -> np.ndarray:
    """Stored vectors (n, length) as float32 (n, dimension).

    Bits become 0 and 1, whose squared distance is the number of bits that differ. Vectors of a column that is searched by
    cosine are brought to length 1, so that half their squared distance is the cosine distance; a zero vector stays.
    """
    if stored.dtype == "binary":
        return np.unpackbits(vectors, axis=1).astype(np.float32)
    points = vectors.astype(np.float32)
    return unit(points) if stored.metric == "cosine" else points


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (n, dim) at length 1; zero vectors stay as they are."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)


def stream_points(
    table: Table, column: str, where: str | None = None, sample: int | None = None, seed: int = 0
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Ids and points (n, dimension) of the rows that have a vector, in batches; of `sample` rows at random if it is given."""
    stored = table.provenance(column)
    for arrays in table.vectors(["id", column], where, sample, seed=seed).arrays():
        yield arrays["id"].tolist(), points_of(arrays[column], stored)


def read_points(
    table: Table, column: str, where: str | None, sample: int | None, seed: int
) -> tuple[list[str], np.ndarray]:
    """Ids and points (n, dimension) of all rows that have a vector, or of `sample` of them, in memory."""
    ids: list[str] = []
    parts = [np.zeros((0, table.provenance(column).dimension), dtype=np.float32)]
    for names, points in stream_points(table, column, where, sample, seed):
        ids += names
        parts.append(points)
    return ids, np.concatenate(parts)


def shown_fields(table: Table) -> list[pa.Field]:
    """Fields worth showing: neither vectors, nor what belongs to them, nor hashes, nor coordinates of maps."""
    vectors = [*table.vector_columns, *table.unreadable]
    hidden = {*HASHES, *vectors, *(name + ending for name in vectors for ending in PART_TYPES)}
    return [field for field in table.schema if field.name not in hidden and MAP_KEY not in (field.metadata or {})]


def rows_by_id(table: Table, ids: Sequence[str]) -> pa.Table:
    """The rows of some ids in their order, the fields worth showing. For a few thousand ids at most."""
    names = [field.name for field in shown_fields(table)]
    if not ids:
        return pa.schema([table.schema.field(name) for name in names]).empty_table()
    found = table.to_arrow(names, f"id IN ({', '.join(sql_string(id) for id in ids)})")
    at = {id: row for row, id in enumerate(found["id"].to_pylist())}
    return found.take(pa.array([at[id] for id in ids if id in at], pa.int64()))
