"""Clusters of rows: whether they are those of known labels, and how well they stand apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from latentlake.evaluation.base import Measured, Subject, TaskSpec
from latentlake.evaluation.rows import Facts, draw_rows, only
from latentlake.evaluation.statistics import Sample
from operators.embedders.base import normalize_rows
from operators.errors import SpecError

SILHOUETTE_ROWS = 5000  # distances of all pairs of so many are computed


class Task(TaskSpec):
    """k-means of scikit-learn; on directions, where the column is not compared by l2."""

    gives: ClassVar[tuple[str, ...]] = ("NMI", "ARI", "V", "silhouette")

    kind: Literal["clustering"]
    labels: Facts | None = None
    clusters: int | None = Field(default=None, ge=2)  # as many as there are labels, where it is left out
    rows: int = Field(default=10_000, ge=10)  # drawn at random

    @model_validator(mode="after")
    def known(self) -> Self:
        """How many clusters must be known."""
        if self.labels is None and self.clusters is None:
            raise ValueError("give `labels`, or how many `clusters`")
        return self

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        from sklearn import metrics
        from sklearn.cluster import KMeans

        drawn = draw_rows(subject, self.rows, self.labels)
        vectors = drawn.vectors if subject.stored.metric == "l2" else normalize_rows(drawn.vectors)
        names = None if self.labels is None else np.array([str(label) for label in only(drawn.facts)])
        clusters = self.clusters or len(set(names.tolist() if names is not None else ()))
        if not 2 <= clusters < len(vectors):
            raise SpecError(
                f"task '{self.title}': {len(vectors)} rows cannot make {clusters} clusters, of two or more."
            )
        found = KMeans(clusters, n_init=10, random_state=subject.seed).fit_predict(vectors)
        if names is not None:
            for measure, figure in (
                ("NMI", metrics.normalized_mutual_info_score),
                ("ARI", metrics.adjusted_rand_score),
                ("V", metrics.v_measure_score),
            ):
                yield Measured(measure, value=float(figure(names, found)), n=len(drawn))
        chosen = np.sort(np.random.default_rng(subject.seed).permutation(len(vectors))[:SILHOUETTE_ROWS])
        if 2 <= len(np.unique(found[chosen])) < len(chosen):
            values = metrics.silhouette_samples(vectors[chosen], found[chosen])
            yield Measured("silhouette", Sample("mean", drawn.ids[chosen], values.astype(np.float64)[:, None]))
