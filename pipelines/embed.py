"""The flow of the main job, from a plan to finished shards, as one Ray Data execution:

read + decode + preprocess + prepare  ->  embed, one actor pool a model  ->  write fragments + record
"""

from __future__ import annotations

import importlib
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, TaskPoolStrategy
from ray.exceptions import RayError, UserCodeException

from operators import errors
from operators.errors import LatentLakeError
from pipelines.embedding import EmbedShard, EmbedTask, drops
from pipelines.plan import Plan
from pipelines.pools import READER_CPUS, WRITER_CPUS
from pipelines.reading import ReadShard
from pipelines.sinks.columns import MergeColumns
from pipelines.sinks.lance import WriteShard, write_mode

log = logging.getLogger(__name__)

OUR_ERROR = re.compile(r"operators\.errors\.(\w+): (.+?)(?:\n\n|\Z)", re.DOTALL)
RAYS_ADVICE = "Failed to apply UDF transform"
SAMPLE_SHARDS = 4  # shards that the actors draw their calibration sample from
ACTOR_START_S = 900  # how long the actors may take to load their model
IN_FLIGHT = 2  # shards queued on an actor: with 1 a pool never scales up


def embed_shards(plan: Plan, version: int | None, shards: Sequence[int], attempt: str) -> Iterator[dict[str, int]]:
    """Run the flow over `shards`; one report a finished shard, in the order they finish.

    `version` is the table's version that fragments are written for; `attempt` is noted in the shards' records. Ray must be
    running.
    """
    configure_ray_data()
    reader = make_reader(plan, version, shards)
    table = plan.spec.table
    writer = WriteShard(
        table.lake,
        table.name,
        plan.schema,
        tuple(plan.spec.columns),
        write_mode(plan),
        plan.place,
        attempt,
        plan.patched,
    )
    sampled = tuple(shards[at] for at in np.unique(np.linspace(0, len(shards) - 1, SAMPLE_SHARDS).astype(int)))
    # Two at least, so that two actors have their first shard at once.
    readers = max(2, plan.profile.cpus // (1 if plan.pools[0].device == "cuda" else 2))
    warm_up(readers + 1, ray.get_runtime_context().get_job_id())

    flow = ray.data.range(len(shards), override_num_blocks=len(shards))
    flow = flow.map_batches(
        reader, batch_size=None, batch_format="pyarrow", num_cpus=READER_CPUS, compute=TaskPoolStrategy(readers)
    )
    for embed, pool, drop in zip(plan.spec.embed, plan.pools, drops(plan.spec.embed), strict=True):
        flow = flow.map_batches(
            EmbedShard,
            fn_constructor_args=(EmbedTask(embed, pool, drop, reader, sampled),),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=pool.num_cpus,
            num_gpus=pool.num_gpus or None,
            compute=ActorPoolStrategy(
                min_size=pool.min, max_size=pool.max, initial_size=pool.initial, max_tasks_in_flight_per_actor=IN_FLIGHT
            ),
        )
    flow = flow.map_batches(writer, batch_size=None, batch_format="pyarrow", num_cpus=WRITER_CPUS)
    with explained():
        for block in flow.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from block.to_pylist()


def configure_ray_data() -> None:
    """Settings that the flow stands on: a block is a shard, and nothing is read before the actors are loaded."""
    context = DataContext.get_current()
    context.target_max_block_size = None  # else Ray splits a block, and a shard falls apart
    context.raise_original_map_exception = True  # else Ray's own, which does not say what it was
    context.wait_for_min_actors_s = ACTOR_START_S
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it tells of each execution, and again of what it raises
    context.print_on_execution_start = False


def make_reader(plan: Plan, version: int | None, shards: Sequence[int]) -> ReadShard:
    """The first stage of a plan's flow. Vectors that the table holds may be copied, unless all are made anew."""
    reused = None if plan.replaces_all else version
    new = tuple(field.name for field in plan.new_fields)
    return ReadShard(plan.spec, plan.place, plan.fields, reused, plan.rewrites, bool(plan.patched), tuple(shards), new)


def merge_columns(plan: Plan, version: int, patches: Mapping[int, Sequence[str]]) -> None:
    """Merge the patches of the shards into the table's fragments, several at once. Nothing is committed."""
    configure_ray_data()
    work = tuple((fragment, tuple(names)) for fragment, names in sorted(patches.items()))
    merge = MergeColumns(plan.spec.table.lake, plan.spec.table.name, version, plan.place, work)
    flow = ray.data.range(len(work), override_num_blocks=len(work))
    with explained():
        flow.map_batches(merge, batch_size=None, batch_format="pyarrow", num_cpus=WRITER_CPUS).materialize()


@contextmanager
def explained() -> Iterator[None]:
    """Turn what Ray wraps around the failure of a task into the failure, as an error of our tree."""
    try:
        yield
    except (RayError, UserCodeException) as failure:
        cause = getattr(failure, "cause", None) or failure
        # What an actor raised as it began is in the text alone; what a task raised, Ray adds its own advice to.
        told = OUR_ERROR.findall(str(failure))
        kind, text = told[-1] if told else (type(cause).__name__, str(cause))
        text = text.partition(RAYS_ADVICE)[0].strip()
        if told or isinstance(cause, LatentLakeError):
            raise getattr(errors, kind, LatentLakeError)(text) from None
        raise LatentLakeError(
            f"a task of the run failed: {kind}: {text}\n  What is finished is kept: mend the cause and run the job again."
        ) from failure


@cache
def warm_up(number: int, ray_job: str) -> None:
    """Start the processes that will read and write, with their imports done, so that the stream does not wait for them.

    Once for each connection to Ray.

    A small Ray Data execution does it, because its first one also starts actors of Ray Data's own (measured on 2 cores:
    6 s of CPU, which would fall into the stream).
    """
    ray.data.range(number, override_num_blocks=number).map_batches(
        import_modules, batch_format="pyarrow", num_cpus=WRITER_CPUS
    ).materialize()


def import_modules(block: pa.Table) -> pa.Table:
    """Import what the reading and writing tasks need; stay a moment, so that each worker takes one of these."""
    for module in ("lance", "pyarrow.parquet", "pipelines.reading", "pipelines.sinks.lance"):
        importlib.import_module(module)
    time.sleep(0.5)
    return block
