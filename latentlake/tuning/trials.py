"""What a search finds, and how long it takes: against the rows that are really nearest."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentlake.indexes import vector_field, with_effort
from latentlake.recall import distances_between, sample_runs, to_arrays, tolerance
from latentlake.tuning.settings import Effort, Measured

# Of vectors that queries are compared with; of a column that is larger, so much is compared, in runs at random.
TRUTH_BYTES = 2 * 2**30
BATCH_ROWS = 8192
READ_AHEAD_BYTES = 64 * 2**20
PERCENT = 100
RESAMPLES = 1000
HOPELESS = 3.0
SLOW_AFTER = 8  # queries that tell whether an effort is too slow, or finds far too little


@dataclass(frozen=True)
class Truth:
    """For each query the k nearest of the rows that were compared, nearest first; fewer are filled up with infinity."""

    ids: np.ndarray  # uint64 (queries, k)
    distances: np.ndarray  # float32 (queries, k)
    share: float = 1.0  # of the rows that were compared


@dataclass(frozen=True)
class Trial:
    """What an effort found, by query."""

    effort: Effort | None  # None: exact search
    met: np.ndarray  # rows found, of those that should have been
    due: np.ndarray  # rows that should have been found
    ms: np.ndarray
    slow: bool = False  # given up after a few queries: too slow to be chosen

    @property
    def recall(self) -> float:
        """Of all queries together, from 0 to 1; 1 where nothing could be found."""
        return float(self.met.sum() / due) if (due := self.due.sum()) else 1.0

    @property
    def p50_ms(self) -> float:
        """Median time of a query; 0 where none was asked."""
        return float(np.median(self.ms)) if len(self.ms) else 0.0

    @property
    def quiet_ms(self) -> float:
        """Time that three queries in four exceed: what searches are compared by, for what else a machine does disturbs it least."""
        return quiet(self.ms)

    @property
    def p95_ms(self) -> float:
        """Time that one query in twenty exceeds."""
        return float(np.percentile(self.ms, 95)) if len(self.ms) else 0.0

    def interval(self, seed: int = 0) -> tuple[float, float]:
        """95 % interval of the recall, by a bootstrap over queries (percentiles).

        Where nothing was missed, the rule of three: 3 in so many rows may be.
        """
        due = int(self.due.sum())
        if not due:
            return 1.0, 1.0
        if self.met.sum() == due:
            return max(0.0, 1 - 3 / due), 1.0
        number = len(self.met)
        weights = np.random.default_rng(seed).multinomial(number, np.full(number, 1 / number), RESAMPLES)
        low, high = np.percentile(weights @ self.met / np.maximum(1, weights @ self.due), [2.5, 97.5])
        return float(low), float(high)

    def measured(self) -> Measured:
        """The trial, as it is kept with a column."""
        low, high = self.interval()
        figures = (
            {"recall": self.recall, "low": low, "high": high}
            if self.effort
            else dict.fromkeys(("recall", "low", "high"), 1.0)
        )
        times = {"p50_ms": round(self.p50_ms, 3), "p95_ms": round(self.p95_ms, 3)}
        return Measured(**{name: round(value, 4) for name, value in figures.items()}, queries=len(self.met), **times)


def find_truth(
    dataset: Any, column: str, metric: str, queries: np.ndarray, k: int, shares: Sequence[float] = (1.0,), seed: int = 0
) -> dict[float, Truth]:
    """The rows nearest to `queries` (n, dim), by the share of the rows that a filter keeps (`share_filter`).

    The column is read once, in batches: a batch and its distances are all that is held. Of one above `TRUTH_BYTES` so much is read.
    """
    kind = vector_field(dataset, column).type
    limit = max(BATCH_ROWS, TRUTH_BYTES * 8 // (kind.list_size * kind.value_type.bit_width))
    compared = min(1.0, limit / max(1, dataset.count_rows()))
    best = {share: empty_truth(len(queries), k, compared) for share in shares}
    for ids, rows in read_rows(dataset, column) if compared == 1 else sample_runs(dataset, column, limit, seed):
        distances = np.nan_to_num(distances_between(queries, rows, metric), nan=np.inf, copy=False)
        for share, found in best.items():
            kept = slice(None) if share == 1 else np.flatnonzero(ids % PERCENT < round(share * PERCENT))
            best[share] = nearer(found, ids[kept], distances[:, kept])
    return best


def empty_truth(queries: int, k: int, share: float) -> Truth:
    """Nothing compared yet."""
    return Truth(np.zeros((queries, k), np.uint64), np.full((queries, k), np.inf, np.float32), share)


def nearer(found: Truth, ids: np.ndarray, distances: np.ndarray) -> Truth:
    """`found`, and what is nearer among the rows `ids` (m,) at `distances` (queries, m)."""
    number, k = found.ids.shape
    asked, place = np.nonzero(distances < found.distances[:, -1:])
    if not len(asked):
        return found
    query = np.concatenate([np.repeat(np.arange(number), k), asked])
    far = np.concatenate([found.distances.reshape(-1), distances[asked, place]])
    row = np.concatenate([found.ids.reshape(-1), ids[place]])
    order = np.lexsort((far, query))
    first = np.searchsorted(query[order], np.arange(number))
    chosen = order[first[:, None] + np.arange(k)]
    return Truth(row[chosen], far[chosen], found.share)


def read_rows(dataset: Any, column: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Row ids and vectors of a whole column, in batches; those without a vector are left out."""
    import pyarrow as pa

    scanner = dataset.scanner(
        columns=[column], with_row_id=True, batch_size=BATCH_ROWS, batch_readahead=2, io_buffer_size=READ_AHEAD_BYTES
    )
    for batch in scanner.to_batches():
        yield to_arrays(pa.Table.from_batches([batch]), column)


