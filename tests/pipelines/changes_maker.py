"""Comparisons of a listing with a table, read to their end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from latentlake.table import DUPLICATE_FIELDS, REJECTS_SCHEMA
from pipelines.planning.changes import WORK_SCHEMA, Comparison
from pipelines.sources.base import LISTING_SCHEMA, as_listing
from pipelines.state.manifest import Changes, Retry

COLUMNS = ("a", "b")


def entry(name: str, version: str | None = "1", uri: str | None = "f", position: int | None = None) -> dict[str, Any]:
    return {"object_id": name, "uri": uri, "version": version, "size": 1, "position": position}


def reject(name: str, column: str | None = None, outcome: str = "rejected", stage: str = "decode") -> dict[str, Any]:
    return {
        "object_id": name,
        "column": column,
        "outcome": outcome,
        "stage": stage,
        "error": "e",
        "run_id": "r",
        "version": 1,
    }


def duplicate(name: str, of: str) -> dict[str, Any]:
    """A reject of an object with a row that duplicates one of the object `of`."""
    return {**reject(name, outcome="filtered", stage="deduplicate"), "duplicate_of": of, "duplicate_of_object": of}


@dataclass(frozen=True)
class Found:
    """What a comparison gave, read to its end."""

    changes: Changes
    entries: pa.Table
    work: pa.Table
    gone: list[str]
    left: list[str]


def whole(pieces: Iterator[pa.Table], schema: pa.Schema) -> pa.Table:
    return pa.concat_tables([schema.empty_table(), *pieces])


def changes_of(
    now: list[dict[str, Any]],
    before: list[dict[str, Any]] | None,
    table: dict[str, str],
    rejects: list[dict[str, Any]] | None = None,
    columns: tuple[str, ...] = COLUMNS,
    retry: Retry | None = None,
    prune: bool = False,
) -> Found:
    objects = pa.table(
        {"object_id": pa.array(list(table), pa.string()), "object_hash": pa.array(list(table.values()), pa.string())}
    )
    deduplicated = any("duplicate_of_object" in line for line in rejects or ())
    schema = pa.schema([*REJECTS_SCHEMA, *(DUPLICATE_FIELDS if deduplicated else ())])
    with Comparison() as comparison:
        assert comparison.load(in_pieces(as_listing(now))) == len(now)
        entries = whole(comparison.entries(), LISTING_SCHEMA)
        changes = comparison.find_changes(
            None if before is None else in_pieces(as_listing(before)),
            in_pieces(objects),
            in_pieces(pa.Table.from_pylist(rejects or [], schema=schema)),
            columns,
            retry,
            prune=prune,
        )
        work = whole(comparison.work(), WORK_SCHEMA)
        gone, left = (
            [i for piece in ids for i in piece["object_id"].to_pylist()]
            for ids in (comparison.gone(), comparison.left())
        )
    assert (changes.work, changes.work_bytes) == (work.num_rows, sum(size or 0 for size in work["size"].to_pylist()))
    assert (changes.gone, changes.left) == (len(gone), len(left))
    return Found(changes, entries, work, gone, left)


def in_pieces(table: pa.Table, rows: int = 3) -> Iterator[pa.Table]:
    return (table.slice(start, rows) for start in range(0, table.num_rows, rows))


def work_of(found: Found) -> dict[str, str | None]:
    """The hash that the table has of each object to read, by id."""
    return dict(zip(found.work["object_id"].to_pylist(), found.work["base_hash"].to_pylist(), strict=True))


def carried(found: Found, column: str = "a") -> tuple[int, int, int]:
    counts = found.changes.carried[column]
    return counts.unchanged, counts.rejected, counts.filtered
