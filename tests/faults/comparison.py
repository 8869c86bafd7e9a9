"""What a lake holds after a run, beside what a clean run's holds: nothing lost, nothing twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import lance
import numpy as np
import pyarrow as pa
from job_maker import check_accounting

import latentlake
from latentlake.storage import Storage, open_storage
from pipelines.job.jobfile import parse_job
from pipelines.run import run_job
from pipelines.state.ledger import read_rejects, read_runs
from pipelines.state.manifest import finished_shards, unfinished_runs

VOLATILE = ("run_id", "version")  # columns of rejects that no two runs share
TOLERANCE = 1e-6  # of vectors whose batch was halved


@dataclass(frozen=True)
class Snapshot:
    """A job's table as its readers find it, and what is remembered of its runs."""

    rows: pa.Table  # sorted by id
    rejects: list[tuple[Any, ...]]
    tags: dict[str, int]
    version: int
    unindexed: dict[str, int]
    published: list[dict[str, Any]]  # counts of the runs that published, in their order


def take_snapshot(job: Mapping[str, Any]) -> Snapshot:
    """Look at a job's table."""
    table = job["table"]
    found = latentlake.connect(table["uri"], table.get("storage_options")).open(table["name"])
    lake = lake_of(job)
    rejects = [row for piece in read_rejects(lake, table["name"]) for row in piece.drop_columns(VOLATILE).to_pylist()]
    lines = sorted(read_runs(lake, table["name"], "state = 'published'"), key=lambda line: line["finished_at"])
    return Snapshot(
        rows=found.to_arrow().sort_by("id").combine_chunks(),
        rejects=sorted(tuple(str(value) for value in row.values()) for row in rejects),
        tags=found.tags(),
        version=found.version,
        unindexed={index.name: index.rows_unindexed for index in found.indexes()},
        published=[json.loads(line["report"])["columns"] for line in lines],
    )


def check_snapshot(found: Snapshot) -> None:
    """What holds for every published table: no id twice, every object accounted for in each published run."""
    ids = Counter(found.rows["id"].to_pylist())
    assert not [name for name, count in ids.items() if count > 1], "ids twice"
    for columns in found.published:
        check_accounting({"columns": columns})


def check_identical(found: Snapshot, clean: Snapshot, tolerance: float = 0.0) -> None:
    """The rows, rejects and counts of two lakes are the same: vectors to the bit, or within `tolerance`."""
    check_snapshot(found)
    check_rows(found.rows, clean.rows, tolerance)
    assert found.rejects == clean.rejects
    assert set(found.tags) == set(clean.tags)
    assert found.unindexed == clean.unindexed
    outcomes = [outcomes_of(columns) for columns in found.published]
    assert outcomes == [outcomes_of(columns) for columns in clean.published], "published runs"


def outcomes_of(columns: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Of a report's columns the counts alone."""
    names = ("listed", "embedded", "reused", "unchanged", "filtered", "rejected", "removed", "rows_embedded")
    return {column: {name: counts[name] for name in names} for column, counts in columns.items()}


def check_rows(found: pa.Table, clean: pa.Table, tolerance: float = 0.0) -> None:
    """Two tables sorted by id hold the same rows."""
    ids, wanted = found["id"].to_pylist(), clean["id"].to_pylist()
    assert ids == wanted, f"lost {sorted(set(wanted) - set(ids))[:5]}, too many {sorted(set(ids) - set(wanted))[:5]}"
    assert found.schema.names == clean.schema.names
    for field in clean.schema:
        one, other = found[field.name], clean[field.name]
        if pa.types.is_fixed_size_list(field.type):
            assert one.is_null().equals(other.is_null()), field.name
            a, b = vectors_of(one), vectors_of(other)
            assert np.abs(a - b).max(initial=0) <= tolerance if tolerance else a.tobytes() == b.tobytes(), field.name
        else:
            assert one.equals(other), field.name


def vectors_of(column: pa.ChunkedArray) -> np.ndarray:
    """The vectors of a column that are there, (n, dim)."""
    values = column.drop_null().combine_chunks()
    return values.flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)


def check_settled(job: Mapping[str, Any]) -> None:
    """Running the job once more does nothing: no object is read, no version made, no unfinished run is left.

    Of a job that rebuilds, that is the job that continues with the table.
    """
    job = {**job, "table": {**job["table"], "mode": "incremental"}}
    uri = f"{job['table']['uri']}/{job['table']['name']}.lance"
    options = job["table"].get("storage_options")
    version = lance.dataset(uri, storage_options=options).version
    report = run_job(parse_job(dict(job)))
    assert (report["state"], report["objects_read"]) == ("unchanged", 0), report
    assert lance.dataset(uri, storage_options=options).version == version
    assert unfinished(job) == {}


def unfinished(job: Mapping[str, Any]) -> dict[str, int]:
    """The runs that can be resumed, and how many shards each has finished."""
    lake = lake_of(job)
    return {
        manifest.run_id: len(finished_shards(manifest.place(lake)))
        for manifest in unfinished_runs(lake, job["table"]["name"])
    }


def lake_of(job: Mapping[str, Any]) -> Storage:
    """The lake that a job writes to."""
    return open_storage(job["table"]["uri"], job["table"].get("storage_options"))
