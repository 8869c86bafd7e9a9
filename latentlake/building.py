"""Bringing the index of a vector column up to date, and what is known of it from then on.

What an earlier report says is carried over: vectors are counted where rows came or went, and recall is measured again only
where the index is another, or much was added.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from latentlake.indexes import (
    IndexInfo,
    IndexType,
    choose_index,
    count_vectors,
    describe_indexes,
    extend_index,
    index_segments,
    vector_field,
)
from latentlake.keys import take_rows
from latentlake.recall import measure_recall
from latentlake.retries import is_transient

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


def build_index(
    dataset: Any, column: str, provenance_metric: str, type: IndexType = "auto", before: IndexReport | None = None
) -> IndexReport:
    """Bring the index of a vector column up to date; `dataset` (pylance) moves to the version that has it.

    Builds one where there is none and `choose_index` wants one. One that is there is extended by the rows it lacks, and
    rebuilt where it is of another type or metric than asked for, or lacks more rows than it has: its partitions were
    trained on too little. "none" drops it. Where nothing has to be done, nothing is committed.

    `before` is what is known of an earlier version. Its count is brought up to date by what came and went. Its recall holds
    as long as its segments, and so their partitions, are all there, every row with a vector is indexed, and what was added
    is less than `ADDED_SHARE`.
    """
    started = time.perf_counter()
    field = vector_field(dataset, column)
    earlier = open_version(dataset, before)
    rows = count_known(dataset, column, earlier, before)
    choice = choose_index(rows, field.type.list_size, provenance_metric, type)
    found = find_index(dataset, column)
    if found is not None and (type == "none" or not rows):
        dataset.drop_index(found.name)
    elif found is None or is_stale(found, provenance_metric, type):
        if choice is not None:
            dataset.create_index(
                column, name=found.name if found else f"{column}_idx", replace=found is not None, **choice
            )
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


def find_index(dataset: Any, column: str) -> IndexInfo | None:
    """The index of a vector column; None where there is none."""
    return next((info for info in describe_indexes(dataset) if info.column == column and info.metric), None)


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
