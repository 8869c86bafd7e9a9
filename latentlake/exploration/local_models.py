"""A model of each cluster: the directions in which its rows differ, or how a number follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

DIRECTIONS = 3
FOLDS = 5
LEAST_ROWS = 20  # below this a regression says nothing


@dataclass(frozen=True)
class LocalModel:
    """What was fitted on the rows of one cluster."""

    directions: np.ndarray  # (k, dimension), orthonormal: in which its rows differ most
    explained: np.ndarray  # (k,): share of the variance along each
    regressor: Any = None  # scikit-learn's ridge regression of a number, fitted on all of its rows
    r2: float | None = None  # of the regression, on rows that it was not fitted on; None where there are too few

    def told(self) -> dict[str, Any]:
        """What a summary says of it."""
        told: dict[str, Any] = {"variance_of_first_direction": round(float(self.explained[0]), 3)}
        return told if self.regressor is None else told | {"r2": None if self.r2 is None else round(self.r2, 3)}


def fit_local(points: np.ndarray, target: np.ndarray | None) -> LocalModel:
    """The local model of a cluster's points (n, dimension), and of a number for each (NaN: unknown), if there is one."""
    from sklearn.decomposition import PCA

    if not np.ptp(points, axis=0).any():  # one row, or equal ones
        return LocalModel(np.zeros((1, points.shape[1])), np.zeros(1))
    found = PCA(min(DIRECTIONS, *points.shape)).fit(points)
    explained = found.explained_variance_ratio_
    if target is None or (known := np.isfinite(target)).sum() < LEAST_ROWS:
        return LocalModel(found.components_, explained)
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict

    model = RidgeCV(np.logspace(-4, 2, 13))
    kept, numbers = points[known], target[known]
    guessed = cross_val_predict(model, kept, numbers, cv=KFold(FOLDS, shuffle=True, random_state=0))
    spread = float(((numbers - numbers.mean()) ** 2).sum())
    r2 = 1 - float(((numbers - guessed) ** 2).sum()) / spread if spread else None
    return LocalModel(found.components_, explained, model.fit(kept, numbers), r2)
