"""Clusters of a column's vectors: against scikit-learn and scipy on the same data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.cluster import KMeans
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import LinearRegression
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from vector_tables import make_table, one_thread

import latentlake
from latentlake.exploration.terms import top_terms
from operators.errors import NotFound, SpecError, UnknownName

ROWS, DIM = 400, 6
GROUP = np.repeat([0, 1, 2], [200, 120, 80])
RNG = np.random.default_rng(0)
VECTORS = RNG.normal(size=(ROWS, DIM)).astype(np.float32)
VECTORS[np.arange(ROWS), GROUP] += 10
SPIN = VECTORS @ np.arange(DIM) + 0.05 * RNG.normal(size=ROWS)
WORDS = [("galaxy star", "star light"), ("oven bread", "bread salt"), ("ball goal", "goal net")]
TEXTS = [f"{WORDS[group][row % 2]} and the {'common' if row % 3 else 'usual'}" for row, group in enumerate(GROUP)]


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    with one_thread():
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> latentlake.Table:
    data = {"text": TEXTS, "spin": SPIN, "label": [str(group) for group in GROUP]}
    return make_table(tmp_path_factory.mktemp("lake"), VECTORS, no_vector=(3,), **data)


WITH = np.delete(np.arange(ROWS), 3)


def in_order(found: object, values: np.ndarray) -> np.ndarray:
    at = {id: row for row, id in enumerate(found.ids.to_pylist())}  # type: ignore[attr-defined]
    return values[[at[f"row{row}"] for row in WITH]]


@pytest.mark.parametrize("sample", [50_000, 150])
def test_kmeans_is_scikit_learns(table: latentlake.Table, sample: int):
    found = table.cluster("kmeans", 3, sample=sample)
    expected = KMeans(3, n_init=4, random_state=0).fit_predict(VECTORS[WITH])
    assert adjusted_rand_score(expected, in_order(found, found.labels)) == 1
    assert [cluster.rows for cluster in found.clusters] == [199, 120, 80]  # the largest first
    assert found.rows_fitted == min(sample, ROWS - 1) and found.to_arrow().num_rows == ROWS - 1


def test_likelihood_and_membership_are_those_of_a_gaussian_per_cluster(table: latentlake.Table):
    found = table.cluster("kmeans", 3)
    reduced = found.components.transform(VECTORS[WITH]).astype(np.float64)
    labels = in_order(found, found.labels)
    densities = np.stack(
        [
            np.log((labels == number).mean())
            + multivariate_normal(
                reduced[labels == number].mean(axis=0), ledoit_wolf(reduced[labels == number])[0], allow_singular=True
            ).logpdf(reduced)
            for number in range(3)
        ],
        axis=1,
    )
    total = np.logaddexp.reduce(densities, axis=1)
    np.testing.assert_allclose(in_order(found, found.log_likelihood), total, atol=2e-3)
    share = np.exp(densities[np.arange(len(WITH)), labels] - total)
    np.testing.assert_allclose(in_order(found, found.membership), share, atol=1e-4)


def test_gmm_is_scikit_learns(table: latentlake.Table):
    found = table.cluster("gmm", 3)
    reduced = found.components.transform(VECTORS[WITH]).astype(np.float64)
    model = GaussianMixture(3, random_state=0).fit(reduced)
    np.testing.assert_allclose(in_order(found, found.log_likelihood), model.score_samples(reduced), atol=1e-2)
    np.testing.assert_allclose(in_order(found, found.membership), model.predict_proba(reduced).max(axis=1), atol=1e-3)
    assert adjusted_rand_score(GROUP[WITH], in_order(found, found.labels)) == 1


def test_hdbscan_finds_the_number_of_clusters_and_noise(tmp_path, table: latentlake.Table):
    assert len(table.cluster("hdbscan")) == 3
    vectors = np.concatenate([RNG.normal(size=(100, 2)) * 0.1, RNG.normal(size=(100, 2)) * 0.1 + 5, [[90.0, -90.0]]])
    found = make_table(tmp_path, vectors.astype(np.float32)).cluster("hdbscan")
    last = found.to_arrow().filter(found.to_arrow()["id"].to_numpy() == "row200").to_pylist()[0]
    assert len(found) == 2 and (last["cluster"], last["membership"]) == (-1, 0)


def test_terms_are_those_that_set_texts_apart(table: latentlake.Table):
    found = table.cluster("kmeans", 3)
    assert [cluster.terms[0] for cluster in found.clusters] == ["star", "bread", "goal"]
    assert found[0].label.startswith("star")


def test_class_based_tf_idf_by_hand():
    """Two clusters of 4 and 2 words: apple 3 and pear 1; pear 1 and plum 1. A = 3."""
    terms = top_terms(["apple apple", "apple pear", "pear plum"], np.array([0, 0, 1]))
    weight = {
        ("apple", 0): 3 * np.log(1 + 3 / 3),
        ("pear", 0): 1 * np.log(1 + 3 / 2),
        ("pear", 1): 1 * np.log(1 + 3 / 2),
        ("plum", 1): 1 * np.log(1 + 3 / 1),
    }
    assert weight["apple", 0] > weight["pear", 0] and weight["plum", 1] > weight["pear", 1]
    assert terms == {0: ["apple", "pear"], 1: ["plum", "pear"]}
    assert top_terms(["the", "a b"], np.array([0, 1])) == {}


def test_local_models(table: latentlake.Table):
    found = table.cluster("kmeans", 3, target="spin")
    labels, spin = in_order(found, found.labels), SPIN[WITH]
    reduced = found.components.transform(VECTORS[WITH])
    for cluster in found.clusters:
        rows = labels == cluster.number
        assert cluster.model.r2 is not None and cluster.model.r2 > 0.99
        expected = LinearRegression().fit(reduced[rows], spin[rows]).predict(reduced[rows])
        np.testing.assert_allclose(cluster.model.regressor.predict(reduced[rows]), expected, atol=0.05)
        values = np.sort(np.linalg.eigvalsh(np.cov(reduced[rows].T)))[::-1]
        np.testing.assert_allclose(cluster.model.explained, (values / values.sum())[:3], atol=1e-3)
    assert "r2" in found.summary().to_arrow().column_names and "star" in str(found)
    assert table.cluster("kmeans", 2)[0].model.regressor is None


def test_examples_are_nearest_to_the_centre(table: latentlake.Table):
    cluster = table.cluster("kmeans", 3)[1]
    center = VECTORS[GROUP == 1].mean(axis=0)
    nearest = np.argsort(np.linalg.norm(VECTORS - center, axis=1))[:8]
    assert cluster.examples == [f"row{row}" for row in nearest]


def test_what_cannot_be(table: latentlake.Table):
    with pytest.raises(UnknownName, match="kmeans"):
        table.cluster("kmean")
    with pytest.raises(SpecError, match="399 rows have a vector"):
        table.cluster(clusters=300)
    with pytest.raises(SpecError, match="a regression needs numbers"):
        table.cluster(target="label")
    with pytest.raises(NotFound, match="no column 'spinn'"):
        table.cluster(target="spinn")
