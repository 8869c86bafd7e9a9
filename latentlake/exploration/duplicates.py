"""Rows that hold the same: of equal content, or with vectors that are nearly equal. See docs/exploring.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latentlake.exploration.points import pick_column, points_of, read_points
from latentlake.filters import explain_filter
from latentlake.indexes import has_vector
from latentlake.results import Rows
from latentlake.vectors import array_of
from operators.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from latentlake.table import Table

Keep = Literal["nearest", "farthest"]
ALL_PAIRS_ROWS = 20_000  # up to so many rows each is compared with each other one
PARTITION_ROWS = 4_000  # of a larger table, on average
PROBES = 2  # partitions that a row of a larger table is compared in: its own, and the next nearest
BLOCK_ROWS = 1024  # compared at once with a partition
MAX_PAIRS = 5_000_000  # 120 MB
ROW_ID = "_rowid"
PAIRS = pa.schema([("id_a", pa.string()), ("id_b", pa.string()), ("distance", pa.float32())])
EQUAL = 1e-6  # numbers of float32 vectors that are the same give distances of up to so much


@dataclass(frozen=True)
class Duplicates:
    """Pairs of rows whose vectors are nearly equal, rows of equal content, and which rows one could do without."""

    column: str
    threshold: float
    version: int
    rows: int  # that were compared
    is_exhaustive: bool  # each with each; else pairs that no partition holds both of may be missing
    pairs: pa.Table  # `id_a`, `id_b`, `distance`; each pair once, nearest first
    equal_content: pa.Table  # `id`, `same_as`: rows whose content another row has too, and the first such row
    order: Sequence[str]  # ids in pairs, those to keep first

    @cached_property
    def redundant(self) -> pa.Table:
        """`id`, `duplicate_of` and `distance` of the rows that one could drop, so that no two rows that stay are a pair.

        Every row is compared with those kept before it, as in SemDeDup (Abbas et al., arXiv:2303.09540).
        """
        near: dict[str, list[tuple[float, str]]] = {}
        for a, b, distance in zip(*(self.pairs[name].to_pylist() for name in PAIRS.names), strict=True):
            near.setdefault(a, []).append((distance, b))
            near.setdefault(b, []).append((distance, a))
        kept, dropped = set[str](), []
        for id in self.order:
            best = min(((distance, other) for distance, other in near[id] if other in kept), default=None)
            if best is None:
                kept.add(id)
            else:
                dropped.append({"id": id, "duplicate_of": best[1], "distance": best[0]})
        schema = pa.schema([("id", pa.string()), ("duplicate_of", pa.string()), ("distance", pa.float32())])
        return pa.Table.from_pylist(dropped, schema=schema)

    def __len__(self) -> int:
        return int(self.pairs.num_rows)

    def __str__(self) -> str:
        missing = "" if self.is_exhaustive else " (pairs across partitions may be missing)"
        told = f"{len(self)} pairs of {self.rows} rows within {self.threshold}{missing}; {self.equal_content.num_rows} rows of equal content"
        return f"{told}\n{Rows(self.pairs)}"

    def _repr_html_(self) -> str:
        return Rows(self.pairs)._repr_html_()


def find_duplicates(
    table: Table, threshold: float, column: str | None, where: str | None, keep: str, seed: int
) -> Duplicates:
    """See `Explorable.duplicates`."""
    if keep not in get_args(Keep):
        raise unknown_name("choice of what to keep", keep, get_args(Keep))
    if not threshold >= 0:
        raise SpecError(f"threshold is {threshold}; it must be 0 or more.")
    chosen = pick_column(table, column)
    places, partitions, centers = partition_rows(table, chosen, where, seed)
    found: dict[tuple[int, int], float] = {}
    for rows in partitions:
        for pair, distance in near_pairs(table, chosen, places[rows], threshold):
            found[pair] = distance
        if len(found) > MAX_PAIRS:
            raise SpecError(f"more than {MAX_PAIRS:,} pairs are within {threshold}.\n  Lower the threshold.")
    ids, order = describe_rows(table, chosen, sorted({row for pair in found for row in pair}), centers, keep)
    pairs = sorted((distance, ids[a], ids[b]) for (a, b), distance in found.items())
    distances, first, second = zip(*pairs, strict=True) if pairs else ((), (), ())
    return Duplicates(
        column=chosen,
        threshold=threshold,
        version=table.version,
        rows=len(places),
        is_exhaustive=len(partitions) == 1,
        pairs=pa.table([pa.array(first), pa.array(second), pa.array(distances)], schema=PAIRS)
        if pairs
        else PAIRS.empty_table(),
        equal_content=equal_content(table, where),
        order=order,
    )


def partition_rows(
    table: Table, column: str, where: str | None, seed: int
) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
    """Row ids (n,) of the rows that have a vector, the places among them of each partition, and the partitions' centres.

    One partition up to `ALL_PAIRS_ROWS`; else those of k-means on a sample, with every row in its `PROBES` nearest.
    """
    from sklearn.cluster import MiniBatchKMeans

    _, sample = read_points(table, column, where, ALL_PAIRS_ROWS, seed)
    rows = table.count(present := both(where, column))
    clusters = 1 if rows <= ALL_PAIRS_ROWS else -(-rows // PARTITION_ROWS)
    if not rows:
        return np.zeros(0, np.int64), [], np.zeros((0, sample.shape[1]))
    model = MiniBatchKMeans(clusters, random_state=seed, n_init=1).fit(sample)
    places, near = [], []
    names = [column, ROW_ID]
    scan = table.to_lance().scanner(columns=[column], filter=present, with_row_id=True, batch_size=4096)
    with explain_filter(where):
        for batch in scan.to_batches():
            batch = batch.select(names)
            places.append(batch[ROW_ID].to_numpy())
            if clusters > 1:
                points = points_of(array_of(batch[column], True), table.provenance(column))
                near.append(np.argsort(model.transform(points), axis=1)[:, :PROBES].astype(np.int32))
    every = np.concatenate(places)
    if clusters == 1:
        return every, [np.arange(len(every))], model.cluster_centers_
    probed = np.concatenate(near)
    return every, [np.flatnonzero((probed == number).any(axis=1)) for number in range(clusters)], model.cluster_centers_


def both(where: str | None, column: str) -> str:
    """SQL that keeps the rows that a filter keeps and that have a vector."""
    return has_vector(column) if where is None else f"({where}\n) AND {has_vector(column)}"


def near_pairs(
    table: Table, column: str, rows: np.ndarray, threshold: float
) -> Iterator[tuple[tuple[int, int], float]]:
    """Pairs among rows (by row id, the lower first) whose vectors are within `threshold`, by the column's own distance.

    It holds the vectors of the rows.
    """
    stored = table.provenance(column)
    if not len(rows):
        return
    found = table.to_lance()._take_rows(rows.tolist(), columns=[column])
    points = points_of(array_of(found[column].combine_chunks(), True), stored)
    squares = (points**2).sum(axis=1)
    for start in range(0, len(points), BLOCK_ROWS):
        block = points[start : start + BLOCK_ROWS]
        products = block @ points[start:].T
        if stored.metric in ("cosine", "dot"):
            distances = 1 - products
        else:
            distances = squares[start : start + len(block), None] + squares[None, start:] - 2 * products
        near = np.argwhere(np.triu(distances <= threshold + EQUAL, k=1))
        for a, b in near.tolist():
            pair = sorted((int(rows[start + a]), int(rows[start + b])))
            yield (pair[0], pair[1]), max(float(distances[a, b]), 0.0)


def describe_rows(
    table: Table, column: str, rows: Sequence[int], centers: np.ndarray, keep: str
) -> tuple[dict[int, str], list[str]]:
    """Id of each row id, and the ids in the order in which they are kept: by the distance to the nearest centre."""
    ids: dict[int, str] = {}
    away: dict[str, float] = {}
    stored = table.provenance(column)
    for start in range(0, len(rows), BLOCK_ROWS):
        part = list(rows[start : start + BLOCK_ROWS])
        found = table.to_lance()._take_rows(part, columns=["id", column])
        names = found["id"].to_pylist()
        points = points_of(array_of(found[column].combine_chunks(), True), stored)
        nearest = np.linalg.norm(points[:, None] - centers[None], axis=2).min(axis=1) if len(centers) < 64 else None
        if nearest is None:
            nearest = np.array([np.linalg.norm(centers - point, axis=1).min() for point in points])
        ids |= dict(zip(part, names, strict=True))
        away |= dict(zip(names, nearest.tolist(), strict=True))
    sign = 1 if keep == "nearest" else -1
    return ids, sorted(away, key=lambda id: (sign * round(away[id], 6), id))


def equal_content(table: Table, where: str | None) -> pa.Table:
    """`id` and `same_as` of the rows whose content an earlier row (by id) has too. It holds ids and hashes, about 150 bytes a row."""
    hashed = table.to_arrow(["id", "content_hash"], where)
    firsts = hashed.group_by("content_hash").aggregate([("id", "min"), ("id", "count")])
    firsts = firsts.filter(pc.greater(firsts["id_count"], 1)).select(["content_hash", "id_min"])
    joined = hashed.join(firsts, "content_hash", join_type="inner")
    again = joined.filter(pc.not_equal(joined["id"], joined["id_min"]))
    return again.select(["id", "id_min"]).rename_columns(["id", "same_as"]).sort_by("id")
