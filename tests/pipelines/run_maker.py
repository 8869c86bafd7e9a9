"""Runs without Ray: the stages of the flow one after another, in this process. All else is as it is in a real run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import pyarrow as pa
import pytest
from lance import LanceDataset

from clusters import this_machine
from latentlake.storage import Storage
from operators.loading import load_embedder
from pipelines.flow.columns import MergeColumns
from pipelines.flow.embedding import EmbedShard, EmbedTask, drops
from pipelines.flow.graph import make_reader
from pipelines.flow.writing import WriteShard, write_mode
from pipelines.job.jobfile import parse_job
from pipelines.job.spec import JobSpec
from pipelines.planning.plan import Plan, make_plan
from pipelines.publish.commit import prepare_table
from pipelines.publish.tally import Tally, read_records
from pipelines.resume import plan_run
from pipelines.state.lease import Lease, hold_table
from pipelines.state.ledger import WORK_FOLDER, open_dataset
from pipelines.state.manifest import finished_shards, write_manifest

SUMMARY = {"run_id": "r", "counts": {}, "rows_written": 0, "fingerprints": {}}


def leave_ray_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs do their work in this process, without Ray."""
    monkeypatch.setattr("pipelines.run.running_ray", lambda profile: nullcontext())
    monkeypatch.setattr("pipelines.flow.graph.embed_shards", embed_here)
    monkeypatch.setattr("pipelines.flow.graph.merge_columns", merge_here)
    monkeypatch.setattr("pipelines.run.actor_lives", lambda names: {})


def embed_here(plan: Plan, version: int | None, shards: Sequence[int], attempt: str) -> Iterator[dict[str, int]]:
    """What `pipelines.flow.graph.embed_shards` does, without Ray."""
    reader = make_reader(plan, version, shards)
    stages = []
    for embed, pool, drop in zip(plan.spec.embed, plan.pools, drops(plan.spec.embed), strict=True):
        stage = EmbedShard.__new__(EmbedShard)
        stage.task = EmbedTask(embed, pool, drop, reader, (), limits=plan.spec.limits)
        stage.embedder, stage.budget = load_embedder(embed.config, "cpu", 1), embed.config.batch_cost("cpu")
        stage.bare_rate, stage.actor = None, "here"
        stages.append(stage)
    write = writer(plan, attempt)
    for at in range(len(shards)):
        block = reader(pa.table({"id": [at]}))
        for stage in stages:
            block = stage(block)
        yield from write(block).to_pylist()


def writer(plan: Plan, attempt: str) -> WriteShard:
    table = plan.spec.table
    columns = tuple(plan.spec.columns)
    return WriteShard(
        table.lake, table.name, plan.schema, columns, write_mode(plan), plan.place, attempt, patched=plan.patched
    )


def merge_here(plan: Plan, version: int, patches: Mapping[int, Sequence[str]]) -> None:
    """What `pipelines.flow.graph.merge_columns` does, without Ray."""
    work = tuple((fragment, tuple(names)) for fragment, names in sorted(patches.items()))
    merge = MergeColumns(plan.spec.table.lake, plan.spec.table.name, version, plan.place, work)
    merge(pa.table({"id": list(range(len(work)))}))


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
    """Begin a run, or go on with one, and die without a word once `shards` more are written (None: all); its plan."""
    plan = plan_run(resolved(job), this_machine())
    version = plan.resumed.version if plan.resumed else prepare_table(plan)
    if plan.resumed is None:
        write_manifest(plan.spec.table.lake, plan.manifest(version, time.time()))
    finished = finished_shards(plan.place)
    todo = [shard for shard in range(len(plan.shards)) if shard not in finished]
    list(embed_here(plan, version, todo[:shards], "killed"))
    return plan


@contextmanager
def tally_of(plan: Plan, attempt: str = "killed") -> Iterator[Tally]:
    """What the records of a plan's shards add up to."""
    with Tally(plan.spec.columns, attempt) as tally:
        for record in read_records(plan.place, finished_shards(plan.place)):
            tally.add(record)
        yield tally
