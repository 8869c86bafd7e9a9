"""The command that measures what a job's stages take."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.cli.options import AsJson, ClusterFile, JobFile, Overrides, RunnerOption, app, load_profile
from pipelines.cli.printing import print_rows

SAMPLE = 1000  # objects; batches of a smaller sample were less full than those of a whole run


@app.command()
def calibrate(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006 (typer reads the default)
    sample: Annotated[int, typer.Option(min=1, help="How many objects, spread over the source.")] = SAMPLE,
    cluster: ClusterFile = None,
    runner: RunnerOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure a job's stages on a sample, for `plan` to forecast by. Its table is not touched."""
    from pipelines.calibration import calibrate_job
    from pipelines.cli.progress import ProgressLine
    from pipelines.job.jobfile import load_job

    profile = load_profile(cluster)
    if is_elsewhere(profile):
        arguments = ["--sample", str(sample), "--runner", runner, *(["--json"] if as_json else [])]
        raise typer.Exit(calibrate_there(job, overrides, cluster, profile, arguments))
    with ProgressLine(sys.stderr.isatty()) as progress:
        found = calibrate_job(load_job(job, overrides), sample, profile, runner, progress.update)
    print(json.dumps(found)) if as_json else print_calibration(found)


def is_elsewhere(profile: Any) -> bool:
    """Whether the profile's machines are reached by a job server alone."""
    return profile.job_server is not None and profile.address is None and not os.environ.get("RAY_ADDRESS")


def calibrate_there(job: Path, overrides: list[str], cluster: Path | None, profile: Any, arguments: list[str]) -> int:
    """The same on the profile's cluster, through its job server; the exit code."""
    from clusters.attempts import submit_attempt
    from pipelines.cli.submit import follow_job, open_server, say
    from pipelines.submission import prepare

    with open_server(cluster, None) as server:
        prepared = prepare(job, overrides, None, profile, arguments, command="calibrate")
        for package in prepared.packages:
            server.upload(package)
        info, _ = submit_attempt(server, f"{prepared.job}.calibrate", None, prepared.submission)
        say(f"{info.submission_id}: measured at {server.address}")
        return follow_job(server, info, cluster)


def print_calibration(found: dict[str, Any]) -> None:
    """What was measured, for people."""
    for report in found["runs"]:
        read, write, seconds = report["stages"]["read"], report["stages"]["write"], report["seconds"]
        print(f"{read['objects']} objects, runner {report['runner'].partition(':')[0]}:")
        print(f"  start {seconds['setup']:.1f} s, stream {seconds['stream']:.1f} s, commit {seconds['commit']:.1f} s")
        if read["seconds"] and write["seconds"]:
            print(
                f"  one task reads and prepares {read['objects'] / read['seconds']:.1f} objects/s, and writes "
                f"{write['rows'] / write['seconds']:.1f} rows/s"
            )
        for column, one in report["columns"].items():
            if measured := one["calibration"]:
                where = measured["accelerator"] or f"{measured['device']}, {measured['threads']} threads"
                print(f"  model '{column}': {measured['rows_per_s']:.1f} rows/s per actor ({where})")
            else:
                print(f"  model '{column}': nothing of the sample was embedded, see `latentlake try`")
    if found["speeds"]:
        print("each model alone, in batches of so much cost (tokens, or rows):")
        print_rows(found["speeds"], False)
    print("Kept for `latentlake plan`.")
