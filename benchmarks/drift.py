"""What values of drift mean: Cranfield's abstracts (all-MiniLM-L6-v2) against themselves, with topics and rows replaced.

The columns are those of benchmarks/bridge.py, mean and CLS pooling; topics are 8 clusters by k-means. With --lake FOLDER they are
kept there. Prints the drift of each change, by `latentlake.comparison.drift`.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from bridge import make_lake
from sklearn.cluster import KMeans

from latentlake.comparison.drift import Sample, drift, sample_of


def changes(old: np.ndarray, new: np.ndarray, queries: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """What is compared: a name, and the rows before and after."""
    rng = np.random.default_rng(0)
    half = len(old) // 2
    order = rng.permutation(len(old))
    topics = KMeans(8, random_state=0, n_init=1).fit_predict(old)
    before, rest = old[order[:half]], order[half:]
    for draw in range(8):
        mixed = np.random.default_rng(draw).permutation(old)
        yield f"the other half, draw {draw + 1}", mixed[:half], mixed[half:]
    for share in (0.1, 0.2, 0.5):
        count = round(share * half)
        of_topic = rng.choice(rest[topics[rest] == 0], count)
        others = rng.choice(rest, half - count, replace=False)
        yield f"{share:.0%} more of one topic", before, old[np.concatenate([of_topic, others])]
        mixed = np.concatenate([new[rest[:count]], old[rest[count:]]])
        yield f"{share:.0%} of rows by another pooling", before, mixed
    yield "all rows by another pooling", old, new
    yield "queries instead of abstracts", old, queries


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lake", type=Path, help="keep the lake in this folder")
    asked = parser.parse_args()
    data = Path(os.environ.get("LATENTLAKE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cranfield"
    with tempfile.TemporaryDirectory() as folder:
        table = make_lake(asked.lake or Path(folder), data)
        old, new = (sample_of(table, column).vectors for column in ("old", "new"))
        queries = table.embed(pq.read_table(data / "queries.parquet")["text"].to_pylist(), "old")
    queries = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    print(f"{'after':34} {'mmd':>7} {'p':>6} {'mean_shift':>10} {'frechet':>8} {'floor':>7}")
    for name, before, after in changes(old, new, queries):
        found = drift(Sample(before), Sample(after))
        print(
            f"{name:34} {found.mmd:>7.4f} {found.p_value:>6.3f} {found.mean_shift:>10.4f} {found.frechet:>8.4f} "
            f"{found.frechet_floor:>7.4f}"
        )


if __name__ == "__main__":
    main()
