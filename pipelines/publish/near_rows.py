"""Which rows are nearly equal to a row that stays: k-means, then cosine distances within clusters.

The shape of SemDeDup (Abbas et al., arXiv:2303.09540). Beside the new rows, which are decided on, there are rows that stay in any
case. These are looked for in two clusters, so that a pair is found though a border runs between its rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

EXACT_PAIRS = 10**9  # up to so many comparisons there is one cluster, and nothing is missed
SAMPLE_ROWS = 50_000  # that k-means is fitted on
PROBES = 2  # clusters that a row which stays is looked for in
BLOCK_ROWS = 1024  # new rows that are decided on at once
COMPARED_ROWS = 4096  # with so many others at once
EQUAL = 1e-6  # float32 vectors that are the same give distances of up to so much
SEED = 0


@dataclass(frozen=True)
class Dropped:
    """New rows that do not stay, ascending, and the nearest row that each was found to duplicate."""

    rows: np.ndarray  # int64 (n,), numbers of new rows
    kept: np.ndarray  # int64 (n,): a new row's number, or the name under which a row that stays was shown
    is_new: np.ndarray  # bool (n,): which of the two
    distances: np.ndarray  # float32 (n,), cosine


class NearRows:
    """The new rows, by cluster, and for each the nearest row known to stay that is within the threshold.

    Beside `points`, which may be a memory map, it holds about 45 bytes per row, the sample, and some blocks of rows.
    """

    def __init__(
        self,
        points: np.ndarray,
        others: int,
        threshold: float,
        keep: Literal["nearest", "farthest"] = "nearest",
        clusters: int | None = None,
    ) -> None:
        """`points` are new rows, float32 (n, dim) of length 1; about `others` rows that stay will be shown."""
        self.clusters = choose_clusters(len(points), others, clusters)
        self._points, self._limit = points, threshold + EQUAL
        self._centers = find_centers(points, self.clusters)
        rows = len(points)
        self._probes = np.zeros((rows, min(PROBES, self.clusters)), np.int32)
        away = np.zeros(rows, np.float32)
        for start in range(0, rows, COMPARED_ROWS):
            block = slice(start, start + COMPARED_ROWS)
            self._probes[block], away[block] = self._nearest(points[block])
        rank = np.round(away if keep == "nearest" else -away, 6)  # of equal vectors the first is kept
        self._members = Groups(self._probes[:, 0], self.clusters, np.lexsort((rank, self._probes[:, 0])))
        self._distances = np.full(rows, np.inf, np.float32)  # to `_kept`; infinite: the row stays, as far as is known
        self._kept = np.zeros(rows, np.int64)
        self._is_new = np.zeros(rows, bool)

    def show(self, points: np.ndarray, names: np.ndarray) -> None:
        """Compare new rows with rows that stay: float32 (n, dim) of length 1, and their names, int64 (n,)."""
        for start in range(0, len(points), COMPARED_ROWS):
            part, named = points[start : start + COMPARED_ROWS], names[start : start + COMPARED_ROWS]
            probes, _ = self._nearest(part)
            for cluster in np.unique(probes).tolist():
                at = np.flatnonzero((probes == cluster).any(axis=1))
                self._compare(self._members[cluster], part[at], named[at], is_new=False)

    def decide(self) -> Dropped:
        """Go through the clusters, in each by the distance from its center: a row stays unless one that stays is near."""
        second = Groups(self._probes[:, -1], self.clusters) if self.clusters > 1 else None
        for cluster in range(self.clusters):
            members = self._members[cluster]
            if second is not None:  # rows of clusters that are decided, which have this one as their second
                others = second[cluster]
                self._compare_new(members, others[(self._probes[others, 0] < cluster) & self._stays(others)])
            kept = members[:0]
            for start in range(0, len(members), BLOCK_ROWS):
                block = members[start : start + BLOCK_ROWS]
                self._compare_new(block, kept)
                self._decide_block(block)
                kept = np.concatenate([kept, block[self._stays(block)]])
        rows = np.flatnonzero(np.isfinite(self._distances))
        return Dropped(rows, self._kept[rows], self._is_new[rows], self._distances[rows])

    def _nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest clusters of points, int32 (n, probes), nearest first, and the distance to the first's center."""
        squares = (self._centers**2).sum(axis=1) - 2 * points @ self._centers.T
        every, found = np.arange(len(points)), []
        away = np.sqrt(np.maximum(squares.min(axis=1) + 1, 0))
        for _ in range(min(PROBES, self.clusters)):
            found.append(squares.argmin(axis=1).astype(np.int32))
            squares[every, found[-1]] = np.inf
        return np.stack(found, axis=1), away

    def _stays(self, rows: np.ndarray) -> np.ndarray:
        return np.isinf(self._distances[rows])

    def _compare_new(self, rows: np.ndarray, others: np.ndarray) -> None:
        """Compare rows with new rows that stay."""
        for start in range(0, len(others), COMPARED_ROWS):
            part = others[start : start + COMPARED_ROWS]
            self._compare(rows, self._points[part], part, is_new=True)

    def _compare(self, rows: np.ndarray, others: np.ndarray, names: np.ndarray, is_new: bool) -> None:
        """Note for rows which of some others that stay is the nearest, where it is near enough."""
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            products = others @ self._points[block].T
            best = products.argmax(axis=0)
            self._note(block, 1 - products[best, np.arange(len(block))], names[best], is_new)

    def _decide_block(self, rows: np.ndarray) -> None:
        """Compare each row of a block with those before it that stay."""
        points = self._points[rows]
        distances = 1 - points @ points.T
        near = np.triu(distances <= self._limit, k=1)
        for at in np.flatnonzero(near.any(axis=1)).tolist():
            if self._stays(rows[at : at + 1])[0]:
                later = np.flatnonzero(near[at])
                self._note(rows[later], distances[at, later], np.full(len(later), rows[at]), is_new=True)

    def _note(self, rows: np.ndarray, distances: np.ndarray, names: np.ndarray, is_new: bool) -> None:
        """Remember others that are near enough, and nearer than those known before."""
        nearer = (distances <= self._limit) & (distances < self._distances[rows])
        found = rows[nearer]
        self._distances[found] = np.maximum(distances[nearer], 0)
        self._kept[found], self._is_new[found] = names[nearer], is_new


