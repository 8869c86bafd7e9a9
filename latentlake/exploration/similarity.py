"""How alike some rows are, and what lies between two of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa

from latentlake.exploration.points import pick_column, unit
from latentlake.filters import sql_string
from latentlake.provenance import Provenance
from latentlake.results import Rows
from latentlake.vectors import array_of
from operators.errors import NotFound, SpecError, unknown_name

if TYPE_CHECKING:
    from latentlake.table import Table

Metric = Literal["cosine", "euclidean", "dot"]
MAX_IDS = 2000


def vectors_by_id(table: Table, column: str, ids: Sequence[str]) -> np.ndarray:
    """Vectors float32 (n, dimension) of rows, in the order of `ids`; of bits, 0 and 1. Raises `NotFound`, `SpecError`."""
    if not 1 <= len(ids) <= MAX_IDS:
        raise SpecError(f"{len(ids)} ids; give 1 to {MAX_IDS}.")
    stream = table.vectors(["id", column], f"id IN ({', '.join(sql_string(id) for id in dict.fromkeys(ids))})")
    found = pa.Table.from_batches(list(stream), stream.schema)
    at = {id: row for row, id in enumerate(found["id"].to_pylist())}
    if missing := [id for id in ids if id not in at]:
        raise NotFound(f"table '{table.name}' has no row '{missing[0]}' with a vector in column '{column}'.")
    vectors = array_of(found[column].combine_chunks(), True)[[at[id] for id in ids]]
    return numbers_of(vectors, table.provenance(column))


def numbers_of(vectors: np.ndarray, stored: Provenance) -> np.ndarray:
    """Stored vectors as float32, their lengths as they are."""
    return (np.unpackbits(vectors, axis=1) if stored.dtype == "binary" else vectors).astype(np.float32)


def similarity_matrix(table: Table, ids: Sequence[str], metric: str, column: str | None) -> np.ndarray:
    """See `Explorable.similarity_matrix`."""
    if metric not in get_args(Metric):
        raise unknown_name("metric", metric, get_args(Metric))
    vectors = vectors_by_id(table, pick_column(table, column), ids)
    if metric == "euclidean":
        from scipy.spatial.distance import cdist

        return -cdist(vectors, vectors).astype(np.float32)
    points = unit(vectors) if metric == "cosine" else vectors
    return points @ points.T


def interpolate(
    table: Table, first: str, last: str, steps: int, column: str | None, columns: Sequence[str] | None
) -> Rows:
    """See `Explorable.interpolate`."""
    if steps < 1:
        raise SpecError(f"steps is {steps}; it must be 1 or more.")
    chosen = pick_column(table, column)
    stored = table.provenance(chosen)
    ends = vectors_by_id(table, chosen, [first, last])
    seen, rows = {first, last}, []
    for part in np.linspace(0, 1, steps + 2)[1:-1]:
        found = table.search(between(ends, float(part), stored.metric), column=chosen, k=len(seen) + 1, columns=columns)
        arrow = found.to_arrow()
        names = arrow["id"].to_pylist()
        at = next((place for place, id in enumerate(names) if id not in seen), None)
        if at is None:
            break  # the table has no more rows
        seen.add(names[at])
        rows.append(arrow.slice(at, 1).add_column(0, "part", pa.array([round(float(part), 6)])))
    if not rows:
        raise SpecError(f"table '{table.name}' has no rows besides these two.")
    return Rows(pa.concat_tables(rows))


def between(ends: np.ndarray, part: float, metric: str) -> np.ndarray:
    """The vector at a part (0 to 1) of the way between two (2, dim): along the sphere for cosine, else along the line."""
    if metric != "cosine":
        return (1 - part) * ends[0] + part * ends[1]
    a, b = unit(ends)
    angle = float(np.arccos(np.clip(a @ b, -1, 1)))
    if np.sin(angle) < 1e-6:
        return (1 - part) * a + part * b
    return (np.sin((1 - part) * angle) * a + np.sin(part * angle) * b) / np.sin(angle)
