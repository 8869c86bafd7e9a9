"""Scalar indexes of the columns that rows are looked up by: a look-up costs what is asked for, and not the table.

Lance's BTREE. An extension adds a segment and reads next to nothing of the others (measured on 10^6 rows: 0.2 MB).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import Any

import pyarrow as pa

from latentlake.filters import sql_string
from latentlake.indexes import MAX_SEGMENTS, IndexInfo, describe_indexes, find_tail
from latentlake.opening import open_lance
from latentlake.storage import Storage
from operators.errors import NotFound

KEY_COLUMNS = ("content_hash", "object_id")
KEY_INDEX_MIN_ROWS = 20_000  # below, the whole column is less than a megabyte: no index, and no version for it
MIN_PAGE_ROWS = 128
ASKED_AT_ONCE = 2048  # values of one query: to parse 100,000 takes seconds
BATCH_ROWS = 4096
# Pages, and rows that are taken by id, stand far apart. 2,000 hashes in 10^6 rows, with pages of 256: 24 MB where Lance joins
# reads as it does in an object store by default, 11 MB so.
LOOK_UP_BLOCK = 4096
# What a process keeps of a table that it looks rows up in: the list of pages, and pages (0.4 MB and 45 MB for 10^6 hashes); the
# metadata of the index's file (2.7 MB). Where the list or the metadata did not fit, each look-up would read them again.
LOOK_UP_CACHE_BYTES = {"index_cache_size_bytes": 256 * 2**20, "metadata_cache_size_bytes": 512 * 2**20}


def update_key_indexes(dataset: Any) -> None:
    """Bring the indexes of `KEY_COLUMNS` up to date; `dataset` (pylance) moves to the version that has them.

    Where nothing has to be done, nothing is committed. An index that somebody made of another type is left alone.
    """
    there = {info.column: info for info in describe_indexes(dataset) if not info.metric}
    for column in KEY_COLUMNS:
        info = there.get(column)
        if info is None and column in dataset.schema.names and dataset.count_rows() >= KEY_INDEX_MIN_ROWS:
            dataset.create_scalar_index(column, index_config(dataset.count_rows()), name=f"{column}_idx")
        elif info is not None and info.type == "btree" and info.rows_unindexed:
            add_segment(dataset, info)


def add_segment(dataset: Any, found: IndexInfo) -> None:
    """Take the rows that an index of keys lacks into it; the segment that upkeep made stays as it is.

    They become one more segment, or, from `MAX_SEGMENTS` on, one with all that was added since. For one more, Lance is told its
    fragments: `optimize_indices` reads the list of all pages of the large segment first (0.5 MB of 10^6 rows, both indexes).
    """
    if found.segments >= MAX_SEGMENTS:
        dataset.optimize.optimize_indices(index_names=[found.name], num_indices_to_merge=found.segments - 1)
        return
    description = next(d for d in dataset.describe_indices() if d.name == found.name)
    tail = [fragment.fragment_id for fragment in find_tail(dataset, description)]
    segment = dataset.create_index_uncommitted(
        found.column, index_config(found.rows_unindexed), name=found.name, replace=True, fragment_ids=tail
    )
    dataset.commit_existing_index_segments(found.name, found.column, [segment])


def index_config(rows: int) -> Any:
    """How these indexes are made for a table of `rows` rows."""
    from lance.indices import IndexConfig

    return IndexConfig("btree", {"zone_size": page_rows(rows)})


def page_rows(rows: int) -> int:
    """Rows of a page of the index of a table of `rows` rows: a power of two near a sixteenth of their root, 128 at least.

    A look-up of n random hashes reads about n pages, of 24 bytes per row, and each process once the list of all pages, of 135
    bytes per page. Measured, 2,000 hashes in 10^6 rows: 8.9 MB with 128, 11.3 with 256, 16.3 with 512, 24 with Lance's 4,096.
    The root keeps both parts small as a table grows; it is right for some 1,000 look-ups per process.
    """
    return max(MIN_PAGE_ROWS, 2 ** round(math.log2(max(1, rows) ** 0.5 / 16)))


def open_for_look_ups(storage: Storage, version: int) -> Any:
    """The Lance dataset at a place, at a version, to look rows up in: it reads little around them, and keeps a bounded part of it."""
    from lance import Session

    dataset = open_lance(storage, version, LOOK_UP_BLOCK, Session(**LOOK_UP_CACHE_BYTES))
    if dataset is None:
        raise NotFound(f"'{storage.uri}' has no version {version}.")
    return dataset


def key_index(dataset: Any, column: str) -> IndexInfo | None:
    """The index that look-ups of values of `column` use; None if there is none."""
    return next((info for info in describe_indexes(dataset) if info.column == column and info.type == "btree"), None)


def scan_keys(
    dataset: Any,
    column: str,
    values: Collection[str],
    columns: Sequence[str],
    where: str | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream `columns`, `_rowid` and `_rowaddr` of the rows whose `column` is among `values`, and that the filter `where` keeps.

    Through the index of `column`, a bounded number of values at a time; if there is none the column is read, once.
    """
    left = iter(dict.fromkeys(values))
    size = ASKED_AT_ONCE if key_index(dataset, column) else max(1, len(values))
    while group := list(islice(left, size)):
        asked = f"`{column}` IN ({', '.join(sql_string(value) for value in group)})"
        condition = asked if where is None else f"{asked} AND ({where})"
        scanner = dataset.scanner(
            columns=list(columns), filter=condition, with_row_id=True, with_row_address=True, batch_size=BATCH_ROWS
        )
        yield from scanner.to_batches()


def take_rows(dataset: Any, ids: Collection[int], columns: Sequence[str]) -> pa.Table:
    """`columns` and `_rowid` of the rows of these row ids."""
    ordered = sorted(ids)
    fields = [*(dataset.schema.field(name) for name in columns), pa.field("_rowid", pa.uint64())]
    pieces = [pa.schema(fields).empty_table()]  # for no rows Lance is not asked: it would read the columns to find none
    for start in range(0, len(ordered), ASKED_AT_ONCE):
        asked = ", ".join(map(str, ordered[start : start + ASKED_AT_ONCE]))
        scanner = dataset.scanner(columns=list(columns), filter=f"_rowid IN ({asked})", with_row_id=True)
        pieces.append(scanner.to_table().select([field.name for field in fields]))
    return pa.concat_tables(pieces)
