"""Maps from one model's space to another's, fitted on rows that have a vector of both.

All are `y = bias + x W`, W a matrix or a product of two, with one hidden layer beside it in a residual MLP. They are fitted by
numpy and scikit-learn, and applied by numpy alone. Orthogonal Procrustes, low-rank affine maps and a small residual MLP are
those of Drift-Adapter (EMNLP 2025). Two ridges were added, which shrink to a rotation, or to no change, instead of to zero: of
100 pairs the second keeps 92 % of native nDCG@10 where plain ridge keeps 74 % (`benchmarks/bridge.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of a ridge, in units of the mean eigenvalue of the covariance
RANKS = (32, 64, 128, 256)
HIDDEN = 256
MLP_PAIRS = 10_000  # rows that the MLP is trained on, at most
EPOCHS, PATIENCE = 60, 6  # without a better fit of the rows held out
SMALL = 1e-6  # singular values below this share of all together are rounding

Arrays = dict[str, np.ndarray]
Fit = Callable[[np.ndarray, np.ndarray], Arrays]  # of float64 (n, p) and (n, q)


@dataclass(frozen=True)
class Candidate:
    """A kind of map, its setting (the strength of a ridge, a rank), and how it is fitted."""

    kind: str
    setting: float | None
    fit: Fit


def apply_map(arrays: Mapping[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Vectors (n, p) of the one space in the other, float32 (n, q)."""
    x = np.asarray(x, dtype=np.float32)
    y = x @ arrays["weight"] if "weight" in arrays else x @ arrays["down"] @ arrays["up"]
    if "hidden" in arrays:
        y = y + np.maximum(x @ arrays["hidden"] + arrays["hidden_bias"], 0) @ arrays["out"]
    return np.asarray(y + arrays["bias"], dtype=np.float32)


def fit_nothing(x: np.ndarray, y: np.ndarray) -> Arrays:
    """No bridge: the new model's vectors as they are. For spaces of one dimension."""
    return packed({"weight": np.eye(x.shape[1]), "bias": np.zeros(y.shape[1])})


def fit_procrustes(x: np.ndarray, y: np.ndarray) -> Arrays:
    """Orthogonal Procrustes (Schönemann 1966) of centred vectors: the rotation, or rotation and projection, that fits best.

    Directions of which the pairs do not tell, where there are fewer pairs than numbers, stay as they are; between spaces of
    other dimensions they are left out.
    """
    means = x.mean(axis=0), y.mean(axis=0)
    products = (x - means[0]).T @ (y - means[1])
    scale = SMALL * float(np.linalg.norm(products))
    if x.shape[1] == y.shape[1]:
        products = products + scale * np.eye(x.shape[1])
    left, values, right = np.linalg.svd(products, full_matrices=False)
    kept = values > scale / 100
    weight = left[:, kept] @ right[kept]
    return packed({"weight": weight, "bias": means[1] - means[0] @ weight})


def fit_ridge(x: np.ndarray, y: np.ndarray, strength: float, towards: Fit | None = None) -> Arrays:
    """Ridge regression of centred vectors (scikit-learn), which shrinks to zero, or to the matrix of `towards`.

    `strength` is in units of the mean eigenvalue of x's covariance.
    """
    from sklearn.linear_model import Ridge

    start = np.zeros((x.shape[1], y.shape[1])) if towards is None else towards(x, y)["weight"].astype(np.float64)
    alpha = strength * float(((x - x.mean(axis=0)) ** 2).sum()) / x.shape[1]
    found = Ridge(alpha=alpha).fit(x, y - x @ start)
    return packed({"weight": found.coef_.T + start, "bias": found.intercept_})


def fit_low_rank(x: np.ndarray, y: np.ndarray, rank: int, strength: float) -> Arrays:
    """Reduced-rank ridge regression (Mukherjee and Zhu 2011): a ridge map, its output on the `rank` directions that it fills most."""
    weight, centre = fit_ridge(x, y, strength)["weight"].astype(np.float64), x.mean(axis=0)
    mapped = (x - centre) @ weight
    _, directions = np.linalg.eigh(mapped.T @ mapped)  # the largest come last
    up = directions[:, -rank:].T
    down = weight @ up.T
    return packed({"down": down, "up": up, "bias": y.mean(axis=0) - centre @ down @ up})


def fit_mlp(x: np.ndarray, y: np.ndarray, base: Fit, seed: int = 0) -> Arrays:
    """The map `base`, and a layer of 256 rectified units (scikit-learn) that learns what it leaves over, until held-out rows gain no more."""
    from sklearn.neural_network import MLPRegressor
    from threadpoolctl import threadpool_limits

    chosen = np.random.default_rng(seed).permutation(len(x))[:MLP_PAIRS]
    held = max(len(chosen) // 10, 1)
    trained = base(x[chosen[held:]], y[chosen[held:]])  # what it leaves over of rows that it has seen is too little
    spread = float(x.std()) or 1.0
    rest = (y - apply_map(trained, x))[chosen]
    scale = float(rest.std()) or 1.0
    values, rest = x[chosen] / spread, rest / scale
    model = MLPRegressor(hidden_layer_sizes=(HIDDEN,), alpha=1.0, random_state=seed)
    best, layers, waited = np.inf, [], 0
    with threadpool_limits(1, "blas"):  # for these small products threads wait for each other: 1.3 s instead of 10.7
        for _ in range(EPOCHS):
            model.partial_fit(values[held:], rest[held:])
            loss = float(((model.predict(values[:held]) - rest[:held]) ** 2).mean())
            waited += 1
            if loss < best:
                best, layers, waited = loss, [part.copy() for part in (*model.coefs_, *model.intercepts_)], 0
            if waited >= PATIENCE:
                break
    start = base(x, y)
    if best >= float((rest[:held] ** 2).mean()):  # there is nothing to learn
        return start
    hidden, out, hidden_bias, bias = layers
    learned = {"hidden": hidden / spread, "hidden_bias": hidden_bias, "out": out * scale}
    return packed(start | learned | {"bias": start["bias"] + bias * scale})


def linear_candidates(dimension: int, old_dimension: int) -> list[Candidate]:
    """Maps with nothing below them, the simplest first."""
    found = [Candidate("procrustes", None, fit_procrustes)]
    starts: dict[str, Fit | None] = {"ridge": None, "rotation_ridge": fit_procrustes}
    if dimension == old_dimension:
        starts["identity_ridge"] = fit_nothing
    for kind, towards in starts.items():
        found += [Candidate(kind, value, partial(fit_ridge, strength=value, towards=towards)) for value in STRENGTHS]
    return found


def further_candidates(pairs: int, ranks: int, strength: float, base: Candidate, seed: int) -> list[Candidate]:
    """Maps that build on the best ridges: low rank on the plain one's `strength`, an MLP on the best of all.

    `ranks` is the highest rank that a map between the spaces can have.
    """
    found = [
        Candidate("low_rank", rank, partial(fit_low_rank, rank=rank, strength=strength))
        for rank in RANKS
        if rank < min(pairs, ranks)
    ]
    return [*found, Candidate("mlp", base.setting, partial(fit_mlp, base=base.fit, seed=seed))]


def packed(arrays: Mapping[str, Any]) -> Arrays:
    """Arrays as they are stored: float32."""
    return {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in arrays.items()}
