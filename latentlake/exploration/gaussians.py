"""Gaussians: of a cluster's rows, and how likely a row is under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gaussian:
    """A multivariate normal distribution, with its share of a mixture."""

    mean: np.ndarray  # (dimension,)
    covariance: np.ndarray  # (dimension, dimension), positive definite
    weight: float

    def log_density(self, points: np.ndarray) -> np.ndarray:
        """Logarithm of the density at points (n, dimension), without the weight: (n,)."""
        from scipy.linalg import cho_factor, solve_triangular

        factor, _ = cho_factor(self.covariance, lower=True)
        away = solve_triangular(np.tril(factor), (points - self.mean).T, lower=True)
        spread = 2 * np.log(np.diag(factor)).sum()
        return -0.5 * ((away**2).sum(axis=0) + spread + len(self.mean) * np.log(2 * np.pi))


def fit_gaussian(points: np.ndarray, weight: float) -> Gaussian:
    """The Gaussian of points (n, dimension), its covariance shrunk by Ledoit and Wolf's rule (2004), as scikit-learn has it.

    So it is positive definite also where there are fewer points than dimensions; of one point, or of equal ones, it is narrow.
    """
    from sklearn.covariance import ledoit_wolf

    rows = points.astype(np.float64)
    covariance = ledoit_wolf(rows)[0] if len(rows) > 1 else np.zeros((rows.shape[1],) * 2)
    least = max(1e-9, 1e-6 * float(np.trace(covariance)) / len(covariance))
    return Gaussian(rows.mean(axis=0), covariance + least * np.eye(len(covariance)), weight)


def log_densities(points: np.ndarray, gaussians: Sequence[Gaussian]) -> np.ndarray:
    """Logarithm of weight times density of each Gaussian at points (n, dimension): (n, Gaussians)."""
    rows = points.astype(np.float64)
    return np.stack([np.log(found.weight) + found.log_density(rows) for found in gaussians], axis=1)
