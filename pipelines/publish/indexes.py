"""What the ledger knows of a table's indexes: so that neither vectors are counted nor recall is measured at every run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from lance import LanceDataset
from pydantic import TypeAdapter, ValidationError

from latentlake.building import IndexReport, count_known, open_version, tuned_report
from latentlake.storage import Storage
from latentlake.tuning.settings import read_settings
from pipelines.state.ledger import read_report, read_runs

REPORT = TypeAdapter(IndexReport)


def known_indexes(lake: Storage, table: str, version: int | None) -> dict[str, IndexReport]:
    """What runs have reported of a version of a table, by vector column; without what cannot be read."""
    found: dict[str, IndexReport] = {}
    for line in [] if version is None else read_runs(lake, table, f"head = {version}"):
        for entry in read_report(line["report"]).get("indexes", []):
            try:
                report = REPORT.validate_python(entry)
            except ValidationError:
                continue
            found.setdefault(report.column, report)
    return found


def indexes_after(
    lake: Storage, table: str, before: LanceDataset, after: LanceDataset, recalls: Mapping[str, float]
) -> dict[str, IndexReport]:
    """What is known of a version that holds the same rows as the one `before`, in other files. `recalls` were measured there."""
    version = int(after.version)
    found = {}
    for column, report in known_indexes(lake, table, int(before.version)).items():
        if column not in before.schema.names:
            continue
        rows = count_known(before, column, open_version(before, report), report)
        if (settings := read_settings(after.schema, column)) is not None:
            found[column] = tuned_report(after, column, rows, settings, 0.0)
            continue
        found[column] = replace(
            report,
            rows=rows,
            recall=recalls.get(column),
            seconds=0.0,
            measured_at=version if column in recalls else None,
            added=0,
            version=version,
            tuned=None,
            built=None,
        )
    return found
