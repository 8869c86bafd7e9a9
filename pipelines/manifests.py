"""A job as what a cluster's own tools start: objects for Kubernetes, or a file for Ray's launcher.

Everything that is printed is checked first by the rules that the operator would check it by, and searched for keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from clusters import DESCRIBED, ClusterProfile, find_secrets
from clusters.kuberay import Work, faults_of, scheduled, single
from clusters.launcher import launcher_file
from operators.errors import InvalidSpec, did_you_mean
from pipelines.job.jobfile import load_job, read_text
from pipelines.job.spec import JobSpec
from pipelines.planning.pools import plan_pools
from pipelines.reach import unreachable, unsent_model_fault
from pipelines.submission import for_driver

UTC = "Etc/UTC"


@dataclass(frozen=True)
class Schedule:
    """When a job runs: in the words of cron, in a time zone; `by_kuberay`: by a RayCronJob instead of a CronJob."""

    cron: str
    time_zone: str = UTC
    by_kuberay: bool = False


def make_manifest(
    path: Path,
    profile: ClusterProfile,
    overrides: Sequence[str] = (),
    name: str | None = None,
    schedule: Schedule | None = None,
) -> list[dict[str, Any]]:
    """Objects of Kubernetes, or the one file of Ray's launcher, for a job file on the cluster of a profile.

    Raises `InvalidSpec` with every mistake of the job, what the cluster would not find of it, what the operator would
    refuse, and places of keys; `PoolUnschedulable` where the worker groups can never hold the job's pools.
    """
    if profile.kind not in DESCRIBED:
        raise InvalidSpec(
            [
                f"kind '{profile.kind}' starts no machines, so there is no manifest. Run the job with `latentlake run`, submit "
                f"it with `latentlake submit`, or give a profile of kind {', '.join(DESCRIBED)}."
            ],
            "cluster profile",
        )
    spec = load_job(path, overrides)
    shared = profile.shared_roots
    if problems := list(unreachable(spec, shared, lambda model: unsent_model_fault(model, shared))):
        raise InvalidSpec(problems, str(path))
    plan_pools(spec.embed, profile.groups_capacity())
    if profile.kind == "kuberay":
        objects = kubernetes_objects(spec, path, profile, overrides, name, schedule)
        problems = [fault for found in objects for fault in faults_of(found)]
    else:
        objects, problems = [launcher_file(name or spec.name, profile)], []
        if schedule is not None:
            problems = [f"kind '{profile.kind}' has no schedule. Submit the job from cron or Airflow, or use KubeRay."]
    problems += [
        f"{where} of {found.get('kind', 'the file')} holds what looks like a key. Name a Secret in the profile instead."
        for found in objects
        for where in find_secrets(found)
    ]
    if problems:
        raise InvalidSpec(problems, "manifest")
    return objects


def kubernetes_objects(
    spec: JobSpec,
    path: Path,
    profile: ClusterProfile,
    overrides: Sequence[str],
    name: str | None,
    schedule: Schedule | None,
) -> list[dict[str, Any]]:
    """The objects for a checked job."""
    ray_version = profile.kubernetes.ray_version or version("ray")
    work = Work(name or spec.name, read_text(path), tuple(overrides), profile, for_driver(profile), ray_version)
    if schedule is None:
        return single(work)
    if schedule.by_kuberay and profile.kubernetes.queue is not None:
        raise InvalidSpec(
            [
                "--ray-cron-job: KubeRay's RayCronJob gives its jobs no label, so no queue would admit them. Leave it out."
            ],
            "options",
        )
    if schedule.time_zone not in available_timezones():
        hint = did_you_mean(schedule.time_zone, available_timezones())
        raise InvalidSpec([f"--time-zone {schedule.time_zone}: there is no such time zone.{hint}"], "options")
    return scheduled(work, schedule.cron, schedule.time_zone, schedule.by_kuberay)
