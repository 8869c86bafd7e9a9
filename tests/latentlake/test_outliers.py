"""Rows that stand apart: against scikit-learn and numpy on the same data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import LocalOutlierFactor
from vector_tables import make_table, one_thread

import latentlake
from operators.errors import SpecError, UnknownName

ROWS, DIM, APART = 500, 5, (17, 333)
VECTORS = np.random.default_rng(0).normal(size=(ROWS, DIM)).astype(np.float32)
VECTORS[list(APART)] += [[9] * DIM, [-12] * DIM]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> latentlake.Table:
    return make_table(tmp_path_factory.mktemp("lake"), VECTORS, label=["x"] * ROWS)


def knn() -> np.ndarray:
    return np.sort(pairwise_distances(VECTORS), axis=1)[:, 1:11].mean(axis=1)


def lof() -> np.ndarray:
    return -LocalOutlierFactor(10).fit(VECTORS).negative_outlier_factor_


def mahalanobis() -> np.ndarray:
    from sklearn.covariance import ledoit_wolf

    away = VECTORS - VECTORS.mean(axis=0)
    return np.sqrt(np.einsum("ij,jk,ik->i", away, np.linalg.inv(ledoit_wolf(VECTORS)[0]), away))


def isolation_forest() -> np.ndarray:
    return -IsolationForest(random_state=0).fit(VECTORS).score_samples(VECTORS)


@pytest.mark.parametrize("method", [knn, lof, mahalanobis, isolation_forest], ids=lambda method: method.__name__)
def test_scores_are_an_independent_computations(table: latentlake.Table, method):
    expected = method()
    found = table.outliers(method.__name__, ROWS).to_arrow()
    at = dict(zip(found["id"].to_pylist(), found["outlier_score"].to_pylist(), strict=True))
    got = np.array([at[f"row{row}"] for row in range(ROWS)])
    if method is isolation_forest:  # the sample has another order of rows, and so other trees
        assert np.corrcoef(got, expected)[0, 1] > 0.9
    else:
        np.testing.assert_allclose(got, expected, rtol=2e-3)
    best = table.outliers(method.__name__, 2)
    assert {row["id"] for row in best} == {f"row{row}" for row in APART}
    assert best.to_arrow()["outlier_score"].to_pylist() == sorted(best.to_arrow()["outlier_score"].to_pylist())[::-1]


def test_rows_outside_the_sample_are_scored_too(table: latentlake.Table):
    best = table.outliers("knn", 2, sample=60, seed=5)
    assert {row["id"] for row in best} == {f"row{row}" for row in APART}
    assert list(best[0]) == ["outlier_score", "id", "object_id", "label"]


def test_what_cannot_be(table: latentlake.Table):
    with pytest.raises(UnknownName, match="isolation_forest"):
        table.outliers("forest")
    with pytest.raises(SpecError, match="3 rows have a vector"):
        table.outliers(where="id IN ('row1', 'row2', 'row3')")
    with pytest.raises(SpecError, match="must be 1 or more"):
        table.outliers(rows=0)
