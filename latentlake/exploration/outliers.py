"""Rows whose vectors stand apart from the others."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pyarrow as pa

from latentlake.exploration.points import pick_column, read_points, rows_by_id, stream_points
from latentlake.results import Rows
from operators.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from latentlake.table import Table

Method = Literal["knn", "isolation_forest", "mahalanobis", "lof"]
SCORE = "outlier_score"
SAMPLE = 20_000
COMPONENTS = 50  # of the principal components that Mahalanobis distances are measured in, at most


@dataclass(frozen=True)
class Scores:
    """Scores by a method: of the rows it was fitted on, and of others. Higher stands further apart."""

    own: np.ndarray  # (n,)
    of: Callable[[np.ndarray], np.ndarray]  # points (m, dimension) -> (m,)


def find_outliers(
    table: Table,
    method: str,
    rows: int,
    column: str | None,
    where: str | None,
    neighbors: int,
    sample: int,
    seed: int,
) -> Rows:
    """See `Explorable.outliers`."""
    if method not in get_args(Method):
        raise unknown_name("method", method, get_args(Method))
    if rows < 1 or neighbors < 1 or sample <= neighbors:
        raise SpecError(
            f"rows ({rows}) and neighbors ({neighbors}) must be 1 or more, and sample ({sample}) more than neighbors."
        )
    chosen = pick_column(table, column)
    ids, points = read_points(table, chosen, where, sample, seed)
    if len(ids) <= neighbors:
        raise SpecError(
            f"{len(ids)} rows have a vector in column '{chosen}'; outliers need more than {neighbors} neighbors."
        )
    scores = FITS[method](points, neighbors, seed)
    known = dict(zip(ids, scores.own.tolist(), strict=True))
    best: list[tuple[float, str]] = []
    for names, others in stream_points(table, chosen, where):
        found = np.array([known.get(name, np.nan) for name in names])
        if (unknown := np.isnan(found)).any():
            found[unknown] = scores.of(others[unknown])
        best = heapq.nlargest(rows, [*best, *zip(found.tolist(), names, strict=True)])
    shown = rows_by_id(table, [name for _, name in best])
    return Rows(shown.add_column(0, SCORE, pa.array([score for score, _ in best], pa.float64())))


def fit_knn(points: np.ndarray, neighbors: int, seed: int) -> Scores:
    """Mean distance to the nearest rows of the sample, the row itself left out."""
    from sklearn.neighbors import NearestNeighbors

    model = NearestNeighbors(n_neighbors=neighbors).fit(points)
    own = model.kneighbors()[0].mean(axis=1)
    return Scores(own, lambda others: model.kneighbors(others)[0].mean(axis=1))


def fit_lof(points: np.ndarray, neighbors: int, seed: int) -> Scores:
    """Local outlier factor (Breunig et al., 2000): how much thinner the rows stand here than around the neighbors; 1 is usual."""
    from sklearn.neighbors import LocalOutlierFactor

    model = LocalOutlierFactor(n_neighbors=neighbors, novelty=True).fit(points)
    return Scores(-model.negative_outlier_factor_, lambda others: -model.score_samples(others))


def fit_forest(points: np.ndarray, neighbors: int, seed: int) -> Scores:
    """Isolation forest (Liu et al., 2008): how few random cuts part a row from the others; 0 to 1."""
    from sklearn.ensemble import IsolationForest

    model = IsolationForest(random_state=seed).fit(points)
    return Scores(-model.score_samples(points), lambda others: -model.score_samples(others))


def fit_mahalanobis(points: np.ndarray, neighbors: int, seed: int) -> Scores:
    """Mahalanobis distance in the first principal components, with Ledoit and Wolf's covariance."""
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA

    components = PCA(min(COMPONENTS, *points.shape), random_state=seed).fit(points)
    model = LedoitWolf().fit(components.transform(points))

    def of(others: np.ndarray) -> np.ndarray:
        return np.sqrt(model.mahalanobis(components.transform(others)))

    return Scores(of(points), of)


FITS: Mapping[str, Callable[[np.ndarray, int, int], Scores]] = {
    "knn": fit_knn,
    "lof": fit_lof,
    "isolation_forest": fit_forest,
    "mahalanobis": fit_mahalanobis,
}
