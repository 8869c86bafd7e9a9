"""Figures of how vectors lie, each by its paper's definition; in blocks, so that no matrix of all pairs is held."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from latentlake.evaluation.base import Subject
from latentlake.evaluation.ranking import QUERY_BATCH, nearest_rows
from latentlake.evaluation.rows import as_numbers, objects
from latentlake.vectors import array_of
from operators.embedders.base import normalize_rows

BLOCK = 512  # rows compared with all others at once
CANDIDATES = 10  # rows looked at for one that is a near-duplicate, itself among them


def products(units: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Products of rows with all rows, float32 (block, n), with the place of each block's first."""
    for start in range(0, len(units), BLOCK):
        yield start, units[start : start + BLOCK] @ units.T


def uniformity(units: np.ndarray) -> float:
    """log of the mean of exp(-2 |x - y|²) over pairs of different rows of length 1; the lower, the more evenly they spread.

    Wang and Isola 2020, "Understanding Contrastive Representation Learning through Alignment and Uniformity on the Hypersphere".
    """
    total = sum(float(np.exp(4 * block.astype(np.float64) - 4).sum()) for _, block in products(units))
    own = float(np.exp(4 * np.einsum("nd,nd->n", units, units).astype(np.float64) - 4).sum())
    return float(np.log((total - own) / (len(units) * (len(units) - 1))))


def mean_cosine(units: np.ndarray) -> float:
    """Mean cosine of two different rows: 0 where directions are even, near 1 where all share one.

    Ethayarajh 2019, "How Contextual are Contextualized Word Representations?", calls it anisotropy.
    """
    whole = units.sum(axis=0, dtype=np.float64)
    own = float((units.astype(np.float64) ** 2).sum())
    return float((whole @ whole - own) / (len(units) * (len(units) - 1)))


def isotropy(vectors: np.ndarray) -> float:
    """Least over greatest of Z(c), the sum of exp(c · x) over rows x, over the eigenvectors c of XᵀX and their opposites: 1 is isotropic.

    Mu and Viswanath 2018, "All-but-the-Top", eq. 7. Rows are scaled by one factor to a mean length of 1, so that the unit of
    the vectors does not matter.
    """
    scale = float(np.linalg.norm(vectors, axis=1).mean()) or 1.0
    scaled = vectors.astype(np.float64) / scale
    directions = np.linalg.eigh(scaled.T @ scaled)[1]
    projected = scaled @ directions
    sums = np.concatenate([np.exp(projected).sum(axis=0), np.exp(-projected).sum(axis=0)])
    return float(sums.min() / sums.max())


def effective_rank(vectors: np.ndarray) -> float:
    """exp of the entropy of the singular values' shares: how many dimensions are in use.

    Roy and Vetterli 2007, "The effective rank"; of embeddings, RankMe (Garrido et al. 2023).
    """
    values = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    if not values.any():
        return 0.0
    shares = values / values.sum()
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def neighbour_counts(units: np.ndarray, k: int) -> np.ndarray:
    """How often each row is among the `k` nearest of another, int64 (n,)."""
    counts = np.zeros(len(units), dtype=np.int64)
    for start, block in products(units):
        block[np.arange(len(block)), start + np.arange(len(block))] = -np.inf
        found = np.argpartition(-block, k - 1, axis=1)[:, :k]
        counts += np.bincount(found.ravel(), minlength=len(units))
    return counts


def skewness(counts: np.ndarray) -> float:
    """Skewness of the counts of `neighbour_counts`: 0 without hubs, and the higher the more a few rows are near to everything.

    Radovanović, Nanopoulos and Ivanović 2010, "Hubs in Space".
    """
    spread = counts.std()
    return float(((counts - counts.mean()) ** 3).mean() / spread**3) if spread else 0.0


def alignment(ids: np.ndarray, units: np.ndarray, labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance, float64, of each row of length 1 to another of its label, drawn at random; and the rows' ids.

    Rows whose label is theirs alone are left out. Its mean is Wang and Isola's alignment (2020), with their exponent of 2.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, starts, sizes = np.unique(labels[order], return_index=True, return_counts=True)
    partner = np.empty(len(order), dtype=np.int64)
    for start, size in zip(starts.tolist(), sizes.tolist(), strict=True):
        partner[start : start + size] = np.roll(order[start : start + size], 1)
    paired = order != partner
    rows, others = order[paired], partner[paired]
    return ids[rows], ((units[rows].astype(np.float64) - units[others]) ** 2).sum(axis=1)


def near_duplicates(subject: Subject, ids: np.ndarray, vectors: np.ndarray, distance: float) -> np.ndarray:
    """1 for each row that has another row of the whole table within a cosine distance, else 0; float64 (n,).

    The nearest rows are those that a search finds, by the column's metric; their cosine is computed from the vectors.
    """
    column, metric = subject.column, subject.stored.metric
    found = np.zeros(len(ids))
    for start in range(0, len(ids), QUERY_BATCH):
        part = vectors[start : start + QUERY_BATCH]
        asked = np.packbits(part > 0, axis=1) if metric == "hamming" else part
        kept = asked.any(axis=1) if metric == "cosine" else np.ones(len(asked), dtype=bool)
        if not kept.any():
            continue
        hits = nearest_rows(subject.table, column, asked[kept], CANDIDATES, ["id", column]).combine_chunks()
        owners = np.flatnonzero(kept)[hits["query_index"].to_numpy()]
        others = normalize_rows(as_numbers(array_of(hits[column].chunk(0), True)))
        cosines = np.einsum("nd,nd->n", normalize_rows(part)[owners], others)
        near = (cosines >= 1 - distance) & (objects(hits["id"].to_pylist()) != ids[start + owners])
        found[start + owners[near]] = 1
    return found
