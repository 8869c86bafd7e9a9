"""Drift: how far the distribution of a column's vectors has moved between two samples of them.

Three measures, each of which sees something else. The shift of the mean sees that everything moved one way. The maximum mean
discrepancy (MMD; Gretton et al., "A Kernel Two-Sample Test", JMLR 2012) sees any difference, and has a test. The Fréchet
distance (Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017) sees mean and covariance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from operators.errors import SpecError

if TYPE_CHECKING:
    from latentlake.table import Table

SAMPLE = 2000  # rows of each side
KERNEL_ROWS = 1000  # of them that MMD compares: the kernel matrix is (2,000, 2,000), 32 MB
PERMUTATIONS = 999
BATCH = 250  # permutations at once: 4 MB of them, and 4 MB of their products
MIN_SEGMENT = 30  # rows that a segment needs on both sides


@dataclass(frozen=True)
class Sample:
    """Vectors as they are compared, float (n, dim), and the segment of each, (n,), where a column of segments was named."""

    vectors: np.ndarray
    segments: np.ndarray | None = None


@dataclass(frozen=True)
class Drift:
    """How far `after` is from `before`. The number to bound in a gate is `mmd`: `Drift.worst` has the highest one.

    - `mean_shift`: distance between the means, per root mean square distance of a row from the mean of its own sample. 0 is
      no shift; 1 is as far as a row usually is from the mean.
    - `mmd`: root of the unbiased estimate of MMD², 0 where that is negative; Gaussian kernel, its width the median distance
      between rows (`width`). From 0 (nothing differs) to 1.41 (nothing is alike), whatever the scale or dimension.
    - `p_value`: how often a random split of all rows is at least as far apart; below 0.05 the samples differ. It tells whether
      there is a drift, not how much: of many rows a tiny one is significant.
    - `frechet`: the Fréchet distance between normal distributions, as FID has it: in squared units of the vectors, and too high
      for few rows. `frechet_floor` is what a random split of all rows has: compare with that.

    What values mean, for 1,398 abstracts (all-MiniLM-L6-v2, halves of 699; `benchmarks/drift.py`): `mmd` of the other half is 0 to
    0.02, of a half with one row in ten by another pooling 0.06, one in five 0.12, all 0.61; with one topic in eight given 10 % more
    of the rows 0.04, 20 % more 0.08; of queries instead of abstracts 0.17.
    """

    rows_before: int
    rows_after: int
    mean_shift: float
    mmd: float
    p_value: float
    width: float
    frechet: float
    frechet_floor: float
    segments: Mapping[str, Drift] = field(default_factory=dict)
    small_segments: tuple[str, ...] = ()  # with too few rows on one side to be compared

    @property
    def worst(self) -> tuple[str | None, float]:
        """The highest `mmd`, and the segment that has it; None for all rows together."""
        named = [(None, self.mmd), *((name, found.mmd) for name, found in self.segments.items())]
        return max(named, key=lambda one: one[1])

    def to_json(self) -> dict[str, Any]:
        """Values for JSON."""
        return asdict(self) | {"segments": {name: found.to_json() for name, found in self.segments.items()}}


def drift(
    before: np.ndarray | Sample,
    after: np.ndarray | Sample,
    *,
    sample: int = SAMPLE,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> Drift:
    """Drift between two samples of vectors, float (n, dim) and (m, dim); see `Drift`.

    Of more than `sample` rows so many are drawn at random. Where both samples have segments, each segment is compared too.
    Takes about a second for 2 x 2,000 x 384. Raises `SpecError`: no rows, other dimensions, numbers that are not finite.
    """
    before, after = draw(before, sample, seed), draw(after, sample, seed)
    check(before.vectors, after.vectors)
    whole = compare_samples(before.vectors, after.vectors, permutations, seed)
    if before.segments is None or after.segments is None:
        return whole
    found, small = {}, []
    for name in sorted({*before.segments.tolist(), *after.segments.tolist()}):
        one, other = before.vectors[before.segments == name], after.vectors[after.segments == name]
        if min(len(one), len(other)) < MIN_SEGMENT:
            small.append(name)
        else:
            found[name] = compare_samples(one, other, permutations, seed)
    return Drift(**{**vars(whole), "segments": found, "small_segments": tuple(small)})


def sample_of(
    table: Table,
    column: str,
    *,
    segment: str | None = None,
    sample: int = SAMPLE,
    seed: int = 0,
    where: str | None = None,
) -> Sample:
    """Vectors of a column, at most `sample` rows at random, as its metric compares them: of length 1 for cosine, bits as 0 and 1.

    `segment` names a column whose values are the segments; the same `seed` draws the same rows. Raises `NotFound`, `SpecError`.
    """
    metric = table.provenance(column).metric
    names = [column] if segment is None else [column, segment]
    parts = list(table.vectors(names, where, sample, seed=seed).arrays())
    if not parts:
        raise SpecError(f"column '{column}' of table '{table.name}' has no vectors at version {table.version}.")
    vectors = comparable(np.concatenate([part[column] for part in parts]), metric)
    if segment is None:
        return Sample(vectors)
    return Sample(vectors, np.concatenate([part[segment].astype(str) for part in parts]))


def comparable(vectors: np.ndarray, metric: str) -> np.ndarray:
    """Stored vectors as float64 (n, dim): of length 1 for cosine (zeros stay zeros), bits as 0 and 1 for hamming."""
    if metric == "hamming":
        return np.unpackbits(vectors, axis=1).astype(np.float64)
    vectors = vectors.astype(np.float64)
    if metric != "cosine":
        return vectors
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths == 0, 1, lengths)


def draw(found: np.ndarray | Sample, rows: int, seed: int) -> Sample:
    """At most `rows` rows at random, as float64."""
    found = found if isinstance(found, Sample) else Sample(np.asarray(found))
    if len(found.vectors) > rows:
        chosen = np.random.default_rng(seed).choice(len(found.vectors), rows, replace=False)
        found = Sample(found.vectors[chosen], None if found.segments is None else found.segments[chosen])
    return Sample(found.vectors.astype(np.float64), found.segments)


def check(before: np.ndarray, after: np.ndarray) -> None:
    """Raise `SpecError` unless two samples can be compared."""
    if before.ndim != 2 or after.ndim != 2 or before.shape[1] != after.shape[1]:
        raise SpecError(
            f"drift compares vectors of one dimension; these samples have the shapes {before.shape} and {after.shape}.\n"
            "  Vectors of two models can be compared by their neighbours, see `Table.compare`."
        )
    if not (len(before) and len(after)):
        raise SpecError(f"drift needs rows on both sides; there are {len(before)} and {len(after)}.")
    if not (np.isfinite(before).all() and np.isfinite(after).all()):
        raise SpecError("drift needs finite numbers; some vectors have NaN or infinite ones.")


def compare_samples(before: np.ndarray, after: np.ndarray, permutations: int, seed: int) -> Drift:
    """Drift of all rows, without segments."""
    rng = np.random.default_rng(seed)
    mixed = rng.permutation(np.concatenate([before, after]))
    squared, p_value, width = mmd_test(before[:KERNEL_ROWS], after[:KERNEL_ROWS], permutations, rng)
    return Drift(
        rows_before=len(before),
        rows_after=len(after),
        mean_shift=mean_shift(before, after),
        mmd=float(np.sqrt(max(squared, 0.0))),
        p_value=p_value,
        width=width,
        frechet=frechet_distance(before, after),
        frechet_floor=frechet_distance(mixed[: len(before)], mixed[len(before) :]),
    )


def mean_shift(before: np.ndarray, after: np.ndarray) -> float:
    """Distance between the means, per root mean square distance of a row from the mean of its own sample."""
    shift = float(np.linalg.norm(after.mean(axis=0) - before.mean(axis=0)))
    squares = np.concatenate([(part - part.mean(axis=0)) ** 2 for part in (before, after)]).sum(axis=1)
    spread = float(np.sqrt(squares.mean()))
    return shift / spread if spread else (float("inf") if shift else 0.0)


def mmd_test(
    before: np.ndarray, after: np.ndarray, permutations: int, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Unbiased MMD² (Gretton et al. 2012, eq. 3), the p-value of its permutation test, and the width of the kernel.

    The kernel is computed once: a permutation only sums it up otherwise. 0 and 1 where a sample has one row, or all rows are
    equal.
    """
    from scipy.spatial.distance import pdist, squareform
    from scipy.stats import permutation_test

    n, m = len(before), len(after)
    squares = pdist(np.concatenate([before, after]), "sqeuclidean")
    apart = squares[squares > 0]
    if min(n, m) < 2 or not len(apart):
        return 0.0, 1.0, 0.0
    width = float(np.sqrt(np.median(squares))) or float(np.sqrt(np.median(apart)))
    kernel = squareform(np.exp(-squares / (2 * width**2)))  # zeros on the diagonal: no row is paired with itself
    sums = kernel.sum(axis=1)

    def estimate(first: np.ndarray, second: np.ndarray, axis: int) -> np.ndarray:
        """MMD² of rows by number, (…, n) and (…, m), for every split of them."""
        chosen = np.zeros((*first.shape[:-1], n + m))
        np.put_along_axis(chosen, first.astype(np.int64), 1.0, axis=-1)
        within = ((chosen @ kernel) * chosen).sum(axis=-1)
        across = chosen @ sums - within
        rest = sums.sum() - within - 2 * across
        return within / (n * (n - 1)) + rest / (m * (m - 1)) - 2 * across / (n * m)

    tested = permutation_test(
        (np.arange(n), np.arange(n, n + m)),
        estimate,
        vectorized=True,
        n_resamples=permutations,
        batch=BATCH,
        alternative="greater",
        axis=-1,
        rng=rng,
    )
    return float(tested.statistic), float(tested.pvalue), width


def frechet_distance(before: np.ndarray, after: np.ndarray) -> float:
    """|m1 - m2|² + tr(S1 + S2 - 2 (S1 S2)^½) of the means and covariances of two samples; covariances as numpy.cov has them.

    With S1 = A'A and S2 = B'B the trace of the root is the sum of the singular values of A B', which needs no root of a matrix.
    """
    shift = after.mean(axis=0) - before.mean(axis=0)
    roots = []
    for part in (before, after):
        centred = (part - part.mean(axis=0)) / np.sqrt(max(len(part) - 1, 1))
        roots.append(np.asarray(np.linalg.qr(centred, mode="r")) if len(part) > part.shape[1] else centred)
    common = np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum()
    return float(max(shift @ shift + (roots[0] ** 2).sum() + (roots[1] ** 2).sum() - 2 * common, 0.0))
