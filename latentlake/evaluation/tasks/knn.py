"""Labels told from the nearest rows: scikit-learn's k nearest neighbours, cross-validated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from latentlake.evaluation.base import Measured, Subject, TaskSpec
from latentlake.evaluation.probing import classify
from latentlake.evaluation.rows import Facts


class Task(TaskSpec):
    """`labels` are told from the vectors of rows."""

    gives: ClassVar[tuple[str, ...]] = ("accuracy", "F1", "AUC")

    kind: Literal["knn"]
    labels: Facts
    groups: str | None = None  # column; rows of one value are never on both sides of a split
    neighbours: int = Field(default=10, ge=1)
    folds: int = Field(default=5, ge=2)
    rows: int = Field(default=10_000, ge=10)  # drawn at random

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        from sklearn.neighbors import KNeighborsClassifier

        metric = "euclidean" if subject.stored.metric == "l2" else "cosine"
        model = KNeighborsClassifier(self.neighbours, metric=metric, algorithm="brute")
        yield from classify(subject, model, self.labels, self.groups, self.rows, self.folds)
