"""Tuning the index of a table that is there, under its lease. Readers that follow a tag come to the new version with it."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from latentlake.building import tuned_report
from latentlake.indexes import IndexType, count_vectors, vector_field
from latentlake.provenance import read_provenance
from latentlake.query import QueryModels
from latentlake.storage import Storage
from latentlake.tuning.gather import gather_queries
from latentlake.tuning.goal import Goal
from latentlake.tuning.tune import tune_index
from operators.errors import NotFound
from pipelines.publish.gates import to_json
from pipelines.publish.tag_gates import tuned_at
from pipelines.publish.tags import settle_tags
from pipelines.publish.tuned import place_of
from pipelines.state.lease import hold_table
from pipelines.state.ledger import TUNED, WORK_FOLDER, open_dataset
from pipelines.upkeep.maintain import gate_again, move_tags, note_maintenance, open_newest


def tune_table(
    lake: Storage,
    table: str,
    column: str,
    goal: Goal,
    models: QueryModels,
    *,
    type: IndexType = "auto",
    queries: str | None = None,
    wait: bool = False,
) -> dict[str, Any]:
    """Choose, build and tune the index of a column of the newest version, and move its tags along; what was found.

    `queries` is a file (see `tuning.queries.read_queries`), which `models` embed. Tags stay where a gate of the table's job does not
    hold. Raises `NotFound`, `SpecError`, `WriterConflict` where another writer holds the table (unless it is to `wait`).
    """
    began = time.time()
    if open_dataset(lake, table) is None:
        raise NotFound(f"no table '{table}' in lake '{lake.uri}'.")
    with hold_table(lake.child(WORK_FOLDER, table), "tune", wait) as lease:
        before = open_newest(lake, table)
        settle_tags(lease, before)
        vector_field(before, column)
        stored = read_provenance(before.schema, column)

        def embed(contents: Any, modality: str | None) -> Any:
            return models.embed_many(table, column, stored, contents, modality)

        asked = gather_queries(before, place_of(lake, table), column, stored, queries, embed)
        dataset = open_newest(lake, table)
        rows = count_vectors(dataset, column)
        lease.check()
        settings = tune_index(dataset, column, stored.metric, rows, type, goal, asked)
        lease.check()
        built = tuned_report(dataset, column, rows, settings, time.time() - began)
        recalls = {} if built.recall is None else {column: built.recall}
        gates, held = gate_again(lake, table, int(before.version), recalls, int(dataset.version), tuned_at(dataset))
        moved = move_tags(lease, dataset, int(before.version), f"the index of '{column}' was tuned") if held else []
        report = {
            "table": table,
            "version_before": int(before.version),
            "version": int(dataset.version),
            "indexes": [asdict(built)],
            "gates": to_json(gates),
            "tags_moved": moved,
        }
        note_maintenance(lake, table, int(before.version), dataset, report, began, TUNED)
    return {**report, "seconds": round(time.time() - began, 3)}
