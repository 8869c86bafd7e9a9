"""Clusters of a column's vectors, with a Gaussian each. See docs/exploring.md.

All of it is found in the first principal components of a bounded sample; the other rows are assigned as they stream by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa

from latentlake.exploration.gaussians import Gaussian, fit_gaussian, log_densities
from latentlake.exploration.local_models import LocalModel, fit_local
from latentlake.exploration.points import pick_column, points_of, stream_points
from latentlake.exploration.terms import top_terms
from latentlake.results import Rows
from latentlake.vectors import array_of
from operators.errors import SpecError, unknown_name

if TYPE_CHECKING:
    from latentlake.table import Table

Method = Literal["kmeans", "gmm", "hdbscan"]
SAMPLE = 50_000
COMPONENTS = 50  # principal components that clusters are found in, at most
EXAMPLES = 8  # ids of the rows nearest to a cluster's centre
NOISE = -1  # the cluster of rows that belong to none (hdbscan)
TEXT_CHARACTERS = 2000  # of each text that terms are counted in


@dataclass(frozen=True)
class Cluster:
    """One cluster."""

    number: int
    rows: int  # of the table
    gaussian: Gaussian  # in the principal components, of the rows that it was fitted on
    terms: Sequence[str]  # that set its texts apart; empty where the table has no texts
    examples: Sequence[str]  # ids of the rows nearest to its centre, nearest first
    model: LocalModel

    @property
    def label(self) -> str:
        """Its first terms, or its number."""
        return ", ".join(self.terms[:4]) or f"cluster {self.number}"


@dataclass(frozen=True)
class Clusters:
    """The clusters of a column, the largest first, and the cluster of each row with a vector. `clusters[0]` is one."""

    column: str
    fingerprint: str
    version: int
    method: str
    settings: Mapping[str, Any]
    rows_fitted: int
    clusters: Sequence[Cluster]
    ids: pa.Array
    labels: np.ndarray  # int32 (n,): the cluster's number, or `NOISE`
    membership: np.ndarray  # float32 (n,): how likely the row's own cluster is, among all; 0 for noise
    log_likelihood: np.ndarray  # float32 (n,): of the row, under all of the Gaussians together
    components: Any  # scikit-learn's PCA, which brings points into the space of the Gaussians

    def __len__(self) -> int:
        return len(self.clusters)

    def __getitem__(self, place: int) -> Cluster:
        return self.clusters[place]

    def to_arrow(self) -> pa.Table:
        """Columns `id`, `cluster`, `membership` and `log_likelihood`."""
        columns = {"cluster": self.labels, "membership": self.membership, "log_likelihood": self.log_likelihood}
        return pa.table({"id": self.ids, **{name: pa.array(values) for name, values in columns.items()}})

    def summary(self) -> Rows:
        """One row per cluster."""
        told = [
            {"cluster": c.number, "rows": c.rows, "label": c.label, "examples": ", ".join(c.examples[:4])}
            | c.model.told()
            for c in self.clusters
        ]
        return Rows(pa.Table.from_pylist(told))

    def __str__(self) -> str:
        return str(self.summary())

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()


def cluster_table(
    table: Table,
    method: str,
    clusters: int,
    column: str | None,
    where: str | None,
    target: str | None,
    sample: int,
    seed: int,
) -> Clusters:
    """See `Explorable.cluster`."""
    if method not in get_args(Method):
        raise unknown_name("method", method, get_args(Method))
    if clusters < 1 or sample < 2 * clusters:
        raise SpecError(f"clusters is {clusters} and sample is {sample}; they must be 1 or more, and twice as many.")
    chosen = pick_column(table, column)
    extra = [name for name in ("text", target) if name in table.columns and name is not None]
    stream = table.vectors(
        list(dict.fromkeys(["id", chosen, *extra, *([target] if target else [])])), where, sample, seed=seed
    )
    drawn = pa.Table.from_batches(list(stream), stream.schema)
    if len(drawn) < 2 * clusters:
        raise SpecError(
            f"{len(drawn)} rows have a vector in column '{chosen}'; {clusters} clusters need {2 * clusters}."
        )
    from sklearn.decomposition import PCA

    points = points_of(array_of(drawn[chosen].combine_chunks(), True), table.provenance(chosen))
    components = PCA(min(COMPONENTS, *points.shape), random_state=seed).fit(points)
    reduced = components.transform(points)
    settings, fitted = FITS[method](reduced, clusters, seed)
    found = gather(drawn, chosen, reduced, fitted, target)
    return assign_all(table, chosen, where, method, settings, components, drawn, fitted, found)


@dataclass(frozen=True)
class Fitted:
    """What a method found in a sample: the numbers of clusters count from 0, the largest first."""

    labels: np.ndarray  # (n,), of the sample
    gaussians: Sequence[Gaussian]
    assign: Callable[[np.ndarray], np.ndarray] | None  # points -> labels; None: the most likely Gaussian


def gather(
    drawn: pa.Table, column: str, reduced: np.ndarray, fitted: Fitted, target: str | None
) -> list[tuple[Sequence[str], Sequence[str], LocalModel]]:
    """Terms, examples and local model of each cluster."""
    texts = drawn["text"].to_pylist() if "text" in drawn.column_names else None
    terms = top_terms([(text or "")[:TEXT_CHARACTERS] for text in texts], fitted.labels) if texts else {}
    values = None if target is None else numbers_of(drawn[target], target)
    found: list[tuple[Sequence[str], Sequence[str], LocalModel]] = []
    for number, gaussian in enumerate(fitted.gaussians):
        rows = np.flatnonzero(fitted.labels == number)
        near = rows[np.argsort(np.linalg.norm(reduced[rows] - gaussian.mean, axis=1))[:EXAMPLES]]
        model = fit_local(reduced[rows], None if values is None else values[rows])
        found.append((terms.get(number, ()), drawn["id"].take(pa.array(near)).to_pylist(), model))
    return found


def numbers_of(column: pa.ChunkedArray, name: str) -> np.ndarray:
    """A column of numbers as float64 (n,), NaN where there is none. Raises `SpecError` for another type."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise SpecError(f"column '{name}' is {column.type}; a regression needs numbers.")
    return np.asarray(column.cast(pa.float64()).to_numpy())


