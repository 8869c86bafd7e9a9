"""The flow as one Ray Data execution: tasks read and write, and each model has a pool of actors."""

from __future__ import annotations

import importlib
import logging
import re
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Self

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.data.exceptions import ExecutionTimeoutError
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    RayError,
    UserCodeException,
    WorkerCrashedError,
)

from clusters import DESCRIBED, Capacity, ClusterProfile
from operators import errors
from operators.batch import describe
from operators.errors import ClusterError, LatentLakeError, PoolUnschedulable
from pipelines.flow.embedding import LIMIT_S, EmbedShard, EmbedTask, Host
from pipelines.flow.graph import Stages, make_merge, make_stages
from pipelines.flow.runners.base import Lives
from pipelines.flow.runners.pools import PoolGauges
from pipelines.flow.runners.pulse import Pulse
from pipelines.flow.runners.stall import Overdue, Stalled, Watch, WatchCallback, at_work, watched
from pipelines.planning.plan import Plan
from pipelines.planning.pools import READER_CPUS, WRITER_CPUS, Pool, plan_pools
from pipelines.ray_connection import living_capacity, running_ray
from pipelines.state.journal import forgive
from pipelines.state.manifest import finished_shards
from pipelines.telemetry.logs import WorkerLogs
from pipelines.telemetry.metrics import Meter

log = logging.getLogger(__name__)

OUR_ERROR = re.compile(r"operators\.errors\.(\w+): (.+?)(?:\n\n|\Z)", re.DOTALL)
RAYS_ADVICE = "Failed to apply UDF transform"
SAMPLE_SHARDS = 4  # shards that the actors draw their calibration sample from
ACTOR_START_S = 900  # how long the actors may take to load their model
STALLS = 2  # executions in a row that may end without a finished shard
LOSSES = (ActorDiedError, ActorUnavailableError, ObjectLostError, WorkerCrashedError)  # may be a lost node's
STAY_S = 3.0  # in which all the workers that a node starts at once are there
LOSS_S = 30  # how long Ray may take to notice that a node is lost
# Share of the cluster that Ray Data keeps for its stages in equal parts, beside the least that each needs. With its own 0.5, and
# without a bound on writing, a pool of 1 to 2 actors of 1.25 CPUs never grew on two nodes of 2 CPUs.
RESERVED = 0.1
CPUS_PER_WRITER = 4
IN_FLIGHT = 2  # shards queued on an actor: with 1 a pool never scales up


class RayRunner:
    """Runs the flow on the Ray of a profile; see `base.Runner`."""

    def __init__(self, profile: ClusterProfile) -> None:
        self.profile = profile
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        self._closing.enter_context(running_ray(self.profile))
        return self

    def __exit__(self, *failure: Any) -> None:
        self._closing.__exit__(*failure)

    def embed_shards(
        self, plan: Plan, version: int | None, shards: Sequence[int], attempt: str
    ) -> Generator[dict[str, Any], None, None]:
        """Where nothing moves any more, or nodes were lost, what is left runs again with pools for the nodes that live.

        Raises `ClusterError` where that happened twice in a row to an execution that had finished no shard.
        """
        return embed_shards(plan, version, shards, attempt)

    def merge_columns(self, plan: Plan, version: int, patches: Mapping[int, Sequence[str]]) -> None:
        """Several fragments at once."""
        merge = make_merge(plan, version, patches)
        with explained(), ray_data_settings():
            numbers(len(merge.work)).map_batches(
                merge, batch_size=None, batch_format="pyarrow", num_cpus=WRITER_CPUS
            ).materialize()

    def lives(self, actors: Collection[str]) -> Lives:
        """As Ray knows them."""
        from ray._private import state

        known = state.actors()
        lives: Lives = {}
        for name in set(actors) & known.keys():
            began, ended = int(known[name].get("StartTime") or 0), int(known[name].get("EndTime") or 0)
            lives[name] = (began / 1000, ended / 1000 if ended else None)
        return lives


@dataclass(frozen=True)
class RayHost(Host):
    """Ray, as a host of actors and tasks; `pulse` is told that somebody is at work."""

    pulse: Pulse
    logs: WorkerLogs

    def actor(self) -> str:
        """Ray's name of the actor, which it keeps when it is started again."""
        return str(ray.get_runtime_context().get_actor_id())

    @contextmanager
    def at_work(self, limit_s: float = LIMIT_S) -> Iterator[Callable[[], None]]:
        """See `stall.at_work`. Log lines are about the run."""
        with self.logs.entered(), at_work(self.pulse, limit_s) as further:
            yield further


