"""Labels told by a linear model: scikit-learn's logistic regression on standardised vectors, cross-validated."""

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

    kind: Literal["linear_probe"]
    labels: Facts
    groups: str | None = None  # column; rows of one value are never on both sides of a split
    strength: float = Field(default=1.0, gt=0)  # scikit-learn's C: the smaller, the more regular
    folds: int = Field(default=5, ge=2)
    rows: int = Field(default=10_000, ge=10)  # drawn at random

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), LogisticRegression(C=self.strength, max_iter=1000))
        yield from classify(subject, model, self.labels, self.groups, self.rows, self.folds)
