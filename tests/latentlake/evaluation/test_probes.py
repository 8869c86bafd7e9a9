"""Probes and clusters, against scikit-learn on the same rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from lake_maker import LakeMaker
from sklearn import metrics
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from vectors_maker import figures, make_table

import latentlake
from operators.errors import NotFound, SpecError

ROWS, DIM = 240, 8


@pytest.fixture
def made(maker: LakeMaker) -> tuple[latentlake.Table, np.ndarray, np.ndarray, np.ndarray]:
    """A table of three overlapping classes with a number each, the vectors in the order that rows are drawn, labels, numbers."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, ROWS)
    vectors = (rng.normal(size=(3, DIM))[labels] + rng.normal(size=(ROWS, DIM))).astype(np.float32)
    numbers = vectors @ rng.normal(size=DIM) + rng.normal(size=ROWS)
    columns = {
        "kind": pa.array([f"class {label}" for label in labels]),
        "number": pa.array(numbers),
        "speaker": pa.array([f"speaker {n % 12}" for n in range(ROWS)]),
    }
    return make_table(maker, vectors, columns), vectors, labels, numbers


def test_probes_equal_scikit_learn(made: tuple[latentlake.Table, np.ndarray, np.ndarray, np.ndarray]):
    table, vectors, labels, _ = made
    split = StratifiedKFold(5, shuffle=True, random_state=0)
    for kind, model in (
        ("knn", KNeighborsClassifier(10, metric="cosine")),
        ("linear_probe", make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))),
    ):
        scores = cross_val_predict(model, vectors, labels, cv=split, method="predict_proba")
        found = figures(table, kind=kind, labels="kind")
        assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, scores.argmax(axis=1)), abs=0.005)
        assert found["F1"] == pytest.approx(metrics.f1_score(labels, scores.argmax(axis=1), average="macro"), abs=0.005)
        assert found["AUC"] == pytest.approx(metrics.roc_auc_score(labels, scores, multi_class="ovr"), abs=0.005)


def test_regression_equals_scikit_learn(made: tuple[latentlake.Table, np.ndarray, np.ndarray, np.ndarray]):
    table, vectors, _, numbers = made
    model = make_pipeline(StandardScaler(), RidgeCV((1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)))
    predicted = cross_val_predict(model, vectors, numbers, cv=KFold(5, shuffle=True, random_state=0))
    found = figures(table, kind="regression", target="number")
    assert found["R2"] == pytest.approx(metrics.r2_score(numbers, predicted), abs=1e-6)
    assert found["MAE"] == pytest.approx(metrics.mean_absolute_error(numbers, predicted), abs=1e-6)
    groups = np.arange(ROWS) % 12
    names = np.unique([f"group speaker {n}" for n in groups], return_inverse=True)[1]
    predicted = cross_val_predict(model, vectors, numbers, cv=GroupKFold(5), groups=names)
    found = figures(table, kind="regression", target="number", groups="speaker")
    assert found["R2"] == pytest.approx(metrics.r2_score(numbers, predicted), abs=1e-6)


def test_a_probe_of_groups_does_not_recognise_the_speaker(maker: LakeMaker):
    """Each speaker has one label and a voice of his own; beyond the voice nothing tells the label."""
    rng = np.random.default_rng(0)
    speakers = np.repeat(np.arange(20), 10)
    vectors = 3 * rng.normal(size=(20, 16))[speakers] + rng.normal(size=(200, 16))
    columns = {"label": pa.array((speakers % 2).astype(str)), "speaker": pa.array(speakers)}
    table = make_table(maker, vectors, columns)
    assert figures(table, kind="knn", labels="label")["accuracy"] > 0.95
    assert figures(table, kind="knn", labels="label", groups="speaker")["accuracy"] < 0.75
    suite = {"tasks": [{"kind": "knn", "labels": "label", "groups": "speaker"}]}
    result = table.evaluate(suite).find("accuracy")
    assert result.high - result.low > 0.15  # 20 speakers tell less than 200 rows