def embed_shards(
    plan: Plan, version: int | None, shards: Sequence[int], attempt: str
) -> Generator[dict[str, Any], None, None]:
    """See `RayRunner.embed_shards`. Ray must be running."""
    pools, capacity, left, fruitless = plan.pools, plan.capacity, list(shards), 0
    while left:
        before, moved = living_capacity(), False
        try:
            for report in run_flow(plan, pools, capacity, version, left, attempt):
                moved = True
                yield report
            return
        except Overdue:
            return  # what is finished has its record
        except (Stalled, RayError, UserCodeException) as failure:
            if not is_clusters_fault(failure, before):
                with explained():
                    raise
            why = describe_stall(failure, pools)
        fruitless = 0 if moved else fruitless + 1
        if fruitless == STALLS:
            raise ClusterError(
                f"nothing moved on the cluster, {STALLS} times in a row without a finished shard. The last time {why}\n  What is finished is kept: give the "
                "cluster what is missing, or lower the job's pools (min, num_cpus, num_gpus), and run the job again."
            )
        forgive(plan.place)  # what was under way was ended by us
        done = set(finished_shards(plan.place))
        left = [shard for shard in left if shard not in done]
        capacity = capacity_after_loss(plan.profile)
        pools = replanned(plan, capacity, why, len(left))


