"""A first look at a job: a sample of its objects in a temporary lake, and what the whole would take."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

import latentlake
from clusters import ClusterProfile
from latentlake.stored import stored_bytes
from pipelines.job.spec import IndexSpec, JobSpec
from pipelines.planning.choice import RunnerName
from pipelines.planning.forecast import FAR, factors
from pipelines.planning.plan import resolve_models
from pipelines.progress import Progress
from pipelines.run import run_job

TABLE = "trial"
SHOWN, NEAREST = 3, 3  # rows that are shown, and the nearest of each
REJECTS = 20  # that are shown
ROW_BYTES = 200  # of a row beside its vectors and text
RAY_GAIN = 1.5  # by how much Ray may be faster than the runner of a sample, on the same machine


def try_job(spec: JobSpec, sample: int, progress: Progress | None = None) -> dict[str, Any]:
    """Run `sample` objects of a job, spread over its source, without Ray; touches nothing of the job's own lake.

    JSON-able: `report`, `rejects` (object_id, stage, error), `columns` (dimension, tokens, truncated), `rows` (some, each with
    its nearest), and `whole`: objects and bytes of the source, and ranges of the seconds and MB that a run would take.
    """
    spec = resolve_models(spec)
    with tempfile.TemporaryDirectory(prefix="latentlake-try-") as folder:
        report = run_sample(spec, folder, {}, sample, "inline", progress=progress)
        lake = latentlake.connect(folder)
        rejects = lake.rejects(TABLE).select(["object_id", "column", "stage", "error"]).to_pylist()
        found = lake.open(TABLE)
        return {
            "report": report,
            "rejects": rejects[:REJECTS],
            "columns": {e.column: describe_column(found, e.column, e.config.dimension) for e in spec.embed},
            "rows": [near(found, row, spec.columns[0]) for row in some_rows(found, spec.columns[0])],
            "whole": forecast(report, spec),
        }


def run_sample(
    spec: JobSpec,
    uri: str,
    options: Mapping[str, str],
    sample: int,
    runner: RunnerName,
    profile: ClusterProfile | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run `sample` objects of a resolved job into the table `TABLE` of another lake, and refuse nothing; the report."""
    table = spec.table.model_copy(
        update={"uri": uri, "name": TABLE, "storage_options": options, "mode": "incremental", "prune": False}
    )
    trial = spec.model_copy(
        update={
            "table": table,
            "source": spec.source.beside(spec.table.lake),
            "gates": spec.gates.model_copy(update={"max_reject_rate": 1.0, "min_recall": None}),
            "index": tuple(IndexSpec(column=c, metric=spec.metric(c), type="none") for c in spec.columns),
        }
    )
    return run_job(trial, profile, progress, runner=runner, limit=sample)


def describe_column(table: latentlake.Table, column: str, dimension: int) -> dict[str, Any]:
    """A vector column's dimension and, where its rows are texts, their tokens: least, median, most, and how many are cut."""
    described: dict[str, Any] = {"dimension": dimension}
    tokens = f"{column}_tokens"
    if tokens in table.schema.names:
        rows = table.to_arrow([tokens, f"{column}_truncated"]).drop_null()
        counts = np.asarray(rows[tokens])
        if len(counts):
            described["tokens"] = {
                "min": int(counts.min()),
                "median": float(np.median(counts)),
                "max": int(counts.max()),
            }
            described["truncated"] = int(np.asarray(rows[f"{column}_truncated"]).sum())
            described["rows"] = len(counts)
    return described


def some_rows(table: latentlake.Table, column: str) -> list[dict[str, Any]]:
    """A few rows that have a vector: their ids, and their texts if they have any."""
    names = [name for name in ("id", "text") if name in table.schema.names]
    return table.to_arrow(names, where=f"{column} IS NOT NULL").slice(0, SHOWN).to_pylist()


def near(table: latentlake.Table, row: dict[str, Any], column: str) -> dict[str, Any]:
    """A row (id, and text if it has one), and its nearest."""
    found = table.search(id=row["id"], column=column, k=NEAREST, exact=True).to_list()
    nearest = [{"id": one["id"], "distance": round(one["_distance"], 4), "text": one.get("text")} for one in found]
    return {"id": row["id"], "text": row.get("text"), "nearest": nearest}


def forecast(report: dict[str, Any], spec: JobSpec) -> dict[str, Any] | None:
    """What a run of the whole would take on this machine: objects, bytes, and ranges (low, high) of seconds and MB written.

    The sample's share of the objects and its share of the bytes are two guesses; `FAR` widens what lies between them, as the
    runner may be another. Starting is left out. None where the source's size is not known.
    """
    whole, counts = report.get("whole"), report["counts"]
    if whole is None or not counts["listed"] or not report["stages"]["read"]["objects"]:
        return None
    seconds = report["seconds"]["stream"]
    row_bytes = ROW_BYTES + sum(stored_bytes(e.dtype, e.config.dimension) for e in spec.embed)
    text = report["bytes_read"] if spec.chain.column == "text" else 0
    megabytes = (report["rows_written"] * row_bytes + text) / 2**20
    low, _, high = factors(report["stages"]["read"], whole["objects"], whole["bytes"])
    low, high = low / FAR, high * FAR
    return {
        **whole,
        "seconds": [round(seconds * low / RAY_GAIN, 3), round(seconds * high, 3)],
        "mb": [round(megabytes * low, 3), round(megabytes * high, 3)],
    }
