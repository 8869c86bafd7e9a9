"""Several rankings made one: by ranks, or by scores that are brought to one scale over a fixed pool."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RANK_CONSTANT = 60  # Cormack, Clarke, Büttcher, "Reciprocal Rank Fusion outperforms …", SIGIR 2009


@dataclass(frozen=True)
class Ranking:
    """Rows that one part of a search found, best first: row ids uint64 (n,), and distances or BM25 float32 (n,)."""

    part: str  # "text", or the vector column
    rows: np.ndarray
    values: np.ndarray
    higher_is_better: bool = False

    def without(self, rows: np.ndarray) -> Ranking:
        """The same without these rows."""
        kept = ~np.isin(self.rows, rows)
        return Ranking(self.part, self.rows[kept], self.values[kept], self.higher_is_better)

    def first(self, n: int) -> Ranking:
        """Its best `n` rows."""
        return Ranking(self.part, self.rows[:n], self.values[:n], self.higher_is_better)


def fuse_ranks(rankings: Sequence[Ranking], weights: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Rows uint64 (n,) and scores float64 (n,) of all rankings, best first: reciprocal rank fusion (RRF).

    A row's score is the sum of weight / (60 + rank) over the rankings that have it; ranks count from 1. `weights` are by part, 1 where none is given.
    """
    terms = [
        (ranking.rows, weights.get(ranking.part, 1.0) / (RANK_CONSTANT + np.arange(1, len(ranking.rows) + 1)))
        for ranking in rankings
    ]
    return add_up(terms)


def fuse_scores(rankings: Sequence[Ranking], weights: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
    """Rows uint64 (n,) and scores float64 (n,) of all rankings, best first: the weighted sum of normalised scores.

    In each ranking the best row has 1 and the last 0 (min-max over the pool); a row that a ranking lacks gets 0 from it.
    """
    return add_up([(ranking.rows, weights.get(ranking.part, 1.0) * normalise(ranking)) for ranking in rankings])


def normalise(ranking: Ranking) -> np.ndarray:
    """Scores from 0 to 1, higher is better, float64 (n,); all 1 where they do not differ."""
    values = ranking.values.astype(np.float64)
    values = values if ranking.higher_is_better else -values
    span = np.ptp(values) if len(values) else 0.0
    return (values - values.min()) / span if span else np.ones(len(values))


def add_up(terms: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Sum of each row's terms, largest first, equal ones by row id: whatever order the terms come in."""
    found: dict[int, list[float]] = {}
    for rows, scores in terms:
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            found.setdefault(row, []).append(score)
    rows = np.fromiter(found, np.uint64, len(found))
    scores = np.array([math.fsum(scores) for scores in found.values()], dtype=np.float64)
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]
