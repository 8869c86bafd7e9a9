"""`latentlake calibrate`: a job's own stages, measured on a sample of its source; later plans are forecast by it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import numpy as np

from clusters import ClusterProfile
from latentlake.storage import Storage
from operators.batch import Batch
from operators.batching import form_batches
from operators.embedders.base import Embedder
from operators.loading import load_embedder
from pipelines.child import ask_child
from pipelines.flow.embedding import EmbedTask, draw_sample, rows_of
from pipelines.flow.graph import make_reader
from pipelines.job.spec import JobSpec
from pipelines.planning.choice import RunnerName, check_runner, choose_runner
from pipelines.planning.plan import Plan, make_plan, resolve_models
from pipelines.planning.pools import plan_pools
from pipelines.progress import Progress
from pipelines.ray_connection import address_of, reached, running_ray
from pipelines.state.ledger import CALIBRATED, WORK_FOLDER, new_run_id, record_run
from pipelines.trial import run_sample

FOLDER = "_calibration-"  # in the lake's area of work, with what is measured, for as long as that takes
STALE = timedelta(days=2)  # after which nobody measures any more
BATCH_SHARES = (0.5, 1.0, 2.0)  # of the batch size that the job has
TIMED_S = 0.5  # for which each batch size is timed
CPU_ROWS = 96  # of the sample, that a model on CPUs is timed on
WARM_ROWS = 8  # that it embeds before
QUIET_S = 600.0  # after which a model that says nothing is given up

Speed = dict[str, Any]  # column, device, threads, batch_cost, rows_per_s


def calibrate_job(
    spec: JobSpec,
    sample: int,
    profile: ClusterProfile | None = None,
    runner: RunnerName = "auto",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run `sample` objects of a job, spread over its source, on the machines of `profile`, and keep what they took.

    The sample is written beside the job's table, in the same store, and taken away; the table is not touched. With the runner
    that a run of the whole would have: where what is measured changes that, the sample runs once more. JSON-able: `runs` (the
    kept reports) and `speeds` (rows per second of each model, by threads and batch size). Raises what `run_job` raises.
    """
    spec, profile = resolve_models(spec), profile or ClusterProfile()
    check_runner(runner)
    spec.table.lake.check_conditional_writes()
    with sample_place(spec) as place, reached(profile):
        plan = sample_plan(spec, sample, profile, runner, place)
        speeds = measure_speeds(plan)
        runs: dict[str, dict[str, Any]] = {}
        chosen = runner_of(spec, plan, runner)
        while chosen not in runs:
            lake = place.child(f"lake-{len(runs)}")
            report = run_sample(spec, lake.uri, spec.table.storage_options, sample, chosen, profile, progress)
            keep(spec, {**report, "speeds": speeds})
            runs[chosen] = report
            chosen = runner_of(spec, plan, runner)
    return {"runs": list(runs.values()), "speeds": speeds}


@contextmanager
def sample_place(spec: JobSpec) -> Iterator[Storage]:
    """A folder in the lake for what is measured; it is taken away, as are those that a killed process left."""
    work = spec.table.lake.child(WORK_FOLDER)
    place = work.child(FOLDER + new_run_id())
    stale = f"{FOLDER}{datetime.now(UTC) - STALE:%Y%m%dT%H%M%S}"
    for name in work.list_names():
        if name.startswith(FOLDER) and name < stale:
            work.remove(name)
    try:
        yield place
    finally:
        place.remove()


def sample_plan(spec: JobSpec, sample: int, profile: ClusterProfile, runner: RunnerName, place: Storage) -> Plan:
    """The plan of the sample as if there were no table: all of it is work."""
    table = spec.table.model_copy(update={"uri": place.child("none").uri, "mode": "incremental"})
    beside = spec.source.beside(spec.table.lake)
    limited = spec.model_copy(update={"limit": sample, "table": table, "source": beside})
    return make_plan(limited, profile, place.child("plan"), runner=runner)


