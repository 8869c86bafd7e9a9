"""The gates before the tag: of a version of a table, whoever is about to put a tag on it. See `pipelines.publish.gates`."""

from __future__ import annotations

from collections.abc import Mapping

from lance import LanceDataset

from latentlake.indexes import describe_indexes
from latentlake.provenance import columns_of
from latentlake.recall import measure_recall
from latentlake.tuning.settings import read_settings
from pipelines.job.spec import GateSpec
from pipelines.publish.gates import Gate
from pipelines.publish.subject import Subject

AGAIN = "the next run gates this version again"


def gates_before_tag(
    gates: GateSpec,
    subject: Subject,
    recalls: Mapping[str, float | None] | None = None,
    measured_at: Mapping[str, int | None] | None = None,
) -> list[Gate]:
    """All gates before the tag that a job asks for, of one version of a table.

    `recalls` of the indexes are measured, unless they are known: at this version, or at the one that `measured_at` names.
    """
    table = subject.table
    found = [] if gates.min_rows is None else [row_gate(gates.min_rows, table.count(), table.version)]
    if gates.min_recall is not None:
        if recalls is None:
            recalls, measured_at = measure_recalls(table.to_lance()), tuned_at(table.to_lance())
        found += recall_gates(gates.min_recall, recalls, table.version, measured_at or {})
    if gates.suite is not None:
        from pipelines.publish.suite_gates import suite_gates

        found += suite_gates(gates, subject)
    if gates.max_drift is not None:
        from pipelines.publish.drift_gates import drift_gates

        found += drift_gates(gates.max_drift, subject)
    return found


def row_gate(least: int, rows: int, version: int) -> Gate:
    """`min_rows` of the table."""
    missing = max(least - rows, 0)
    return Gate(
        name="min_rows",
        moment="tag",
        of="table",
        value=rows,
        limit=least,
        held=not missing,
        why=f"the table has {rows} rows" + (f", {missing} too few" if missing else ""),
        asks=f"; gates.min_rows asks for {least}.",
        remedy=f"Check the source and the rejects, or lower the gate; {AGAIN}.",
        measured_at=version,
    )


def recall_gates(
    least: float,
    recalls: Mapping[str, float | None],
    version: int,
    measured_at: Mapping[str, int] | Mapping[str, int | None],
) -> list[Gate]:
    """`min_recall` of each index, by vector column; none where a column is searched exactly."""
    return [
        Gate(
            name="min_recall",
            moment="tag",
            of="index",
            value=recall,
            limit=least,
            held=recall >= least,
            why=f"the index of '{column}' finds {recall:.3f} of the 10 nearest",
            asks=f"; gates.min_recall asks for {least:.3f}.",
            remedy=f"Choose another index type, or lower the gate; {AGAIN}.",
            column=column,
            measured_at=measured_at.get(column) or version,
        )
        for column, recall in recalls.items()
        if recall is not None
    ]


def measure_recalls(dataset: LanceDataset) -> dict[str, float]:
    """Recall of each index of a version of a table, by vector column; of a tuned one that which was measured with queries."""
    stored = columns_of(dataset.schema)
    columns = [info.column for info in describe_indexes(dataset) if info.metric and info.column in stored]
    tuned = {column: read_settings(dataset.schema, column) for column in columns}
    return {
        column: settings.measured.recall if settings else measure_recall(dataset, column, stored[column].metric)
        for column, settings in tuned.items()
    }


def tuned_at(dataset: LanceDataset) -> dict[str, int]:
    """The versions that the recalls of tuned columns were measured at."""
    columns = columns_of(dataset.schema)
    return {column: found.measured_at for column in columns if (found := read_settings(dataset.schema, column))}