class Groups:
    """The rows of each cluster, in the order of their numbers or in that of `order`, which has the clusters one after another."""

    def __init__(self, clusters: np.ndarray, number: int, order: np.ndarray | None = None) -> None:
        self._order = np.argsort(clusters, kind="stable") if order is None else order
        self._bounds = np.searchsorted(clusters[self._order], np.arange(number + 1))

    def __getitem__(self, cluster: int) -> np.ndarray:
        return self._order[self._bounds[cluster] : self._bounds[cluster + 1]]


def choose_clusters(rows: int, others: int, asked: int | None) -> int:
    """Number of clusters for so many new rows beside others: one while few pairs are compared, else √(2 rows).

    That many cost least, as each row is compared with each center, and with the rows of a cluster.
    """
    if asked is not None:
        return max(1, min(asked, rows, SAMPLE_ROWS))
    return 1 if rows * (rows + others) <= EXACT_PAIRS else math.ceil(math.sqrt(2 * rows))


def find_centers(points: np.ndarray, clusters: int) -> np.ndarray:
    """Centers, float32 (clusters, dim), by k-means on a sample of points; the same for the same points."""
    rows = min(SAMPLE_ROWS, len(points))
    sample = points[np.sort(np.random.default_rng(SEED).choice(len(points), rows, replace=False))] if rows else points
    if clusters == 1:
        return sample.mean(axis=0, keepdims=True) if rows else np.zeros((1, points.shape[1]), np.float32)
    from sklearn.cluster import MiniBatchKMeans

    model = MiniBatchKMeans(clusters, random_state=SEED, n_init=1).fit(sample)
    return np.asarray(model.cluster_centers_, np.float32)
