"""Commands on jobs: validate, plan, run and retry them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from operators.errors import LatentLakeError
from pipelines.cli.options import (
    AsJson,
    ClusterFile,
    JobFile,
    LakeUri,
    MaxCost,
    MaxHours,
    Options,
    Overrides,
    RunnerOption,
    TableName,
    Wait,
    app,
    load_profile,
    parse_options,
)
from pipelines.cli.printing import print_facts, print_report, print_rows
from pipelines.telemetry.logs import in_json


@app.command()
def validate(job: JobFile, overrides: Overrides = []) -> None:  # noqa: B006 (typer reads the default)
    """Report every error of a job file at once, with its location and a fix. Starts nothing."""
    from pipelines.job.jobfile import load_job

    spec = load_job(job, overrides)
    models = ", ".join(f"{embed.column} ({embed.config.family})" for embed in spec.embed)
    print(
        f"{job}: valid. {spec.modality} objects from {spec.source.uri} to {spec.table.uri}/{spec.table.name}: {models}."
    )


@app.command()
def plan(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    cluster: ClusterFile = None,
    runner: RunnerOption = "auto",
    as_json: AsJson = False,
) -> None:
    """Show what a run would read, what is unchanged, its stages and pools. Writes nothing."""
    from pipelines.jobs import plan_job

    described = plan_job(job, overrides, cluster, runner=runner)
    if as_json:
        print(json.dumps(described))
    else:
        print_facts(described)


@app.command()
def run(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    cluster: ClusterFile = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Discard an interrupted run instead of resuming it.")] = False,
    wait: Wait = False,
    runner: RunnerOption = "auto",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Run only this many objects, spread over the source; the version is not tagged."),
    ] = None,
    max_hours: MaxHours = None,
    max_cost: MaxCost = None,
    as_json: AsJson = False,
) -> None:
    """Run a job, or resume an interrupted run of it. With --json the last line is one JSON object, the report."""
    from pipelines.job.jobfile import load_job
    from pipelines.planning.budget import Budget

    how: dict[str, Any] = {"fresh": fresh, "wait": wait, "runner": runner, "limit": limit}
    run_and_print(load_job(job, overrides), cluster, as_json, budget=Budget(max_hours, max_cost), **how)


@app.command("try")
def try_(
    job: JobFile,
    overrides: Overrides = [],  # noqa: B006
    sample: Annotated[int, typer.Option(min=1, help="How many objects, spread over the source.")] = 100,
    as_json: AsJson = False,
) -> None:
    """Run a sample of a job into a temporary lake, and show what comes of it and what the whole would take."""
    from pipelines.cli.progress import ProgressLine
    from pipelines.cli.trial import print_trial
    from pipelines.job.jobfile import load_job
    from pipelines.trial import try_job

    with ProgressLine(sys.stderr.isatty(), silent=in_json()) as progress:
        found = try_job(load_job(job, overrides), sample, progress.update)
    print(json.dumps(found)) if as_json else print_trial(found)


@app.command()
def retry(
    uri: LakeUri,
    table: TableName,
    stage: Annotated[str | None, typer.Option(help="Only what was rejected at this stage.")] = None,
    job: Annotated[
        Path | None, typer.Option("--job", metavar="FILE", help="Use this job instead of the stored one.")
    ] = None,
    cluster: ClusterFile = None,
    wait: Wait = False,
    runner: RunnerOption = "auto",
    options: Options = [],  # noqa: B006
    as_json: AsJson = False,
) -> None:
    """Retry only what the last run rejected. Objects that now succeed are added to the table."""
    from latentlake.names import check_table_name
    from latentlake.storage import open_storage
    from pipelines.job.jobfile import load_job
    from pipelines.state.manifest import Retry
    from pipelines.upkeep.stored_jobs import at_lake, stored_job

    check_table_name(table)
    lake = open_storage(uri, parse_options(options))
    spec = stored_job(lake, table) if job is None else at_lake(load_job(job), lake, table)
    run_and_print(spec, cluster, as_json, wait=wait, retry=Retry(stage), runner=runner)


def run_and_print(spec: Any, cluster: Path | None, as_json: bool, **how: Any) -> None:
    """Run a job and print its report."""
    from pipelines.cli.progress import ProgressLine
    from pipelines.run import run_job

    profile = load_profile(cluster)
    try:
        with ProgressLine(sys.stderr.isatty(), silent=in_json()) as progress:
            report = run_job(spec, profile, progress.update, **how)
    except LatentLakeError as failure:
        if as_json and failure.report is not None:
            print(json.dumps(failure.report))
        raise
    if as_json:
        print(json.dumps(report))
    else:
        print_report(report, f"{spec.table.uri}/{spec.table.name}")


@app.command()
def schema() -> None:
    """Print the JSON schema of a job file, for editors. See docs/job.md."""
    from pipelines.job.document import job_schema

    print(json.dumps(job_schema(), indent=2))


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the model families: ready, or what to install; and the presets. Loads none of them."""
    from latentlake import get_available_embedders

    found = get_available_embedders()
    if as_json:
        print(json.dumps(found))
        return
    rows = [
        {
            "family": one["family"],
            "modalities": ", ".join(one["modalities"]),
            "status": one["status"] if one["install"] is None else f"{one['status']}: {one['install']}",
            "covers": one["covers"],
            "presets": ", ".join(one["presets"]),
        }
        for one in found
    ]
    print_rows(rows, False)