def share_filter(share: float) -> str | None:
    """SQL that keeps about so large a share of the rows, whatever they hold; None: all."""
    return None if share == 1 else f"_rowid % {PERCENT} < {round(share * PERCENT)}"


def run_trial(
    dataset: Any,
    column: str,
    metric: str,
    k: int,
    queries: np.ndarray,
    truth: Truth,
    effort: Effort | None,
    share: float = 1.0,
    limit_ms: float = math.inf,
    target: float = 0.0,
) -> Trial:
    """Ask every query alone, as search does, and see what is found of what is nearest, and in what time.

    Once `SLOW_AFTER` queries took more than `limit_ms` (`Trial.quiet_ms`), or found so little that all of them will not meet
    `target`, the rest is not asked.

    Of the rows that were compared and are nearer than the k-th that was found, the share that was found: of a whole column that is
    recall@k, where a row as near as the k-th counts; of a sample it is about that, and rather too low (`recall.measure_on_sample`).
    """
    met, due, times = (np.zeros(len(queries), kind) for kind in (np.int64, np.int64, np.float64))
    where = share_filter(share)
    for at, query in enumerate(queries):
        asked = with_effort(column, query, k, metric, effort)
        began = time.perf_counter()
        found = dataset.scanner(
            columns=["_distance"], nearest=asked, filter=where, prefilter=True, with_row_id=True
        ).to_table()
        times[at] = (time.perf_counter() - began) * 1000
        ids, distances = found["_rowid"].to_numpy(), found["_distance"].to_numpy()
        met[at], due[at] = count_hits(truth, at, ids, distances)
        if at + 1 == SLOW_AFTER:
            slow = quiet(times[: at + 1]) > limit_ms
            if slow or falls_short(met[: at + 1], due[: at + 1], target):
                return Trial(effort, met[: at + 1], due[: at + 1], times[: at + 1], slow)
    return Trial(effort, met, due, times)


def falls_short(met: np.ndarray, due: np.ndarray, target: float) -> bool:
    """Whether the first queries found less than `target` by more than `HOPELESS` standard errors."""
    asked = due.sum()
    recall = met.sum() / max(1, asked)
    return bool(asked) and recall + HOPELESS * math.sqrt(recall * (1 - recall) / asked) < target


def quiet(ms: np.ndarray) -> float:
    """See `Trial.quiet_ms`; 0 where no query was asked."""
    return float(np.percentile(ms, 25)) if len(ms) else 0.0


def count_hits(truth: Truth, at: int, ids: np.ndarray, distances: np.ndarray) -> tuple[int, int]:
    """Rows found, and rows due, of one query."""
    there = np.isfinite(truth.distances[at])
    wanted, far = truth.ids[at][there], truth.distances[at][there]
    if not len(wanted):
        return 0, 0
    if truth.share == 1:
        hits = np.isin(ids, wanted) | (distances <= far[-1] + tolerance(far[-1]))
        return min(len(wanted), int(hits.sum())), len(wanted)
    radius = distances[-1] + tolerance(distances[-1]) if len(distances) else -np.inf
    near = wanted[far <= radius][: math.ceil(len(truth.ids[at]) * truth.share)]  # a search that missed much counts once
    return int(np.isin(near, ids).sum()), len(near)
