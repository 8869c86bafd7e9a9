"""Fewer hits of one kind: maximal marginal relevance."""

from __future__ import annotations

import numpy as np


def diversify(relevance: np.ndarray, likeness: np.ndarray, balance: float, n: int) -> np.ndarray:
    """Places, int64 (at most n,), of rows in the order of maximal marginal relevance.

    The next row is the one with the largest balance * relevance - (1 - balance) * its largest likeness to a row chosen
    before; the first of equals. `relevance` is (m,), best first, and `likeness` (m, m), both of one scale. With a `balance` of 1 the order stays. Carbonell
    and Goldstein, "The Use of MMR, Diversity-Based Reranking …", SIGIR 1998.
    """
    chosen: list[int] = []
    nearest = np.zeros(len(relevance))  # of the rows that are left to those that are chosen: none yet
    left = np.ones(len(relevance), dtype=bool)
    while left.any() and len(chosen) < n:
        gains = np.where(left, balance * relevance - (1 - balance) * nearest, -np.inf)
        best = int(np.argmax(gains))
        nearest = likeness[best] if not chosen else np.maximum(nearest, likeness[best])
        left[best] = False
        chosen.append(best)
    return np.array(chosen, dtype=np.int64)


def likeness_of(vectors: np.ndarray, others: np.ndarray, metric: str) -> np.ndarray:
    """How alike vectors are, float32 (n, m), higher is more: of (n, dim) and (m, dim).

    The cosine; the product (dot); minus the squared distance (l2); minus the share of bits that differ (hamming, uint8).
    """
    from latentlake.recall import distances_between

    distances = distances_between(vectors, others, metric)
    if metric in ("cosine", "dot"):
        return 1 - distances
    return -distances / (8 * vectors.shape[1]) if metric == "hamming" else -distances
