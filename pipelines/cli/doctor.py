"""The command that looks for what would keep a job from running."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from pipelines.cli.options import AsJson, ClusterFile, Overrides, app, load_profile

SOMETHING_TO_DO = 2


@app.command()
def doctor(
    job: Annotated[
        Path | None, typer.Argument(metavar="[JOB]", help="Job file (YAML); none: this machine alone.")
    ] = None,
    overrides: Overrides = [],  # noqa: B006 (typer reads the default)
    cluster: ClusterFile = None,
    as_json: AsJson = False,
) -> None:
    """Check store, credentials, clocks, models, cluster, disk and GPUs before a run. Exit code 2: something is to be done."""
    from pipelines.doctor import DO, examine
    from pipelines.job.jobfile import load_job

    spec = None if job is None else load_job(job, overrides)
    found = []
    for finding in examine(spec, load_profile(cluster)):
        found.append(finding)
        if not as_json:
            told = finding.told.replace("\n", "\n" + " " * 13)
            print(f"{finding.status:<12} {finding.subject}: {told}", flush=True)
    if as_json:
        print(json.dumps([finding.to_json() for finding in found]))
    if any(finding.status == DO for finding in found):
        raise typer.Exit(SOMETHING_TO_DO)
