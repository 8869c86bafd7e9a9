"""The checks in their order, of a job, a cluster profile, or of this machine alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from clusters import ClusterProfile
from pipelines.doctor import cluster, machine, models, stores
from pipelines.doctor.findings import Finding, made
from pipelines.job.spec import JobSpec


def examine(spec: JobSpec | None = None, profile: ClusterProfile | None = None) -> Iterator[Finding]:
    """Check what a run needs, and yield what is found as it is found. Nothing is left behind.

    Without a job, what belongs to one is left out; without a profile, it is this machine that the job would run on.
    """
    profile = profile or ClusterProfile()
    if spec is not None:
        yield from made("lake", partial(stores.check_lake, spec))
        yield from made("source", partial(stores.check_source, spec))
        yield from made("decoding", partial(models.check_decoding, spec))
        for embed in spec.embed:
            yield from made(f"model '{embed.column}'", partial(models.check_model, spec, embed))
    yield from made("cluster", partial(cluster.check_cluster, profile))
    if spec is not None:
        yield from made("paths", partial(cluster.check_paths, spec, profile))
        yield from made("pools", partial(cluster.check_pools, spec, profile))
    yield from made("disk", partial(machine.check_disk, profile))
    yield from made("GPU", partial(machine.check_gpus, spec, profile))
