"""The flow of the main job, from a plan to finished shards. A runner drives it (see `runners`):

read + decode + preprocess + prepare  ->  embed, one actor pool per model  ->  write fragments + record
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.flow.columns import MergeColumns
from pipelines.flow.embedding import EmbedTask, Host, drops
from pipelines.flow.reading import ReadShard
from pipelines.flow.writing import WriteShard, write_mode
from pipelines.planning.plan import Plan
from pipelines.planning.pools import Pool


@dataclass(frozen=True)
class Stages:
    """The stages that a shard goes through. They travel to where they work, and hold no data."""

    read: ReadShard
    embed: tuple[EmbedTask, ...]  # what the actors of each model are told: `EmbedShard(task)`
    write: WriteShard


def make_stages(
    plan: Plan,
    version: int | None,
    shards: Sequence[int],
    attempt: str,
    pools: Sequence[Pool],
    host: Host,
    sampled: Sequence[int] = (),
) -> Stages:
    """The stages of a plan's flow over `shards`, which are told by their places in it.

    `host` is what the actors run in. They time their model on rows of the shards `sampled`.
    """
    reader, table = make_reader(plan, version, shards), plan.spec.table
    tasks = (
        EmbedTask(
            embed=embed,
            pool=pool,
            drop=drop,
            reader=reader,
            sampled=tuple(sampled),
            host=host,
            start_s=plan.profile.start_s,
            limits=plan.spec.limits,
        )
        for embed, pool, drop in zip(plan.spec.embed, pools, drops(plan.spec.embed), strict=True)
    )
    columns, mode = tuple(plan.spec.columns), write_mode(plan)
    writer = WriteShard(
        table.lake,
        table.name,
        plan.schema,
        columns,
        mode,
        plan.place,
        attempt,
        plan.patched,
        tells_fates=plan.spec.deduplicate is not None,
    )
    return Stages(reader, tuple(tasks), writer)


def make_reader(plan: Plan, version: int | None, shards: Sequence[int]) -> ReadShard:
    """The first stage of a plan's flow. It copies vectors that the table has, unless all are made again."""
    reused = None if plan.replaces_all else version
    new = tuple(field.name for field in plan.new_fields)
    return ReadShard(
        plan.spec,
        plan.place,
        plan.fields,
        reused,
        plan.rewrites,
        bool(plan.patched),
        tuple(shards),
        new,
        stoppable=plan.budget_meter is not None,
    )


def make_merge(plan: Plan, version: int, patches: Mapping[int, Sequence[str]]) -> MergeColumns:
    """What merges the patches of the shards into the table's fragments."""
    work = tuple((fragment, tuple(names)) for fragment, names in sorted(patches.items()))
    return MergeColumns(plan.spec.table.lake, plan.spec.table.name, version, plan.place, work)
