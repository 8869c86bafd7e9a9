"""An index tuned to a recall: chosen, built, searched with the least effort that meets it, and measured with other queries."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from latentlake.indexes import (
    Builder,
    IndexInfo,
    IndexType,
    build_whole,
    choose_index,
    find_index,
    index_segments,
)
from latentlake.tuning.choice import QUERIES, Candidate, Choice, choose, count_partitions, describe
from latentlake.tuning.efforts import cheapest, meets, raise_effort, tune_effort
from latentlake.tuning.goal import Goal
from latentlake.tuning.queries import Queries
from latentlake.tuning.settings import Effort, FilteredSearch, Measured, SearchSettings, write_settings
from latentlake.tuning.trials import Trial, Truth, find_truth, run_trial

SHARES = (0.5, 0.1, 0.01)  # of the rows that filters keep, which are measured
COARSE = 96  # queries of a trial; what is chosen is tried with all that tune
RAISED = 6  # times that an effort is looked for, each time to miss half as much as before
ERRORS = 2.0  # standard errors that what is chosen keeps above the target
FILTERED_QUERIES = 64
FILTERED_MEASURED = 200
FILTERED_STEPS = 4  # how often the effort under a filter is raised; then the rows are compared exactly
EXACT_QUERIES = 5
UNMEASURED = Measured(0, 0, 0, 0, 0, 0)
SLOW_MS = 500.0  # exact search that takes longer is timed once


@dataclass(frozen=True)
class Column:
    """A vector column of a dataset (pylance) under tuning: the queries, and what is really nearest to them, by share of rows kept."""

    dataset: Any
    name: str
    metric: str
    goal: Goal
    queries: np.ndarray
    truth: Mapping[float, Truth]

    def attempt(
        self,
        effort: Effort | None,
        share: float = 1.0,
        most: int | None = None,
        limit_ms: float = math.inf,
        target: float = 0.0,
    ) -> Trial:
        """Try an effort with the first `most` queries. Exact search finds all: a few of them tell its time."""
        ask = partial(run_trial, self.dataset, self.name, self.metric, self.goal.k)
        if effort is not None:
            return ask(self.queries[:most], self.truth[share], effort, share, limit_ms, target)
        once = ask(self.queries[:1], self.truth[share], None, share)
        return once if once.p50_ms > SLOW_MS else ask(self.queries[:EXACT_QUERIES], self.truth[share], None, share)


def open_column(dataset: Any, column: str, metric: str, goal: Goal, queries: np.ndarray) -> Column:
    """Find what is really nearest to the queries; the column is read once."""
    truth = find_truth(dataset, column, metric, queries, goal.k, (1.0, *SHARES))
    return Column(dataset, column, metric, goal, queries, truth)


def tune_index(
    dataset: Any,
    column: str,
    metric: str,
    rows: int,
    type: IndexType,
    goal: Goal,
    queries: Queries,
    builder: Builder = build_whole,
) -> SearchSettings:
    """Choose, build, tune and measure the index of a column of `rows` vectors, in place of the one it has.

    `dataset` moves to the version that has the index and, in the column's field, its settings.
    """
    choice = pick(dataset, column, metric, rows, type, goal, queries)
    found = find_index(dataset, column)
    began = time.perf_counter()
    if choice.chosen.build:
        builder(dataset, column, found.name if found else f"{column}_idx", choice.chosen.build, rows)
    elif found is not None:
        dataset.drop_index(found.name)
    build_s = time.perf_counter() - began
    settings = tune_search(dataset, column, metric, rows, goal, queries, choice.why)
    if settings.effort is None and choice.chosen.build:
        dataset.drop_index(find_index(dataset, column).name)  # type: ignore[union-attr]  # it was built above
        settings = replace(settings, index="exact")
    kept = choice.chosen.build if settings.effort else {}
    settings = replace(
        settings, build=dict(kept), build_s=round(build_s, 3), choice_s=round(choice.seconds, 3), asked=type
    )
    write_settings(dataset, column, settings)
    return settings


def pick(dataset: Any, column: str, metric: str, rows: int, type: IndexType, goal: Goal, queries: Queries) -> Choice:
    """The kind of index to build: chosen on a sample where it is left to us, else the one that is asked for."""
    if not len(queries.tune):
        return Choice(Candidate("exact", {}), "there are no queries to tune with")
    if type == "auto":
        asked = queries.tune[:QUERIES]
        return choose(dataset, column, metric, rows, asked, goal.k, goal.target_recall, goal.max_p95_ms)
    dimension = dataset.schema.field(column).type.list_size
    build = choose_index(rows, dimension, metric, type)
    if build is None:
        return Choice(
            Candidate("exact", {}), "the job asks for none" if type == "none" else f"{rows} vectors are too few"
        )
    return Choice(Candidate(type, build), "the job names it")


def tune_search(
    dataset: Any, column: str, metric: str, rows: int, goal: Goal, queries: Queries, why: str
) -> SearchSettings:
    """Find the effort that meets the goal on the index that is there, and measure it with the other half of the queries."""
    found = find_index(dataset, column)
    tuned = open_column(dataset, column, metric, goal, queries.tune)
    exact = tuned.attempt(None)
    partitions = count_partitions(dataset, found.name) if found else 0
    best = find_effort(tuned, found, partitions) if found else None
    if found is not None and best is None:
        why += f"; on the table {found.type} did not meet it"
    elif best is not None and best.quiet_ms >= exact.quiet_ms:
        why += f"; on the table exact search is as fast ({exact.quiet_ms:.1f} ms)"
        best = None
    effort = best.effort if best else None
    exact_rows = rows_searched_as_fast(rows, exact, best) if best else rows
    filtered = () if effort is None else tuple(tune_filters(tuned, effort, partitions))
    draft = SearchSettings(
        index=found.type if found and effort else "exact",
        effort=effort,
        target_recall=goal.target_recall,
        k=goal.k,
        measured=exact.measured(),
        measured_at=int(dataset.version),
        queries_from=queries.source,
        exact_rows=exact_rows,
        filtered=filtered,
        max_p95_ms=goal.max_p95_ms,
        size_bytes=sum(s.size_bytes for s in describe(dataset, found.name).segments) if found and effort else 0,
        partitions=partitions,
        segments=tuple(sorted(index_segments(dataset, column))),
        rows=rows,
        why=why,
    )
    return measure_settings(dataset, column, metric, draft, queries.measure)


def find_effort(tuned: Column, found: IndexInfo, partitions: int) -> Trial | None:
    """The cheapest effort that meets the goal: found with a part of the queries, then tried, and raised, with all of them."""

    def coarse(target: float, effort: Effort, limit_ms: float) -> Trial:
        return tuned.attempt(effort, 1.0, COARSE, limit_ms, target)

    goal = tuned.goal
    asked = goal.target_recall
    for _ in range(RAISED):
        trials = tune_effort(
            found.type,
            partitions,
            goal.k,
            asked,
            partial(coarse, asked),
            max_p95_ms=goal.max_p95_ms,
        )
        if cheapest(trials, asked, goal.max_p95_ms) is None:
            return None
        while best := cheapest(trials, asked, goal.max_p95_ms):
            whole = tuned.attempt(best.effort)
            if meets(whole, goal.target_recall, ERRORS):
                return whole
            # What was given up as too slow may be the cheapest now.
            trials = [tuned.attempt(trial.effort, most=COARSE) if trial.slow else trial for trial in trials]
            trials = [trial for trial in trials if trial.recall > best.recall]
        asked = (1 + asked) / 2  # of the efforts that were tried none is enough: a higher one
    return None


def rows_searched_as_fast(rows: int, exact: Trial, indexed: Trial) -> int:
    """So many rows are compared in the time that a search through the index takes."""
    return int(rows * min(1.0, indexed.quiet_ms / max(exact.quiet_ms, 1e-6)))


def tune_filters(tuned: Column, effort: Effort, partitions: int) -> list[FilteredSearch]:
    """For each filter the cheapest search that meets the goal: with a raised effort, or over the rows that it keeps.

    Lance reads the whole column to compare what a filter keeps, unless the filter has an index: few rows are not soon compared.
    """
    return [FilteredSearch(share, filtered_effort(tuned, effort, partitions, share), UNMEASURED) for share in SHARES]


def filtered_effort(tuned: Column, effort: Effort, partitions: int, share: float) -> Effort | None:
    """The least raised effort that meets the goal under a filter; None where exact search is as fast."""
    exact = tuned.attempt(None, share)
    for steps in range(FILTERED_STEPS):
        raised = raise_effort(effort, share, partitions, steps)
        trial = tuned.attempt(raised, share, FILTERED_QUERIES, exact.quiet_ms)
        if trial.slow or trial.quiet_ms >= exact.quiet_ms:
            return None
        if meets(trial, tuned.goal.target_recall, ERRORS):
            return raised
    return None


def measure_settings(
    dataset: Any, column: str, metric: str, settings: SearchSettings, queries: np.ndarray
) -> SearchSettings:
    """The settings with what they find now, by queries that they were not chosen with. They are not written."""
    goal = Goal(settings.target_recall, settings.k)
    other = open_column(dataset, column, metric, goal, queries)
    filtered = tuple(
        replace(f, measured=other.attempt(f.effort, f.share, FILTERED_MEASURED).measured()) for f in settings.filtered
    )
    return replace(
        settings,
        measured=other.attempt(settings.effort).measured(),
        measured_at=int(dataset.version),
        filtered=filtered,
    )
