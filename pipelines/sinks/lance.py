"""The Lance sink: fragments and the shard's record are written in tasks, one commit on the driver. See ADR 3."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance import LanceDataset, LanceOperation, Transaction
from lance.commit import CommitConflictError
from lance.fragment import write_fragments

from latentlake.storage import Storage
from operators.errors import AccountingError, WriterConflict
from pipelines.accounting import count_shard
from pipelines.ledger import open_dataset
from pipelines.plan import Plan
from pipelines.shard import Origin, unpack, write_record

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

    def __call__(self, block: pa.Table) -> pa.Table:
        """Write the shard's rows as fragments, then its record; one row that says how far the run is."""
        began = time.time()
        status, rows = unpack(block)
        counts = count_shard(status, rows, self.columns)
        kept = rows_to_write(rows, self.columns)
        fragments = self._write(table_rows(kept, self.schema)) if kept.num_rows else []
        status.time("write", began)
        record = {
            "status": vars(status),
            "counts": {column: asdict(count) for column, count in counts.items()},
            "fragments": fragments,
            "rows": kept.num_rows,
            "truncated": count_truncated(kept, self.columns),
        }
        write_record(self.place.child("shards"), status.shard, record)
        embedded = counts[self.columns[0]].embedded
        return pa.table(
            {"shard": [status.shard], "listed": [status.listed], "embedded": [embedded], "rows": [kept.num_rows]}
        )

    def _write(self, rows: pa.Table) -> list[str]:
        uri = f"{self.lake.lance_uri}/{self.table}.lance"
        written = write_fragments(
            rows, uri, schema=self.schema, mode=self.mode, storage_options=self.lake.lance_options
        )
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


def add_columns(plan: Plan) -> int | None:
    """Give the table the columns that the job adds, all null; the version that the run then builds on.

    A commit of its own, which no tag follows: a run that dies after it leaves columns of nulls, which the next one fills.
    """
    if not plan.new_fields:
        return plan.base_version
    table = open_at(plan, plan.base_version)
    table.add_columns(pa.schema(plan.new_fields))
    log.info("added columns %s", ", ".join(field.name for field in plan.new_fields))
    return int(table.version)


def open_at(plan: Plan, version: int | None) -> LanceDataset:
    """The table at its newest version, which must be `version`. Raises `WriterConflict`."""
    table = open_dataset(plan.spec.table.lake, plan.spec.table.name)
    newest = None if table is None else table.version
    if table is None or newest != version:
        raise conflict(plan, newest, version)
    return table


def conflict(plan: Plan, newest: object, version: int | None) -> WriterConflict:
    """The error for a table that another writer has changed since the run was planned."""
    return WriterConflict(
        f"table '{plan.spec.table.name}' is at version {newest}; this run was planned on {version}. Another writer committed "
        "meanwhile, and nothing of this run was published.\n  Run the job again: it builds on what is there now."
    )


def commit(plan: Plan, version: int | None, records: Sequence[dict[str, Any]], summary: dict[str, Any]) -> int | None:
    """Make the run's fragments the table's, and delete the rows that they replace, in one commit; the new version.

    `version` is the table's as the fragments were written. None, and no commit, where there is nothing to change.
    Raises `WriterConflict` where another writer was there first, `AccountingError` where the rows do not add up.
    """
    fragments = [lance.FragmentMetadata.from_json(text) for record in records for text in record["fragments"]]
    written = sum(record["rows"] for record in records)
    deletes = [object_id for record in records for object_id in record["status"]["replaced"]]
    if plan.spec.table.prune:
        deletes += plan.changes.gone.to_pylist()
    if not plan.replaces_all and not fragments and not deletes:
        return None
    properties = {"run_id": plan.run_id, "summary": json.dumps(summary)}
    if plan.base_version is None:
        if open_dataset(plan.spec.table.lake, plan.spec.table.name) is not None:
            raise WriterConflict(
                f"table '{plan.spec.table.name}' was made by another writer meanwhile. Run the job again."
            )
        table, removed, before = None, 0, 0
        operation = LanceOperation.Overwrite(plan.schema, fragments)
    else:
        table = open_at(plan, version)
        before, removed = table.count_rows(), 0
        if plan.replaces_all:
            operation, removed = LanceOperation.Overwrite(plan.schema, fragments), before
        elif deletes:
            keys = pa.table({"object_id": pa.array(sorted(set(deletes)), pa.string())})
            found, stats = table.merge_insert("object_id").when_matched_delete().execute_uncommitted(keys)
            operation = LanceOperation.Update(
                removed_fragment_ids=found.operation.removed_fragment_ids,
                updated_fragments=found.operation.updated_fragments,
                new_fragments=fragments,
                update_mode="",
            )
            removed = stats["num_deleted_rows"]
        else:
            operation = LanceOperation.Append(fragments)
    lake = plan.spec.table.lake
    target = table if table is not None else f"{lake.lance_uri}/{plan.spec.table.name}.lance"
    transaction = Transaction(version or 0, operation, transaction_properties=properties)
    try:
        done = LanceDataset.commit(target, transaction, storage_options=lake.lance_options, max_retries=0)
    except CommitConflictError as failure:
        raise conflict(plan, "a newer one", version) from failure
    check_commit(plan, done, version or 0, before - removed + written)
    return int(done.version)


def check_commit(plan: Plan, done: LanceDataset, version: int, expected: int) -> None:
    """The commit is the next version, and the table holds as many rows as were kept and written."""
    if done.version != version + 1:
        raise WriterConflict(
            f"table '{plan.spec.table.name}': version {done.version} was committed, {version + 1} was due: another writer came "
            "between. The tag was not moved.\n  Run the job again: it builds on what is there now."
        )
    rows = done.count_rows()
    if rows != expected:
        raise AccountingError(
            f"version {done.version} holds {rows} rows, {expected} are accounted for. The tag was not moved."
        )
