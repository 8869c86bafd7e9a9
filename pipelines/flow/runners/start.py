"""The runner of a run, begun before it is known which one it will be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from clusters import ClusterProfile
from pipelines.flow.runners.base import Runner
from pipelines.flow.runners.inline import InlineRunner
from pipelines.job.spec import JobSpec
from pipelines.planning.choice import RunnerName, capacity_for, inline_pools, why_ray
from pipelines.planning.plan import Plan
from pipelines.planning.pools import plan_pools
from pipelines.state.ledger import open_dataset


def ray_runner(profile: ClusterProfile) -> Runner:
    """The Ray of a profile."""
    from pipelines.flow.runners.ray import RayRunner  # imports Ray

    return RayRunner(profile)


@contextmanager
def runner_ahead(
    asked: RunnerName | Runner, spec: JobSpec, profile: ClusterProfile
) -> Iterator[Callable[[Plan], Runner]]:
    """What gives the runner that a plan chose; a `Runner` that is asked for is that of every plan.

    Where it may be the inline one, its process starts at once, so that it imports while the source is listed. It loads the
    models as well where the table is to be made: then there is work for them.
    """
    if not isinstance(asked, str):
        yield lambda plan: asked
        return
    if why_ray(asked, profile) is not None:
        yield lambda plan: ray_runner(profile)
        return
    capacity = capacity_for(asked, profile)
    pools = inline_pools(spec, plan_pools(spec.embed, capacity), capacity)
    inline = InlineRunner(partial(ray_runner, profile))
    if asked == "inline" or not any(pool.num_gpus for pool in pools):
        made = spec.table.mode == "rebuild" or open_dataset(spec.table.lake, spec.table.name) is None
        inline.begin(spec.embed if made else (), pools if made else ())
    try:
        yield lambda plan: inline if plan.runner.name == "inline" else ray_runner(profile)
    finally:
        inline.close()
