"""How far two columns agree on which rows are near to which: the overlap of nearest neighbours, which needs no common space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from latentlake.recall import distances_between

BLOCK = 64  # queries at once: their distances to 20,000 rows are 5 MB
LEVELS = 999  # resamples of the interval
SHOWN = 10  # rows whose neighbours changed most
SHOWN_NEIGHBOURS = 5


@dataclass(frozen=True)
class Share:
    """A mean over `rows` rows, with its 95 % interval (bootstrap over rows)."""

    value: float
    low: float
    high: float
    rows: int


@dataclass(frozen=True)
class Changed:
    """A row and what is nearest to it on both sides, nearest first, by id. `text` or `uri`: what the row holds, if the table has it."""

    id: str
    overlap: float
    before: tuple[str, ...]
    after: tuple[str, ...]
    text: str | None = None
    uri: str | None = None


@dataclass(frozen=True)
class Overlap:
    """Of the `k` rows nearest to a row, the share that is the same on both sides.

    Neighbours are exact, and looked for among `pool` rows at random that both sides have with vectors (all of them, where
    there are no more); so rows of one side only do not count, and an index has no part. `first`: how often the nearest is the
    same. `histogram[n]` rows keep n of their k neighbours. `changed` are the rows that keep fewest.
    """

    k: int
    pool: int
    overlap: Share
    first: Share
    histogram: tuple[int, ...]
    segments: Mapping[str, Share] = field(default_factory=dict)
    changed: tuple[Changed, ...] = ()


def nearest_in(vectors: np.ndarray, queries: int, k: int, metric: str) -> np.ndarray:
    """Places of the `k` rows nearest to each of the first `queries` rows, itself left out; see `nearest_rows`."""
    return nearest_rows(vectors[:queries], vectors, k, metric, np.arange(queries))


def nearest_rows(
    queries: np.ndarray, rows: np.ndarray, k: int, metric: str, own: np.ndarray | None = None
) -> np.ndarray:
    """Places of the `k` rows nearest to each query, int (queries, k), nearest first; `own` (queries,) is left out of its hits.

    Both are vectors as they are stored, (…, dim). Of equally near rows the first counts as nearer.
    """
    if metric != "hamming":
        queries, rows = queries.astype(np.float32), rows.astype(np.float32)
    found = np.zeros((len(queries), k), dtype=np.int64)
    for start in range(0, len(queries), BLOCK):
        block = slice(start, start + BLOCK)
        distances = distances_between(queries[block], rows, metric)
        distances = np.nan_to_num(distances, nan=np.inf)  # zero vectors have no direction
        if own is not None:
            distances[np.arange(len(distances)), own[block]] = np.inf
        found[block] = smallest(distances, k)
    return found


def smallest(distances: np.ndarray, k: int) -> np.ndarray:
    """Places of the `k` smallest numbers of each row, smallest first; of equal ones the first."""
    bound = np.partition(distances, k - 1, axis=1)[:, k - 1]
    return np.stack(
        [
            (near := np.flatnonzero(row <= limit))[np.argsort(row[near], kind="stable")[:k]]
            for row, limit in zip(distances, bound, strict=True)
        ]
    )


def overlap_of(
    ids: np.ndarray,
    before: tuple[np.ndarray, str],
    after: tuple[np.ndarray, str],
    *,
    k: int,
    queries: int,
    segments: np.ndarray | None = None,
    seed: int = 0,
) -> Overlap:
    """Overlap of the neighbours of `queries` rows, of two samples of vectors of the same rows, each with its metric.

    `ids` (n,) name the rows. There are at least k + 1 of them.
    """
    chosen = min(queries, len(ids))
    order = np.random.default_rng(seed).permutation(len(ids))  # the first ones are the queries
    ids, values = ids[order], [side[order] for side, _ in (before, after)]
    places = [nearest_in(one, chosen, k, metric) for one, metric in zip(values, (before[1], after[1]), strict=True)]
    kept = np.array([len(np.intersect1d(one, other)) for one, other in zip(*places, strict=True)])
    parts = {} if segments is None else parts_of(segments[order][:chosen])

    def named(side: int, at: int) -> tuple[str, ...]:
        return tuple(ids[places[side][at][:SHOWN_NEIGHBOURS]].tolist())

    return Overlap(
        k=k,
        pool=len(ids),
        overlap=share_of(kept / k, seed),
        first=share_of((places[0][:, 0] == places[1][:, 0]).astype(float), seed),
        histogram=tuple(np.bincount(kept, minlength=k + 1).tolist()),
        segments={name: share_of(kept[rows] / k, seed) for name, rows in parts.items()},
        changed=tuple(
            Changed(str(ids[at]), kept[at] / k, named(0, at), named(1, at))
            for at in np.argsort(kept, kind="stable")[:SHOWN].tolist()
            if kept[at] < k
        ),
    )


def parts_of(segments: np.ndarray) -> dict[str, np.ndarray]:
    """Rows of each segment, by its name."""
    return {str(name): np.flatnonzero(segments == name) for name in np.unique(segments)}


def share_of(values: Sequence[float] | np.ndarray, seed: int = 0) -> Share:
    """The mean of values between 0 and 1, and its percentile bootstrap interval; the mean alone where all are equal."""
    from scipy.stats import bootstrap

    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return Share(mean, mean, mean, len(values))
    found = bootstrap(
        (values,), np.mean, n_resamples=LEVELS, method="percentile", rng=np.random.default_rng(seed)
    ).confidence_interval
    return Share(mean, float(found.low), float(found.high), len(values))
