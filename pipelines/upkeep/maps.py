"""Keeping a map in its table: two columns of coordinates, which a commit under the table's lease adds. See docs/exploring.md.

A run writes new and changed rows without them, so that coordinates are never those of another vector than the row's own.
"""

from __future__ import annotations

import re
import time
from dataclasses import asdict, replace
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from lance.commit import CommitConflictError

from latentlake.exploration.maps import FittedMap, fit_table
from latentlake.exploration.points import points_of
from latentlake.exploration.stored_maps import axis_names, stored_maps
from latentlake.lake import Lake
from latentlake.provenance import Provenance
from latentlake.query import QueryModels
from latentlake.storage import Storage
from latentlake.stored import MAP_KEY
from latentlake.vectors import BATCH_ROWS, array_of
from operators.errors import AccountingError, NotFound, SpecError, WriterConflict
from pipelines.publish.indexes import indexes_after, known_indexes
from pipelines.publish.tags import settle_tags
from pipelines.resume import cut_short
from pipelines.state.lease import Lease, hold_table
from pipelines.state.ledger import MAPPED, WORK_FOLDER, open_dataset
from pipelines.state.manifest import settle_maintenance
from pipelines.upkeep.maintain import move_tags, note_maintenance, open_newest

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def store_map(
    lake: Storage,
    table: str,
    name: str,
    *,
    column: str | None = None,
    method: str = "umap",
    fit_rows: int | None = None,
    neighbors: int = 15,
    seed: int = 0,
    wait: bool = False,
) -> dict[str, Any]:
    """Map the newest version of a table and keep the map as the columns NAME_x and NAME_y; what was done.

    A map of that name is replaced. The tags of the version before move to the new one, whose other columns and indexes are the same.
    Raises `NotFound`, `SpecError` (a name that is taken, an unfinished run), `WriterConflict`, `MissingExtra`.
    """
    if not NAME.fullmatch(name):
        raise SpecError(f"map name '{name}': use letters, digits and '_', and begin with a letter or '_'.")
    if open_dataset(lake, table) is None:
        raise NotFound(f"no table '{table}' in lake '{lake.uri}'.")
    began = time.time()
    with hold_table(lake.child(WORK_FOLDER, table), "project", wait) as lease:
        before = open_newest(lake, table)
        settle_tags(lease, before)
        settle_maintenance(lake, table, before.version)
        check_may_change(lake, table, before, name)
        fitted = fit_table(
            Lake(lake, QueryModels({})).open(table, version=before.version),
            column,
            method,
            None,
            fit_rows,
            neighbors,
            seed,
        )
        if name in stored_maps(before.schema):
            lease.check()
            open_newest(lake, table).drop_columns(axis_names(name))
        after = add_columns(lake, table, name, fitted, before.count_rows(), lease)
        known = known_indexes(lake, table, int(before.version))
        recalls = {found.column: found.recall for found in known.values() if found.recall is not None}
        report = {
            "table": table,
            "map": name,
            "version_before": int(before.version),
            "version": int(after.version),
            "rows": after.count_rows(f"{axis_names(name)[0]} IS NOT NULL"),
            "provenance": asdict(fitted.provenance),
            "tags_moved": move_tags(lease, after, int(before.version), "the same rows with a map"),
            "indexes": [
                asdict(replace(found, measured_at=known[column].measured_at))
                for column, found in indexes_after(lake, table, before, after, recalls).items()
            ],
        }
        note_maintenance(lake, table, int(before.version), after, report, began, MAPPED)
    return {**report, "seconds": round(time.time() - began, 3)}


def check_may_change(lake: Storage, table: str, dataset: lance.LanceDataset, name: str) -> None:
    """Raise `SpecError` where the map's columns are others' already, or a run could not be resumed after the commit."""
    taken = [column for column in axis_names(name) if column in dataset.schema.names]
    if taken and name not in stored_maps(dataset.schema):
        raise SpecError(f"column '{taken[0]}' of table '{table}' is no map's.\n  Give the map another name.")
    for manifest, obstacle in cut_short(lake, table, dataset):
        if obstacle is None:
            raise SpecError(
                f"run {manifest.run_id} of job '{manifest.job}' can be resumed, and could not be after a change of the table.\n"
                "  Run its job first, with --fresh to give it up."
            )


def add_columns(lake: Storage, table: str, name: str, fitted: FittedMap, rows: int, lease: Lease) -> lance.LanceDataset:
    """Commit the coordinates of every row with a vector; the version that has them. Streams by fragments and batches."""
    dataset = open_newest(lake, table)
    if not dataset.get_fragments():
        raise SpecError(f"table '{table}' has no rows.")
    place = placing(
        name, fitted, Provenance.from_json(dataset.schema.field(fitted.provenance.column).metadata[b"latentlake"])
    )
    fragments, schema = [], None
    for fragment in dataset.get_fragments():
        merged, schema = fragment.merge_columns(place, columns=["id", fitted.provenance.column], batch_size=BATCH_ROWS)
        fragments.append(merged)
    lease.check()
    operation = lance.LanceOperation.Merge(fragments, schema)
    transaction = lance.Transaction(int(dataset.version), operation, transaction_properties={"fence": str(lease.fence)})
    try:
        done = lance.LanceDataset.commit(dataset, transaction, storage_options=lake.lance_options, max_retries=0)
    except CommitConflictError as failure:
        raise changed(table) from failure
    if done.version != dataset.version + 1:
        raise changed(table)
    if done.count_rows() != rows:
        raise AccountingError(f"table '{table}' had {rows} rows and has {done.count_rows()}. No tag was moved.")
    return done


def changed(table: str) -> WriterConflict:
    """The error for a table that somebody changed who does not hold its lease."""
    return WriterConflict(
        f"table '{table}' was changed by another writer meanwhile. No tag was moved.\n  Run it again."
    )


def placing(name: str, fitted: FittedMap, stored: Provenance) -> Any:
    """A function of Lance's: from rows (`id`, vectors) to their coordinates, null where there is no vector."""
    metadata = {MAP_KEY: fitted.provenance.to_json().encode()}
    schema = pa.schema([pa.field(axis, pa.float32(), metadata=metadata) for axis in axis_names(name)])

    @lance.batch_udf(output_schema=schema)
    def place(batch: pa.RecordBatch) -> pa.RecordBatch:
        """Coordinates of some rows."""
        vectors = batch[fitted.provenance.column]
        there = vectors.is_valid().to_numpy(zero_copy_only=False)
        coordinates = np.zeros((batch.num_rows, 2), dtype=np.float32)
        if there.any():
            rows = batch.filter(pa.array(there))
            points = points_of(array_of(rows[fitted.provenance.column], True), stored)
            coordinates[there] = fitted.place(rows["id"].to_pylist(), points)
        return pa.RecordBatch.from_arrays([pa.array(axis, mask=~there) for axis in coordinates.T.copy()], schema=schema)

    return place
