"""A number told by a linear model: scikit-learn's ridge regression on standardised vectors, cross-validated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from latentlake.evaluation.base import Measured, Subject, TaskSpec
from latentlake.evaluation.probing import regress
from latentlake.evaluation.rows import Facts

STRENGTHS = (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4)  # of regularisation; the best is chosen within each training part


class Task(TaskSpec):
    """`target` is told from the vectors of rows: a physical parameter, say."""

    gives: ClassVar[tuple[str, ...]] = ("R2", "MAE")

    kind: Literal["regression"]
    target: Facts
    groups: str | None = None  # column; rows of one value are never on both sides of a split
    folds: int = Field(default=5, ge=2)
    rows: int = Field(default=10_000, ge=10)  # drawn at random

    def run(self, subject: Subject) -> Iterator[Measured]:
        """See `TaskSpec.run`."""
        from sklearn.linear_model import RidgeCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        model = make_pipeline(StandardScaler(), RidgeCV(STRENGTHS))
        yield from regress(subject, model, self.target, self.groups, self.rows, self.folds)