def runner_of(spec: JobSpec, plan: Plan, asked: RunnerName) -> Literal["ray", "inline"]:
    """The runner that a run of the whole source would have, as far as is known by now. `plan` is the sample's."""
    objects, size = plan.whole or (plan.changes.work, plan.changes.work_bytes)
    pools = plan_pools(spec.embed, plan.capacity)
    return choose_runner(asked, plan.profile, spec, pools, objects, size).name


def keep(spec: JobSpec, report: dict[str, Any]) -> None:
    """Keep what was measured where runs keep it, in the lake's ledger."""
    record_run(
        spec.table.lake,
        {
            "run_id": report["run_id"],
            "table": spec.table.name,
            "job": spec.name,
            "state": CALIBRATED,
            "started_at": datetime.now(UTC),
            "report": {**report, "state": CALIBRATED, "table": spec.table.name, "version": None},
        },
    )


def measure_speeds(plan: Plan) -> list[Speed]:
    """How fast each model embeds prepared rows of the sample, alone, by threads and batch size.

    Where a pool's actors run: in a process of this machine, or on a node of the cluster.
    """
    found: list[Speed] = []
    if not plan.shards:
        return found
    for at, pool in enumerate(plan.pools):
        if not plan.spec.embed[at].config.calibrates:
            continue
        most = max(1, int(max(node.cpus for node in plan.capacity.nodes)))
        threads = sorted({1, pool.threads, most}) if pool.device == "cpu" else [pool.threads]
        task = EmbedTask(
            plan.spec.embed[at], pool, (), make_reader(plan, None, range(len(plan.shards))), sampled_of(plan)
        )
        found += on_machine(plan, task, threads)
    return found


def sampled_of(plan: Plan) -> tuple[int, ...]:
    """A few shards of the plan."""
    return tuple(np.unique(np.linspace(0, len(plan.shards) - 1, 4).astype(int)).tolist())


def on_machine(plan: Plan, task: EmbedTask, threads: Sequence[int]) -> list[Speed]:
    """`time_model` where the task's actors would run."""
    if address_of(plan.profile) is None:
        return list(ask_child(QUIET_S, time_model, (task, threads)))
    import ray

    pool = task.pool
    with running_ray(plan.profile):
        timed = ray.remote(listed).options(num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)
        return list(ray.get(timed.remote(task, threads)))


def listed(task: EmbedTask, threads: Sequence[int]) -> list[Speed]:
    """`time_model`, as a task of Ray."""
    return list(time_model(task, threads))


def time_model(task: EmbedTask, threads: Sequence[int]) -> Iterator[Speed]:
    """Load the model with each number of threads, and time it with each batch size."""
    prepared = draw_sample(task)
    rows = len(prepared.get("cost", ()))
    if not rows:
        return
    if task.pool.device == "cpu" and rows > CPU_ROWS:
        prepared = rows_of(prepared, np.linspace(0, rows - 1, CPU_ROWS).astype(int))
    usual = task.embed.batch_cost or task.embed.config.batch_cost(task.pool.device)
    by_size = {cost: form_batches(prepared["cost"], cost) for cost in (max(1, int(usual * s)) for s in BATCH_SHARES)}
    for number in threads:
        embedder = load_embedder(task.embed.config, task.pool.device, number, task.limiter)
        embedder.embed(rows_of(prepared, np.arange(min(WARM_ROWS, rows))))
        for cost, batches in by_size.items():
            yield {
                "column": task.embed.column,
                "device": task.pool.device,
                "threads": number,
                "batch_cost": cost,
                "rows_per_s": round(rate_of(embedder, prepared, batches), 2),
            }


def rate_of(embedder: Embedder, prepared: Batch, batches: Sequence[np.ndarray]) -> float:
    """Rows per second in these batches, in one fixed mixed order, again and again for `TIMED_S`."""
    order = np.random.default_rng(0).permutation(len(batches))
    began, rows = time.perf_counter(), 0
    while time.perf_counter() - began < TIMED_S:
        for at in order:
            embedder.embed(rows_of(prepared, batches[at]))
            rows += len(batches[at])
            if time.perf_counter() - began > TIMED_S:
                break
    return rows / (time.perf_counter() - began)
