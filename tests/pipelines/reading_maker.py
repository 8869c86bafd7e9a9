"""A shard read without a runner: its status and its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import lance
import pyarrow as pa

from pipelines.flow.reading import ReadShard
from pipelines.flow.shard import Status, unpack
from pipelines.job.jobfile import parse_job
from pipelines.job.spec import JobSpec
from pipelines.planning.changes import WORK_SCHEMA, Comparison, table_objects


def blake(content: bytes) -> str:
    """What `content_hash` is documented to be."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def list_work(
    spec: JobSpec, base: lance.LanceDataset | None = None, hashes: Mapping[str, str] | None = None
) -> pa.Table:
    objects = table_objects(base)
    if hashes is not None:
        objects = iter([pa.table({"object_id": list(hashes), "object_hash": list(hashes.values())})])
    with Comparison() as comparison:
        comparison.load(spec.source.list_objects(lambda uri, version: None))
        comparison.find_changes(None, objects, [], spec.columns)
        return pa.concat_tables([WORK_SCHEMA.empty_table(), *comparison.work()])


def read(
    job: Mapping[str, Any],
    hashes: Mapping[str, str] | None = None,
    base: lance.LanceDataset | None = None,
    rewrites: bool = False,
) -> tuple[Status, pa.Table]:
    """Status and rows of a job's source, read as one shard."""
    spec = parse_job(job)
    work = list_work(spec, base, hashes)
    fields = tuple(spec.source.metadata_fields(iter([work])))
    reader = ReadShard(spec, spec.table.lake, fields, None if base is None else base.version, rewrites)
    return unpack(reader.read(3, work))


def by_id(rows: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in rows.to_pylist()}


def fates(status: Status) -> dict[str, tuple[str, str, str, str | None]]:
    assert all(reject["column"] is None for reject in status.rejects)
    return {r["object_id"]: (r["outcome"], r["stage"], r["error"], r["sniffed_type"]) for r in status.rejects}


def object_hashes(rows: pa.Table) -> dict[str, str]:
    return dict(zip(rows["object_id"].to_pylist(), rows["object_hash"].to_pylist(), strict=True))
