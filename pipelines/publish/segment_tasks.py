"""An index built by fragments as Ray tasks: each builds the segment of a group, one puts them together, the driver commits. See ADR 13."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from clusters import Capacity, ClusterProfile
from latentlake.opening import open_lance
from latentlake.retries import retried
from latentlake.segments import (
    build_segment,
    commit_segment,
    group_fragments,
    join_segments,
    remove_segments,
    train_models,
)
from latentlake.storage import Storage
from operators.batch import describe
from operators.errors import ClusterError, LatentLakeError
from pipelines.flow.runners.pulse import Pulse
from pipelines.flow.runners.ray import capacity_after_loss, own_error, released
from pipelines.flow.runners.stall import LOOK_S, Stalled, Watch, at_work
from pipelines.ray_connection import running_ray
from pipelines.telemetry.logs import WorkerLogs

RETRIES = 2  # of a task whose process or node died


@dataclass(frozen=True)
class SegmentJob:
    """What every task of a build is told."""

    table: Storage
    version: int
    column: str
    name: str  # of the index
    trained: Mapping[str, Any]  # see `train_models`
    pulse: Pulse
    logs: WorkerLogs


def build_by_fragments(
    profile: ClusterProfile,
    table: Storage,
    dataset: Any,
    column: str,
    name: str,
    build: Mapping[str, Any],
    rows: int,
    check: Callable[[], None],
) -> str:
    """Build an index (see `indexes.Builder`) by tasks on the Ray of a profile; in words, what built it. `table` is where `dataset` is.

    Models are trained in this process, which then commits; segments are built and put together in tasks. `check` is asked before the
    commit. Where anything fails, no version names what was written. Raises `ClusterError`, `LatentLakeError`.
    """
    began = time.perf_counter()
    trained = train_models(dataset, column, build, rows)
    models_s = time.perf_counter() - began
    segments: list[Any] = []
    with running_ray(profile), released(Watch(Pulse(), profile.stall_s)) as watch:
        cpus, slots = places_of(capacity_after_loss(profile))
        groups = group_fragments(dataset, max(2, slots))
        job = SegmentJob(table, int(dataset.version), column, name, trained, watch.pulse, WorkerLogs())
        began = time.perf_counter()
        try:
            shared = ray.put(job)
            for segment in results([start(build_one, cpus, shared, group) for group in groups], watch, column, cpus):
                segments.append(segment)
            segments_s = time.perf_counter() - began
            (joined,) = results([start(join, cpus, shared, segments)], watch, column, cpus)
            join_s = time.perf_counter() - began - segments_s
            check()
            commit_segment(dataset, column, name, joined)
        finally:
            if len(groups) > 1:  # of one, that is the whole
                remove_segments(table, segments)
    return (
        f"{len(groups)} segments by tasks of {cpus} CPUs, {slots} at a time; models {models_s:.1f} s, segments {segments_s:.1f} s, "
        f"put together in {join_s:.1f} s"
    )


def places_of(capacity: Capacity) -> tuple[int, int]:
    """CPUs of a task, and how many tasks find room at once.

    Lance uses all cores of its machine, so that a machine has one task: it asks for more than half of the CPUs, and leaves room for
    what else may run there. Where machines differ, small ones are left out if more CPUs are at work so.
    """
    sizes = [int(node.cpus) for node in capacity.nodes if node.cpus >= 1] or [1]
    common = max(sizes, key=lambda size: size * sum(other >= size for other in sizes))
    cpus = common // 2 + 1 if common > 1 else 1
    return cpus, sum(size // cpus for size in sizes)


def start(work: Callable[..., Any], cpus: int, *arguments: Any) -> Any:
    """Begin a task. It is tried again where its process or its node dies; files that it left belong to no version."""
    return ray.remote(work).options(num_cpus=cpus, max_retries=RETRIES, scheduling_strategy="SPREAD").remote(*arguments)


def results(tasks: Sequence[Any], watch: Watch, column: str, cpus: int) -> Iterator[Any]:
    """What tasks return, as they end. Those that are left are stopped when one fails, or nothing moves."""
    left = list(tasks)
    try:
        while left:
            done, left = ray.wait(left, timeout=LOOK_S)
            for task in done:
                watch.shard_finished()
                yield ray.get(task)
            watch.look()
    except Stalled as failure:
        raise ClusterError(
            f"the index of '{column}' was not built: nothing moved on the cluster for {watch.stall_s:.0f} s. Its tasks wait for "
            f"{cpus} CPUs on one node.\n  The rows are kept, and no tag was moved: give the cluster such a node, or set `build: single` for this index, and run the job again."
        ) from failure
    except RayError as failure:
        reason = own_error(failure) or getattr(failure, "cause", None) or failure
        raise LatentLakeError(
            f"the index of '{column}' was not built, because a task failed: {describe(reason)}\n"
            "  The rows are kept, and no tag was moved: fix the cause and run the job again, or set `build: single` for this index."
        ) from failure
    finally:
        for task in left:
            ray.cancel(task, force=True)


def build_one(job: SegmentJob, fragments: Sequence[int]) -> Any:
    """A task: the segment of some fragments."""
    with job.logs.entered(), at_work(job.pulse):
        dataset = open_lance(job.table, job.version)
        return retried(build_segment)(dataset, job.column, job.name, job.trained, fragments)


def join(job: SegmentJob, segments: Sequence[Any]) -> Any:
    """A task: all segments as one."""
    with job.logs.entered(), at_work(job.pulse):
        return retried(join_segments)(open_lance(job.table, job.version), segments)
