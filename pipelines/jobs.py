"""Jobs from Python: the same as `latentlake validate`, `plan` and `run`, as functions that return values."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from clusters import ClusterProfile
from latentlake.storage import open_storage
from pipelines import run
from pipelines.job.jobfile import load_job, load_section, parse_job
from pipelines.job.overrides import apply_overrides
from pipelines.job.spec import JobSpec
from pipelines.planning.budget import Budget
from pipelines.planning.choice import RunnerName, check_runner
from pipelines.planning.forecast import describe_forecast
from pipelines.planning.plan import describe_plan, make_plan, resolve_models, warnings_of
from pipelines.progress import Progress
from pipelines.publish.gates import to_json
from pipelines.publish.run_gates import gates_at_plan
from pipelines.run import Report

Job = str | Path | Mapping[str, Any] | JobSpec  # a file, or what a file holds
Cluster = str | Path | Mapping[str, Any] | ClusterProfile | None


def validate_job(job: Job, overrides: Sequence[str] = ()) -> JobSpec:
    """The job, checked. `overrides` are `path=value`, as for `--set`. Reads no source and no model.

    Raises `InvalidSpec`, which reports every error at once.
    """
    if isinstance(job, JobSpec):
        return parse_job(apply_overrides(job.to_json(), overrides)) if overrides else job
    if isinstance(job, Mapping):
        return parse_job(apply_overrides(deepcopy(dict(job)), overrides))
    return load_job(job, overrides)


def plan_job(
    job: Job, overrides: Sequence[str] = (), cluster: Cluster = None, *, runner: RunnerName = "auto"
) -> dict[str, Any]:
    """What a run of the job would do: what it would read, what is unchanged, its stages and pools. Writes nothing.

    `cluster` is a cluster profile, or the path of its file. Raises `SpecError`, `SourceError`, `ClusterError`.
    """
    spec, profile = validate_job(job, overrides), profile_of(cluster)
    with tempfile.TemporaryDirectory(prefix="latentlake-plan-") as folder:
        plan = make_plan(resolve_models(spec), profile, open_storage(folder), runner=check_runner(runner))
        return {
            **describe_plan(plan),
            **describe_forecast(plan),
            "gates": to_json(gates_at_plan(plan)),
            "warnings": warnings_of(spec),
        }


def run_job(
    job: Job,
    overrides: Sequence[str] = (),
    cluster: Cluster = None,
    progress: Progress | None = None,
    *,
    fresh: bool = False,
    wait: bool = False,
    runner: RunnerName = "auto",
    limit: int | None = None,
    max_hours: float | None = None,
    max_cost: float | None = None,
) -> Report:
    """Run a job and return its report (see docs/report.md). An interrupted run of the same job is resumed.

    `progress` is called with an `Event` (phase, objects done and to do, seconds) as each phase begins, and each time a shard
    is finished. `fresh`
    discards an interrupted run; `wait` waits for another writer of the table; `runner` "auto" runs little work in one process
    without Ray, and "ray" or "inline" decides. With a `limit`, only so many objects are run, spread over the listing, and nothing is tagged.
    After `max_hours`, or where its machines have cost `max_cost` by the profile's prices, it ends with `BudgetSpent`: what is finished is kept. It can be called many times in one process.

    Raises what `pipelines.run.run_job` raises: `SpecError`, `SourceError`, `GateRefused`, `WriterConflict` and others, all of
    them `LatentLakeError`. If a run was under way, the error's `report` is its report.
    """
    spec, profile = validate_job(job, overrides), profile_of(cluster)
    budget = Budget(max_hours, max_cost)
    return run.run_job(spec, profile, progress, fresh=fresh, wait=wait, runner=runner, limit=limit, budget=budget)


def profile_of(cluster: Cluster) -> ClusterProfile:
    """A cluster profile as it is given. What it leaves out is detected where the job runs. Raises `InvalidSpec`."""
    if cluster is None or isinstance(cluster, ClusterProfile):
        return cluster or ClusterProfile()
    return load_section(ClusterProfile, cluster)
