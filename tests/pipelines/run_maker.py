"""Runs in parts, and a runner that works in this process, for tests that change what its stages call."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import pyarrow as pa
from lance import LanceDataset

from clusters import this_machine
from latentlake.storage import Storage
from pipelines.flow.embedding import Host
from pipelines.flow.graph import Stages, make_merge, make_stages
from pipelines.flow.runners.inline import SHARD, InlineRunner, merge_all, run_stages
from pipelines.job.jobfile import parse_job
from pipelines.job.spec import JobSpec
from pipelines.planning.choice import inline_pools
from pipelines.planning.plan import Plan, make_plan
from pipelines.publish.commit import prepare_table
from pipelines.publish.tally import Tally, read_records
from pipelines.resume import plan_run
from pipelines.state.lease import Lease, hold_table
from pipelines.state.ledger import WORK_FOLDER, open_dataset
from pipelines.state.manifest import Carried, Changes, Manifest, Retry, finished_shards, write_manifest
from pipelines.values.hashing import HASH_SCHEME

SUMMARY = {"run_id": "r", "counts": {}, "rows_written": 0, "fingerprints": {}}


class Here:
    """A runner: the stages of the flow one after another, in this process."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def embed_shards(
        self, plan: Plan, version: int | None, shards: Sequence[int], attempt: str
    ) -> Generator[dict[str, Any], None, None]:
        told = run_stages(stages_of(plan, version, shards, attempt), len(shards))
        yield from (value for kind, value in told if kind == SHARD)

    def merge_columns(self, plan: Plan, version: int, patches: Mapping[int, Sequence[str]]) -> None:
        list(merge_all(make_merge(plan, version, patches)))

    def lives(self, actors: Collection[str]) -> dict[str, Any]:
        return {}


def stages_of(plan: Plan, version: int | None, shards: Sequence[int], attempt: str) -> Stages:
    return make_stages(plan, version, shards, attempt, inline_pools(plan.spec, plan.pools, plan.capacity), Host())


def embed_shards(plan: Plan, version: int | None, shards: Sequence[int], attempt: str) -> list[dict[str, Any]]:
    """The reports of shards, finished without Ray."""
    with InlineRunner(no_successor) as runner:
        return list(runner.embed_shards(plan, version, shards, attempt))


def no_successor() -> Any:
    raise AssertionError("the process that works without Ray has died")


def lake_of(job: Mapping[str, Any]) -> Storage:
    return parse_job(job).table.lake


def open_lance(job: Mapping[str, Any]) -> LanceDataset:
    """The job's table, at its newest version."""
    table = open_dataset(lake_of(job), job["table"]["name"])
    assert table is not None
    return table


def work_folder(job: Mapping[str, Any]) -> Storage:
    return lake_of(job).child(WORK_FOLDER, job["table"]["name"])


@contextmanager
def held(job: Mapping[str, Any]) -> Iterator[Lease]:
    with hold_table(work_folder(job), "job 'test'") as lease:
        yield lease


def resolved(job: Mapping[str, Any]) -> JobSpec:
    return parse_job(job).resolved()


def plan_of(job: Mapping[str, Any]) -> Plan:
    return make_plan(resolved(job), this_machine())


def cut_short(job: Mapping[str, Any], shards: int | None = None) -> Plan:
    """Begin a run, or resume one, and die without a word once `shards` more are written (None: all); its plan."""
    plan = plan_run(resolved(job), this_machine())
    version = plan.resumed.version if plan.resumed else prepare_table(plan)
    if plan.resumed is None:
        write_manifest(plan.spec.table.lake, plan.manifest(version, time.time()))
    finished = finished_shards(plan.place)
    todo = [shard for shard in range(len(plan.shards)) if shard not in finished]
    if todo[:shards]:
        embed_shards(plan, version, todo[:shards], "killed")
    return plan


@contextmanager
def tally_of(plan: Plan, attempt: str = "killed") -> Iterator[Tally]:
    """What the records of a plan's shards add up to."""
    with Tally(plan.spec.columns, attempt) as tally:
        for record in read_records(plan.place, finished_shards(plan.place)):
            tally.add(record)
        yield tally


def manifest_of(run_id: str, **changes: Any) -> Manifest:
    vectors = pa.field("v", pa.list_(pa.float16(), 4), metadata={b"provenance": b'{"x": "\xc3\xbc"}'})
    values: dict[str, Any] = {
        "run_id": run_id, "table": "t", "job": "j", "resume_key": "k", "state_key": "s", "started_at": 12.5,
        "base_version": 3, "version": 4, "listing": f"{run_id}/listing", "retry": Retry(None), "shards": (2, 1),
        "changes": Changes(3, 2, 20, {"v": Carried(unchanged=1)}, gone=0, in_table=1, left=0),
        "fields": pa.schema([pa.field("n", pa.int64())]),
        "new_fields": pa.schema([]),
        "schema": pa.schema([pa.field("id", pa.string(), nullable=False), vectors]),
        "spec": {"name": "j"}, "hash_scheme": HASH_SCHEME,
    }  # fmt: skip
    return Manifest(**values | changes)
