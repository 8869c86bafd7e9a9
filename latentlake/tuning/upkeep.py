"""A tuned index stays tuned: rows come and go, partitions split and join, and the recall that is told stays a measured one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from latentlake.indexes import Builder, IndexInfo, IndexType, build_whole, extend_index, find_index, index_segments
from latentlake.tuning.choice import count_partitions
from latentlake.tuning.goal import Goal
from latentlake.tuning.queries import Queries
from latentlake.tuning.settings import SearchSettings, read_settings, write_settings
from latentlake.tuning.tune import measure_settings, tune_index, tune_search

log = logging.getLogger(__name__)

# Recall is measured again once a bound is passed since it was measured last.
GROWTH = 0.2  # share of the vectors that came or went
PARTITIONS = 1.5  # so many times more or fewer partitions
TAIL = 0.05  # share of the rows that the index lacks, and every search scans
SLOWER = 2.0  # so many times the median latency it was tuned to, where no bound is asked for; and a millisecond, which is noise

QueriesOf = Callable[[Any], Queries]  # of a dataset


def goal_of(settings: SearchSettings) -> Goal:
    """The goal that a column was tuned to."""
    return Goal(settings.target_recall, settings.k, settings.max_p95_ms)


def keep_tuned(
    dataset: Any,
    column: str,
    metric: str,
    rows: int,
    type: IndexType,
    goal: Goal | None,
    queries: QueriesOf,
    builder: Builder = build_whole,
) -> SearchSettings:
    """Bring the tuned index of a column of `rows` vectors up to date; `dataset` moves to the version that has it.

    It is chosen, built and tuned where it never was, where another goal, type or metric is asked for, or where it lacks more
    rows than it has. Otherwise it is extended; see `check_tuned`. Where nothing has to be done, nothing is committed.
    """
    settings = read_settings(dataset.schema, column)
    wanted = goal or (goal_of(settings) if settings else None)
    if wanted is None:
        raise AssertionError(f"column '{column}' has neither a goal nor settings")
    found = find_index(dataset, column)
    if settings is None or asks_other(settings, goal, type) or outdated(settings, found, metric):
        return tune_index(dataset, column, metric, rows, type, wanted, queries(dataset), builder)
    if found is not None:
        extend_index(dataset, found, rows)
    return check_tuned(dataset, column, metric, rows, settings, queries, builder=builder)


def asks_other(settings: SearchSettings, goal: Goal | None, type: IndexType) -> bool:
    """Whether a job asks for something else than what a column was tuned to. One without a goal, and of no type, asks for nothing."""
    if goal is None:
        return type not in ("auto", settings.asked)
    return goal != goal_of(settings) or type != settings.asked


def outdated(settings: SearchSettings, found: IndexInfo | None, metric: str) -> bool:
    """Whether the index of a column is not the one that its settings speak of, or is of the smaller part of the rows."""
    if found is None:
        return settings.effort is not None
    return found.type != settings.index or found.metric != metric or found.rows_unindexed > found.rows_indexed


def check_tuned(
    dataset: Any,
    column: str,
    metric: str,
    rows: int,
    settings: SearchSettings,
    queries: QueriesOf,
    always: bool = False,
    builder: Builder = build_whole,
) -> SearchSettings:
    """The settings of a column, which were tuned earlier, as they hold for this version.

    Once a bound is passed (or `always`) its recall is measured again. Where that falls under the target, or the latency passes its bound,
    the search is tuned again; where that does not help, the index is chosen and built again. What was measured is committed.
    """
    passed = bounds_passed(dataset, column, rows, settings)
    if passed is None and not always:
        return settings
    log.info("recall of '%s' is measured again: %s", column, passed or "asked for")
    goal, asked = goal_of(settings), queries(dataset)
    found = find_index(dataset, column)
    if found is None:
        return tune_index(dataset, column, metric, rows, settings.asked, goal, asked, builder)
    now = replace(
        settings,
        partitions=count_partitions(dataset, found.name),
        segments=tuple(sorted(index_segments(dataset, column))),
        rows=rows,
        queries_from=asked.source,
    )
    measured = measure_settings(dataset, column, metric, now, asked.measure)
    if not holds(measured, settings):
        log.info("'%s' finds %.3f at %.1f ms: tuned again", column, measured.measured.recall, measured.measured.p50_ms)
        tuned = tune_search(dataset, column, metric, rows, goal, asked, settings.why)
        if not holds(tuned, settings) or tuned.effort is None:
            log.info("'%s' finds %.3f once tuned: built again", column, tuned.measured.recall)
            return tune_index(dataset, column, metric, rows, settings.asked, goal, asked, builder)
        measured = replace(
            tuned, build=settings.build, build_s=settings.build_s, choice_s=settings.choice_s, asked=settings.asked
        )
    write_settings(dataset, column, measured)
    return measured


def bounds_passed(dataset: Any, column: str, rows: int, settings: SearchSettings) -> str | None:
    """What has changed so much that the recall may be another, in words; None where nothing has. No row is read."""
    grown = abs(rows - settings.rows)
    if grown > GROWTH * max(1, settings.rows):
        return f"{grown} of {settings.rows} vectors came or went"
    found = find_index(dataset, column)
    if found is None:
        return None
    if found.rows_unindexed > TAIL * max(1, found.rows_indexed):
        return f"the index lacks {found.rows_unindexed} rows"
    if not set(settings.segments) <= index_segments(dataset, column):
        return "its segments are other ones"
    partitions = count_partitions(dataset, found.name)
    if not settings.partitions / PARTITIONS <= partitions <= settings.partitions * PARTITIONS:
        return f"it had {settings.partitions} partitions, and has {partitions}"
    return None


def holds(now: SearchSettings, before: SearchSettings) -> bool:
    """Whether what was measured meets the goal: the interval of the recall reaches the target, and the latency keeps its bound."""
    found = now.measured
    if found.high < now.target_recall or any(f.measured.high < now.target_recall for f in now.filtered):
        return False
    if now.max_p95_ms is not None:
        return found.p95_ms <= now.max_p95_ms
    return found.p50_ms <= SLOWER * before.measured.p50_ms + 1
