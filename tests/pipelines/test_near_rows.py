"""Which rows are dropped as near duplicates, beside comparisons of each with each in plain numpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.publish import near_rows
from pipelines.publish.near_rows import Dropped, NearRows, choose_clusters, find_centers

Keep = Literal["nearest", "farthest"]
NAMES = 1_000_000  # names of the rows that stay, which are no numbers of new rows
THRESHOLD = 0.05
CLEAR = 3e-6  # no distance of the data is so near to the threshold that rounding decides


def unit(points: np.ndarray) -> np.ndarray:
    return (points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32)


def near_twins(rows: int, seed: int, dim: int = 12) -> np.ndarray:
    """Points of which about half have others nearby, at distances on both sides of the threshold."""
    rng = np.random.default_rng(seed)
    firsts = rng.normal(size=(rows // 4, dim))
    twins = firsts[rng.integers(0, len(firsts), rows - len(firsts))]
    spread = rng.uniform(0, 0.6, size=(len(twins), 1))
    points = unit(rng.permutation(np.concatenate([firsts, twins + spread * rng.normal(size=twins.shape)])))
    distances = 1 - points.astype(np.float64) @ points.T.astype(np.float64)
    assert (np.abs(distances - THRESHOLD) > CLEAR).all()
    return points


def decide(points: np.ndarray, others: np.ndarray, keep: Keep = "nearest", clusters: int | None = None) -> Dropped:
    found = NearRows(points, len(others), THRESHOLD, keep, clusters)
    for start in range(0, len(others), 7):
        found.show(others[start : start + 7], NAMES + np.arange(start, min(start + 7, len(others))))
    return found.decide()


def expected(points: np.ndarray, others: np.ndarray, keep: Keep, centers: np.ndarray) -> dict[int, int]:
    """The name of the kept row by each dropped row, told once more: row by row, all distances in float64."""
    new, old, middle = (values.astype(np.float64) for values in (points, others, centers))
    away = np.linalg.norm(new[:, None] - middle[None], axis=2)
    shown = np.linalg.norm(old[:, None] - middle[None], axis=2)
    probes, probes_of_old = (np.argsort(d, axis=1, kind="stable")[:, :2] for d in (away, shown))
    order = sorted(
        range(len(new)),
        key=lambda row: (probes[row, 0], (1 if keep == "nearest" else -1) * round(away[row].min(), 6), row),
    )
    dropped: dict[int, int] = {}
    for place, row in enumerate(order):
        cluster = probes[row, 0]
        near = [(1 - new[row] @ old[name], NAMES + name) for name in range(len(old)) if cluster in probes_of_old[name]]
        near += [(1 - new[row] @ new[o], o) for o in order[:place] if o not in dropped and cluster in probes[o]]
        if near and min(near)[0] <= THRESHOLD:
            dropped[row] = min(near)[1]
    return dropped


@pytest.mark.parametrize("keep", ["nearest", "farthest"])
@pytest.mark.parametrize("clusters", [1, 2, 6])
def test_beside_a_comparison_row_by_row(keep: Keep, clusters: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(near_rows, "BLOCK_ROWS", 16)
    monkeypatch.setattr(near_rows, "COMPARED_ROWS", 11)
    points, others = near_twins(160, 1), near_twins(40, 1)[:20]
    centers = find_centers(points, clusters)
    assert len(centers) == clusters
    if clusters == 1:
        np.testing.assert_allclose(centers[0], points.astype(np.float64).mean(axis=0), atol=1e-6)
    wanted, found = expected(points, others, keep, centers), decide(points, others, keep, clusters)
    assert found.rows.tolist() == sorted(wanted) and 20 < len(wanted) < 140
    assert dict(zip(found.rows.tolist(), found.kept.tolist(), strict=True)) == wanted
    assert found.is_new.tolist() == [name < NAMES for name in found.kept.tolist()]
    assert 0 < found.is_new.sum() < len(found.is_new)


def test_rows_of_the_same_vector_keep_the_first():
    points = unit(np.repeat([[1.0, 2.0, 3.0], [3.0, -1.0, 0.5]], 40, axis=0))
    found = decide(points, points[:0])
    assert found.rows.tolist() == [*range(1, 40), *range(41, 80)]
    assert found.kept.tolist() == [0] * 39 + [40] * 39 and found.distances.max() < 1e-6


def test_the_nearest_or_the_farthest_stays():
    # Three rows in a fan around (1, 0), and the mean of all is near the middle one.
    angles = np.radians([0.0, 10.0, -11.0])
    points = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    assert decide(points, points[:0], "nearest").rows.tolist() == [1, 2]
    assert decide(points, points[:0], "farthest").rows.tolist() == [0]  # 21 degrees part the outer two: 0.066


def test_what_is_in_memory_and_what_is_mapped_are_one(tmp_path: Path):
    points, others = near_twins(400, 3), near_twins(50, 4)
    points.tofile(tmp_path / "vectors")
    mapped = np.memmap(tmp_path / "vectors", np.float32, "r", shape=points.shape)
    first, second = decide(points, others, clusters=9), decide(mapped, others, clusters=9)
    for name in ("rows", "kept", "is_new", "distances"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def test_no_rows_and_no_others():
    none = np.zeros((0, 5), np.float32)
    assert len(decide(none, near_twins(20, 5, dim=5)).rows) == 0 == len(decide(none, none).rows)


@pytest.mark.parametrize(
    ("rows", "others", "asked", "clusters"),
    [
        (0, 10, None, 1),
        (20_000, 10**4, None, 1),
        (1000, 10**7, None, 45),
        (10**7, 0, None, 4473),
        (5, 0, 8, 5),
        (100, 0, 8, 8),
    ],
)
def test_how_many_clusters(rows: int, others: int, asked: int | None, clusters: int):
    assert choose_clusters(rows, others, asked) == clusters


@st.composite
def some_points(draw: Any) -> np.ndarray:
    numbers = st.lists(st.integers(-2, 2), min_size=3, max_size=3).filter(any)
    return unit(np.array(draw(st.lists(numbers, min_size=1, max_size=30)), dtype=np.float64))


@settings(max_examples=60, deadline=None)
@given(
    some_points(),
    some_points(),
    st.sampled_from(["nearest", "farthest"]),
    st.integers(1, 4),
    st.sampled_from([0.0, 0.05, 0.5]),
)
def test_what_is_dropped_names_a_row_that_stays(
    points: np.ndarray, others: np.ndarray, keep: Keep, clusters: int, threshold: float
):
    near = NearRows(points, len(others), threshold, keep, clusters)
    near.show(others, NAMES + np.arange(len(others)))
    found = near.decide()
    stays = np.setdiff1d(np.arange(len(points)), found.rows)
    assert len(stays) + len(found.rows) == len(points)
    both = np.concatenate([points, others]).astype(np.float64)
    at = np.where(found.is_new, found.kept, len(points) + found.kept - NAMES)
    assert set(found.kept[found.is_new].tolist()) <= set(stays.tolist())
    distances = 1 - (both[found.rows] * both[at]).sum(axis=1)
    assert (distances <= threshold + 1e-5).all()
    np.testing.assert_allclose(found.distances, distances, atol=1e-5)
    if near.clusters == 1:  # nothing is missed
        pairs = 1 - both[stays] @ both.T
        pairs[np.arange(len(stays)), stays] = 2
        pairs[:, found.rows] = 2
        assert (pairs > threshold - 1e-5).all()
