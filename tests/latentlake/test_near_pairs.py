"""Pairs of near rows: each that the rows' partitions hold, once, as a comparison of all rows with each other has them."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from vector_tables import make_table, one_thread

from latentlake.exploration import near_pairs
from latentlake.exploration.points import unit
from operators.errors import SpecError

ROWS, DIM, LEFT_OUT = 400, 6, (3, 250)
RNG = np.random.default_rng(0)
VECTORS = (RNG.normal(size=(8, DIM))[np.arange(ROWS) % 8] + 0.3 * RNG.normal(size=(ROWS, DIM))).astype(np.float32)
METRICS = {"cosine": "cosine", "l2": "sqeuclidean"}
THRESHOLDS = {"cosine": 0.05, "l2": 0.5}
UNSURE = 1e-5  # float32 may tell a distance so near to the threshold otherwise


@given(
    st.integers(1, 40),
    st.sampled_from(list(METRICS)),
    st.floats(0, 1.5),
    st.integers(1, 200),
    st.integers(0, 2**32 - 1),
)
def test_pairs_in_blocks_are_those_of_all_distances(rows: int, metric: str, threshold: float, block: int, seed: int):
    points = np.random.default_rng(seed).integers(-2, 3, size=(rows, 3)).astype(np.float32)
    points[:, 0] += 3  # none is zero
    points = unit(points) if metric == "cosine" else points
    distances = cdist(points.astype(np.float64), points.astype(np.float64), METRICS[metric])
    with mock.patch.object(near_pairs, "BLOCK_DISTANCES", block):
        parts = list(near_pairs.near_pairs(points, metric, threshold))
    found = [pair for a, b, _ in parts for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert len(set(found)) == len(found) and all(a < b for a, b in found)
    sure = np.triu(distances <= threshold - UNSURE, k=1)
    likely = np.triu(distances <= threshold + UNSURE, k=1)
    assert set(map(tuple, np.argwhere(sure).tolist())) <= set(found) <= set(map(tuple, np.argwhere(likely).tolist()))
    for a, b, told in parts:
        np.testing.assert_allclose(told, distances[a, b], atol=UNSURE)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("where", [None, "kind = 'a'"])
def test_pairs_of_partitions_are_found_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metric: str, where: str | None
):
    monkeypatch.setattr(near_pairs, "ALL_PAIRS_ROWS", 100)
    monkeypatch.setattr(near_pairs, "PARTITION_ROWS", 50)
    table = make_table(tmp_path, VECTORS, metric, no_vector=LEFT_OUT, kind=["a", "b", "a", "a"] * (ROWS // 4))
    kept = [row for row in range(ROWS) if row not in LEFT_OUT and (where is None or row % 4 != 1)]
    points = unit(VECTORS[kept]) if metric == "cosine" else VECTORS[kept]
    with one_thread():
        partitions = near_pairs.partition_rows(table, "v", where, 0)
        first, second, told = near_pairs.find_pairs(table, "v", partitions, THRESHOLDS[metric])
    assert partitions.row_ids.tolist() == kept and len(partitions.centers) >= 6
    nearest = np.argsort(cdist(points, partitions.centers), axis=1)[:, : near_pairs.PROBES]
    np.testing.assert_array_equal(np.sort(partitions.probed), np.sort(nearest))
    distances = cdist(points, points, METRICS[metric])
    share = (nearest[:, None, :, None] == nearest[None, :, None, :]).any(axis=(2, 3))
    expected = {tuple(pair) for pair in np.argwhere(np.triu((distances <= THRESHOLDS[metric]) & share, k=1)).tolist()}
    found = list(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(set(found)) > 500 and set(found) == expected
    np.testing.assert_allclose(told, distances[first, second], atol=UNSURE)
    in_two = [len(set(nearest[a]) & set(nearest[b])) == 2 for a, b in found]
    assert any(in_two) and not all(in_two)


def test_too_many_pairs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    table = make_table(tmp_path, np.ones((40, 3), np.float32))
    partitions = near_pairs.partition_rows(table, "v", None, 0)
    assert len(near_pairs.find_pairs(table, "v", partitions, 0.0)[0]) == 780
    monkeypatch.setattr(near_pairs, "MAX_PAIRS", 779)
    with pytest.raises(SpecError, match="more than 779 pairs are within"):
        near_pairs.find_pairs(table, "v", partitions, 0.0)
