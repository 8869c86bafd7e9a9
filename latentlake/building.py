"""Bringing the index of a vector column up to date, and what is known of it from then on.

What an earlier report says is carried over: vectors are counted where rows came or went, and recall is measured again only
where the index is another, or much was added.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentlake.indexes import (
    Builder,
    IndexInfo,
    IndexType,
    build_whole,
    choose_index,
    count_vectors,
    extend_index,
    find_index,
    index_segments,
    vector_field,
)
from latentlake.keys import take_rows
from latentlake.recall import measure_recall
from latentlake.retries import is_transient
from latentlake.tuning.goal import Goal
from latentlake.tuning.queries import STATED, move_rows, split
from latentlake.tuning.settings import SearchSettings, read_settings, write_settings
from latentlake.tuning.upkeep import QueriesOf, keep_tuned

# Share of the vectors that may be added before the recall of an index is measured again.
ADDED_SHARE = 0.2


@dataclass(frozen=True)
class IndexReport:
    """How a vector column is searched from now on. `seconds` is the building alone."""

    column: str
    type: str  # "exact", or the index's
    rows: int  # vectors in the column, nulls left out
    recall: float | None  # @10 against exact search (see `measure_recall`); None for exact search
    seconds: float
    measured_at: int | None = None  # version of the table that `recall` was measured at
    added: int = 0  # rows that the index has taken in since
    version: int | None = None  # of the table, that the report is of
    tuned: SearchSettings | None = None  # of an index with a target: how it is searched, and what that finds
    built: str | None = None  # where it was built for this report: how, and why so


def build_index(
    dataset: Any,
    column: str,
    provenance_metric: str,
    type: IndexType = "auto",
    before: IndexReport | None = None,
    goal: Goal | None = None,
    queries: QueriesOf | None = None,
    builder: Builder = build_whole,
) -> IndexReport:
    """Bring the index of a vector column up to date; `dataset` (pylance) moves to the version that has it.

    Builds one where there is none and `choose_index` wants one. One that is there is extended by the rows it lacks, and
    rebuilt where it is of another type or metric than asked for, or lacks more rows than it has: its partitions were
    trained on too little. "none" drops it. Where nothing has to be done, nothing is committed.

    `before` is what is known of an earlier version. Its count is brought up to date by what came and went. Its recall holds
    as long as its segments, and so their partitions, are all there, every row with a vector is indexed, and what was added
    is less than `ADDED_SHARE`.

    With a `goal`, or where the column was tuned earlier, the index is tuned to a recall (see `tuning.upkeep.keep_tuned`) with
    `queries`, or without them with moved rows of the table. `recall` is then what queries find that tuned nothing.
    `builder` builds where one is to be built.
    """
    started = time.perf_counter()
    field = vector_field(dataset, column)
    earlier = open_version(dataset, before)
    rows = count_known(dataset, column, earlier, before)
    tuned = read_settings(dataset.schema, column) is not None
    if type == "none" and tuned:
        write_settings(dataset, column, None)
    elif goal is not None or tuned:
        moved = lambda there: split(move_rows(there, column, provenance_metric), "rows")  # noqa: E731
        found_now = keep_tuned(dataset, column, provenance_metric, rows, type, goal, queries or moved, builder)
        return tuned_report(dataset, column, rows, found_now, time.perf_counter() - started)
    choice = choose_index(rows, field.type.list_size, provenance_metric, type)
    found = find_index(dataset, column)
    if found is not None and (type == "none" or not rows):
        dataset.drop_index(found.name)
    elif found is None or is_stale(found, provenance_metric, type):
        if choice is not None:
            builder(dataset, column, found.name if found else f"{column}_idx", choice, rows)
    else:
        extend_index(dataset, found, rows)
    seconds = time.perf_counter() - started
    built, version = find_index(dataset, column), int(dataset.version)
    if built is None:
        return IndexReport(column, "exact", rows, None, seconds, version=version)
    if found is not None and before is not None and before.recall is not None and earlier is not None:
        segments = index_segments(earlier, column)
        added = before.added + found.rows_unindexed
        if segments and segments <= index_segments(dataset, column) and added <= ADDED_SHARE * rows:
            return IndexReport(column, built.type, rows, before.recall, seconds, before.measured_at, added, version)
    recall = measure_recall(dataset, column, provenance_metric)
    return IndexReport(column, built.type, rows, recall, seconds, version, 0, version)


def tuned_report(dataset: Any, column: str, rows: int, settings: SearchSettings, seconds: float) -> IndexReport:
    """What is told of a tuned column. Exact search has no recall to tell."""
    recall = None if settings.effort is None else settings.measured.recall
    measured_at = None if recall is None else settings.measured_at
    added = max(0, rows - settings.rows)
    return IndexReport(
        column, settings.index, rows, recall, seconds, measured_at, added, int(dataset.version), tuned=settings
    )


def describe_tuned(tuned: Mapping[str, Any]) -> dict[str, Any]:
    """Settings (`asdict`) for people: few lines."""
    found, effort = tuned["measured"], tuned["effort"]
    bound = "" if tuned["max_p95_ms"] is None else f", p95 within {tuned['max_p95_ms']} ms"
    filters = {
        f"{f['share']:.0%} of the rows": f"{f['measured']['recall']:.3f} at {f['measured']['p50_ms']:.1f} ms"
        + ("" if f["effort"] else ", exact")
        for f in tuned["filtered"]
    }
    return {
        "type": tuned["index"],
        "goal": f"recall@{tuned['k']} {tuned['target_recall']}{bound}",
        "recall": f"{found['recall']:.3f} ({found['low']:.3f} to {found['high']:.3f}), {found['queries']} queries",
        "queries": STATED[tuned["queries_from"]],
        "latency": f"p50 {found['p50_ms']:.1f} ms, p95 {found['p95_ms']:.1f} ms",
        "measured_at": tuned["measured_at"],
        "search": "exact" if effort is None else {name: value for name, value in effort.items() if value is not None},
        "filters": filters,
        "size_mb": round(tuned["size_bytes"] / 1e6, 1),
        "seconds": f"choice {tuned['choice_s']:.1f}, build {tuned['build_s']:.1f}",
        "why": tuned["why"],
    }


def open_version(dataset: Any, before: IndexReport | None) -> Any:
    """The version that a report is of; None where it is not known, or was removed."""
    if before is None or before.version is None:
        return None
    try:
        return dataset.checkout_version(before.version)
    except (ValueError, OSError) as failure:
        if is_transient(failure):
            raise
        return None


def count_known(dataset: Any, column: str, earlier: Any, before: IndexReport | None) -> int:
    """Number of vectors in a column, from that of an `earlier` version: only what differs between the two is looked at."""
    if earlier is None or before is None or column not in earlier.schema.names:
        return count_vectors(dataset, column)
    old, new = fragments_of(earlier, column), fragments_of(dataset, column)
    came = [fragment for file, fragment in new.items() if file not in old]
    went = [fragment for file, fragment in old.items() if file not in new]
    if sum(fragment.count_rows() for fragment in [*came, *went]) > dataset.count_rows():
        return count_vectors(dataset, column)
    rows = before.rows + count_vectors(dataset, column, came) - (count_vectors(earlier, column, went) if went else 0)
    for file in old.keys() & new.keys():
        lost = new[file].num_deletions - old[file].num_deletions
        if before.rows == earlier.count_rows():  # every row has a vector
            rows -= lost
        elif lost:
            there, left = (np.asarray(row_ids(*pair)) for pair in ((earlier, old[file]), (dataset, new[file])))
            rows += count_among(dataset, column, np.setdiff1d(left, there))
            rows -= count_among(earlier, column, np.setdiff1d(there, left))
    return rows


def fragments_of(dataset: Any, column: str) -> dict[tuple[str, ...], Any]:
    """The fragments of a version, by what holds their vectors: two of the same files hold the same, but for what is deleted."""
    number = next(field.id() for field in dataset.lance_schema.fields() if field.name() == column)
    found = {}
    for fragment in dataset.get_fragments():
        files = tuple(file.path for file in fragment.metadata.files if number in file.fields)
        found[(str(fragment.fragment_id), *files)] = fragment
    return found


def row_ids(dataset: Any, fragment: Any) -> np.ndarray:
    """Row ids of a fragment's rows, uint64 (n,). Reads what is deleted, and no column."""
    return dataset.scanner(columns=[], fragments=[fragment], with_row_id=True).to_table()["_rowid"].to_numpy()


def count_among(dataset: Any, column: str, ids: np.ndarray) -> int:
    """How many of the rows of these ids have a vector."""
    found = take_rows(dataset, ids.tolist(), [column])[column]
    return len(found) - int(found.null_count)


def is_stale(found: IndexInfo, metric: str, type: IndexType) -> bool:
    """Whether an index has to be rebuilt instead of extended."""
    return found.metric != metric or type not in ("auto", found.type) or found.rows_unindexed > found.rows_indexed
