"""Weighted figures, against scipy's and scikit-learn's of the rows repeated as often as their weights say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics

from latentlake.evaluation.statistics import STATISTICS, Sample, interval_of


@st.composite
def weighted(draw: st.DrawFn) -> tuple[np.random.Generator, int, np.ndarray]:
    """A generator, a number of rows, and whole weights of which two at least are not 0."""
    rows = draw(st.integers(3, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    weights = rng.integers(0, 4, rows).astype(np.float64)
    weights[:2] += 1
    return rng, rows, weights


def check(name: str, data: np.ndarray, weights: np.ndarray, expected: float) -> None:
    assert STATISTICS[name](data)(weights) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(weighted())
def test_means_medians_and_correlations(made: tuple[np.random.Generator, int, np.ndarray]):
    rng, rows, weights = made
    data = np.column_stack([rng.integers(0, 6, rows), rng.normal(size=rows).round(1)]).astype(np.float64)
    data[0], data[1] = (0, 5.5), (3, -5.5)  # both vary
    repeated = np.repeat(data, weights.astype(int), axis=0)
    check("mean", data[:, :1], weights, repeated[:, 0].mean())
    check("median", data[:, :1], weights, float(np.median(repeated[:, 0])))
    check("pearson", data, weights, stats.pearsonr(*repeated.T)[0])
    check("spearman", data, weights, stats.spearmanr(*repeated.T)[0])
    check("r2", data, weights, metrics.r2_score(*repeated.T))


@settings(max_examples=60, deadline=None)
@given(weighted())
def test_figures_of_classes(made: tuple[np.random.Generator, int, np.ndarray]):
    rng, rows, weights = made
    truth, predicted = rng.integers(0, 3, rows), rng.integers(0, 3, rows)
    truth[0], truth[1] = 0, 1
    repeats = weights.astype(int)
    again = np.repeat(truth, repeats)
    expected = metrics.f1_score(again, np.repeat(predicted, repeats), average="macro")
    check("macro_f1", np.column_stack([truth, predicted]).astype(np.float64), weights, expected)
    scores = rng.integers(0, 5, (rows, 3)) / 4
    two = truth % 2
    area = metrics.roc_auc_score(np.repeat(two, repeats), np.repeat(scores[:, 0], repeats))
    check("auc", np.column_stack([two, scores[:, 0]]), weights, area)
    present = np.unique(again)
    areas = [metrics.roc_auc_score(again == code, np.repeat(scores[:, code], repeats)) for code in present]
    check("auc", np.column_stack([truth, scores]), weights, float(np.mean(areas)))


def test_an_interval_is_scipys_own():
    values = np.random.default_rng(0).normal(size=50)
    sample = Sample("mean", np.arange(50).astype(str), values[:, None])
    found = interval_of(sample.figure, 50, None, 1000, 0.95, 3)
    own = stats.bootstrap(
        (values,), np.mean, n_resamples=1000, method="percentile", vectorized=True, rng=np.random.default_rng(3)
    ).confidence_interval
    assert found == pytest.approx((own.low, own.high), abs=1e-12)
    assert found[0] < values.mean() < found[1]


def test_groups_are_drawn_whole():
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 25)
    data, groups = values[:, None], np.repeat(np.arange(4), 25)
    figure = STATISTICS["mean"](data)
    low, high = interval_of(figure, 100, groups, 1000, 0.95, 0)
    alone = interval_of(figure, 100, None, 1000, 0.95, 0)
    means = [np.mean(draw) for draw in np.random.default_rng(1).integers(0, 2, (20_000, 4))]
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1e-9)
    assert high - low > 3 * (alone[1] - alone[0])  # 100 rows that are 4 in truth tell much less


def test_one_unit_has_no_spread():
    assert interval_of(STATISTICS["mean"](np.array([[0.4]])), 1, None, 100, 0.95, 0) == (0.4, 0.4)
