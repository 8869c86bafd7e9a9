"""Jobs for the tests, as short as they can be: what a test does not say has a default."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import latentlake
import pipelines.run
from clusters import ClusterProfile
from pipelines.job.jobfile import parse_job
from pipelines.job.spec import JobSpec

HASHING = {"column": "h", "family": "hashing", "dim": 64, "pool": {"min": 1, "max": 1}}


def make_job(
    folder: Path,
    source: Mapping[str, Any],
    embed: Sequence[Mapping[str, Any]] = (HASHING,),
    modality: str = "text",
    table: Mapping[str, Any] | None = None,
    **sections: Any,
) -> dict[str, Any]:
    """A job as a dict; its table is `t` in the lake `folder/lake`."""
    return {
        "name": "job",
        "modality": modality,
        "source": dict(source),
        "embed": [dict(entry) for entry in embed],
        "table": {"uri": str(folder / "lake"), "name": "t", **(table or {})},
        **sections,
    }


def run(job: Mapping[str, Any], **how: Any) -> dict[str, Any]:
    """Run a job, as `run_job` does; its report."""
    return run_job(parse_job(job), **how)


def run_job(
    spec: JobSpec, profile: ClusterProfile | None = None, *, runner: Any = "inline", **how: Any
) -> dict[str, Any]:
    """Run a job without Ray, unless the test says otherwise: also in a process that is connected to the session's Ray."""
    return pipelines.run.run_job(spec, profile, runner=runner, **how)


def open_table(job: Mapping[str, Any]) -> latentlake.Table:
    """The job's table, as a reader finds it."""
    table = job["table"]
    return latentlake.connect(table["uri"], table.get("storage_options")).open(table["name"])


def rows_of(job: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of the job's table, by id."""
    return {row["id"]: row for row in open_table(job).to_arrow().to_pylist()}


def write_texts(folder: Path, texts: Mapping[str, str]) -> dict[str, str]:
    """Write texts as files; the source that reads them."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"kind": "files", "uri": str(folder)}


def write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]], metadata: Sequence[str] = ()) -> dict[str, Any]:
    """Write rows as JSON lines; the source that reads them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"kind": "jsonl", "uri": str(path), "id": "id", "content": "text", "metadata": list(metadata)}


def check_accounting(report: Mapping[str, Any]) -> None:
    """The five outcomes of every column add up to what was listed."""
    for counts in report["columns"].values():
        outcomes = ("embedded", "reused", "unchanged", "filtered", "rejected")
        assert sum(counts[name] for name in outcomes) == counts["listed"], counts
