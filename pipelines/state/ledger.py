"""What a lake remembers of its runs: the `_runs` table, and beside each table its `__rejects`. See ADR 3.

Both are written from shard records and reports, by run id, so that writing them again changes nothing.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import lance
import pyarrow as pa

from latentlake.filters import sql_string
from latentlake.formats import StoredFormat
from latentlake.opening import open_lance
from latentlake.storage import Storage
from latentlake.table import DUPLICATE_FIELDS, REJECTS_SCHEMA, REJECTS_SUFFIX
from latentlake.tag_log import WORK_FOLDER
from operators.errors import Unreadable
from pipelines.job.spec import with_todays_keys
from pipelines.state.lease import hold_table

log = logging.getLogger(__name__)

RUNS_TABLE = "_runs"

RUNS_SCHEMA = pa.schema(
    [
        pa.field("run_id", pa.string(), nullable=False),
        pa.field("table", pa.string(), nullable=False),
        pa.field("job", pa.string(), nullable=False),
        pa.field("state", pa.string(), nullable=False),  # see `STATES`
        pa.field("started_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("finished_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("base_version", pa.int64()),
        pa.field("version", pa.int64()),  # the table's version that the run left readers with
        pa.field("listing", pa.string()),  # folder of the listing that this version stands for
        pa.field("state_key", pa.string()),
        pa.field("report", pa.string()),  # JSON
        pa.field("head", pa.int64()),  # the table's version whose rows `listing` accounts for; null: none
        pa.field("tag", pa.string()),  # that the run put on `version`; null: none
        pa.field("spec", pa.string()),  # JSON of the job, secrets as references
    ]
)
# What became of a run. One that failed or was interrupted is resumed when its job is run again; the others have ended.
REPORT = StoredFormat("the report of the run")
SPEC = StoredFormat("the job that the ledger remembers", 2, {1: with_todays_keys})
ROLLED_BACK = "rolled back"
TUNED = "tuned"  # the rows of the version before, with another index, or other settings of it
TAGGED = "tagged"  # a version that was there was published, by `publish` or `promote`
CALIBRATED = "calibrated"  # a sample was measured, elsewhere; the table was not touched
MAPPED = "mapped"  # the table was given a map, in columns of their own
REWRITTEN = ("maintained", "deleted", MAPPED)  # a version was made in place of the one before, with its rows or fewer
STATES = (
    "published",
    "unchanged",
    CALIBRATED,
    *REWRITTEN,
    TUNED,
    ROLLED_BACK,
    TAGGED,
    "refused",
    "failed",
    "interrupted",
    "discarded",
)


@dataclass(frozen=True)
class BaseRun:
    """The run that made, or last confirmed, a version of a table."""

    run_id: str
    listing: str
    state_key: str


def new_run_id() -> str:
    """Name of a run: when it began (UTC), and six hex digits."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"


def rejects_name(table: str) -> str:
    """Name of the table that holds another's rejects."""
    return f"{table}{REJECTS_SUFFIX}"


def open_dataset(
    lake: Storage, name: str, version: int | None = None, block_size: int | None = None
) -> lance.LanceDataset | None:
    """A table of the lake, at its newest version or at `version`; None where there is none of that name.

    For `block_size` see `latentlake.table.open_lance`.
    """
    dataset = open_lance(lake.child(f"{name}.lance"), block_size=block_size)
    return dataset if dataset is None or version is None else dataset.checkout_version(version)


def append_rows(lake: Storage, name: str, rows: pa.Table) -> lance.LanceDataset:
    """Append to a table of the lake, which is made if need be."""
    found = open_dataset(lake, name)
    if found is not None:
        return lance.write_dataset(rows, found, mode="append")
    return lance.write_dataset(
        rows, f"{lake.lance_uri}/{name}.lance", mode="create", storage_options=lake.lance_options
    )


def record_run(lake: Storage, row: dict[str, Any]) -> None:
    """Write a run's line of the ledger, in place of the one it may have. Other tables' runs write at the same time."""
    line = {**row, "finished_at": datetime.now(UTC), "report": REPORT.write(row["report"])}
    rows = pa.Table.from_pylist([line], schema=RUNS_SCHEMA)
    runs = open_dataset(lake, RUNS_TABLE)
    runs = make_ledger(lake) if runs is None else runs
    if missing := [field for field in RUNS_SCHEMA if field.name not in runs.schema.names]:
        runs.add_columns(pa.schema(missing))  # a ledger of an earlier release
    runs.merge_insert("run_id").when_matched_update_all().when_not_matched_insert_all().execute(rows)


def read_report(text: str | None) -> dict[str, Any]:
    """The report of a line of the ledger; empty where it cannot be read."""
    try:
        report = REPORT.read(text)
    except Unreadable as failure:
        log.warning("%s", failure)
        return {}
    return report if isinstance(report.get("counts", {}), dict) else {}


def make_ledger(lake: Storage) -> lance.LanceDataset:
    """The ledger, made unless another table's run has just made it: Lance lets the later of two creations overwrite the first."""
    with hold_table(lake.child(WORK_FOLDER, RUNS_TABLE), "ledger", wait=True):
        runs = open_dataset(lake, RUNS_TABLE)
        return append_rows(lake, RUNS_TABLE, RUNS_SCHEMA.empty_table()) if runs is None else runs


