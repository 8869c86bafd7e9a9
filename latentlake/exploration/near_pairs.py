"""Pairs of rows of a table whose vectors are near each other. Those of a large table are looked for in partitions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from latentlake.exploration.points import points_of, read_points
from latentlake.filters import explain_filter
from latentlake.indexes import has_vector
from latentlake.vectors import READ_AHEAD_BATCHES, READ_AHEAD_BYTES, array_of
from operators.errors import SpecError

if TYPE_CHECKING:
    from latentlake.table import Table

ALL_PAIRS_ROWS = 20_000  # up to so many rows each is compared with each other one
PARTITION_ROWS = 4_000  # of a larger table, on average
PROBES = 2  # partitions that a row of a larger table is compared in: its own, and the next nearest
BATCH_ROWS = 4096  # read at once
BLOCK_DISTANCES = 2**22  # computed at once: 16 MB
MAX_PAIRS = 5_000_000  # 60 MB, and their ids
ROW_ID = "_rowid"
EQUAL = 1e-6  # numbers of float32 vectors that are the same give distances of up to so much


@dataclass(frozen=True)
class Partitions:
    """The rows that have a vector, and which of them are compared with each other."""

    row_ids: np.ndarray  # int64 (n,), ascending
    probed: np.ndarray  # int32 (n, probes): the partitions that a row is compared in
    centers: np.ndarray  # float32 (partitions, dimension)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Places (m,) in `row_ids` of each partition's rows, ascending."""
        order = np.argsort(self.probed, axis=None, kind="stable")
        ends = np.bincount(self.probed.ravel(), minlength=len(self.centers)).cumsum()
        for part in np.split(order, ends[:-1]):
            yield part // self.probed.shape[1]

    def first_shared(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """The lowest partition (n,) that rows at the places `a` and `b` (n,) share."""
        mine, theirs = self.probed[a], self.probed[b]
        is_shared = (mine[:, :, None] == theirs[:, None, :]).any(axis=2)
        return np.where(is_shared, mine, len(self.centers)).min(axis=1)


def partition_rows(table: Table, column: str, where: str | None, seed: int) -> Partitions:
    """One partition up to `ALL_PAIRS_ROWS`; else those of k-means on a sample, with every row in its `PROBES` nearest."""
    from sklearn.cluster import MiniBatchKMeans

    _, sample = read_points(table, column, where, ALL_PAIRS_ROWS, seed)
    with explain_filter(where):
        rows = scan_vectors(table, [], column, where).count_rows()
    clusters = 1 if rows <= ALL_PAIRS_ROWS else -(-rows // PARTITION_ROWS)
    if not rows:
        return Partitions(np.zeros(0, np.int64), np.zeros((0, 1), np.int32), sample[:0])
    model = MiniBatchKMeans(clusters, random_state=seed, n_init=1).fit(sample)
    row_ids, probed = [], []
    with explain_filter(where):
        for batch in scan_vectors(table, [column], column, where).to_batches():
            row_ids.append(batch[ROW_ID].to_numpy().astype(np.int64))
            if clusters > 1:
                away = model.transform(points_of(array_of(batch[column], True), table.provenance(column)))
                probed.append(np.argpartition(away, PROBES - 1, axis=1)[:, :PROBES].astype(np.int32))
            else:
                probed.append(np.zeros((batch.num_rows, 1), np.int32))
    every, near = np.concatenate(row_ids), np.concatenate(probed)
    order = np.argsort(every)
    return Partitions(every[order], near[order], model.cluster_centers_)


def scan_vectors(table: Table, columns: list[str], column: str, where: str | None) -> Any:
    """Lance's scanner of `columns` and row ids, of the rows that a filter keeps and that have a vector in `column`.

    Lance's own bounds of what is read ahead would hold a whole table of 2 GB.
    """
    present = has_vector(column)
    return table.to_lance().scanner(
        columns=columns,
        filter=present if where is None else f"({where}\n) AND {present}",
        with_row_id=True,
        batch_size=BATCH_ROWS,
        io_buffer_size=READ_AHEAD_BYTES,
        batch_readahead=READ_AHEAD_BATCHES,
    )


def find_pairs(
    table: Table, column: str, partitions: Partitions, threshold: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Places `a` < `b` (n,) of rows within `threshold`, and their distances float32 (n,). It holds one partition's vectors.

    Raises `SpecError` for more than `MAX_PAIRS`.
    """
    stored = table.provenance(column)
    dataset = table.to_lance()
    found = [(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32))]
    pairs = 0
    for number, places in enumerate(partitions):
        if not len(places):
            continue
        taken = dataset._take_rows(partitions.row_ids[places].tolist(), columns=[column])
        points = points_of(array_of(taken[column].combine_chunks(), True), stored)
        for a, b, distances in near_pairs(points, stored.metric, threshold):
            first, second = places[a].astype(np.int32), places[b].astype(np.int32)
            told = partitions.first_shared(first, second) == number  # of two that share two partitions, once
            found.append((first[told], second[told], distances[told]))
            pairs += int(told.sum())
            if pairs > MAX_PAIRS:
                raise SpecError(f"more than {MAX_PAIRS:,} pairs are within {threshold}.\n  Lower the threshold.")
    first, second, distances = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return first, second, distances


def near_pairs(
    points: np.ndarray, metric: str, threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Places `a` < `b` (n,) of points within `threshold`, and their distances float32 (n,), by the column's own metric."""
    squares = np.einsum("nd,nd->n", points, points)
    rows = max(BLOCK_DISTANCES // len(points), 1)
    for start in range(0, len(points), rows):
        block = points[start : start + rows]
        distances = block @ points[start:].T
        if metric in ("cosine", "dot"):
            np.subtract(1, distances, out=distances)
        else:
            distances *= -2
            distances += squares[None, start:]
            distances += squares[start : start + len(block), None]
        near = np.flatnonzero(distances <= threshold + EQUAL)  # 20 times as fast as `np.nonzero` in two dimensions
        a, b = np.divmod(near, distances.shape[1])
        a, b = a[a < b], b[a < b]
        yield start + a, start + b, np.maximum(distances[a, b], 0)
