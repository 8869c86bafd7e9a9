"""What deduplication costs, and what it misses: seconds and peak memory for new rows beside those of a table.

The vectors are clustered, and three in ten are near copies of others. How many duplicates stay is counted for a sample of the new rows that stay: each is compared with every
row that stays. Prints JSON. Linux alone (the kernel tells the peak); pages of the file with the vectors count, though the kernel can take them back.

    python benchmarks/deduplication.py --new 1000000
    python benchmarks/deduplication.py --new 1000 --others 1000000
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from own_process import peak_mb

from pipelines.publish.near_rows import NearRows

TOPICS, WEIGHT = 200, 0.3  # what the vectors of a topic share, beside noise of weight 1: clusters that overlap
COPIED = 0.3
PIECE = 20_000
LOOKED_AT = 1000  # new rows that stay, of which each is compared with all


def pieces(rows: int, dim: int, seed: int) -> Iterator[np.ndarray]:
    """Vectors of length 1, float32 (n, dim), a piece at a time."""
    topics = WEIGHT * np.random.default_rng(0).standard_normal((TOPICS, dim))
    pool = topics[np.arange(PIECE) % TOPICS] + np.random.default_rng(1).standard_normal((PIECE, dim))
    for start in range(0, rows, PIECE):
        rng = np.random.default_rng([seed, start])
        number = min(PIECE, rows - start)
        fresh = topics[rng.integers(0, TOPICS, number)] + rng.standard_normal((number, dim))
        copies = pool[rng.integers(0, PIECE, number)] + rng.uniform(0, 0.4, (number, 1)) * rng.standard_normal(
            (number, dim)
        )
        points = np.where(rng.random((number, 1)) < COPIED, copies, fresh)
        yield (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def missed(points: np.ndarray, stays: np.ndarray, others: Iterator[np.ndarray], threshold: float) -> float:
    """Share of some new rows that stay which are within the threshold of another row that stays."""
    looked_at = np.sort(np.random.default_rng(2).choice(stays, min(LOOKED_AT, len(stays)), replace=False))
    asked, nearest = points[looked_at], np.full(len(looked_at), np.inf)
    for start in range(0, len(stays), PIECE):
        rows = stays[start : start + PIECE]
        distances = 1 - asked @ points[rows].T
        distances[looked_at[:, None] == rows[None]] = np.inf
        nearest = np.minimum(nearest, distances.min(axis=1))
    for part in others:
        nearest = np.minimum(nearest, (1 - asked @ part.T).min(axis=1))
    return float((nearest <= threshold).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--new", type=int, default=100_000)
    parser.add_argument("--others", type=int, default=0)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--threshold", type=float, default=0.05)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "vectors")
        with path.open("wb") as file:
            for piece in pieces(given.new, given.dim, 3):
                file.write(piece.tobytes())
        points = np.memmap(path, np.float32, "r", shape=(given.new, given.dim))
        began, made = time.perf_counter(), 0.0
        near = NearRows(points, given.others, given.threshold)
        fitted = time.perf_counter()
        for start, part in enumerate(pieces(given.others, given.dim, 4)):
            shown = time.perf_counter()
            near.show(part, np.arange(len(part)) + start * PIECE)
            made += time.perf_counter() - shown
        last = time.perf_counter()
        found = near.decide()
        figures = {
            "new": given.new,
            "others": given.others,
            "clusters": near.clusters,
            "dropped": len(found.rows),
            "seconds": {
                "fit": round(fitted - began, 1),
                "others": round(made, 1),
                "decide": round(time.perf_counter() - last, 1),
            },
            "peak_mb": peak_mb(),
        }
        stays = np.setdiff1d(np.arange(given.new), found.rows)
        figures["still_near_share"] = missed(points, stays, pieces(given.others, given.dim, 4), given.threshold)
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
