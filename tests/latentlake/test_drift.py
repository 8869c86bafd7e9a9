"""Drift of vectors, against the formulas written out and scipy's matrix root."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lake_maker import LakeMaker
from scipy.linalg import sqrtm

import latentlake
from latentlake.comparison.drift import Sample, comparable, drift, mmd_test, sample_of
from operators.errors import NotFound, SpecError


def make(rows: int, seed: int = 0, dim: int = 5, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)) * scale + shift


def mmd_by_pairs(before: np.ndarray, after: np.ndarray) -> float:
    """Equation 3 of Gretton et al. 2012, pair by pair, with the median of all distances as the kernel's width."""
    both = np.concatenate([before, after])
    apart = [np.linalg.norm(both[i] - both[j]) for i in range(len(both)) for j in range(i)]
    width = np.median(apart)

    def k(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.exp(-((x - y) ** 2).sum() / (2 * width**2)))

    n, m = len(before), len(after)
    within = sum(k(before[i], before[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    others = sum(k(after[i], after[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    across = sum(k(x, y) for x in before for y in after) / (n * m)
    return within + others - 2 * across


def test_mmd_is_the_paper_s_estimate():
    before, after = make(30), make(21, seed=1, shift=0.7)
    squared, p_value, width = mmd_test(before, after, 199, np.random.default_rng(0))
    assert squared == pytest.approx(mmd_by_pairs(before, after), abs=1e-12)
    assert p_value == pytest.approx(1 / 200) and width > 0
    assert drift(before, after, permutations=199).mmd == pytest.approx(np.sqrt(squared))


def test_the_test_refuses_as_often_as_it_says_where_nothing_differs():
    """Under the null hypothesis p-values are uniform: 40 of them stay close to that."""
    values = [
        mmd_test(make(25, seed=2 * n), make(25, seed=2 * n + 1), 99, np.random.default_rng(n))[1] for n in range(40)
    ]
    assert 0.3 < np.mean(values) < 0.7 and np.mean(np.array(values) <= 0.05) <= 0.15


@pytest.mark.parametrize(("rows", "dim"), [(200, 6), (8, 12)])  # the second has covariances without full rank
def test_the_frechet_distance_is_that_of_fid(rows: int, dim: int):
    before, after = make(rows, dim=dim), make(rows + 3, seed=1, dim=dim, shift=0.3, scale=1.5)
    one, other = np.cov(before, rowvar=False), np.cov(after, rowvar=False)
    shift = before.mean(axis=0) - after.mean(axis=0)
    expected = shift @ shift + np.trace(one + other - 2 * sqrtm(one @ other).real)
    assert drift(before, after, permutations=9).frechet == pytest.approx(expected, rel=1e-4)


def test_the_shift_of_the_mean_is_in_units_of_the_spread():
    before = make(4000, dim=8)
    found = drift(before, before + 2.0, sample=4000, permutations=9)
    spread = np.sqrt(((before - before.mean(axis=0)) ** 2).sum(axis=1).mean())
    assert found.mean_shift == pytest.approx(2.0 * np.sqrt(8) / spread)
    assert drift(100 * before, 100 * (before + 2.0), permutations=9).mean_shift == pytest.approx(
        found.mean_shift, rel=0.05
    )


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 60), st.integers(1, 6), st.integers(0, 2**31), st.floats(0.01, 100))
def test_a_sample_has_no_drift_from_itself(rows: int, dim: int, seed: int, scale: float):
    vectors = make(rows, seed, dim, scale=scale)
    found = drift(vectors, np.random.default_rng(1).permutation(vectors), permutations=49)
    assert found.mean_shift < 1e-9 and found.mmd == 0 and found.p_value > 0.5
    assert found.frechet < 1e-6 * scale**2


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.floats(0.01, 100))
def test_scale_rotation_and_order_of_sides_do_not_matter(seed: int, scale: float):
    before, after = make(40, seed), make(50, seed + 1, shift=0.4)
    turn = np.linalg.qr(make(5, seed + 2))[0] * scale
    plain, turned, swapped = (
        drift(*pair, permutations=9) for pair in ((before, after), (before @ turn, after @ turn), (after, before))
    )
    for other in (turned, swapped):
        assert other.mmd == pytest.approx(plain.mmd, abs=1e-6)
        assert other.mean_shift == pytest.approx(plain.mean_shift)
    assert turned.frechet == pytest.approx(plain.frechet * scale**2, rel=1e-6)


def test_what_drifts_is_told_apart_from_what_does_not():
    same, other = drift(make(500), make(500, seed=1)), drift(make(500), make(500, seed=1, shift=0.15))
    assert same.p_value > 0.05 and same.mmd < 0.03 and same.frechet < 3 * same.frechet_floor
    assert other.p_value == pytest.approx(0.001) and other.mmd > 0.05 and other.frechet > 5 * other.frechet_floor


def test_segments_and_the_worst_of_them():
    names = np.array(["a", "b", "rare"]).repeat([100, 100, 5])
    before, after = make(205), make(205, seed=1)
    after[100:200] += 2
    found = drift(Sample(before, names), Sample(after, names), permutations=99)
    assert list(found.segments) == ["a", "b"] and found.small_segments == ("rare",)
    assert found.segments["a"].p_value > 0.05 and found.segments["b"].p_value == pytest.approx(0.01)
    assert found.worst == ("b", found.segments["b"].mmd) and found.mmd < found.worst[1]
    assert json.loads(json.dumps(found.to_json()))["segments"]["b"]["rows_after"] == 100


def test_equal_rows_and_single_ones():
    same = drift(np.ones((4, 3)), np.ones((5, 3)))
    assert (same.mean_shift, same.mmd, same.p_value, same.frechet) == (0, 0, 1, 0)
    assert drift(np.ones((4, 3)), np.zeros((5, 3))).mean_shift == np.inf
    mostly = drift(np.concatenate([np.ones((20, 3)), np.zeros((1, 3))]), np.ones((20, 3)))
    assert mostly.width == pytest.approx(np.sqrt(3))  # the median distance is 0: that of rows that differ stands in
    assert drift(make(1), make(1, seed=1)).mmd == 0


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(SpecError, match=r"shapes \(4, 3\) and \(4, 2\)"):
        drift(np.ones((4, 3)), np.ones((4, 2)))
    with pytest.raises(SpecError, match="rows on both sides; there are 0 and 4"):
        drift(np.ones((0, 3)), np.ones((4, 3)))
    with pytest.raises(SpecError, match="finite"):
        drift(np.full((4, 3), np.nan), np.ones((4, 3)))


def test_the_sample_of_a_column_is_what_its_metric_compares(maker: LakeMaker):
    maker.write_texts(no_vector=[5])
    table = latentlake.connect(maker.uri).open("notes")
    found = sample_of(table, "words", segment="length")
    stored = np.array(table.to_arrow(["words"], "words IS NOT NULL")["words"].to_pylist())
    np.testing.assert_allclose(found.vectors, stored / np.linalg.norm(stored, axis=1, keepdims=True), rtol=1e-6)
    assert found.segments is not None and found.segments.tolist()[0] == str(len("parse the options of a command line"))
    assert sample_of(table, "words", sample=2).vectors.shape == (2, 256)
    with pytest.raises(NotFound, match="no vector column 'word'"):
        sample_of(table, "word")
    with pytest.raises(SpecError, match="has no vectors"):
        sample_of(table, "words", where="length > 1000")


def test_bits_are_compared_as_bits():
    bits = np.random.default_rng(0).integers(0, 2, (10, 16))
    np.testing.assert_array_equal(comparable(np.packbits(bits, axis=1), "hamming"), bits)
    np.testing.assert_array_equal(comparable(np.zeros((1, 3), np.float16), "cosine"), np.zeros((1, 3)))