def assign_all(
    table: Table,
    column: str,
    where: str | None,
    method: str,
    settings: Mapping[str, Any],
    components: Any,
    drawn: pa.Table,
    fitted: Fitted,
    found: Sequence[tuple[Sequence[str], Sequence[str], LocalModel]],
) -> Clusters:
    """The cluster of every row with a vector, as they stream by: rows of the sample keep theirs."""
    known = dict(zip(drawn["id"].to_pylist(), fitted.labels.tolist(), strict=True))
    ids, labels, membership, likelihood = [], [], [], []
    for names, points in stream_points(table, column, where):
        reduced = components.transform(points)
        densities = log_densities(reduced, fitted.gaussians)
        total = np.logaddexp.reduce(densities, axis=1)
        own = np.argmax(densities, axis=1) if fitted.assign is None else fitted.assign(reduced)
        own = np.array([known.get(name, label) for name, label in zip(names, own.tolist(), strict=True)], np.int32)
        share = np.exp(np.take_along_axis(densities, np.maximum(own, 0)[:, None], axis=1)[:, 0] - total)
        ids.append(pa.array(names, pa.string()))
        labels.append(own)
        membership.append(np.where(own == NOISE, 0, share).astype(np.float32))
        likelihood.append(total.astype(np.float32))
    every = np.concatenate(labels)
    made = [
        Cluster(number, int((every == number).sum()), gaussian, terms, examples, model)
        for number, (gaussian, (terms, examples, model)) in enumerate(zip(fitted.gaussians, found, strict=True))
    ]
    return Clusters(
        column=column,
        fingerprint=table.provenance(column).fingerprint,
        version=table.version,
        method=method,
        settings=settings,
        rows_fitted=len(drawn),
        clusters=made,
        ids=pa.concat_arrays(ids),
        labels=every,
        membership=np.concatenate(membership),
        log_likelihood=np.concatenate(likelihood),
        components=components,
    )


def fit_kmeans(points: np.ndarray, clusters: int, seed: int) -> tuple[dict[str, Any], Fitted]:
    """k-means by scikit-learn, the best of 4 starts."""
    from sklearn.cluster import KMeans

    settings = {"n_clusters": clusters, "n_init": 4, "random_state": seed}
    model = KMeans(**settings).fit(points)
    order, labels = by_size(model.labels_)
    place = np.empty(clusters, dtype=np.int64)
    place[order] = np.arange(len(order))
    return settings, Fitted(labels, gaussians_of(points, labels), lambda others: place[model.predict(others)])


def fit_gmm(points: np.ndarray, clusters: int, seed: int) -> tuple[dict[str, Any], Fitted]:
    """A mixture of Gaussians with full covariances by scikit-learn; its Gaussians are the clusters'."""
    from sklearn.mixture import GaussianMixture

    settings = {"n_components": clusters, "covariance_type": "full", "reg_covar": 1e-6, "random_state": seed}
    model = GaussianMixture(**settings).fit(points.astype(np.float64))
    order, labels = by_size(model.predict(points.astype(np.float64)))
    gaussians = [Gaussian(model.means_[at], model.covariances_[at], float(model.weights_[at])) for at in order]
    return settings, Fitted(labels, gaussians, None)


def fit_hdbscan(points: np.ndarray, clusters: int, seed: int) -> tuple[dict[str, Any], Fitted]:
    """HDBSCAN by scikit-learn, which finds the number of clusters itself: `clusters` is not used.

    A row that it was not fitted on goes to the most likely Gaussian. Raises `SpecError` where all rows are noise.
    """
    from sklearn.cluster import HDBSCAN

    settings = {"min_cluster_size": max(5, len(points) // 100)}
    order, labels = by_size(HDBSCAN(**settings, copy=True).fit_predict(points))
    if not len(order):
        raise SpecError("hdbscan found no cluster: all rows are noise to it.\n  Use kmeans or gmm.")
    return settings, Fitted(labels, gaussians_of(points, labels), None)


FITS: Mapping[str, Callable[[np.ndarray, int, int], tuple[dict[str, Any], Fitted]]] = {
    "kmeans": fit_kmeans,
    "gmm": fit_gmm,
    "hdbscan": fit_hdbscan,
}


def by_size(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clusters, without noise, the largest first; and labels renumbered to that order."""
    numbers, counts = np.unique(labels[labels != NOISE], return_counts=True)
    order = numbers[np.argsort(-counts, kind="stable")]
    renumbered = np.full(len(labels), NOISE, dtype=np.int64)
    for place, number in enumerate(order.tolist()):
        renumbered[labels == number] = place
    return order, renumbered


def gaussians_of(points: np.ndarray, labels: np.ndarray) -> list[Gaussian]:
    """A Gaussian for the rows of each cluster, weighted by its share of the rows that are no noise."""
    kept = max(int((labels != NOISE).sum()), 1)
    return [
        fit_gaussian(rows := points[labels == number], len(rows) / kept)
        for number in range(int(labels.max(initial=-1)) + 1)
    ]
