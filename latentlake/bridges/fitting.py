"""Which map bridges two columns best: tried on held-out pairs by what it is for, finding the rows that a native query finds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from latentlake.bridges.maps import Arrays, Candidate, apply_map, fit_nothing, further_candidates, linear_candidates
from latentlake.comparison.neighbours import Share, nearest_rows, share_of
from latentlake.provenance import Provenance
from operators.errors import SpecError

MIN_PAIRS = 50
MEASURED_SHARE = 10  # one pair of so many measures the bridge and takes no other part
MAX_MEASURED = 1000
FEW = 2000  # pairs up to which maps are chosen by cross-validation; of more, a tenth is held out once
FOLDS = 5
MAX_CHOOSING = 500

METHODS = ("procrustes", "ridge", "rotation_ridge", "identity_ridge", "low_rank", "mlp")


@dataclass(frozen=True)
class Space:
    """How one column's vectors are compared: its `metric`, and whether they are bits."""

    metric: str
    bits: bool

    def prepare(self, vectors: np.ndarray) -> np.ndarray:
        """Stored vectors as numbers, float64 (n, dim): of length 1 for cosine; bits as -1 and 1."""
        if self.bits:
            return np.unpackbits(vectors, axis=1).astype(np.float64) * 2 - 1
        return self.scale(vectors.astype(np.float64))

    def scale(self, vectors: np.ndarray) -> np.ndarray:
        """Numbers (n, dim) as they are compared: of length 1 for cosine (zeros stay zeros), signs where the column holds bits."""
        if self.bits:
            return np.where(vectors > 0, 1.0, -1.0)
        if self.metric != "cosine":
            return vectors
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.where(lengths == 0, 1, lengths)

    def stored(self, vectors: np.ndarray) -> np.ndarray:
        """Numbers (n, dim) as the metric's distances take them: bits packed, others float32."""
        return np.packbits(vectors > 0, axis=1) if self.bits else vectors.astype(np.float32)


def space_of(stored: Provenance) -> Space:
    """How a column's vectors are compared."""
    return Space(stored.metric, stored.dtype == "binary")


@dataclass(frozen=True)
class Tried:
    """A map that was tried: its kind, its setting (strength of a ridge, rank), and its recall on pairs held out from it."""

    kind: str
    setting: float | None
    recall: float


@dataclass(frozen=True)
class Fitted:
    """The map that was chosen. `recall` is on pairs that took no part in it, `without` is there with no map at all."""

    arrays: Arrays
    kind: str
    setting: float | None
    recall: Share
    without: Share | None
    pairs: int
    pool: int
    k: int
    tried: tuple[Tried, ...]


def fit(
    new: np.ndarray,
    old: np.ndarray,
    spaces: tuple[Space, Space],
    *,
    k: int = 10,
    methods: Sequence[str] = METHODS,
    seed: int = 0,
) -> Fitted:
    """The map from the new space to the old that finds most native neighbours, of prepared vectors (n, p) and (n, q) of the same rows.

    A tenth of the pairs is set aside. On the others each candidate is fitted and tried in folds, the best is fitted on all of
    them, and measured on what was set aside: of the `k` rows nearest to a row's old vector among all pairs, the share that is
    nearest to its mapped new one. Raises `SpecError`: too few pairs, unknown methods.
    """
    check(len(new), methods, k)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(new))
    measured = order[: min(max(len(new) // MEASURED_SHARE, MIN_PAIRS // 5), MAX_MEASURED)]
    rest = order[len(measured) :]
    pool = spaces[1].stored(old)

    native = np.full((len(pool), k), -1)
    asked = np.concatenate([measured, *(held for _, held in folds(rest))])
    native[asked] = nearest_rows(pool[asked], pool, k, spaces[1].metric, asked)

    def recalls(rows: np.ndarray, mapped: np.ndarray) -> np.ndarray:
        """Of each row's native neighbours the share that its mapped vector finds."""
        queries = spaces[1].stored(spaces[1].scale(mapped))
        found = nearest_rows(queries, pool, k, spaces[1].metric, rows)
        return np.array([len(np.intersect1d(a, b)) for a, b in zip(found, native[rows], strict=True)]) / k

    def trial(candidate: Candidate) -> Tried:
        parts = [recalls(held, apply_map(candidate.fit(new[kept], old[kept]), new[held])) for kept, held in folds(rest)]
        return Tried(candidate.kind, candidate.setting, float(np.concatenate(parts).mean()))

    tried, best = choose(trial, (len(rest), new.shape[1], old.shape[1]), methods, seed)
    arrays = best.fit(new[rest], old[rest])
    plain = new.shape[1] == old.shape[1]
    return Fitted(
        arrays=arrays,
        kind=best.kind,
        setting=best.setting,
        recall=share_of(recalls(measured, apply_map(arrays, new[measured])), seed),
        without=share_of(recalls(measured, apply_map(fit_nothing(new, old), new[measured])), seed) if plain else None,
        pairs=len(rest),
        pool=len(pool),
        k=k,
        tried=tuple(tried),
    )


def check(pairs: int, methods: Sequence[str], k: int) -> None:
    """Raise `SpecError` unless a map can be fitted."""
    if unknown := [name for name in methods if name not in METHODS]:
        raise SpecError(f"no method '{unknown[0]}' for a bridge. Available: {', '.join(METHODS)}")
    if not methods:
        raise SpecError(f"name a method for the bridge: {', '.join(METHODS)}")
    if k < 1 or pairs < max(MIN_PAIRS, k + 1):
        raise SpecError(
            f"a bridge needs rows with vectors in both columns, {max(MIN_PAIRS, k + 1)} at least; there are {pairs}.\n"
            "  Embed some with the new model first: `latentlake run JOB --limit 2000` into a table of its own, and name it as "
            "the table of pairs."
        )


def choose(
    trial: Callable[[Candidate], Tried], shape: tuple[int, int, int], methods: Sequence[str], seed: int
) -> tuple[list[Tried], Candidate]:
    """All that was tried of the methods, and the best candidate. `shape`: pairs, and the two dimensions.

    Low rank and MLP build on the best ridges, which are tried for them, too.
    """
    pairs, dimension, old_dimension = shape
    ridges = methods if not {"low_rank", "mlp"} & {*methods} else METHODS
    scores = [(trial(one), one) for one in linear_candidates(dimension, old_dimension) if one.kind in ridges]
    if ridges is METHODS:
        based = [score for score in scores if score[1].kind != "procrustes"]
        strength = best_of([score for score in based if score[1].kind == "ridge"]).setting or 0.0
        further = further_candidates(pairs, min(dimension, old_dimension), strength, best_of(based), seed)
        scores += [(trial(one), one) for one in further if one.kind in methods]
    scores = [score for score in scores if score[1].kind in methods]
    if not scores:
        raise SpecError(
            f"none of the methods {', '.join(methods)} can be fitted on {pairs} pairs between these spaces."
        )
    return [found for found, _ in scores], best_of(scores)


def best_of(scores: Sequence[tuple[Tried, Candidate]]) -> Candidate:
    """The candidate of the highest recall; of equal ones the first, which is the simplest."""
    return max(scores, key=lambda score: score[0].recall)[1]


def folds(rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows to fit on and rows to try on."""
    if len(rows) > FEW:
        count = min(len(rows) // MEASURED_SHARE, MAX_CHOOSING)
        yield rows[count:], rows[:count]
        return
    parts = np.array_split(rows, FOLDS)
    for number, held in enumerate(parts):
        yield np.concatenate([part for other, part in enumerate(parts) if other != number]), held
