"""Geometry, against the papers' definitions written out over all pairs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from lake_maker import LakeMaker
from scipy.spatial.distance import pdist, squareform
from scipy.stats import entropy, skew
from sklearn.neighbors import NearestNeighbors
from vectors_maker import figures, make_table

ROWS, DIM = 120, 6


def test_figures_equal_their_definitions(maker: LakeMaker):
    rng = np.random.default_rng(0)
    vectors = (rng.normal(size=(ROWS, DIM)) + 0.5) * rng.uniform(0.5, 2, (ROWS, 1))
    found = figures(make_table(maker, vectors), kind="geometry", neighbours=5)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    squares = pdist(units, "sqeuclidean")
    assert found["uniformity"] == pytest.approx(np.log(np.exp(-2 * squares).mean()), abs=1e-5)
    assert found["mean cosine"] == pytest.approx((1 - squares / 2).mean(), abs=1e-6)
    assert found["effective rank"] == pytest.approx(np.exp(entropy(np.linalg.svd(vectors)[1])), abs=1e-4)
    near = NearestNeighbors(n_neighbors=5).fit(units).kneighbors(return_distance=False)
    assert found["hubness"] == pytest.approx(skew(np.bincount(near.ravel(), minlength=ROWS)), abs=1e-6)
    lengths = np.linalg.norm(vectors, axis=1)
    assert found["norm"] == pytest.approx(lengths.mean(), abs=1e-5)
    assert found["norm spread"] == pytest.approx(lengths.std() / lengths.mean(), abs=1e-5)
    scaled = vectors / lengths.mean()
    axes = np.linalg.svd(scaled)[2]
    sums = [np.exp(scaled @ (sign * axis)).sum() for axis in axes for sign in (1, -1)]
    assert found["isotropy"] == pytest.approx(min(sums) / max(sums), abs=1e-5)


def test_even_directions_and_one_direction(maker: LakeMaker):
    rng = np.random.default_rng(0)
    even = figures(make_table(maker, rng.normal(size=(2000, 4)), name="even"), kind="geometry")
    narrow = figures(make_table(maker, rng.normal(size=(2000, 4)) * 0.01 + 1, name="narrow"), kind="geometry")
    assert even["isotropy"] > 0.9 > 0.3 > narrow["isotropy"]
    assert even["mean cosine"] == pytest.approx(0, abs=0.01) and narrow["mean cosine"] > 0.99
    assert even["effective rank"] == pytest.approx(4, abs=0.01) and narrow["effective rank"] < 1.5
    assert even["uniformity"] < -1.5 < -0.1 < narrow["uniformity"]


def test_near_duplicates_are_counted_among_the_whole_table(maker: LakeMaker):
    vectors = np.random.default_rng(0).normal(size=(200, 32))
    vectors[150:] = vectors[:50] * 1.01 + 0.001  # of the same direction
    for metric in ("cosine", "l2"):
        table = make_table(maker, vectors, name=metric, metric=metric)
        found = table.evaluate({"tasks": [{"kind": "geometry"}]}, resamples=20).find("near-duplicate rate")
        assert (found.n, found.value) == (200, 0.5)
    sampled = make_table(maker, vectors, name="few").evaluate(
        {"tasks": [{"kind": "geometry", "duplicate_rows": 40}]}, resamples=20
    )
    few = sampled.find("near-duplicate rate")
    twins = {*range(50), *range(150, 200)}
    places = [int(name[3:]) for name in sampled.values(few)["id"].to_pylist()]
    assert few.n == 40 and few.value == np.mean([place in twins for place in places])


def test_alignment_is_the_distance_of_rows_of_one_label(maker: LakeMaker):
    vectors = np.random.default_rng(0).normal(size=(60, 8))
    labels = [str(n // 2) for n in range(60)]
    labels[-1] = "alone"
    table = make_table(maker, vectors, {"label": pa.array(labels)})
    found = table.evaluate({"tasks": [{"kind": "geometry", "positives": "label"}]}, resamples=20).find("alignment")
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    squares = squareform(pdist(units, "sqeuclidean"))
    assert found.n == 58
    assert found.value == pytest.approx(np.mean([squares[n, n + 1] for n in range(0, 58, 2)]), abs=1e-5)