def read_runs(
    lake: Storage, table: str, condition: str = "true", columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """The ledger's lines of a table for which a SQL condition holds, newest first; all columns, or those that are there."""
    runs = open_dataset(lake, RUNS_TABLE)
    if runs is None:
        return []
    if "head" not in runs.schema.names:  # a ledger of an earlier release
        condition = re.sub(r"\bhead\b", "CAST(NULL AS BIGINT)", condition)
        condition = re.sub(r"\btag\b", "CAST(NULL AS STRING)", condition)
    names = columns and [name for name in columns if name in runs.schema.names]
    condition = f"`table` = {sql_string(table)} AND ({condition})"
    lines: list[dict[str, Any]] = runs.to_table(names, filter=condition).to_pylist()
    return sorted(lines, key=lambda line: line["finished_at"], reverse=True)


def find_base_run(lake: Storage, table: str, version: int) -> BaseRun | None:
    """The latest run whose listing accounts for the rows of `table` at `version`; None where the ledger knows none."""
    described = "state NOT IN ('failed', 'interrupted', 'discarded') AND listing IS NOT NULL"
    earlier_release = f"head IS NULL AND version = {version} AND state IN ('published', 'unchanged')"
    lines = read_runs(lake, table, f"{described} AND (head = {version} OR ({earlier_release}))")
    return BaseRun(lines[0]["run_id"], lines[0]["listing"], lines[0]["state_key"]) if lines else None


def read_rejects(lake: Storage, table: str) -> Iterator[pa.Table]:
    """Rejects that belong to a published version of the table, in pieces."""
    rejects = open_dataset(lake, rejects_name(table))
    if rejects is not None:
        for batch in rejects.to_batches(filter="version IS NOT NULL"):
            yield pa.Table.from_batches([batch])


def known_rejects(lake: Storage, table: str, ids: Iterable[Sequence[str]], column: str, run_id: str) -> int:
    """How many of the objects `ids` (in pieces) were rejected for a vector column by a published run other than `run_id`."""
    rejects, known = open_dataset(lake, rejects_name(table)), set[str]()
    if rejects is None:
        return 0
    earlier = f"version IS NOT NULL AND run_id <> {sql_string(run_id)} AND outcome = 'rejected'"
    earlier += f" AND (`column` IS NULL OR `column` = {sql_string(column)})"
    for piece in ids:
        if piece:
            names = ", ".join(sql_string(name) for name in sorted(set(piece)))
            found = rejects.to_table(columns=["object_id"], filter=f"{earlier} AND object_id IN ({names})")
            known.update(found["object_id"].to_pylist())
    return len(known)


def write_rejects(
    lake: Storage,
    table: str,
    rows: Iterable[Sequence[dict[str, Any]]],
    settled: Iterable[Iterator[pa.Table]],
    run_id: str,
    deduplicated: bool = False,
) -> None:
    """Add a run's rejects (`rows`, in pieces), and take out what no longer holds.

    Those of a run that deduplicates have `DUPLICATE_FIELDS` too.

    `settled` are the ids of objects whose fate a published run has decided again, or that left the source: their earlier
    rejects go; no id stands twice in one of its streams. Empty for a run that published nothing. So do rejects of runs that
    published nothing, and those that this run wrote before.
    """
    rejects = open_dataset(lake, rejects_name(table))
    if rejects is not None:
        rejects.delete(f"version IS NULL OR run_id = '{run_id}'")
        for ids in settled if rejects.count_rows() else ():
            rejects.merge_insert("object_id").when_matched_delete().execute(ids_reader(ids))
    else:
        append_rows(lake, rejects_name(table), REJECTS_SCHEMA.empty_table())
    schema = rejects_schema(lake, table, deduplicated)
    for piece in rows:
        append_rows(lake, rejects_name(table), pa.Table.from_pylist(list(piece), schema=schema))


def rejects_schema(lake: Storage, table: str, deduplicated: bool) -> pa.Schema:
    """Schema of a table's rejects, which get what they lack of `DUPLICATE_FIELDS` once a run deduplicates."""
    rejects = open_dataset(lake, rejects_name(table))
    assert rejects is not None, "it was there, or has just been made"
    missing = [field for field in DUPLICATE_FIELDS if field.name not in rejects.schema.names]
    if deduplicated and missing:
        rejects.add_columns(pa.schema(missing))
    return pa.schema([*REJECTS_SCHEMA, *DUPLICATE_FIELDS]) if deduplicated or not missing else REJECTS_SCHEMA


def ids_reader(pieces: Iterable[pa.Table]) -> pa.RecordBatchReader:
    """A stream of the column `object_id` of tables."""
    schema = pa.schema([pa.field("object_id", pa.string())])
    batches = (batch for piece in pieces for batch in piece.select(["object_id"]).cast(schema).to_batches())
    return pa.RecordBatchReader.from_batches(schema, batches)
