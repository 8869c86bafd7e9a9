"""What our own tables say of objects that are deleted: their rejects, the reports of runs, what was measured of their rows."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pyarrow as pa
from lance import LanceDataset

from latentlake.evaluation.records import EVALS_TABLE
from latentlake.filters import sql_string
from latentlake.storage import Storage
from latentlake.table import DUPLICATE_FIELDS
from pipelines.state.ledger import RUNS_SCHEMA, RUNS_TABLE, WORK_FOLDER, open_dataset, read_runs, rejects_name
from pipelines.state.reports import rewrite_report

KEPT_ROW, KEPT_OBJECT = (field.name for field in DUPLICATE_FIELDS)
UNNAMED = {KEPT_ROW: "''", KEPT_OBJECT: "''", "error": "'duplicates a row that was deleted since'"}
DELETED = "[deleted]"  # in place of an id in what the ledger says of a run


def delete_rejects(lake: Storage, table: str, ids: Collection[str]) -> int:
    """Delete the objects' rejects, and those of other entries that name them; how many.

    What was dropped as a duplicate of one of them keeps its reject, which names nobody any more: the next run looks at it again.
    """
    rejects = open_dataset(lake, rejects_name(table))
    if rejects is None:
        return 0
    if KEPT_OBJECT in rejects.schema.names:
        asked = sorted(ids)
        for at in range(0, len(asked), 1000):
            rejects.update(UNNAMED, f"{KEPT_OBJECT} IN ({', '.join(map(sql_string, asked[at : at + 1000]))})")
    mine: list[int] = []
    for batch in rejects.scanner(columns=["object_id", "error"], with_row_id=True).to_batches():
        mine += [row["_rowid"] for row in batch.to_pylist() if row["object_id"] in ids or named_in(row["error"], ids)]
    for at in range(0, len(mine), 1000):
        rejects.delete(f"_rowid IN ({', '.join(str(row) for row in mine[at : at + 1000])})")
    purge(rejects)
    return len(mine)


def clean_ledger(lake: Storage, table: str, ids: Collection[str]) -> int:
    """Take the objects' ids out of what the ledger, and the reports beside the table, say of its runs; how many were changed."""
    changed = []
    for line in read_runs(lake, table):
        with suppress(ValueError):
            report = json.loads(line["report"] or "{}")
            named = named_in(report.get("error"), ids)
            if named:
                report["error"] = DELETED
            for gate in report.get("gates", ()):  # which may name the rows that have drifted
                kept = [entry for entry in gate.get("worst", ()) if not is_of(entry.get("row"), ids)]
                named |= len(kept) < len(gate.get("worst", ()))
                gate |= {"worst": kept} if "worst" in gate else {}
            if named:
                changed.append({**line, "report": json.dumps(report)})
                rewrite_report(lake.child(WORK_FOLDER, table), {"run_id": line["run_id"], **report})
    runs = open_dataset(lake, RUNS_TABLE)
    if changed and runs is not None:
        rows = pa.Table.from_pylist(changed, schema=RUNS_SCHEMA)
        runs.merge_insert("run_id").when_matched_update_all().execute(rows)
        purge(runs, unverified=False)  # other tables' runs write their lines at the same time
    return len(changed)


def evaluations_with(lake: Storage, table: str, ids: Collection[str]) -> list[str]:
    """Evaluations of a table whose values are those of rows of the objects."""
    records = open_dataset(lake, EVALS_TABLE)
    if records is None:
        return []
    found = set()
    for batch in records.scanner(columns=["evaluation", "ids"], filter=f"`table` = {sql_string(table)}").to_batches():
        for row in batch.to_pylist():
            if any(is_of(unit, ids) for unit in row["ids"] or ()):
                found.add(row["evaluation"])
    return sorted(found)


def delete_evaluations(lake: Storage, table: str, ids: Collection[str]) -> int:
    """Delete what was measured of rows of the objects, evaluation by evaluation; how many."""
    found, records = evaluations_with(lake, table, ids), open_dataset(lake, EVALS_TABLE)
    if not found or records is None:
        return 0
    for at in range(0, len(found), 1000):
        records.delete(f"evaluation IN ({', '.join(sql_string(name) for name in found[at : at + 1000])})")
    purge(records, unverified=False)  # other tables' evaluations are written at the same time
    return len(found)


def named_in(text: str | None, ids: Iterable[str]) -> bool:
    """Whether one of our messages names one of the objects, or of their rows; they put ids in quotes."""
    return bool(text) and any(f"'{name}'" in str(text) or f"'{name}#" in str(text) for name in ids)


def object_of(row: Any) -> str:
    """The object that a row is of, by its id."""
    return str(row).rpartition("#")[0] or str(row)


def is_of(row: Any, ids: Collection[str]) -> bool:
    """Whether an id is one of the objects', or that of a row of theirs."""
    return row in ids or object_of(row) in ids


def purge(dataset: LanceDataset, unverified: bool = True) -> None:
    """Write a small table's files again without deleted rows, and remove its older versions."""
    dataset.optimize.compact_files(materialize_deletions=True, materialize_deletions_threshold=0.0)
    newest = dataset.checkout_version(dataset.latest_version)
    newest.cleanup_old_versions(
        older_than=timedelta(0), delete_unverified=unverified, error_if_tagged_old_versions=False
    )
