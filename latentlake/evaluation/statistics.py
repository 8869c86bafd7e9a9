"""Figures of a sample whose rows have weights, and their bootstrap intervals.

A resample is the same rows with other whole weights: how often each was drawn. So a figure is prepared once, sorting and all,
and then asked for with weights; rows that belong together are drawn together by giving them one weight.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Figure = Callable[[np.ndarray], float]  # of weights, float64 (n,)

CONFIDENCE = 0.95
RESAMPLES = 1000
BATCH_DRAWS = 4_000_000  # drawn places that are held at once: 32 MB


@dataclass(frozen=True)
class Sample:
    """What a figure was computed from: `data`, float64 (n, m), of units with the names `ids` (n,).

    `statistic` is a key of `STATISTICS`. `groups`, int64 (n,) counted from 0: units that are drawn together, such as the
    chunks of a document; None: each by itself.
    """

    statistic: str
    ids: np.ndarray
    data: np.ndarray
    groups: np.ndarray | None = None

    @property
    def figure(self) -> Figure:
        """The figure as a function of weights."""
        return STATISTICS[self.statistic](self.data)

    @property
    def value(self) -> float:
        """The figure of the sample as it is."""
        return self.figure(np.ones(len(self.data)))

    def restricted(self, places: np.ndarray) -> Sample:
        """The units at some places, in their order."""
        groups = None if self.groups is None else np.unique(self.groups[places], return_inverse=True)[1]
        return Sample(self.statistic, self.ids[places], self.data[places], groups)


def interval_of(
    figure: Figure, units: int, groups: np.ndarray | None, resamples: int, confidence: float, seed: int
) -> tuple[float, float]:
    """Percentile interval of a figure by `scipy.stats.bootstrap`, which draws units, or whole groups where they are given.

    One unit has no spread to tell of: the interval is the figure itself.
    """
    from scipy.stats import bootstrap

    drawn = units if groups is None else int(groups.max()) + 1
    if drawn < 2:
        value = figure(np.ones(units))
        return value, value

    def of_drawn(places: np.ndarray) -> float:
        counts = np.bincount(places, minlength=drawn).astype(np.float64)
        return figure(counts if groups is None else counts[groups])

    found = bootstrap(
        (np.arange(drawn),),
        of_drawn,
        n_resamples=resamples,
        batch=max(1, BATCH_DRAWS // drawn),
        vectorized=False,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def mean_of(data: np.ndarray) -> Figure:
    """Mean of the only column."""
    values = data[:, 0]
    return lambda weights: float(weights @ values / weights.sum())


def median_of(data: np.ndarray) -> Figure:
    """Median of the only column; of an even number, the mean of the middle two."""
    order = np.argsort(data[:, 0], kind="stable")
    values = data[order, 0]

    def figure(weights: np.ndarray) -> float:
        reached = np.cumsum(weights[order])
        half = reached[-1] / 2
        low, high = np.searchsorted(reached, half, "left"), np.searchsorted(reached, half, "right")
        return float((values[low] + values[min(high, len(values) - 1)]) / 2)

    return figure


def pearson_of(data: np.ndarray) -> Figure:
    """Correlation of the two columns; 0 where one of them does not vary."""
    return lambda weights: correlation(data[:, 0], data[:, 1], weights)


def spearman_of(data: np.ndarray) -> Figure:
    """Correlation of the ranks of the two columns; equal values share the mean of their ranks."""
    ranks = [midranks(data[:, 0]), midranks(data[:, 1])]
    return lambda weights: correlation(ranks[0](weights), ranks[1](weights), weights)


def r2_of(data: np.ndarray) -> Figure:
    """Share of the variance of the first column, the truth, that the second, predicted, explains."""
    truth, predicted = data[:, 0], data[:, 1]
    errors = (truth - predicted) ** 2

    def figure(weights: np.ndarray) -> float:
        spread = weights @ (truth - weights @ truth / weights.sum()) ** 2
        return float(1 - weights @ errors / spread) if spread > 0 else 0.0

    return figure


def macro_f1_of(data: np.ndarray) -> Figure:
    """Mean F1 of the classes that occur: of the true codes in the first column and the predicted in the second."""
    truth, predicted = data[:, 0].astype(np.int64), data[:, 1].astype(np.int64)
    classes = int(data.max()) + 1 if len(data) else 0
    hit = truth == predicted

    def figure(weights: np.ndarray) -> float:
        hits = np.bincount(truth[hit], weights[hit], classes)
        both = np.bincount(truth, weights, classes) + np.bincount(predicted, weights, classes)
        return float(np.mean(2 * hits[both > 0] / both[both > 0]))

    return figure


def auc_of(data: np.ndarray) -> Figure:
    """Area under the ROC curve: the first column is the true code, the others the score of each class.

    With one score column it is the score of class 1. With more, the mean of each class against the rest, of those that
    the weights leave both members and others.
    """
    truth = data[:, 0].astype(np.int64)
    columns = (
        [(truth == 1, data[:, 1])]
        if data.shape[1] == 2
        else [(truth == code, data[:, 1 + code]) for code in range(data.shape[1] - 1)]
    )
    ranks = [midranks(scores) for _, scores in columns]

    def figure(weights: np.ndarray) -> float:
        """The mean area over the classes, of rows that count as often as `weights` says."""
        areas = []
        for (member, _), ranked in zip(columns, ranks, strict=True):
            inside = float(weights[member].sum())
            outside = float(weights.sum()) - inside
            if inside and outside:
                total = float((weights * ranked(weights))[member].sum())
                areas.append((total - inside * (inside + 1) / 2) / (inside * outside))
        return float(np.mean(areas)) if areas else 0.5

    return figure


def correlation(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> float:
    """Weighted Pearson correlation; 0 where one does not vary."""
    total = weights.sum()
    a, b = first - weights @ first / total, second - weights @ second / total
    spread = (weights @ a**2) * (weights @ b**2)
    return float(weights @ (a * b) / np.sqrt(spread)) if spread > 0 else 0.0


def midranks(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Ranks from 1 of values as a function of whole weights: as if each stood there so often; equal ones share a rank."""
    distinct, codes = np.unique(values, return_inverse=True)

    def ranked(weights: np.ndarray) -> np.ndarray:
        counts = np.bincount(codes, weights, len(distinct))
        return (np.cumsum(counts) - (counts - 1) / 2)[codes]

    return ranked


STATISTICS: dict[str, Callable[[np.ndarray], Figure]] = {
    "mean": mean_of,
    "median": median_of,
    "pearson": pearson_of,
    "spearman": spearman_of,
    "r2": r2_of,
    "macro_f1": macro_f1_of,
    "auc": auc_of,
}