def test_clusters_equal_scikit_learn(maker: LakeMaker):
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, ROWS)
    vectors = 2 * rng.normal(size=(3, DIM))[labels] + rng.normal(size=(ROWS, DIM))
    columns = {"path": pa.array([f"data/class{label}/{n}.jpg" for n, label in enumerate(labels)])}
    table = make_table(maker, vectors.astype(np.float32), columns, metric="l2")
    found = figures(table, kind="clustering", labels={"folder": "path"})
    own = KMeans(3, n_init=10, random_state=0).fit_predict(vectors.astype(np.float32))
    assert found["NMI"] == pytest.approx(metrics.normalized_mutual_info_score(labels, own), abs=0.01)
    assert found["ARI"] == pytest.approx(metrics.adjusted_rand_score(labels, own), abs=0.01)
    assert found["V"] == pytest.approx(metrics.v_measure_score(labels, own), abs=0.01)
    assert found["silhouette"] == pytest.approx(metrics.silhouette_score(vectors, own), abs=0.01)
    assert set(figures(table, kind="clustering", clusters=4)) == {"silhouette"}


def test_labels_from_a_file_are_those_of_a_column(
    made: tuple[latentlake.Table, np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
):
    table, _, labels, _ = made
    lines = [f"row{n:06},class {label}" for n, label in enumerate(labels)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *lines, "gone,class 0"]))
    by_file = figures(table, kind="clustering", labels={"file": tmp_path / "labels.csv"})
    by_column = figures(table, kind="clustering", labels={"column": "kind"})
    assert by_file["NMI"] == pytest.approx(by_column["NMI"], abs=0.05)
    (tmp_path / "half.csv").write_text("\n".join(["id,label", *lines[:100]]))
    suite = {"tasks": [{"kind": "knn", "labels": {"file": tmp_path / "half.csv"}, "folds": 2}]}
    assert table.evaluate(suite, resamples=20).find("accuracy").n == 100


def test_rows_without_a_vector_or_a_label_are_left_out(maker: LakeMaker):
    rng = np.random.default_rng(0)
    labels = [None if n % 4 == 3 else "ab"[n % 2] for n in range(80)]
    table = make_table(maker, rng.normal(size=(80, 4)), {"label": pa.array(labels)}, no_vector=[0, 1, 3])
    found = table.evaluate({"tasks": [{"kind": "knn", "labels": "label", "rows": 60}]}, resamples=20)
    assert found.find("accuracy").n == 58


def test_small_classes_are_left_out_and_noted(maker: LakeMaker):
    labels = ["a"] * 20 + ["b"] * 20 + ["rare"] * 2
    vectors = np.random.default_rng(0).normal(size=(42, 4))
    table = make_table(maker, vectors, {"label": pa.array(labels), "same": pa.array(["a"] * 42)})
    found = table.evaluate({"tasks": [{"kind": "knn", "labels": "label"}]}, resamples=20)
    assert found.find("accuracy").n == 40 and found.notes == (
        "2 rows of 1 classes with fewer than 5 rows are left out",
    )
    with pytest.raises(SpecError, match="tell 1 class with 5 rows or more; a probe needs two"):
        table.evaluate({"tasks": [{"kind": "knn", "labels": "same"}]})
    with pytest.raises(NotFound, match=r"no column 'lable'. Did you mean 'label'\?"):
        table.evaluate({"tasks": [{"kind": "knn", "labels": "lable"}]})
    with pytest.raises(SpecError, match="'label' holds something that is not a number"):
        table.evaluate({"tasks": [{"kind": "regression", "target": "label"}]})
    with pytest.raises(SpecError, match="the rows are of 1 groups; 5 folds need as many"):
        table.evaluate({"tasks": [{"kind": "knn", "labels": "label", "groups": "same"}]})
