"""The last stage of the flow: write the rows of a shard as fragments of the table, then the record of the shard. See ADR 3."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from lance.fragment import write_fragments

from latentlake.storage import Storage
from operators.errors import WriterConflict
from pipelines.flow.columns import ROW_ID, write_patch
from pipelines.flow.counts import count_shard, fates_by_object
from pipelines.flow.facts import shard_facts
from pipelines.flow.shard import LEFT, Origin, is_left, unpack, write_record
from pipelines.planning.plan import Plan
from pipelines.state.manifest import SHARDS_FOLDER

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WriteShard:
    """Writes one shard. Safe to retry: fragments that no record names are orphans, which no table shows."""

    lake: Storage
    table: str
    schema: pa.Schema
    columns: tuple[str, ...]
    mode: str  # "create" | "overwrite" | "append": how the fragments will enter the table
    place: Storage  # folder of the run
    attempt: str  # which of the processes that worked on the run sent this task
    patched: tuple[str, ...] = ()  # columns that rows which the table has already are given, and nothing else
    tells_fates: bool = False  # the record says of each object what became of it: rows may be dropped before the commit

    def __call__(self, block: pa.Table) -> pa.Table:
        """Write the shard's rows as fragments, then its record; one row that says how far the run is, with its `facts`.

        Of two attempts at a shard the first record counts; the fragments of the other are orphans. Of a shard that is left
        there is nothing to write.
        """
        if is_left(block):
            return pa.table({"shard": block[LEFT], "listed": [0], "embedded": [0], "rows": [0], "facts": [""]})
        began = time.time()
        status, rows = unpack(block)
        counts = count_shard(status, rows, self.columns)
        kept, patch = rows_to_write(rows, self.columns), None
        if self.patched:
            there = kept[ROW_ID].is_valid()
            patch = write_patch(self.place, status.shard, kept.filter(there), self.patched)
            kept = kept.filter(pc.invert(there))
        place = self.lake.child(f"{self.table}.lance")
        fragments = write_rows(place, table_rows(kept, self.schema), self.schema, self.mode) if kept.num_rows else []
        status.time("write", began)
        record = {
            "attempt": self.attempt,
            "status": vars(status),
            "counts": {column: asdict(count) for column, count in counts.items()},
            "fragments": fragments,
            "rows": kept.num_rows,
            "patch": patch,
            "truncated": count_truncated(kept, self.columns),
            **({"fates": fates_by_object(rows, self.columns)} if self.tells_fates else {}),
        }
        if not write_record(self.place.child(SHARDS_FOLDER), status.shard, record):
            log.warning(
                "shard %d was finished by another attempt; this one's fragments are orphans",
                status.shard,
                extra={"shard": status.shard},
            )
        report = {
            "shard": status.shard,
            "listed": status.listed,
            "embedded": counts[self.columns[0]].embedded,
            "rows": kept.num_rows,
            "facts": json.dumps(shard_facts(record)),
        }
        return pa.Table.from_pylist([report])


def write_rows(place: Storage, rows: pa.Table | pa.RecordBatchReader, schema: pa.Schema, mode: str) -> list[str]:
    """Write rows as fragments (JSON) of the table at a place; nothing is committed. `mode` is that of `WriteShard`.

    Raises `WriterConflict` where the table has other columns by now.
    """
    try:
        written = write_fragments(rows, place.lance_uri, schema=schema, mode=mode, **place.lance_arguments)
    except OSError as failure:
        if "different schema" not in str(failure):
            raise
        raise WriterConflict(
            f"the table at '{place.uri}' was given other columns by another writer while this run embedded.\n"
            "  Run the job again: it builds on what is there now."
        ) from failure
    return [json.dumps(fragment.to_json()) for fragment in written]


def rows_to_write(rows: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Rows that have a vector in at least one column; the others are rejects and nothing else."""
    present = np.any([rows[f"origin.{column}"].to_numpy() != Origin.REJECTED for column in columns], axis=0)
    return rows.filter(pa.array(present))


def table_rows(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows in the table's schema; columns that the job does not fill are null."""
    arrays = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def count_truncated(rows: pa.Table, columns: Sequence[str]) -> dict[str, int]:
    """By column, how many rows hold more text than the model takes."""
    names = [column for column in columns if f"{column}_truncated" in rows.column_names]
    return {name: int(rows[f"{name}_truncated"].combine_chunks().true_count) for name in names}


def write_mode(plan: Plan) -> str:
    """How the run's fragments enter the table."""
    return "create" if plan.base_version is None else "overwrite" if plan.replaces_all else "append"
