"""The command that prints what a cluster's own tools start."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.options import JobFile, Overrides, app, load_profile


@app.command()
def manifest(
    job: JobFile,
    cluster: Annotated[
        Path, typer.Option("--cluster", metavar="FILE", help="Cluster profile of kind kuberay, aws or gcp (YAML).")
    ],
    overrides: Overrides = [],  # noqa: B006 (typer reads the default)
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="Name of the objects. Default: the job's.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", metavar="CRON", help="Run by this schedule, such as '0 3 * * *'.")
    ] = None,
    time_zone: Annotated[
        str, typer.Option("--time-zone", metavar="ZONE", help="Time zone of the schedule.")
    ] = "Etc/UTC",
    ray_cron_job: Annotated[
        bool, typer.Option("--ray-cron-job", help="Print KubeRay's RayCronJob, which is alpha, and no CronJob.")
    ] = False,
) -> None:
    """Print a job for `kubectl apply -f -` (kind kuberay), or a cluster for `ray up` (kinds aws and gcp). Starts nothing."""
    from operators.errors import InvalidSpec
    from pipelines.manifests import Schedule, make_manifest

    if schedule is None and (ray_cron_job or time_zone != "Etc/UTC"):
        raise InvalidSpec(["--ray-cron-job and --time-zone say how a --schedule is kept; give one."], "options")
    when = None if schedule is None else Schedule(schedule, time_zone, ray_cron_job)
    print(to_yaml(make_manifest(job, load_profile(cluster), overrides, name, when)), end="")


def to_yaml(objects: list[dict[str, Any]]) -> str:
    """Objects as YAML documents; texts of several lines stand as they are."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    return yaml.dump_all(objects, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=120)
