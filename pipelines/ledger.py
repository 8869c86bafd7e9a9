"""What a lake remembers of its runs: the `_runs` table, and beside each table its `__rejects`. See ADR 3.

Both are written from shard records and reports, by run id, so that writing them again changes nothing.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from latentlake.storage import Storage
from latentlake.table import REJECTS_SCHEMA, REJECTS_SUFFIX
from latentlake.table import open_dataset as open_storage_dataset

log = logging.getLogger(__name__)

RUNS_TABLE = "_runs"
WORK_FOLDER = "_latentlake"
DELETE_CHUNK = 1000  # ids of one SQL filter

RUNS_SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("table", pa.string(), nullable=False),
        pa.field("job", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),  # published | unchanged | refused | failed | interrupted
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("finished_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("base_version", pa.int64()),
        pa.field("version", pa.int64()),  # the table's version that the run left readers with
        pa.field("listing", pa.string()),  # folder of the listing that this version stands for
        pa.field("state_key", pa.string()),
        pa.field("report", pa.string()),  # JSON
    ]
)


@dataclass(frozen=True)
class BaseRun:
    """The run that made, or last confirmed, a version of a table."""

    run_id: str
    listing: str
    state_key: str


def rejects_name(table: str) -> str:
    """Name of the table that holds another's rejects."""
    return f"{table}{REJECTS_SUFFIX}"


def open_dataset(lake: Storage, name: str, version: int | None = None) -> lance.LanceDataset | None:
    """A table of the lake, at its newest version or at `version`; None where there is none of that name."""
    dataset = open_storage_dataset(lake.child(f"{name}.lance"))
    return dataset if dataset is None or version is None else dataset.checkout_version(version)


def append_rows(lake: Storage, name: str, rows: pa.Table) -> lance.LanceDataset:
    """Append to a table of the lake, which is made if need be."""
    uri = f"{lake.lance_uri}/{name}.lance"
    exists = open_dataset(lake, name) is not None
    return lance.write_dataset(rows, uri, mode="append" if exists else "create", storage_options=lake.lance_options)


def record_run(lake: Storage, row: dict[str, Any]) -> None:
    """Write a run's line of the ledger; a run that has one already is left alone."""
    runs = open_dataset(lake, RUNS_TABLE)
    if runs is not None and runs.count_rows(filter=f"run_id = '{row['run_id']}'"):
        return
    line = {**row, "finished_at": datetime.now(UTC), "report": json.dumps(row["report"])}
    append_rows(lake, RUNS_TABLE, pa.Table.from_pylist([line], schema=RUNS_SCHEMA))


def find_base_run(lake: Storage, table: str, version: int) -> BaseRun | None:
    """The latest run that left `table` at `version`, if the ledger knows one whose listing is still there."""
    runs = open_dataset(lake, RUNS_TABLE)
    if runs is None:
        return None
    wanted = f"`table` = '{table}' AND version = {version} AND state IN ('published', 'unchanged')"
    rows = runs.to_table(filter=wanted, columns=["run_id", "listing", "state_key", "finished_at"])
    if not rows.num_rows:
        return None
    last = rows.sort_by([("finished_at", "descending")]).slice(0, 1).to_pylist()[0]
    return BaseRun(last["run_id"], last["listing"], last["state_key"])


def read_rejects(lake: Storage, table: str) -> pa.Table:
    """Rejects that belong to a published version of the table."""
    rejects = open_dataset(lake, rejects_name(table))
    return REJECTS_SCHEMA.empty_table() if rejects is None else rejects.to_table(filter="version IS NOT NULL")


def write_rejects(lake: Storage, table: str, rows: Sequence[dict[str, Any]], settled: pa.Array, run_id: str) -> None:
    """Add a run's rejects, and take out what no longer holds.

    `settled` are the ids of objects whose fate a published run has decided anew, or that left the source: their earlier
    rejects go; empty for a run that published nothing. So do rejects of runs that published nothing, and those that this
    run wrote before.
    """
    rejects = open_dataset(lake, rejects_name(table))
    if rejects is not None:
        rejects.delete(f"version IS NULL OR run_id = '{run_id}'")
        known = rejects.to_table(columns=["object_id"])["object_id"]
        stale = known.filter(pc.is_in(known, settled)).unique().to_pylist()
        for start in range(0, len(stale), DELETE_CHUNK):
            quoted = ", ".join(sql_string(value) for value in stale[start : start + DELETE_CHUNK])
            rejects.delete(f"object_id IN ({quoted})")
    if rows or rejects is None:
        append_rows(lake, rejects_name(table), pa.Table.from_pylist(list(rows), schema=REJECTS_SCHEMA))


def sql_string(value: str) -> str:
    """A string literal of SQL."""
    return "'" + value.replace("'", "''") + "'"