def run_flow(
    plan: Plan, pools: Sequence[Pool], capacity: Capacity, version: int | None, shards: Sequence[int], attempt: str
) -> Generator[dict[str, Any], None, None]:
    """One Ray Data execution over `shards`; one report per finished shard. Raises `Stalled`, and what Ray raises."""
    sampled = tuple(shards[at] for at in np.unique(np.linspace(0, len(shards) - 1, SAMPLE_SHARDS).astype(int)))
    # Two at least, so that two actors have their first shard at once.
    readers = min(len(shards), max(2, capacity.cpus // (1 if pools[0].device == "cuda" else 2)))
    with ray_data_settings(plan.profile.start_s) as context:
        context.execution_no_progress_timeout_s = plan.profile.stall_s
        try:
            warm_up(readers, ray.get_runtime_context().get_job_id())
        except ExecutionTimeoutError as failure:
            raise Stalled(f"no task could begin for {plan.profile.stall_s:.0f} s") from failure
        context.execution_no_progress_timeout_s = -1  # Ray's own ends a shard that takes half an hour

        def is_overdue() -> bool:
            return plan.budget_meter is not None and plan.budget_meter.overdue

        with released(Watch(Pulse(), plan.profile.stall_s, is_overdue)) as watch:
            gauges = PoolGauges(pools, Meter(plan.spec.table.name), plan.profile)
            context.custom_execution_callback_classes = [partial(WatchCallback, watch), lambda: gauges]
            host = RayHost(watch.pulse, WorkerLogs())
            stages = make_stages(plan, version, shards, attempt, pools, host, sampled)
            with closing(flow_of(stages, host, len(shards), readers, capacity)) as blocks:
                for block in blocks:
                    watch.shard_finished()
                    yield from block.to_pylist()


@contextmanager
def released(watch: Watch) -> Iterator[Watch]:
    """Give back to the cluster what an execution holds at its end, however it ends: its pulse, and the actors of its pools.

    Ray Data lets go of its actors, which then live as long as anything refers to them: the traceback of a failure, which a
    notebook keeps, or what they are still at.
    """
    try:
        yield watch
    except BaseException:
        for actor in watch.actors:
            ray.kill(actor)
        raise
    finally:
        watch.actors = ()
        watch.pulse.end()


def flow_of(stages: Stages, host: Host, shards: int, readers: int, capacity: Capacity) -> Generator[Any, None, None]:
    """One block per finished shard, as they finish."""
    flow = numbers(shards).map_batches(
        watched(stages.read, host.at_work),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=READER_CPUS,
        compute=TaskPoolStrategy(readers),
    )
    for task in stages.embed:
        flow = embedded(flow, task)
    flow = flow.map_batches(
        watched(stages.write, host.at_work),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=WRITER_CPUS,
        compute=TaskPoolStrategy(max(1, capacity.cpus // CPUS_PER_WRITER)),
    )
    yield from flow.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)


def numbers(count: int) -> ray.data.Dataset:
    """Blocks of one number each, in `id`. They are made here: Ray's own sources take tasks that want a whole CPU on one node."""
    return ray.data.from_items([{"id": number} for number in range(count)], override_num_blocks=count)


def embedded(flow: ray.data.Dataset, task: EmbedTask) -> ray.data.Dataset:
    """The flow, with one pool's model after it.

    A shard must reach the actor as one block, so without a `batch_size`. The public `map_batches` refuses that for actors
    with GPUs; what it calls then, and `map_groups` too, does not.
    """
    pool = task.pool
    return flow.map_batches_internal(
        EmbedShard,
        fn_constructor_args=(task,),
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=pool.num_cpus,
        num_gpus=pool.num_gpus or None,
        compute=ActorPoolStrategy(
            min_size=pool.min, max_size=pool.max, initial_size=pool.initial, max_tasks_in_flight_per_actor=IN_FLIGHT
        ),
    )


def is_clusters_fault(failure: Exception, before: Capacity) -> bool:
    """Whether an execution ended of its cluster and not of its tasks: nothing moved, or Ray lost what was on a lost node."""
    if isinstance(failure, Stalled | GetTimeoutError | NodeDiedError):
        return True
    until = time.monotonic() + LOSS_S
    while isinstance(failure, LOSSES) and time.monotonic() < until:
        if living_capacity() != before:
            return True
        time.sleep(1)
    return False


def describe_stall(failure: Exception, pools: Sequence[Pool]) -> str:
    """What waited for what."""
    held = ", ".join(
        f"'{pool.column}' {pool.min} to {pool.max} actors of {pool.num_cpus:g} CPUs"
        + (f" and {pool.num_gpus:g} GPUs" if pool.num_gpus else "")
        for pool in pools
    )
    free = ray.available_resources()
    reason = "the actors did not start in time" if isinstance(failure, GetTimeoutError) else describe(failure)
    return (
        f"{reason}. The nodes that live offer {living_capacity()}; the pools are {held}; reading and writing wait for "
        f"{READER_CPUS:g} CPUs on one node each; free are {free.get('CPU', 0):g} CPUs and {free.get('GPU', 0):g} GPUs."
    )


def capacity_after_loss(profile: ClusterProfile) -> Capacity:
    """What is there to plan with after a loss: the nodes that live; where lost ones are replaced, all that the cluster may have."""
    living = living_capacity()
    return profile.applied_to(living) if profile.kind in DESCRIBED else living


def replanned(plan: Plan, capacity: Capacity, why: str, shards: int) -> tuple[Pool, ...]:
    """Pools for the nodes that live, and the shards that are left. Raises `ClusterError` where the models find no room on them."""
    try:
        pools = tuple(plan_pools(plan.spec.embed, capacity, shrink=True, shards=shards))
    except PoolUnschedulable as failure:
        raise ClusterError(
            f"the run stopped: {why}\n  On what is left, {failure}\n  What is finished is kept: run the job again."
        ) from failure
    log.warning(
        "%s The run continues with %s", why, "; ".join(f"'{p.column}': {p.min} to {p.max} actors" for p in pools)
    )
    return pools


@contextmanager
def ray_data_settings(start_s: int = ACTOR_START_S) -> Iterator[DataContext]:
    """Settings that the flow stands on: a block is a shard, and nothing is read before the actors are loaded.

    Those of whoever uses Ray Data in this process come back at the end.
    """
    logger = logging.getLogger("ray.data")  # it tells of each execution, and again of what it raises
    level = logger.level
    context = DataContext.get_current().copy()
    context.target_max_block_size = None  # else Ray splits a block, and a shard falls apart
    context.raise_original_map_exception = True  # else Ray's own, which does not say what it was
    context.wait_for_min_actors_s = start_s
    context.op_resource_reservation_ratio = RESERVED
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    with DataContext.current(context):
        logger.setLevel(logging.CRITICAL)
        try:
            yield context
        except ExecutionTimeoutError as failure:
            raise ClusterError(
                f"nothing moved on the cluster: {failure}\n  What is finished is kept: run the job again."
            ) from failure
        finally:
            logger.setLevel(level)


@contextmanager
def explained() -> Iterator[None]:
    """Turn what Ray wraps around the failure of a task into the failure, as an error of our tree."""
    try:
        yield
    except (RayError, UserCodeException) as failure:
        if (ours := own_error(failure)) is not None:
            raise ours from None
        cause = getattr(failure, "cause", None) or failure
        text = str(cause).partition(RAYS_ADVICE)[0].strip()
        raise LatentLakeError(
            f"a task of the run failed: {type(cause).__name__}: {text}\n"
            "  Finished shards are kept: fix the cause and run the job again."
        ) from failure


def own_error(failure: BaseException) -> LatentLakeError | None:
    """The error of our tree that is behind a failure of Ray's; None where there is none.

    What a task raised is there as it was. Of an actor that died as it began, the text alone has come.
    """
    link: BaseException | None = failure
    while link is not None:
        if isinstance(link, LatentLakeError) and not isinstance(link, RayError):
            return link
        link = getattr(link, "cause", None) or link.__cause__
    if not (told := OUR_ERROR.findall(str(failure))):
        return None
    kind, text = told[-1]
    found = getattr(errors, kind, LatentLakeError)
    return found.told(text.partition(RAYS_ADVICE)[0].strip())


@cache
def warm_up(number: int, ray_job: str) -> None:
    """Let the processes that will read and write start, with their imports done, so that the stream does not wait for them.

    Once for each connection to Ray. They start beside the actors, while the models load. A small Ray Data execution comes first,
    because the first one also starts actors of Ray Data's own (measured on 2 cores: 6 s of CPU, which would fall into the stream).
    The models wait for it, so it imports no LatentLake module.
    """
    numbers(1).map_batches(lambda block: block, batch_format="pyarrow", num_cpus=WRITER_CPUS).materialize()
    task = ray.remote(import_modules).options(num_cpus=WRITER_CPUS, scheduling_strategy="SPREAD")
    for _ in range(number):
        task.remote(STAY_S)


def import_modules(stay_s: float) -> None:
    """Import what the reading and writing tasks need; then stay, so that each worker takes one of these tasks."""
    for module in ("lance", "pyarrow.parquet", "pipelines.flow.reading", "pipelines.flow.writing"):
        importlib.import_module(module)
    time.sleep(stay_s)
